//! The figures that tell the causes of errors: by streams, by tensor-parallel ranks, without host time, and beside what
//! the data sheet allows and what repeated cells scatter.

use std::collections::BTreeMap;

use engine::config::KvDtype;
use engine::exec::speed;
use engine::{DeviceProfile, ModelShape, Shape};

use super::{Key, Pair, Row, errors};

/// Targets: mean absolute error of TPOT and of TTFT, percent.
const TARGETS: [f64; 2] = [8.0, 20.0];

/// Cells that were measured several times, by pair: largest over smallest TPOT and TTFT of each, less one, percent.
/// Rows that are copies of one another, within a thousandth, do not count.
pub(super) fn repeats(rows: &[Row]) -> BTreeMap<Key, Vec<[f64; 2]>> {
    let mut cells: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let Row { input, output, streams, tp, dp, moe_tp, ep, .. } = row;
        let cell = format!("{:?} {input} {output} {streams} {tp} {dp} {moe_tp} {ep}", row.pair());
        cells.entry(cell).or_default().push(row);
    }
    let mut found: BTreeMap<Key, Vec<[f64; 2]>> = BTreeMap::new();
    for rows in cells.values() {
        let spread = |of: fn(&Row) -> f64| {
            let all = rows.iter().map(|row| of(row));
            let (most, least) = (all.clone().fold(0.0, f64::max), all.fold(f64::MAX, f64::min));
            100.0 * (most / least - 1.0)
        };
        let both = [spread(|row| row.tpot_ms), spread(|row| row.ttft_ms)];
        if both.iter().any(|spread| *spread > 0.1) {
            found.entry(rows[0].pair()).or_default().push(both);
        }
    }
    found
}

/// The least TPOT that the data sheet allows, ms: between two tokens of a stream every other stream decodes one, and
/// its share of a prompt is computed. Prompts are as long as they say, none is cached.
pub(super) fn least_ms(row: &Row, model: &ModelShape, device: &DeviceProfile, kv: KvDtype) -> f64 {
    // Lengths are 0.9 of the nominal ones on average.
    let [input, output] = [row.input, row.output].map(|tokens| (0.9 * f64::from(tokens)) as u32);
    let mut decodes = Shape::default();
    (0..row.streams).for_each(|_| decodes.add(input + output / 2, 1, true, true));
    let mut prompt = Shape::default();
    prompt.add(0, input, false, true);
    let share = f64::from(row.streams) / f64::from(output);
    let flops = speed::flops(model, &decodes) + share * speed::flops(model, &prompt);
    let ranks = f64::from(row.tp);
    let compute = flops / speed::peak_flops(model, device);
    let memory = speed::bytes(model, kv, row.tp, &decodes) / device.memory_bandwidth;
    1e3 * compute.max(memory) / ranks
}

/// The causes, for every pair that misses a target.
pub(super) fn print(groups: &BTreeMap<Key, Vec<Pair>>, repeats: &BTreeMap<Key, Vec<[f64; 2]>>) {
    let [tpot, ttft] = TARGETS;
    println!("\nPairs that miss {tpot} % of TPOT or {ttft} % of TTFT, with mean errors");
    for (key, pairs) in groups {
        let tpot = errors(pairs.iter().map(|p| p.tpot_ms / p.row.tpot_ms));
        let ttft = errors(pairs.iter().map(|p| p.ttft_ms / p.row.ttft_ms));
        if tpot.0 <= TARGETS[0] && ttft.0 <= TARGETS[1] {
            continue;
        }
        let (model, device, precision) = key;
        let no_host = errors(pairs.iter().map(|p| p.no_host_ms / p.row.tpot_ms));
        println!(
            "{model}, {device}, {precision}: TPOT {:.1} % (bias {:+.1} %), without host time {:.1} % (bias {:+.1} %); TTFT {:.1} %",
            tpot.0, tpot.1, no_host.0, no_host.1, ttft.0
        );
        table(pairs, "streams", |row| (row.streams, 0));
        table(pairs, "TP", |row| (row.tp, 0));
        table(pairs, "prompt, TP", |row| (row.input, row.tp));
        let impossible = pairs.iter().filter(|p| p.row.tpot_ms < p.least_ms).count();
        if impossible > 0 {
            println!(
                "    {impossible} of {} rows are faster than the data sheet allows where every prompt is computed",
                pairs.len()
            );
        }
        match repeats.get(key) {
            None => println!("    no cell was measured twice"),
            Some(spreads) => {
                let most = |i: usize| spreads.iter().map(|s| s[i]).fold(0.0, f64::max);
                println!(
                    "    {} cells were measured twice: up to {:.0} % apart in TPOT, {:.0} % in TTFT",
                    spreads.len(),
                    most(0),
                    most(1)
                );
            }
        }
    }
}

/// Mean errors by a property of rows: of TPOT in percent, with and without host time, and of TTFT in percent and as the
/// median of milliseconds that the simulation lacks.
fn table(pairs: &[Pair], name: &str, by: fn(&Row) -> (u32, u32)) {
    let mut groups: BTreeMap<(u32, u32), Vec<&Pair>> = BTreeMap::new();
    pairs.iter().for_each(|p| groups.entry(by(&p.row)).or_default().push(p));
    if groups.len() < 2 {
        return;
    }
    let cell = |((first, second), pairs): (&(u32, u32), &Vec<&Pair>)| {
        let tpot = errors(pairs.iter().map(|p| p.tpot_ms / p.row.tpot_ms)).1;
        let ttft = errors(pairs.iter().map(|p| p.ttft_ms / p.row.ttft_ms)).1;
        let no_host = errors(pairs.iter().map(|p| p.no_host_ms / p.row.tpot_ms)).1;
        let mut lacks: Vec<f64> = pairs.iter().map(|p| p.row.ttft_ms - p.ttft_ms).collect();
        lacks.sort_by(f64::total_cmp);
        let value = if *second > 0 { format!("{first},{second}") } else { first.to_string() };
        let lack = lacks[lacks.len() / 2];
        format!("{value}: {tpot:+.0} / {no_host:+.0} / {ttft:+.0} % ({lack:+.0} ms)")
    };
    let cells: Vec<String> = groups.iter().map(cell).collect();
    println!("    by {name}, TPOT / without host time / TTFT (TTFT lacks): {}", cells.join("; "));
}
