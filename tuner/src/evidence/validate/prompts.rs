//! The prompts of a recorded run that begin as an earlier one did, read off their tokens.
//!
//! Logs of requests rarely carry the prompts; the workload that was sent does. Without it a
//! server's prefix cache hits only preempted requests in the simulation, and a run full of
//! conversations comes out too slow.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;

use serde::Deserialize;

use super::read::{ReadError, bytes, text};
use super::recorded::{Alike, IDENTITY_TOKENS, Recorded};

/// A row of the workload.
#[derive(Deserialize)]
struct Prompt {
    #[serde(alias = "input_tok_ids", alias = "input_token_ids")]
    prompt_token_ids: Vec<u32>,
}

/// `run` with its prompts as the workload at `path` has them: JSON lines, also gzipped, in order of arrival, each with
/// `prompt_token_ids` (or `input_tok_ids`, `input_token_ids`).
///
/// # Errors
/// Names the line that is no such row, or whose number of tokens is not the one that was recorded.
pub fn with_prompts(run: Recorded, path: &Path) -> Result<Recorded, ReadError> {
    let bytes = bytes(path)?;
    let file = path.to_string_lossy();
    let text = text(&file, &bytes)?;
    let bad = |line: usize, problem: String| ReadError::Line {
        file: file.to_string(),
        line: line as u64 + 1,
        problem,
    };
    let mut prompts = Vec::with_capacity(run.rows.len());
    for (line, row) in text.lines().enumerate().filter(|(_, row)| !row.trim().is_empty()) {
        let Prompt { prompt_token_ids: tokens } = serde_json::from_str(row).map_err(|cause| {
            bad(line, format!("{cause}: expected a JSON object with prompt_token_ids"))
        })?;
        if let Some(recorded) = run.rows.get(prompts.len())
            && recorded.input as usize != tokens.len()
        {
            let (n, input) = (tokens.len(), recorded.input);
            let problem = format!(
                "a prompt of {n} tokens where the run recorded {input}: rows must be in order of arrival"
            );
            return Err(bad(line, problem));
        }
        prompts.push(tokens);
    }
    if prompts.len() != run.rows.len() {
        let (n, rows) = (prompts.len(), run.rows.len());
        let problem = format!("{n} prompts for {rows} recorded requests");
        return Err(ReadError::File { file: file.to_string(), problem });
    }
    Ok(run.alike(alike(&prompts)))
}

/// Each prompt's longest common beginning with an earlier one, in whole blocks of the least size in use.
#[must_use]
pub fn alike(prompts: &[Vec<u32>]) -> Vec<Alike> {
    let (hasher, mut first) = (RandomState::new(), HashMap::new());
    let mut alike = Vec::new();
    for (row, tokens) in prompts.iter().enumerate() {
        let (mut whole, mut longest) = (0u64, None);
        for (block, blocks) in tokens.chunks_exact(IDENTITY_TOKENS as usize).zip(1u32..) {
            whole = hasher.hash_one((whole, block));
            match first.entry(whole) {
                Entry::Occupied(seen) => longest = Some((*seen.get(), blocks * IDENTITY_TOKENS)),
                Entry::Vacant(new) => {
                    new.insert(row);
                }
            }
        }
        alike.extend(longest.map(|(earlier, tokens)| Alike { row, earlier, tokens }));
    }
    alike
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against comparing every pair, token by token.
        #[test]
        fn the_longest_common_beginning_is_found(
            prompts in prop::collection::vec(prop::collection::vec(0u32..2, 0..6), 0..12),
        ) {
            // Blocks of equal tokens, so that beginnings meet often.
            let prompts: Vec<Vec<u32>> = prompts
                .iter()
                .map(|p| p.iter().flat_map(|t| [*t; IDENTITY_TOKENS as usize]).collect())
                .collect();
            let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
            let found = alike(&prompts);
            for (row, tokens) in prompts.iter().enumerate() {
                let longest = prompts[..row].iter().map(|p| common(p, tokens)).max().unwrap_or(0);
                let alike = found.iter().find(|a| a.row == row);
                prop_assert_eq!(alike.map_or(0, |a| a.tokens as usize), longest);
                if let Some(a) = alike {
                    prop_assert_eq!(common(&prompts[a.earlier], tokens), longest);
                }
            }
        }
    }
}
