//! The client's figures beside the server's log: `knee mock`'s clockwork in a process of its own,
//! its log of the truth on the same clock, and a table of the differences.
//!
//! `cargo run --release -p knee-loadgen --example client_accuracy [-- PART...]`, parts: throughput,
//! streams, pace, many, stall, pacing. Timings depend on this machine and on what else runs on it.

mod bare;
mod fixture;
mod parts;

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Part = (&'static str, fn() -> Outcome);

const PARTS: [Part; 6] = [
    ("throughput", parts::throughput),
    ("streams", parts::streams),
    ("pace", parts::pace),
    ("many", parts::many),
    ("stall", parts::stall),
    ("pacing", parts::pacing),
];

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == "serve") {
        return fixture::serve(&words[1..]);
    }
    for (name, part) in PARTS {
        if words.is_empty() || words.iter().any(|w| w == name) {
            println!("\n## {name}");
            part()?;
        }
    }
    Ok(())
}
