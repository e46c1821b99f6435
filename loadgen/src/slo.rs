//! Latency targets: what a user types, and what it means for one request.
//!
//! `METRIC[:pNN|:mean][@CLASS]=DURATION`, by default p99: `ttft=200ms`, `tpot:p90@chat=40ms`. With an attainment
//! (`99%`) the percentiles no longer matter: that share of all requests must meet every target at once.
//!
//! One request meets the targets (goodput, attainment) when it completed and each of its latencies is within its
//! limit, ITL meaning its *longest* gap. Of several targets on one metric and class, the one with the highest
//! statistic is its limit: `ttft:p50=100ms ttft=1s` asks half of the requests, not each, to be below 100 ms.

use crate::error::Error;
use crate::metric::Metric;
use crate::percentile::{Percentile, Statistic};
use crate::record::Record;
use crate::time::unit_nanos;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One target: a limit on a statistic of a metric, over all requests or one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    /// The latency.
    pub metric: Metric,
    /// The statistic of it.
    pub statistic: Statistic,
    /// Of which class of requests; all when none.
    pub class: Option<String>,
    /// Must not be exceeded.
    pub limit: Duration,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(target: &str) -> Result<Self, Error> {
        let grammar = || Error::Grammar(target.to_owned());
        // A class may be called anything without an equals sign; a duration has none.
        let (subject, limit) = target.rsplit_once('=').ok_or_else(grammar)?;
        let (subject, class) = match subject.split_once('@') {
            Some((_, "")) => return Err(grammar()),
            Some((subject, class)) => (subject, Some(class.to_owned())),
            None => (subject, None),
        };
        let (metric, statistic) = match subject.split_once(':') {
            Some((metric, statistic)) => (metric, parse_statistic(statistic, target)?),
            None => (subject, Statistic::Percentile(Percentile::P99)),
        };
        let metric = Metric::named(metric).ok_or_else(|| Error::Metric {
            metric: metric.to_owned(),
            target: target.to_owned(),
        })?;
        Ok(Self { metric, statistic, class, limit: parse_limit(limit, target)? })
    }
}

fn parse_statistic(text: &str, target: &str) -> Result<Statistic, Error> {
    let allowed = Percentile::P50..=Percentile::P99_9;
    match text.strip_prefix(['p', 'P']).and_then(Percentile::parse) {
        Some(p) if allowed.contains(&p) => Ok(Statistic::Percentile(p)),
        _ if text.eq_ignore_ascii_case("mean") => Ok(Statistic::Mean),
        _ => Err(Error::Percentile { text: text.to_owned(), target: target.to_owned() }),
    }
}

fn parse_limit(text: &str, target: &str) -> Result<Duration, Error> {
    let bad = || Error::Duration { text: text.to_owned(), target: target.to_owned() };
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let split = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, unit) = unsigned.split_at(split);
    let value: f64 = number.parse().map_err(|_| bad())?;
    if !sign.is_empty() || value == 0.0 {
        return Err(Error::NotPositive(target.to_owned()));
    }
    if unit.is_empty() {
        return Err(Error::Unit { text: text.to_owned(), target: target.to_owned() });
    }
    let unit_ns = unit_nanos(unit).ok_or_else(bad)?;
    match (value * unit_ns).round() {
        // Nothing serves a request for 292 years, and u64 nanoseconds must hold it.
        ns if ns > i64::MAX as f64 => Err(bad()),
        ns if ns < 1.0 => Err(Error::NotPositive(target.to_owned())),
        ns => Ok(Duration::from_nanos(ns as u64)),
    }
}

