//! Results of `vllm bench serve --save-result --save-detailed`: one object for a run, its requests in arrays; several
//! objects one after another where results were appended. Times are in seconds.

use super::cells::{Cell, Field, Line, Object, Place, ReadError, problem, stem};
use serde_json::Value;

/// True where this is such a result, with its arrays or without.
pub(super) fn is_result(object: &Object) -> bool {
    let arrays = ["input_lens", "output_lens", "ttfts", "itls"];
    arrays.iter().any(|key| object.get(*key).is_some_and(Value::is_array))
        || ["total_input_tokens", "mean_ttft_ms"].iter().all(|key| object.contains_key(*key))
}

/// The requests of every run in `text`.
pub(super) fn lines<'a>(file: &'a str, text: &str) -> Result<Vec<Line<'a>>, ReadError> {
    let objects: Result<Vec<Object>, _> =
        serde_json::Deserializer::from_str(text).into_iter().collect();
    let objects = objects.map_err(|e| problem(file, format!("not complete JSON: {e}")))?;
    let mut lines = Vec::new();
    for (object, number) in objects.iter().zip(1..) {
        let name = match objects.len() {
            1 => stem(file),
            _ => format!("{} {number}", stem(file)),
        };
        lines.extend(run(file, &name, object)?);
    }
    Ok(lines)
}

fn run<'a>(file: &'a str, name: &str, object: &Object) -> Result<Vec<Line<'a>>, ReadError> {
    let array = |key: &str, hint: &str| {
        let values = object.get(key).and_then(Value::as_array);
        values.ok_or_else(|| problem(file, format!("no {key}: {hint}")))
    };
    let detailed = "make the run again with --save-detailed, which keeps every request";
    let started = "nothing says when requests were sent; newer releases of `vllm bench serve` do";
    let input = array("input_lens", detailed)?;
    let [output, ttfts] = ["output_lens", "ttfts"].map(|key| array(key, detailed));
    let (output, ttfts) = (output?, ttfts?);
    let starts = array("start_times", started)?;
    let none = Vec::new();
    let errors = object.get("errors").and_then(Value::as_array).unwrap_or(&none);
    let whole = "answers that came in one piece do not say when their tokens did";
    let itls = array("itls", whole)?;
    let arrays =
        [("output_lens", output), ("ttfts", ttfts), ("itls", itls), ("start_times", starts)];
    for (key, values) in arrays {
        if values.len() != input.len() {
            let (n, of) = (values.len(), input.len());
            return Err(problem(file, format!("{n} {key} for {of} input_lens: the file is cut")));
        }
    }
    let rate = object.get("request_rate").filter(|rate| rate.is_number());
    let one = |i: usize| {
        let at = Place::Request(i as u64 + 1);
        let gaps = itls[i].as_array();
        let generation = gaps.map(|gaps| gaps.iter().filter_map(Value::as_f64).sum::<f64>());
        let told = errors.get(i).and_then(Value::as_str).filter(|e| !e.trim().is_empty());
        // A request without a first token has a time of 0 there.
        let first = ttfts[i].as_f64().filter(|t| *t > 0.0);
        let error = told.or_else(|| first.is_none().then_some("no first token"));
        let mut cells = vec![
            (Field::Run, Cell::json("run", &Value::from(name))),
            (Field::Rate, rate.and_then(|rate| Cell::json("request_rate", rate))),
            (Field::Arrival, Cell::json("start_times", &starts[i])),
            (Field::Input, Cell::json("input_lens", &input[i])),
            (Field::Output, Cell::json("output_lens", &output[i])),
            (Field::Error, error.and_then(|error| Cell::json("errors", &Value::from(error)))),
        ];
        if error.is_none() {
            cells.push((Field::Ttft, Cell::json("ttfts", &ttfts[i])));
            let itls = generation.and_then(|s| Cell::json("itls", &Value::from(s)));
            cells.push((Field::Generation, itls));
        }
        let cells = cells.into_iter().filter_map(|(field, cell)| Some((field, cell?))).collect();
        Line { file, place: at, cells }
    };
    Ok((0..input.len()).map(one).collect())
}
