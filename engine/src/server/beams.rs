//! The fields of beam search that a client may set: vLLM's, and none that would have no effect.

use super::admit::Refusal;
use super::limits::{MOST_BRANCHES, within};
use super::wire::Common;
use crate::beam::BeamSearch;

/// Length penalties beyond this, either way, say nothing that this one does not.
const MOST_PENALTY: f64 = 100.0;

/// The search that is asked for, if one is: `n` beams, or `best_of` of which the best `n` are the answers.
pub(super) fn search(common: &Common, best_of: Option<u16>) -> Result<Option<BeamSearch>, Refusal> {
    if common.use_beam_search != Some(true) {
        return Ok(None);
    }
    if common.stream == Some(true) {
        let why = "beam search cannot be streamed: nothing is certain before its end";
        return Err(Refusal::field("stream", why));
    }
    if let Some(field) = without_effect(common) {
        let why = format!("`{field}` has no meaning in beam search: leave it out");
        return Err(Refusal::field(field, why));
    }
    let n = common.n.unwrap_or(1);
    let width = best_of.unwrap_or(n);
    within("best_of", u32::from(width), u32::from(n), u32::from(MOST_BRANCHES))?;
    let length_penalty = common.length_penalty.unwrap_or(1.0);
    if length_penalty.abs() > MOST_PENALTY {
        let why = format!(
            "length_penalty = {length_penalty} must be between -{MOST_PENALTY} and {MOST_PENALTY}"
        );
        return Err(Refusal::field("length_penalty", why));
    }
    Ok(Some(BeamSearch { width, length_penalty }))
}

/// A field that changes the sampling and has no effect on a search, if one is set. Neutral values, and the temperature
/// of greedy sampling, do not count.
fn without_effect(common: &Common) -> Option<&'static str> {
    let other = |value: Option<f32>, neutral: f32| value.is_some_and(|v| v != neutral);
    let stops = common.stop.iter().flat_map(|stop| &stop.0).any(|stop| !stop.is_empty());
    let fields = [
        ("temperature", other(common.temperature, 0.0) && other(common.temperature, 1.0)),
        ("top_p", other(common.top_p, 1.0)),
        ("top_k", common.top_k.is_some_and(|k| k > 0)),
        ("min_p", other(common.min_p, 0.0)),
        ("repetition_penalty", other(common.repetition_penalty, 1.0)),
        ("presence_penalty", other(common.presence_penalty, 0.0)),
        ("frequency_penalty", other(common.frequency_penalty, 0.0)),
        ("stop", stops),
    ];
    fields.iter().find(|(_, set)| *set).map(|(name, _)| *name)
}
