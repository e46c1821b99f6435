//! Tables for other tools: trials and requests, one row each. An empty cell is a value that does not exist.

use crate::Error;
use crate::figures::SHOWN;
use crate::plain::csv_cell;
use csv::Writer;
use loadgen::{Metric, Record};
use std::io::Write;
use tuner::result::{CurvePoint, Operating, TuneResult};

/// Columns of [`trials`].
fn columns() -> Vec<String> {
    let before = [
        "policy",
        "device",
        "configuration",
        "gpus",
        "rate_rps",
        "slo_met",
        "sustainable",
        "goodput_rps",
        "output_tokens_per_s",
    ];
    let latencies = SHOWN.map(Metric::name).map(|m| [format!("{m}_p50_ms"), format!("{m}_p99_ms")]);
    let after = ["capacity_rps", "capacity_rps_per_gpu"];
    let names = before.map(str::to_owned).into_iter();
    names.chain(latencies.into_iter().flatten()).chain(after.map(str::to_owned)).collect()
}

fn encode(what: &'static str) -> impl Fn(csv::Error) -> Error {
    move |e| Error::Encode { what, cause: e.to_string() }
}

/// Every rate tried on the whole trace with the winner and with each policy's best.
///
/// # Errors
/// None in practice: rows have equal lengths.
pub fn trials(result: &TuneResult) -> Result<String, Error> {
    let failed = encode("trials.csv");
    let mut writer = Writer::from_writer(Vec::new());
    writer.write_record(columns()).map_err(&failed)?;
    let others = result.baselines.iter().filter_map(|b| b.best.as_ref());
    let others = others.filter(|o| {
        result.best.as_ref().is_none_or(|b| b.config != o.config || b.device != o.device)
    });
    for o in result.best.iter().chain(others) {
        for p in &o.curve {
            writer.write_record(trial(o, p)).map_err(&failed)?;
        }
    }
    let bytes = writer
        .into_inner()
        .map_err(|e| Error::Encode { what: "trials.csv", cause: e.to_string() })?;
    String::from_utf8(bytes).map_err(|e| Error::Encode { what: "trials.csv", cause: e.to_string() })
}

fn trial(o: &Operating, p: &CurvePoint) -> Vec<String> {
    let ms = |v: Option<f64>| v.map_or_else(String::new, |v| v.to_string());
    let latencies = SHOWN.map(|m| p.latencies.get(m)).map(|(p50, p99)| [ms(p50), ms(p99)]);
    let before = [
        csv_cell(&o.policy),
        csv_cell(&o.device),
        csv_cell(&o.label),
        o.gpus.to_string(),
        p.rate_rps.to_string(),
        p.slo_met.to_string(),
        p.sustainable.to_string(),
        p.goodput_rps.to_string(),
        p.output_tokens_per_s.to_string(),
    ];
    let after = [o.capacity_rps.to_string(), (o.capacity_rps / f64::from(o.gpus)).to_string()];
    before.into_iter().chain(latencies.into_iter().flatten()).chain(after).collect()
}

/// Every request's record under [`Record::CSV_HEADER`].
///
/// # Errors
/// When `out` does not take them.
pub fn requests(records: &[Record], out: impl Write) -> Result<(), Error> {
    let failed = encode("requests.csv");
    let mut writer = Writer::from_writer(out);
    writer.write_record(Record::CSV_HEADER).map_err(&failed)?;
    for record in records {
        writer.write_record(record.csv_row()).map_err(&failed)?;
    }
    writer.flush().map_err(|e| Error::Encode { what: "requests.csv", cause: e.to_string() })
}
