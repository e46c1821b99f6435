//! Names that a mistyped one may have been meant for.

/// The one of `known` that `name` is most like, letters' case aside, if any is near.
pub(crate) fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_ascii_lowercase();
    let likeness =
        |known: &'a str| (strsim::jaro_winkler(&wanted, &known.to_ascii_lowercase()), known);
    let near = known.into_iter().map(likeness).filter(|(likeness, _)| *likeness > 0.8);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// The question about them, to stand within a message; empty where there are none.
pub(crate) fn meant<S: AsRef<str>>(alike: impl IntoIterator<Item = S>) -> String {
    let names: Vec<String> = alike.into_iter().map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() { String::new() } else { format!("did you mean {}? ", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["h100-sxm", "h200-sxm", "a100-sxm", "b200"];
        for (typed, meant) in [("h100-smx", "h100-sxm"), ("H200SXM", "h200-sxm"), ("b20", "b200")] {
            assert_eq!(near(typed, known), Some(meant), "{typed}");
        }
        assert_eq!((near("tpu", known), near("", known)), (None, None));
        assert_eq!(meant(near("a100-sx", known)), "did you mean a100-sxm? ");
        assert_eq!(meant(None::<&str>), "");
    }
}
