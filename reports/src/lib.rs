//! Draws what was measured: self-contained HTML pages, CSV tables, a trace for Perfetto, a summary for a terminal.
//!
//! A [`Report`] is plain data: results of the tuner and of single runs, thinned. It is stored beside its page, so that
//! [`load()`] and [`Report::page`] draw the same page again. Nothing here computes a result, and every sentence under a
//! plot is derived from the data the plot shows.
//!
//! Internal to knee: this interface changes without notice. The crate `knee` is the stable one.

mod bench;
pub mod between;
mod charts;
pub mod chrome_trace;
mod compare;
mod contest;
pub mod csv;
mod engines;
mod error;
mod exports;
mod fidelity;
mod figures;
mod latency;
mod load;
mod losers;
mod measured;
mod over_time;
mod page;
mod plain;
mod planned;
mod plot;
mod policies;
mod report;
mod sentences;
mod served;
pub mod terminal;
mod tradeoffs;
mod tuning;
mod validation;
mod what_if;
mod winner;
mod wrap;

pub use bench::bench_page;
pub use compare::compare_page;
pub use error::Error;
pub use fidelity::fidelity_page;
pub use load::{PAGE, STORED, load, write_file};
pub use plain::{csv_cell, plain, plain_json, plain_lines};
pub use report::{
    About, Assumption, BenchReport, CompareReport, Detail, Distribution, Export, FidelityReport,
    Inside, LiveSide, Output, Own, Report, SAMPLES, SCHEMA, Scenario, ServedReport, TuneReport,
    ValidationReport,
};
pub use served::served_page;
pub use tuning::tune_page;
pub use validation::validation_page;
