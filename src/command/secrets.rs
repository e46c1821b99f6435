//! Secrets in commands and addresses, which are neither stored nor shown: keys, tokens and passwords, values of
//! headers, and in a URL its user and the values of its query.

use std::hash::{DefaultHasher, Hasher as _};
use std::mem::take;

use loadgen::{HIDDEN, ShownUrl};

/// Our own flags and those of usual tools whose value is hidden whatever it is.
const FLAGS: [&str; 3] = ["--api-key", "--header", "-H"];
/// Last parts of the names of secrets, as in HF_TOKEN or --api-key.
const LAST: [&str; 10] = [
    "auth",
    "authorization",
    "cookie",
    "key",
    "pass",
    "passphrase",
    "pat",
    "pwd",
    "signature",
    "token",
];
/// Parts that make a name a secret's wherever they are.
const ANYWHERE: [&str; 7] =
    ["apikey", "credential", "credentials", "passwd", "password", "secret", "secrets"];
/// The beginnings of keys of usual services.
const KEYS: [&str; 6] = ["hf_", "sk-", "ghp_", "github_pat_", "glpat-", "xoxb-"];
/// Shorter values are hidden where they are known to be secret, and not looked for elsewhere.
const SHORTEST: usize = 4;

/// Words of a command as they may be shown.
pub(crate) fn words(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut hider = Hider::default();
    words.into_iter().map(|word| hider.argument(&word)).collect()
}

/// A command for a shell as it may be shown.
pub(crate) fn command(text: &str) -> String {
    Hider::default().text(text)
}

/// A URL as it may be shown: without its user, and with the names in its query alone. Other text stays.
pub(crate) fn url(text: &str) -> String {
    Hider::default().url(text)
}

/// The secrets that `command` hides, to be looked for in what a server says.
pub(crate) fn values(command: &str) -> Vec<String> {
    let mut hider = Hider::default();
    hider.text(command);
    hider.values
}

/// `text` without any of these values.
pub(crate) fn without(text: &str, values: &[String]) -> String {
    let long = values.iter().filter(|value| value.len() >= SHORTEST);
    long.fold(text.to_owned(), |text, value| text.replace(value.as_str(), HIDDEN))
}

/// Hides word after word.
#[derive(Default)]
struct Hider {
    /// True if the word to come is a secret.
    next: bool,
    /// The secrets hidden so far.
    values: Vec<String>,
}

impl Hider {
    fn hide(&mut self, value: &str) -> String {
        if value.is_empty() {
            return String::new();
        }
        self.values.push(value.trim_matches(['"', '\'']).to_owned());
        HIDDEN.to_owned()
    }

    /// A word that was typed, which may be a command of its own.
    fn argument(&mut self, word: &str) -> String {
        if self.next || !word.contains(char::is_whitespace) {
            return self.word(word);
        }
        match word.split_once('=').filter(|(name, _)| name.starts_with("--") && is_name(name)) {
            Some((name, _)) if FLAGS.contains(&name) || is_secret(name) => self.word(word),
            Some((name, value)) => format!("{name}={}", self.text(value)),
            None => self.text(word),
        }
    }

    /// Words between blanks; those in quotes are one.
    fn text(&mut self, text: &str) -> String {
        let before = take(&mut self.next);
        let mut out = String::with_capacity(text.len());
        let (mut quote, mut start) = (None, 0);
        for (at, c) in text.char_indices() {
            match quote {
                None if c.is_whitespace() => {
                    out += &self.piece(&text[start..at]);
                    out.push(c);
                    start = at + c.len_utf8();
                }
                None if matches!(c, '"' | '\'') => quote = Some(c),
                Some(open) if open == c => quote = None,
                _ => {}
            }
        }
        out += &self.piece(&text[start..]);
        self.next = before;
        out
    }

    /// A word of a shell, which may have quotes in its middle.
    fn piece(&mut self, piece: &str) -> String {
        let assigned = piece.split_once('=').is_some_and(|(name, _)| is_name(name));
        match piece.find(['"', '\'']) {
            Some(at) if at > 0 && !assigned && piece.contains(char::is_whitespace) => {
                format!("{}{}", self.word(&piece[..at]), self.word(&piece[at..]))
            }
            _ => self.word(piece),
        }
    }

    fn word(&mut self, word: &str) -> String {
        if word.is_empty() {
            return String::new();
        }
        if take(&mut self.next) && !word.starts_with("--") {
            return self.hide(word);
        }
        if let Some(quote) = word.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            let inner = &word[1..];
            let (inner, end) = inner.strip_suffix(quote).map_or((inner, ""), |i| (i, &word[..1]));
            return format!("{quote}{}{end}", self.inner(inner));
        }
        if let Some((name, value)) = word.split_once('=').filter(|(name, _)| is_name(name)) {
            let value = match FLAGS.contains(&name) || is_secret(name) {
                true => self.hide(value),
                false => self.word(value),
            };
            return format!("{name}={value}");
        }
        if word.contains(char::is_whitespace) {
            return self.inner(word);
        }
        // `Authorization: Bearer KEY` is three words of which the last is one.
        let scheme = ["basic", "bearer"].iter().any(|s| word.eq_ignore_ascii_case(s));
        self.next = FLAGS.contains(&word) || scheme || (word.starts_with("--") && is_secret(word));
        if KEYS.iter().any(|key| word.starts_with(key) && word.len() > key.len() + SHORTEST) {
            return self.hide(word);
        }
        self.url(word)
    }

    /// The text in quotes: a header, a variable, or a command.
    fn inner(&mut self, text: &str) -> String {
        for (sign, shown) in [(':', ": "), ('=', "=")] {
            if let Some((name, value)) = text.split_once(sign).filter(|(name, _)| is_name(name))
                && is_secret(name)
            {
                return format!("{name}{shown}{}", self.hide(value.trim()));
            }
        }
        self.text(text)
    }

    fn url(&mut self, word: &str) -> String {
        if !word.contains("://") {
            return word.to_owned();
        }
        let shown = ShownUrl::of(word);
        self.values.extend(shown.secrets);
        shown.text
    }
}

