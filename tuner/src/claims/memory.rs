//! Memory: what reservations and paging waste, and what prefix caching shares.

use engine::Config;
use engine::config::{Policy, Reserve};
use rayon::prelude::*;

use super::{Bench, Claim, Claims, Finding, Sweep, one};
use crate::subject::Refused;

impl Bench<'_> {
    /// KV waste of every allocator, by block size and by longest length accepted.
    pub(super) fn waste(&self) -> Result<Claims, Refused> {
        let sim = self.on_trace();
        let of = |config: &Config| Ok(sim.saturated(config)?.kv().waste_percent());
        let contiguous = |reserve, max_model_len| Config {
            reserve,
            max_model_len,
            ..self.policy(Policy::Continuous)
        };
        let paged = |block_size| Config { block_size, ..self.policy(Policy::Paged) };
        let [max, pow2, doubling] = [Reserve::Max, Reserve::Pow2, Reserve::Doubling]
            .map(|reserve| of(&contiguous(reserve, 0)));
        let (max, pow2, doubling, sixteen) = (max?, pow2?, doubling?, of(&paged(16))?);
        let blocks = [1, 8, 16, 32, 64, 128, 256];
        let by_block = blocks
            .par_iter()
            .map(|&b| Ok((f64::from(b), of(&paged(b))?)))
            .collect::<Result<Vec<_>, Refused>>()?;
        let longest = self.trace.longest().max(1).next_power_of_two();
        let by_length = [Reserve::Max, Reserve::Pow2, Reserve::Doubling]
            .par_iter()
            .map(|&reserve| {
                let points = (0..4).map(|k| longest << k).filter_map(|len| {
                    of(&contiguous(reserve, len)).ok().map(|w| (f64::from(len), w))
                });
                (format!("contiguous({reserve})"), points.collect())
            })
            .collect();
        let claim = |claim: &str, measured, finding| Claim {
            claim: claim.to_owned(),
            paper: "PagedAttention (SOSP '23), Fig. 2: OPT-13B on A100-40G, ShareGPT-like lengths"
                .to_owned(),
            setup: format!(
                "all requests at once, longest length accepted {longest}; (reserved + internal + external) / held"
            ),
            measured,
            finding,
        };
        Ok(Claims {
            claims: vec![
                claim(
                    "contiguous allocation wastes 60-80 % of KV memory",
                    format!(
                        "max {max:.1} % ({}), pow2 {pow2:.1} % ({}), doubling {doubling:.1} % ({})",
                        band(max),
                        band(pow2),
                        band(doubling)
                    ),
                    wasteful([max, pow2, doubling]),
                ),
                claim(
                    "paging wastes under 4 %",
                    format!("{sixteen:.2} % at 16 tokens a block"),
                    Finding::of(&[sixteen < 4.0]),
                ),
            ],
            sweeps: vec![
                Sweep {
                    title: "KV waste of paging by block size".to_owned(),
                    x: "tokens per block".to_owned(),
                    y: "waste, %".to_owned(),
                    lines: vec![("paged".to_owned(), by_block)],
                },
                Sweep {
                    title: "KV waste of contiguous allocation by longest length accepted"
                        .to_owned(),
                    x: "max-model-len, tokens".to_owned(),
                    y: "waste, %".to_owned(),
                    lines: by_length,
                },
            ],
        })
    }

    pub(super) fn prefix_cache(&self) -> Result<Claims, Refused> {
        let sim = self.on_trace();
        let with = self.policy(Policy::Chunked);
        let without = Config { prefix_cache: false, ..self.policy(Policy::Chunked) };
        let (on, off) = (sim.saturated(&with)?, sim.saturated(&without)?);
        let hit = on.work().tokens_cached as f64 / on.work().tokens_looked_up.max(1) as f64;
        let gain = on.summary.request_throughput_rps() / off.summary.request_throughput_rps();
        let shares = self.trace.block_tokens > 0;
        Ok(one(Claim {
            claim: "prefix caching shares pages between prompts that begin alike".to_owned(),
            paper: "PagedAttention (SOSP '23) §4.4; RadixAttention (SGLang, 2024)".to_owned(),
            setup: "chunked policy, all requests at once, prefix cache on against off".to_owned(),
            measured: if shares {
                format!("{:.1} % of prompt tokens hit; {gain:.2}x the requests/s", 100.0 * hit)
            } else {
                "this trace does not say which prompts begin alike".to_owned()
            },
            finding: if shares { Finding::of(&[hit > 0.0, gain > 1.0]) } else { Finding::Untried },
        }))
    }
}

/// The place of a waste relative to the 60 to 80 % of the claim.
fn band(percent: f64) -> &'static str {
    match percent {
        p if p < 60.0 => "less",
        p if p > 80.0 => "more",
        _ => "as claimed",
    }
}

/// The claim is of a band: it holds in part where only some reservations are in it, or one wastes even more.
fn wasteful(percents: [f64; 3]) -> Finding {
    let inside = percents.map(|p| band(p) == "as claimed");
    match Finding::of(&inside) {
        Finding::Refuted if percents.iter().any(|p| band(*p) == "more") => Finding::Partly,
        finding => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waste_in_the_band_is_as_claimed() {
        assert_eq!(wasteful([79.0, 61.0, 70.0]), Finding::Confirmed);
        assert_eq!(wasteful([91.5, 47.8, 39.1]), Finding::Partly);
        assert_eq!(wasteful([50.0, 47.8, 39.1]), Finding::Refuted);
    }
}