impl Target {
    /// `METRIC:STATISTIC[@CLASS]`, the target without its limit.
    #[must_use]
    pub fn subject(&self) -> String {
        let class = self.class.as_ref().map_or(String::new(), |class| format!("@{class}"));
        format!("{}:{}{class}", self.metric.name(), self.statistic)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.limit.as_nanos();
        let (unit_ns, unit) = match ns {
            _ if ns.is_multiple_of(1_000_000_000) => (1_000_000_000, "s"),
            _ if ns.is_multiple_of(1_000_000) => (1_000_000, "ms"),
            _ if ns.is_multiple_of(1_000) => (1_000, "us"),
            _ => (1, "ns"),
        };
        write!(f, "{}={}{unit}", self.subject(), ns / unit_ns)
    }
}

impl TryFrom<String> for Target {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

/// A service-level objective: all targets at once. Without targets every completed request is a good one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Typed", into = "Typed")]
pub struct Slo {
    targets: Vec<Target>,
    attainment: Option<Percentile>,
}

/// The stored form, as typed.
#[derive(Serialize, Deserialize)]
struct Typed {
    targets: Vec<Target>,
    attainment: Option<String>,
}

impl Slo {
    /// From targets as typed, each of them one or several between commas, and an attainment such as `99%` or `0.99`.
    ///
    /// # Errors
    /// Targets that do not parse, two limits for the same thing, an attainment without targets or
    /// of a mean.
    pub fn parse<S: AsRef<str>>(targets: &[S], attainment: Option<&str>) -> Result<Self, Error> {
        let targets = targets.iter().flat_map(|typed| listed(typed.as_ref()));
        let targets = targets.map(|target| target.parse()).collect::<Result<_, _>>()?;
        Self::new(targets, attainment.map(parse_attainment).transpose()?)
    }

    /// From targets, and the share of requests that must meet all of them where percentiles shall not decide.
    ///
    /// # Errors
    /// Two limits for the same thing, an attainment without targets or of a mean.
    pub fn new(targets: Vec<Target>, attainment: Option<Percentile>) -> Result<Self, Error> {
        for (i, target) in targets.iter().enumerate() {
            let same = |other: &&Target| {
                (other.metric, &other.class) == (target.metric, &target.class)
                    && (attainment.is_some() || other.statistic == target.statistic)
            };
            if let Some(other) = targets[..i].iter().find(same) {
                return Err(Error::Duplicate(target.subject(), other.limit, target.limit));
            }
            if attainment.is_some() && target.statistic == Statistic::Mean {
                return Err(Error::MeanUnderAttainment(target.to_string()));
            }
        }
        match attainment {
            Some(share) if targets.is_empty() => Err(Error::NothingToAttain(format!("{share}%"))),
            _ => Ok(Self { targets, attainment }),
        }
    }

    /// The targets, as typed.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The share of requests that must meet every target, where given.
    #[must_use]
    pub fn attainment(&self) -> Option<Percentile> {
        self.attainment
    }

    /// True if a target limits `metric`. A limit on TTFT alone rewards prefill-first policies and deserves a warning.
    #[must_use]
    pub fn limits(&self, metric: Metric) -> bool {
        self.targets.iter().any(|t| t.metric == metric)
    }

    /// Resolves class names against a trace's.
    ///
    /// # Errors
    /// A class the trace does not have.
    pub fn bind(&self, classes: &[String]) -> Result<BoundSlo, Error> {
        let mut limits = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let class = target.class.as_ref().map(|class| index_of(class, classes, target));
            let class = class.transpose()?;
            let outranked = self.targets.iter().any(|other| {
                (other.metric, &other.class) == (target.metric, &target.class)
                    && other.statistic > target.statistic
            });
            let (metric, limit) = (target.metric, target.limit);
            limits.push(Limit { metric, class, limit, per_request: !outranked });
        }
        Ok(BoundSlo { slo: self.clone(), limits })
    }
}

/// The targets in `typed`, between commas. A class may have a comma in its name, and every target ends with its limit:
/// what has no `=` belongs to the target after it.
fn listed(typed: &str) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    for piece in typed.split(',') {
        match targets.last_mut().filter(|target| !target.contains('=')) {
            Some(open) => open.extend([",", piece]),
            None => targets.push(piece.trim().to_owned()),
        }
    }
    targets
}

