//! Addresses as they may be shown: without a user, and with the names in their query alone.

/// Stands for what is hidden.
pub const HIDDEN: &str = "***";

/// An address that may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownUrl {
    /// Its text.
    pub text: String,
    /// The parts that it hides: a password, or a user without one, and values of the query.
    pub secrets: Vec<String>,
}

impl ShownUrl {
    /// Hides what is secret in `text`, which need not be a sound URL.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let scheme = text.find("://").filter(|at| !text[..*at].contains([':', '@', '/', '?', '#']));
        let (scheme, rest) = text.split_at(scheme.map_or(0, |at| at + 3));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        // A slash or a question mark in a password ends no host: what is before the `@` is no host and port then.
        let user = if is_place(host) { host.rfind('@') } else { rest.rfind('@') };
        let mut secrets = Vec::new();
        let rest = user.map_or(rest, |at| {
            let user = &rest[..at];
            secrets.push(user.split_once(':').map_or(user, |(_, password)| password).to_owned());
            &rest[at + 1..]
        });
        let (place, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let mut shown = format!("{scheme}{place}");
        for part in query.split_inclusive(['?', '&', ';', '#']) {
            let (body, end) = match part.strip_suffix(['?', '&', ';', '#']) {
                Some(body) => (body, &part[body.len()..]),
                None => (part, ""),
            };
            let (name, value) = body
                .split_once('=')
                .map_or(("", body), |(_, value)| (&body[..body.len() - value.len()], value));
            shown += name;
            if !value.is_empty() {
                secrets.push(value.trim_matches(['"', '\'']).to_owned());
                shown += HIDDEN;
            }
            shown += end;
        }
        Self { text: shown, secrets }
    }
}

/// True where `text`, behind its `@`, can be a host and a port.
fn is_place(text: &str) -> bool {
    let place = text.rsplit('@').next().unwrap_or_default();
    let port = match place.strip_prefix('[').and_then(|address| address.split_once(']')) {
        Some((_, rest)) => rest.strip_prefix(':').unwrap_or(rest),
        None => place.split_once(':').map_or("", |(_, port)| port),
    };
    port == "{port}" || port.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn users_and_values_are_hidden_and_the_rest_stays() {
        let cases: [(&str, &str, &[&str]); 14] = [
            ("http://h:8000/v1", "http://h:8000/v1", &[]),
            ("http://u:p@h:1/v1?k=v&q", "http://h:1/v1?k=***&***", &["p", "v", "q"]),
            ("http://u@h", "http://h", &["u"]),
            ("u:p@h:80", "h:80", &["p"]),
            ("https://u:p/w@h/v1", "https://h/v1", &["p/w"]),
            ("https://u:p?w@h/v1", "https://h/v1", &["p?w"]),
            ("https://u:p#w@h/v1?a=b", "https://h/v1?a=***", &["p#w", "b"]),
            ("https://h/@cf/m#part", "https://h/@cf/m#***", &["part"]),
            ("https://h/v1?a=b@c", "https://h/v1?a=***", &["b@c"]),
            ("http://u:x:1/w@[::1]:2/v1", "http://[::1]:2/v1", &["x:1/w"]),
            ("(http://u:p@h:8000)", "(http://h:8000)", &["p"]),
            ("http://[::1]:{port}/v1", "http://[::1]:{port}/v1", &[]),
            ("?a=b?c", "?a=***?***", &["b", "c"]),
            ("", "", &[]),
        ];
        for (text, shown, secrets) in cases {
            let found = ShownUrl::of(text);
            assert_eq!(found.text, shown, "{text}");
            assert_eq!(found.secrets, secrets, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_gets_through(before in "[a-z0-9/?#:]{0,9}", core in "[A-Z]{12}", after in "[a-z0-9/?#@:]{0,9}", form in 0..3) {
            let secret = format!("{before}{core}{after}");
            let text = match form {
                0 => format!("http://user:x{secret}@host/v1"),
                1 => format!("user:x{secret}@host/v1"),
                _ => format!("http://host/v1?a={secret}"),
            };
            let shown = ShownUrl::of(&text).text;
            prop_assert!(!shown.contains(&core), "{text}: {shown}");
        }

        #[test]
        fn any_text_can_be_shown_and_once_is_enough(text in ".{0,60}") {
            let shown = ShownUrl::of(&text).text;
            prop_assert_eq!(&ShownUrl::of(&shown).text, &shown);
        }
    }
}
