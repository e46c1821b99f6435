//! Colours by role. A drawing is made once and must look right on paper, in light and in dark, so it never contains
//! a colour: each role is drawn in a marker colour that is then replaced by a CSS variable.

use plotters::style::RGBColor;

/// The meaning of a stroke or fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ink {
    /// Text and strong lines.
    Text,
    /// Quieter text: tick labels, notes.
    Muted,
    /// Grid lines.
    Grid,
    /// The one accent: the answer.
    Accent,
    /// A limit.
    Limit,
    /// The page behind.
    Paper,
    /// A policy, by name's place in [`POLICIES`], or a further line by number.
    Line(u8),
    /// KV classes in the order of [`tuner::subject::observation::KvShares`].
    Kv(u8),
    /// A kind of iteration: prefill only, mixed, decode only.
    Phase(u8),
}

/// Policies with a colour of their own.
const POLICIES: [&str; 5] = ["static", "continuous", "paged", "chunked", "disagg"];

/// Line colours in the style sheet.
const LINES: u8 = 8;

impl Ink {
    /// The colour of a policy (or of a variant of it: `static, no padding`); others by `number`.
    pub(crate) fn policy(name: &str, number: usize) -> Self {
        match POLICIES.iter().position(|p| *p == name) {
            Some(i) => Self::Line(i as u8),
            None => Self::Line(5 + (number % (usize::from(LINES) - 5)) as u8),
        }
    }

    /// The colour of the `number`th of several lines.
    pub(crate) fn nth(number: usize) -> Self {
        // The strongest contrast first.
        Self::Line([3, 1, 2, 4, 5, 6, 7, 0][number % usize::from(LINES)])
    }

    fn code(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::Muted => 1,
            Self::Grid => 2,
            Self::Accent => 3,
            Self::Limit => 4,
            Self::Paper => 5,
            Self::Line(n) => 16 + n % LINES,
            Self::Kv(n) => 32 + n % 6,
            Self::Phase(n) => 48 + n % 3,
        }
    }

    /// The CSS variable.
    pub(crate) fn variable(self) -> String {
        match self {
            Self::Text => "--text".to_owned(),
            Self::Muted => "--muted".to_owned(),
            Self::Grid => "--grid".to_owned(),
            Self::Accent => "--accent".to_owned(),
            Self::Limit => "--limit".to_owned(),
            Self::Paper => "--paper".to_owned(),
            Self::Line(n) => format!("--line-{}", n % LINES),
            Self::Kv(n) => format!("--kv-{}", n % 6),
            Self::Phase(n) => format!("--phase-{}", n % 3),
        }
    }

    /// The marker colour.
    pub(crate) fn marker(self, dashed: bool) -> RGBColor {
        RGBColor(if dashed { DASHED } else { SOLID }, 0xC5, self.code())
    }

    fn of(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Text,
            1 => Self::Muted,
            2 => Self::Grid,
            3 => Self::Accent,
            4 => Self::Limit,
            5 => Self::Paper,
            16..24 => Self::Line(code - 16),
            32..38 => Self::Kv(code - 32),
            48..51 => Self::Phase(code - 48),
            _ => return None,
        })
    }
}

const SOLID: u8 = 0xA6;
const DASHED: u8 = 0xA7;

/// Every marker colour replaced by its variable. Text cannot be mistaken for one: its quotes are escaped.
pub(crate) fn themed(svg: &str, dash: &str) -> String {
    let mut out = String::with_capacity(svg.len() + svg.len() / 8);
    let mut rest = svg;
    while let Some(at) = rest.find("\"#A") {
        let (before, marker) = rest.split_at(at);
        out.push_str(before);
        let ink = marker.get(..9).and_then(|m| {
            let dashed = match m.get(2..6)? {
                "A6C5" => false,
                "A7C5" => true,
                _ => return None,
            };
            let code = u8::from_str_radix(m.get(6..8)?, 16).ok()?;
            Some((Ink::of(code)?, dashed))
        });
        match ink {
            Some((ink, dashed)) => {
                out.push_str(&format!("\"var({})\"", ink.variable()));
                if dashed {
                    out.push_str(&format!(" stroke-dasharray=\"{dash}\""));
                }
                rest = &marker[9..];
            }
            None => {
                out.push_str(&marker[..3]);
                rest = &marker[3..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_survives_the_round_trip() {
        let roles = [Ink::Text, Ink::Muted, Ink::Grid, Ink::Accent, Ink::Limit, Ink::Paper];
        let many =
            (0..LINES).map(Ink::Line).chain((0..6).map(Ink::Kv)).chain((0..3).map(Ink::Phase));
        for ink in roles.into_iter().chain(many) {
            let RGBColor(r, g, b) = ink.marker(false);
            let drawn = format!("<line stroke=\"#{r:02X}{g:02X}{b:02X}\"/>");
            assert_eq!(themed(&drawn, ""), format!("<line stroke=\"var({})\"/>", ink.variable()));
        }
        assert_eq!(themed("\"#A\"#AB", ""), "\"#A\"#AB");
    }
}
