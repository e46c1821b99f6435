//! `knee engines`: the engines that are known, their versions, and what was measured of each.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use engine::EngineProfile;
use engine::engines::{Host, Listed};
use serde_json::{Value, json};

use super::{print, print_json};

/// Lists the shipped engines.
pub(crate) fn list(as_json: bool) -> Result<ExitCode> {
    let all = EngineProfile::listed();
    if as_json {
        print_json(&all.iter().map(described).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = format!(
        "{:<14}{:<9}{:<12}{:<7}{:>10}{:>8}{:>10}{:>8}{:>10}   {}\n{:<42}{:>10}{:>8}{:>10}{:>8}{:>10}\n",
        "engine",
        "version",
        "policy",
        "async",
        "host",
        "",
        "unhidden",
        "",
        "front end",
        "times",
        "",
        "µs/step",
        "µs/seq",
        "µs/step",
        "µs/seq",
        "ms"
    );
    for version in all.iter().flat_map(|engine| &engine.versions) {
        let ([step, seq], [own_step, own_seq]) =
            (version.outside.host.at(1), version.outside.unhidden.at(1));
        let planned = version.default_of("async-scheduling").unwrap_or("off");
        let _ = writeln!(
            out,
            "{:<14}{:<9}{:<12}{:<7}{step:>10.0}{seq:>8.1}{own_step:>10.0}{own_seq:>8.1}{:>10.1}   {}",
            version.name,
            version.version,
            version.policy.name(),
            planned,
            version.outside.front_end.request_ms,
            version
                .times_of
                .as_ref()
                .map_or_else(|| "measured".to_owned(), |of| format!("of {of}"))
        );
    }
    let told = "A version holds until the next. Host: CPU time of an iteration; unhidden: the part that asynchronous \
                scheduling does not hide. Sources and defaults: knee engines --json";
    let _ = writeln!(out, "\n{}", textwrap::fill(told, reports::terminal::WIDTH));
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn described(listed: &Listed) -> Value {
    json!({
        "name": listed.engine.name,
        "title": listed.engine.title,
        "versions": listed.versions.iter().map(version).collect::<Vec<_>>(),
    })
}

fn version(engine: &EngineProfile) -> Value {
    let host = |host: &Host| {
        let ranks = host
            .ranks
            .iter()
            .map(|r| json!({ "tp": r.tp, "us_per_step": r.step_us, "us_per_sequence": r.seq_us }));
        json!({ "ranks": ranks.collect::<Vec<_>>(), "source": host.source })
    };
    let (outside, front_end) = (&engine.outside, &engine.outside.front_end);
    let defaults = engine::KNOBS
        .iter()
        .filter_map(|knob| Some((knob.name.to_owned(), json!(engine.default_of(knob.name)?))));
    json!({
        "version": engine.version,
        "policy": engine.policy.name(),
        "measured": engine.times_of.is_none(),
        "times_of": engine.times_of,
        "defaults": defaults.collect::<serde_json::Map<_, _>>(),
        "host": host(&outside.host),
        "unhidden": host(&outside.unhidden),
        "launch": {
            "us_per_kernel": outside.launch.kernel_us,
            "graph_tokens": outside.launch.graph_tokens,
            "prompts_in_pieces": outside.launch.pieces,
            "source": outside.launch.source,
        },
        "front_end": {
            "ms_per_request": front_end.request_ms,
            "us_per_prompt_token": front_end.token_us,
            "spread": front_end.spread,
            "source": front_end.source,
        },
        "sources": engine.sources,
    })
}
