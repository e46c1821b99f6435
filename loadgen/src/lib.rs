//! The load generator: it replays a trace, records the outcome of every request, and judges it.
//!
//! Nothing here knows a serving engine. A driver, in virtual or in real time, asks [`Replay`] what is due,
//! tells [`Recorder`] what it saw, and gets [`Record`]s; [`Summary`] and [`Sustain`] say whether latency targets
//! ([`Slo`]) held and whether the load could have gone on for ever.
//! Times are `Duration` since the run's origin.
//!
//! Internal to knee: this interface changes without notice. The crate `knee` is the stable one.

mod error;
mod histogram;
mod json;
mod latency;
mod live;
mod metric;
mod mock;
mod net;
mod openai;
mod percentile;
mod record;
mod recorder;
mod replay;
mod series;
mod slo;
mod steady;
mod summary;
mod sustain;
mod time;
mod worker;

pub use error::Error;
pub use histogram::Histogram;
pub use latency::{Latency, Stats};
pub use live::{
    Api, Audit, Failures, Gauge, Gauges, HIDDEN, Live, LiveOptions, LiveRun, Lost, Part, Patience,
    Progress, Prompts, Proxies, Server, ShownUrl, Tokens, Trust, Wire, export, merge,
};
pub use metric::{Counted, Metric, Span};
pub use mock::{Fault, FaultShare, Mock, MockOptions, Served, Truth};
pub use percentile::{Percentile, Statistic};
pub use record::{Outcome, Record};
pub use recorder::{Recorder, Recording};
pub use replay::{Due, Replay, ReplayOptions};
pub use series::{Window, windows};
pub use slo::{BoundSlo, Slo, Target};
pub use steady::{Precision, Wanted, precisions};
pub use summary::{Attained, Judged, Offered, Summary, Verdict};
pub use sustain::Sustain;
pub use time::{parse_duration, parse_instant};
pub use worker::Worker;
