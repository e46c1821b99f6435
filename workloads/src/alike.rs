//! Names that a mistyped one may have been meant for.

/// The question to ask of `name`, to stand within a message: `did you mean chat? `. Letters' case does not matter. Empty
/// where none of `known` is near.
///
/// ```
/// assert_eq!(workloads::meant("Caht", ["chat", "code"]), "did you mean chat? ");
/// assert_eq!(workloads::meant("video", ["chat", "code"]), "");
/// ```
#[must_use]
pub fn meant<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let wanted = name.to_ascii_lowercase();
    let likeness =
        |known: &'a str| (strsim::jaro_winkler(&wanted, &known.to_ascii_lowercase()), known);
    let near = known.into_iter().map(likeness).filter(|(likeness, _)| *likeness > 0.8);
    let best = near.max_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or_else(String::new, |(_, known)| format!("did you mean {known}? "))
}
