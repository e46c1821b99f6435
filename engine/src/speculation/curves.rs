//! Acceptance lengths that were measured, by model.

use std::sync::LazyLock;

use serde::Deserialize;

use super::{Acceptance, Speculation};

/// A measured curve.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// The beginning of the names of models it stands for, in small letters.
    model: String,
    speculation: Speculation,
    lengths: Vec<f64>,
    /// The model it was measured on.
    pub of: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    curves: Vec<Curve>,
}

static CURVES: LazyLock<Vec<Curve>> = LazyLock::new(|| {
    let text = include_str!("../../models/acceptance.toml");
    toml::from_str::<File>(text).expect("the embedded curves are well-formed").curves
});

impl Curve {
    /// The curve.
    #[must_use]
    pub fn acceptance(&self) -> Acceptance {
        Acceptance::measured(&self.lengths)
    }
}

/// The curve of `model` with drafts of such a source, where one was measured.
#[must_use]
pub fn curve_of(model: &str, speculation: Speculation) -> Option<&'static Curve> {
    let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let fits = |curve: &&Curve| curve.speculation == speculation && name.starts_with(&curve.model);
    CURVES.iter().find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_found_by_name() {
        let found = curve_of("zai-org/GLM-5.1-FP8", Speculation::Mtp).unwrap();
        assert_eq!(found.of, "GLM-5.2 FP8");
        assert!(curve_of("zai-org/GLM-5.1-FP8", Speculation::PromptLookup).is_none());
        assert!(curve_of("meta-llama/Llama-3.1-8B-Instruct", Speculation::Mtp).is_none());
        for curve in CURVES.iter() {
            let first = curve.acceptance().chances()[0];
            assert!((first - (curve.lengths[0] - 1.0)).abs() < 1e-9, "{}", curve.of);
        }
    }
}