fn index_of(class: &str, classes: &[String], target: &Target) -> Result<u16, Error> {
    let index = classes.iter().position(|known| known == class).and_then(|i| u16::try_from(i).ok());
    index.ok_or_else(|| Error::Class {
        class: class.to_owned(),
        target: target.to_string(),
        known: classes.join(", "),
    })
}

fn parse_attainment(text: &str) -> Result<Percentile, Error> {
    let bad = || Error::Attainment(text.to_owned());
    match text.strip_suffix('%') {
        Some(percent) => Percentile::parse(percent).ok_or_else(bad),
        None => {
            // 0.99 can only be a share; 99 could be a slip for either, so it is refused.
            let share: f64 = text.parse().map_err(|_| bad())?;
            let thousandths = (share * f64::from(Percentile::WHOLE)).round();
            if share > 1.0 {
                Err(bad())
            } else {
                Percentile::new(thousandths as u32).ok_or_else(bad)
            }
        }
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<_> = self.targets.iter().map(ToString::to_string).collect();
        write!(f, "{}", targets.join(" "))?;
        self.attainment.map_or(Ok(()), |share| write!(f, " attainment={share}%"))
    }
}

impl TryFrom<Typed> for Slo {
    type Error = Error;

    fn try_from(typed: Typed) -> Result<Self, Error> {
        let attainment = typed.attainment.as_deref().map(parse_attainment).transpose()?;
        Self::new(typed.targets, attainment)
    }
}

impl From<Slo> for Typed {
    fn from(slo: Slo) -> Self {
        let attainment = slo.attainment.map(|share| format!("{share}%"));
        Self { targets: slo.targets, attainment }
    }
}

/// An [`Slo`] whose classes are known to exist, ready to judge requests of one trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundSlo {
    slo: Slo,
    limits: Vec<Limit>,
}

/// One target, resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) metric: Metric,
    /// Index into the trace's classes.
    pub(crate) class: Option<u16>,
    pub(crate) limit: Duration,
    /// True if single requests are held to it.
    per_request: bool,
}

impl BoundSlo {
    /// The SLO as it was typed.
    #[must_use]
    pub fn slo(&self) -> &Slo {
        &self.slo
    }

    /// Targets in the order typed, with their resolved classes.
    pub(crate) fn resolved(&self) -> impl Iterator<Item = (&Target, &Limit)> {
        self.slo.targets.iter().zip(&self.limits)
    }

    /// True if a request met every target that concerns it: completed, and every latency it has (ITL: its longest
    /// gap) within its limit. A rejected, failed or unfinished request never does.
    #[must_use]
    pub fn meets(&self, record: &Record) -> bool {
        let within = |l: &Limit| {
            let concerns = l.per_request && l.class.is_none_or(|class| class == record.class);
            !concerns || l.metric.of(record).is_none_or(|value| value <= l.limit)
        };
        record.completed() && self.limits.iter().all(within)
    }

    /// The number of requests, of so many, that may fail to meet it ([`BoundSlo::meets`]). If more
    /// fail, the SLO is broken for certain, and the remaining requests cannot change that. All may
    /// fail if a mean or gaps between tokens decide, or if no target concerns some classes.
    #[must_use]
    pub fn allowance(&self, requests: u64) -> u64 {
        let beyond = |p: Percentile| requests - p.rank(requests);
        if let Some(share) = self.slo.attainment {
            return beyond(share);
        }
        if self.slo.targets.iter().all(|t| t.class.is_some()) {
            return requests;
        }
        let of = |t: &Target| match t.statistic {
            Statistic::Percentile(p) if t.metric.per_request() => beyond(p),
            _ => requests,
        };
        self.slo.targets.iter().map(of).sum::<u64>().min(requests)
    }
}
