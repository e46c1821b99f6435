//! The winner in the words of serving systems, the one that honours the most of it first, and what
//! each of them lacks: a pasted command must not promise more than it can do.

use crate::figures::{listed, rate};
use crate::page;
use crate::report::{Export, Own, TuneReport};
use maud::{Markup, html};
use tuner::export::{Found, Missing, Target, most_faithful, quoted};
use tuner::result::TuneResult;

/// The winner for every target; nothing without a winner, or where its knobs are another version's.
pub(crate) fn of(result: &TuneResult) -> Vec<Export> {
    let Some(best) = &result.best else { return Vec::new() };
    let Ok(found) = Found::of(result, best) else { return Vec::new() };
    let own = |t: &Target| {
        let own = result.engines.iter().find(|e| e.engine == t.engine.name)?.best.as_ref()?;
        (own.config != best.config).then_some(own)
    };
    let export = |t: &'static Target| {
        let own = own(t).and_then(|own| Some((own, Found::of(result, own).ok()?)));
        Export {
            name: t.name.to_owned(),
            file: t.file.to_owned(),
            engine: t.engine.name.to_owned(),
            starts: t.starts.to_owned(),
            text: t.render(own.as_ref().map_or(&found, |(_, found)| found)),
            missing: t.missing(&found.config),
            pins: t.pins(&found.config),
            own: own
                .map(|(own, _)| Own { label: own.label.clone(), capacity_rps: own.capacity_rps }),
        }
    };
    let mut targets = most_faithful(&found.config);
    if let Some(asked) = &found.engine {
        targets.sort_by_key(|t| t.engine.name != asked.name);
    }
    targets.into_iter().map(export).collect()
}

/// The command to paste, and the others folded away.
pub(crate) fn section(report: &TuneReport) -> Markup {
    let Some((first, rest)) = report.exports.split_first() else { return html! {} };
    let names: Vec<&str> = rest.iter().map(|e| e.name.as_str()).collect();
    // Most readers run vLLM: what it lacks must not hide in a fold.
    let vllm = rest.iter().find(|e| e.name == "vLLM" && report.result.engine.is_none());
    html! {
        h3 { "To run it with " (first.name) }
        (warning(report, first))
        pre { code { (first.text) } }
        @if let Some(vllm) = vllm { (warning(report, vllm)) }
        @if !rest.is_empty() {
            details {
                summary { "For " (listed(&names)) }
                @for e in rest { h3 { (e.name) } (warning(report, e)) pre { code { (e.text) } } }
            }
        }
    }
}

fn warning(report: &TuneReport, export: &Export) -> Markup {
    let Some(caveat) = caveat(report, export) else { return html! {} };
    page::warning(&html! {
        (caveat.text)
        @if let Some(command) = &caveat.command { " To tune for what it can do: " code.knob { (command) } }
    })
}

/// The features that a system lacks, and the remedy.
pub(crate) struct Caveat {
    /// Whole sentences.
    pub(crate) text: String,
    /// The command that tunes within the system's features, where the command that made the report is known.
    pub(crate) command: Option<String>,
}

/// The parts of the winner that `export` cannot do; none if it can do it all.
pub(crate) fn caveat(report: &TuneReport, export: &Export) -> Option<Caveat> {
    if export.missing.is_empty() {
        return None;
    }
    let r = &report.result;
    let lacks: Vec<String> =
        export.missing.iter().map(|m| format!("{} {}", m.knob, m.value)).collect();
    if let Some(Own { label, capacity_rps }) = &export.own {
        let (name, lacks, rps) = (&export.name, listed(&lacks), rate(*capacity_rps));
        let text = format!(
            "{name} has no counterpart for {lacks}: this is the best that it can be told, {label}, which carries {rps} \
             requests/s."
        );
        return Some(Caveat { text, command: None });
    }
    let capacity = r.best.as_ref().map_or(0.0, |b| b.capacity_rps);
    let mut text = format!("{} has no counterpart for {}", export.name, listed(&lacks));
    text += &if export.missing.iter().any(Missing::decides) {
        format!(": do not expect {} requests/s of it.", rate(capacity))
    } else {
        format!(": its capacity may differ from {} requests/s.", rate(capacity))
    };
    text += &instead(r, export);
    let command =
        (!report.about.command.is_empty()).then(|| retune(&report.about.command, &export.pins));
    Some(Caveat { text, command })
}

