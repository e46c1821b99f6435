//! Text that fits a terminal: wrapped by columns, not by letters, and free of anything that could move its cursor.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Most columns that anything is laid out in.
pub const WIDTH: usize = 100;

/// The abilities of the terminal that a summary is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// It shows colours.
    pub colour: bool,
    /// Columns to lay out for.
    pub columns: usize,
}

impl Default for Terminal {
    /// Plain text of the usual width.
    fn default() -> Self {
        Self { colour: false, columns: WIDTH }
    }
}

/// The emphasis of a text.
#[derive(Clone, Copy)]
pub(crate) enum Look {
    /// Most important.
    Bold,
    /// Least important.
    Quiet,
    /// Held.
    Good,
    /// Missed, or to be doubted.
    Bad,
}

/// Lines of plain text, wrapped but for those to be copied; looks are added last so that they cost no width.
pub(crate) struct Screen {
    pub(crate) text: String,
    terminal: Terminal,
}

impl Screen {
    pub(crate) fn new(terminal: Terminal) -> Self {
        Self { text: String::new(), terminal }
    }

    pub(crate) fn columns(&self) -> usize {
        self.terminal.columns
    }

    fn look(&self, text: &str, look: Look) -> String {
        if !self.terminal.colour {
            return text.to_owned();
        }
        let code = match look {
            Look::Bold => "1",
            Look::Quiet => "2",
            Look::Good => "32",
            Look::Bad => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// One paragraph, its further lines indented.
    pub(crate) fn say(&mut self, text: &str, indent: usize, look: Option<Look>) {
        for line in wrapped(&plain(text), self.terminal.columns, indent) {
            let line = look.map_or_else(|| line.clone(), |l| self.look(&line, l));
            self.text.push_str(&line);
            self.text.push('\n');
        }
    }

    /// A line as it is, to be copied: never wrapped, whatever its length.
    pub(crate) fn verbatim(&mut self, line: &str) {
        self.text.push_str(&crate::plain(line));
        self.text.push('\n');
    }

    pub(crate) fn gap(&mut self) {
        self.text.push('\n');
    }

    /// A table; the first column left, the others right. The row numbered `strong` is bold. Columns that do not fit
    /// are left out from the right, names too long are cut.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>], strong: Option<usize>) {
        let columns = self.terminal.columns;
        let clean: Vec<Vec<String>> = rows
            .iter()
            .map(|r| r.iter().map(|c| cut(&plain(c), columns * 2 / 5)).collect())
            .collect();
        let mut widths: Vec<usize> = head.iter().map(|h| h.width()).collect();
        for row in &clean {
            widths.iter_mut().zip(row).for_each(|(w, c)| *w = (*w).max(c.width()));
        }
        let mut shown = widths.len();
        while shown > 1 && 2 + widths[..shown].iter().sum::<usize>() + 2 * (shown - 1) > columns {
            shown -= 1;
        }
        let line = |cells: &[String]| {
            let mut text = String::from("  ");
            for (i, (cell, width)) in cells.iter().zip(&widths).take(shown).enumerate() {
                let pad = " ".repeat(width.saturating_sub(cell.width()));
                let gap = if i == 0 { "" } else { "  " };
                text += &if i == 0 { format!("{cell}{pad}") } else { format!("{gap}{pad}{cell}") };
            }
            text.trim_end().to_owned()
        };
        let heads: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
        let top = self.look(&line(&heads), Look::Quiet);
        self.text.push_str(&(top + "\n"));
        for (i, row) in clean.iter().enumerate() {
            let text = line(row);
            let text = if strong == Some(i) { self.look(&text, Look::Bold) } else { text };
            self.text.push_str(&(text + "\n"));
        }
    }

    pub(crate) fn origin(&mut self, simulated: bool, facts: &[String]) {
        let what = if simulated { "SIMULATED" } else { "MEASURED" };
        self.say(&format!("{what}  {}", facts.join(" · ")), 2, Some(Look::Quiet));
    }
}

/// Ordinary spaces for narrow ones, and nothing that could move a cursor.
fn plain(text: &str) -> String {
    crate::plain(text).replace(crate::figures::THIN, " ")
}

fn cut(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut used = 0;
    let kept = text.chars().take_while(|c| {
        used += c.width().unwrap_or(0);
        used < most
    });
    kept.collect::<String>() + "…"
}

/// Lines of at most `width` columns, broken between words only where they fit; lines after the first are indented.
fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let indent = " ".repeat(indent);
    let options = textwrap::Options::new(width)
        .subsequent_indent(&indent)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).into_iter().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn wrapping_keeps_the_words_and_the_width(text in "[a-z界é ]{0,300}", indent in 0usize..8) {
            let lines = wrapped(&text, 40, indent);
            prop_assert!(lines.iter().all(|l| l.width() <= 40), "{lines:?}");
            let letters = |t: &str| t.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }

        #[test]
        fn tables_fit(columns in 40usize..=WIDTH, rows in prop::collection::vec(prop::collection::vec(".{0,60}", 9), 0..5)) {
            let mut s = Screen::new(Terminal { columns, ..Terminal::default() });
            s.table(&["a", "b", "c", "d", "e", "f", "g", "h", "i"], &rows, Some(0));
            prop_assert!(s.text.lines().all(|l| l.width() <= columns), "{}", s.text);
        }
    }
}
