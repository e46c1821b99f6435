//! Latencies by metric, as results keep them: those of the whole table of metrics, under keys that are made of its names.

use loadgen::{Metric, Stats, Summary};
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// The statistics that are kept of each metric, and their key.
pub trait Form: Copy + fmt::Debug + PartialEq {
    /// The statistics, ms; none where undefined or infinite.
    type Value: Copy + Default + fmt::Debug + PartialEq + Serialize + DeserializeOwned;
    /// The key for a metric of this name.
    fn key(name: &str) -> String;
    /// Those of `stats`.
    fn of(stats: &Stats) -> Self::Value;
}

/// The 99th percentile, under `ttft_p99_ms` and the like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct P99;

/// Median and 99th percentile, under `ttft_ms` and the like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Both;

/// The 99th percentile, under `p99_ttft_ms` and the like, as flat results have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlatP99;

impl Form for P99 {
    type Value = Option<f64>;
    fn key(name: &str) -> String {
        format!("{name}_p99_ms")
    }
    fn of(stats: &Stats) -> Option<f64> {
        stats.p99.millis()
    }
}

impl Form for Both {
    type Value = (Option<f64>, Option<f64>);
    fn key(name: &str) -> String {
        format!("{name}_ms")
    }
    fn of(stats: &Stats) -> Self::Value {
        (stats.p50.millis(), stats.p99.millis())
    }
}

impl Form for FlatP99 {
    type Value = Option<f64>;
    fn key(name: &str) -> String {
        format!("p99_{name}_ms")
    }
    fn of(stats: &Stats) -> Option<f64> {
        stats.p99.millis()
    }
}

/// The figures that are kept of every latency. Part of a result: its keys stand among that result's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Latencies<F: Form>(BTreeMap<Metric, F::Value>);

impl<F: Form> Latencies<F> {
    /// Those of a run.
    #[must_use]
    pub fn of(summary: &Summary) -> Self {
        Self(Metric::ALL.map(|metric| (metric, F::of(&summary.stats(metric)))).into())
    }

    /// That of `metric`.
    #[must_use]
    pub fn get(&self, metric: Metric) -> F::Value {
        self.0.get(&metric).copied().unwrap_or_default()
    }
}

impl From<&Latencies<Both>> for Latencies<P99> {
    fn from(both: &Latencies<Both>) -> Self {
        Self(both.0.iter().map(|(metric, (_, p99))| (*metric, *p99)).collect())
    }
}

impl<F: Form> Serialize for Latencies<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (metric, value) in &self.0 {
            map.serialize_entry(&F::key(metric.name()), value)?;
        }
        map.end()
    }
}

impl<'de, F: Form> Deserialize<'de> for Latencies<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<F>(std::marker::PhantomData<F>);
        impl<'de, F: Form> Visitor<'de> for Keys<F> {
            type Value = Latencies<F>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "latencies such as {}", F::key("ttft"))
            }

            /// Other keys are those of the result around it.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Latencies<F>, A::Error> {
                let mut found = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    match Metric::ALL.into_iter().find(|m| F::key(m.name()) == key) {
                        Some(metric) => drop(found.insert(metric, map.next_value()?)),
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Latencies(found))
            }
        }
        deserializer.deserialize_map(Keys(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A result with latencies among its keys.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Around {
        rate: f64,
        #[serde(flatten)]
        p99: Latencies<P99>,
        #[serde(flatten)]
        both: Latencies<Both>,
        more: Option<u32>,
    }

    proptest! {
        #[test]
        fn latencies_are_read_back_to_the_bit(
            values in prop::collection::vec(prop::option::of(0.0..1e9_f64), 2 * Metric::ALL.len()),
            more: Option<u32>,
        ) {
            let pairs = Metric::ALL.iter().enumerate();
            let both = pairs.map(|(i, m)| (*m, (values[2 * i], values[2 * i + 1]))).collect();
            let both = Latencies::<Both>(both);
            let around = Around { rate: 0.1, p99: (&both).into(), both, more };
            let text = serde_json::to_string(&around).unwrap();
            let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
            for metric in Metric::ALL {
                let p99 = around.both.get(metric).1;
                prop_assert_eq!(stored[format!("{}_p99_ms", metric.name())].as_f64(), p99);
            }
            prop_assert_eq!(serde_json::from_str::<Around>(&text).unwrap(), around);
        }
    }

    #[test]
    fn a_metric_that_an_older_result_lacks_is_undefined() {
        let found: Latencies<P99> =
            serde_json::from_str(r#"{"ttft_p99_ms": 3.5, "x": 1}"#).unwrap();
        assert_eq!((found.get(Metric::Ttft), found.get(Metric::Itl)), (Some(3.5), None));
        assert!(serde_json::from_str::<Latencies<P99>>(r#"{"ttft_p99_ms": "fast"}"#).is_err());
    }
}