/// The load that the system's own policy was found to carry.
fn instead(r: &TuneResult, export: &Export) -> String {
    let Some((_, policy)) = export.pins.iter().find(|p| p.0 == "policy") else {
        return String::new();
    };
    let baseline = r.baselines.iter().find(|b| b.policy == *policy && b.device == r.device);
    let Some(baseline) = baseline else { return String::new() };
    let Some(best) = &baseline.best else {
        return format!(" It schedules as {policy} does, which holds the targets at no rate.");
    };
    let foreign: Vec<String> = export
        .pins
        .iter()
        .filter(|(knob, value)| best.config.get(knob).is_some_and(|v| v != value))
        .map(|(knob, _)| format!("{knob} {}", best.config[knob]))
        .collect();
    let though = if foreign.is_empty() {
        String::new()
    } else {
        format!(", though with {}", listed(&foreign))
    };
    format!(
        " It schedules as {policy} does, whose best configuration found carries {}{though}.",
        rate(best.capacity_rps)
    )
}

/// The command that made a report with knobs pinned, its results going elsewhere.
fn retune(command: &str, pins: &[(String, String)]) -> String {
    let replaced = |flag: &str| {
        let name = flag.trim_start_matches("--");
        flag.starts_with("--") && (name == "out" || pins.iter().any(|(knob, _)| knob == name))
    };
    let mut kept: Vec<String> = Vec::new();
    let mut words = shlex::split(command).unwrap_or_default().into_iter().peekable();
    while let Some(word) = words.next() {
        let flag = word.split_once('=').map_or(word.as_str(), |(flag, _)| flag);
        if !replaced(flag) {
            kept.push(quoted(&word));
        } else if flag == word {
            // Its value is a word of its own; a switch has none.
            let _ = words.next_if(|next| !next.starts_with("--"));
        }
    }
    kept.retain(|word| word != "--json");
    kept.extend(pins.iter().map(|(knob, value)| format!("--{knob} {value}")));
    kept.join(" ")
}

/// A command on as few lines as `width` allows, each but the last ending in a backslash; comments are left out. Other
/// texts, such as a manifest, keep their lines.
pub(crate) fn packed(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (line, more) = line.strip_suffix(" \\").map_or((line, false), |l| (l, true));
        match lines.last_mut().filter(|_| open) {
            Some(last) if last.len() + 1 + line.trim_start().len() + 2 <= width => {
                last.push(' ');
                last.push_str(line.trim_start());
            }
            Some(last) => {
                last.push_str(" \\");
                lines.push(format!("  {}", line.trim_start()));
            }
            None => lines.push(line.to_owned()),
        }
        open = more;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins(pins: &[(&str, &str)]) -> Vec<(String, String)> {
        pins.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_command_is_tuned_again_with_pins_and_elsewhere() {
        let pins = pins(&[("policy", "chunked"), ("queue", "fcfs")]);
        assert_eq!(
            retune("knee tune --slo ttft=200ms --out a --json", &pins),
            "knee tune --slo ttft=200ms --policy chunked --queue fcfs"
        );
        assert_eq!(
            retune("knee tune --workload 'my trace.csv' --slo ttft=1s", &pins),
            "knee tune --workload 'my trace.csv' --slo ttft=1s --policy chunked --queue fcfs"
        );
        assert_eq!(
            retune("knee tune --policy=paged --slo ttft=1s --queue shortest-prefill", &pins),
            "knee tune --slo ttft=1s --policy chunked --queue fcfs"
        );
    }

    #[test]
    fn commands_are_packed_and_manifests_are_not() {
        let script = "# said\nvllm serve m \\\n  --a 1 \\\n  --b 2 \\\n  --c 3\nnext";
        assert_eq!(packed(script, 25), ["vllm serve m --a 1 \\", "  --b 2 --c 3", "next"]);
        let yaml = "# said\ncat > f <<'EOF'\na:\n  b: 1\nEOF\nrun f \\\n  --x 1";
        assert_eq!(packed(yaml, 80), ["cat > f <<'EOF'", "a:", "  b: 1", "EOF", "run f --x 1"]);
    }
}