/// Headers as a study and a question know them, without what may be secret: the names, and of values that no name calls secret 16 bits
/// of a hash. Another route is another server; another key is not.
pub(crate) fn headers(headers: &[(String, String)]) -> String {
    let shown = |(name, value): &(String, String)| {
        let name = name.to_ascii_lowercase();
        if is_secret(&name) {
            return name;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(value.as_bytes());
        format!("{name} #{:04x}", hasher.finish() & 0xFFFF)
    };
    let mut shown: Vec<String> = headers.iter().map(shown).collect();
    shown.sort_unstable();
    shown.join(", ")
}

/// True of a text that can be the name of a flag, a variable or a header.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
}

/// True of the name of a variable, a flag or a header that holds a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts: Vec<&str> = name.split(['-', '_', '.']).collect();
    parts.last().is_some_and(|last| LAST.contains(last))
        || parts.iter().any(|part| ANYWHERE.iter().any(|s| part == s || part.ends_with(s)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_stays() {
        for (given, shown) in [
            ("vllm serve m --port 8000 {flags}", "vllm serve m --port 8000 {flags}"),
            (
                "HF_TOKEN=abc vllm serve m --api-key sesame",
                "HF_TOKEN=*** vllm serve m --api-key ***",
            ),
            ("env AWS_SECRET_ACCESS_KEY='a b' x", "env AWS_SECRET_ACCESS_KEY=*** x"),
            ("docker run -e \"DB_PASSWORD=a b\" x", "docker run -e \"DB_PASSWORD=***\" x"),
            ("sh -c \"exec env HF_TOKEN=abc vllm\"", "sh -c \"exec env HF_TOKEN=*** vllm\""),
            ("curl -H 'Authorization: Bearer abc' http://h", "curl -H *** http://h"),
            ("x 'Authorization: Bearer abc'", "x 'Authorization: ***'"),
            ("x --max-num-batched-tokens 64", "x --max-num-batched-tokens 64"),
            ("x --no-auth --port 1", "x --no-auth --port 1"),
            ("login hf_abcdefgh", "login ***"),
            ("x --base http://u:p@h:1/v1?k=v&q", "x --base http://h:1/v1?k=***&***"),
            ("x --base=https://u:p/w@h/v1", "x --base=https://h/v1"),
            ("https://h/@cf/m#part", "https://h/@cf/m#***"),
            ("http://[::1]:{port}/v1", "http://[::1]:{port}/v1"),
        ] {
            assert_eq!(command(given), shown, "{given}");
        }
        let typed = [
            "bench",
            "--url",
            "http://u@h",
            "--header",
            "x: y",
            "--launch=A_TOKEN=b c d",
            "--api-key=z",
        ];
        let shown = [
            "bench",
            "--url",
            "http://h",
            "--header",
            "***",
            "--launch=A_TOKEN=*** c d",
            "--api-key=***",
        ];
        assert_eq!(words(typed.map(str::to_owned)), shown);
        let said = "args: api_key=sesame, HF_TOKEN abc";
        let hidden = values("HF_TOKEN=abc vllm serve m --api-key sesame http://u:pass1@h");
        assert_eq!(without(said, &hidden), "args: api_key=***, HF_TOKEN abc");
        assert_eq!(hidden, ["abc", "sesame", "pass1"]);
    }

    proptest! {
        #[test]
        fn no_secret_gets_through(secret in "[A-Za-z0-9]{9,20}", around in "[a-z ]{0,20}", which in 0usize..9) {
            let given = match which {
                0 => format!("{around} --url http://me:{secret}@host/v1 {around}"),
                1 => format!("{around} --url=http://{secret}@host/v1?x=1 {around}"),
                2 => format!("{around} http://host/v1?api-version=1&key={secret} {around}"),
                3 => format!("MY_API_KEY={secret} {around}"),
                4 => format!("{around} --some-token {secret} {around}"),
                5 => format!("{around} --password={secret}"),
                6 => format!("{around} sh -c 'A_SECRET={secret} {around}'"),
                7 => format!("{around} --header \"x-team: {secret} {secret}\" {around}"),
                _ => format!("{around} \"authorization: bearer {secret}\""),
            };
            let shown = command(&given);
            prop_assert!(!shown.contains(&secret), "{shown}");
            prop_assert_eq!(command(&shown), shown);
            prop_assert!(values(&given).iter().any(|v| v.contains(&secret)), "{given}");
        }

        #[test]
        fn nothing_makes_it_panic_and_plain_words_stay(text in ".{0,80}", plain in "[a-z0-9 ]{0,40}") {
            let _ = (command(&text), url(&text), words([text]));
            let ordinary = !plain.split(' ').any(|w| w == "basic" || w == "bearer");
            prop_assume!(ordinary);
            prop_assert_eq!(command(&plain), plain);
        }
    }
}
