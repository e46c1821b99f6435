//! Text from outside as it may be shown: names of traces and classes, model ids, a server's words,
//! names of files. Characters that move a terminal's cursor, turn the direction of a line, or make
//! a spreadsheet compute are taken out of it.

/// Stands for a character that may not be shown.
const TAKEN_OUT: char = '\u{fffd}';

/// `text` on one line: blanks for line ends and tabs, and no character that acts instead of being seen.
#[must_use]
pub fn plain(text: &str) -> String {
    let one = |c: char| match c {
        _ if c.is_whitespace() && (c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) => ' ',
        _ if acts(c) => TAKEN_OUT,
        _ => c,
    };
    text.chars().map(one).collect()
}

/// The same for a text of several lines, whose ends stay.
#[must_use]
pub fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// `text` as a cell of a CSV table: plain, and no formula to a spreadsheet.
#[must_use]
pub fn csv_cell(text: &str) -> String {
    let plain = plain(text);
    match plain.trim_start().starts_with(['=', '+', '-', '@']) {
        true => format!("'{plain}"),
        false => plain,
    }
}

/// JSON with the characters that act written as `\uXXXX`: the same data, safe to look at.
#[must_use]
pub fn plain_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match acts(c) && c != '\n' {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| out += &format!("\\u{u:04x}")),
            false => out.push(c),
        }
    }
    out
}

/// Control characters (C0, DEL, C1), marks and overrides of direction, separators of lines, invisible operators and the
/// mark of a file's byte order.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Mostly what matters, among everything else.
    fn outside() -> impl Strategy<Value = String> {
        let odd =
            "[\u{0}-\u{1f}\u{7f}-\u{9f}\u{200e}\u{202a}-\u{202e}\u{2066}-\u{2069}=+@\t\r\n a-z-]";
        prop::collection::vec(prop_oneof![odd, "."], 0..30).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn shown_text_holds_no_control_characters(text in outside()) {
            let shown = plain(&text);
            prop_assert!(!shown.chars().any(acts) && !shown.contains('\n'), "{shown:?}");
            prop_assert_eq!(shown.chars().count(), text.chars().count());
            prop_assert_eq!(plain(&shown), shown);
            let lines = plain_lines(&text);
            prop_assert!(!lines.replace('\n', "").chars().any(acts));
            prop_assert_eq!(lines.matches('\n').count(), text.matches('\n').count());
        }

        #[test]
        fn no_cell_is_a_formula(text in outside()) {
            let cell = csv_cell(&text);
            prop_assert!(!cell.trim_start().starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell:?}");
            prop_assert!(!cell.chars().any(acts));
        }

        #[test]
        fn json_stays_the_same_data(text in outside()) {
            let shown = plain_json(&serde_json::to_string(&text).unwrap());
            prop_assert!(!shown.chars().any(acts), "{shown:?}");
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }

        #[test]
        fn ordinary_text_stays(text in "[a-zé界0-9 .,:/()µ×·-]{0,40}") {
            prop_assert_eq!(plain(&text), text);
        }
    }

    #[test]
    fn escapes_and_overrides_are_seen_and_do_nothing() {
        assert_eq!(
            plain("a\u{1b}[2Jb\u{9b}c\td\u{202e}e\r\n"),
            "a\u{fffd}[2Jb\u{fffd}c d\u{fffd}e  "
        );
        assert_eq!(csv_cell("=HYPERLINK(1)"), "'=HYPERLINK(1)");
        assert_eq!(csv_cell("\t-1"), "' -1");
        assert_eq!(csv_cell("llama-3.1 x=1"), "llama-3.1 x=1");
    }
}
