//! An engine's answer to a knob, and defaults that depend on the device.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::profile::DeviceProfile;

/// The way in which an engine is told a knob, and its default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Its flag, without dashes, that takes the value as ours does.
    #[serde(default)]
    pub flag: Option<String>,
    /// The words for each value that it can be told; empty where it behaves so untold.
    #[serde(default)]
    pub values: Option<BTreeMap<String, String>>,
    /// Numbers must be multiples of this.
    #[serde(default)]
    pub multiple_of: Option<u32>,
    /// Why it cannot be told other values.
    #[serde(default)]
    pub why: Option<String>,
    /// Its default.
    #[serde(default)]
    pub default: Option<String>,
    /// True where the default is said all the same: it depends on the model, the backend or the version.
    #[serde(default)]
    pub always: bool,
}

/// The words for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words<'a> {
    /// It behaves so untold.
    None,
    /// These words.
    These(&'a str),
    /// This flag with the value.
    Flag(&'a str),
    /// It cannot be told; why, where there is more to say.
    Not(Option<&'a str>),
}

impl Told {
    /// The words for `value`.
    #[must_use]
    pub fn words(&self, value: &str) -> Words<'_> {
        let not = Words::Not(self.why.as_deref());
        if let Some(step) = self.multiple_of
            && !value.parse().is_ok_and(|n: u32| n.is_multiple_of(step))
        {
            return not;
        }
        match (&self.values, &self.flag) {
            (Some(values), _) => match values.get(value).map(String::as_str) {
                Some("") => Words::None,
                Some(words) => Words::These(words),
                None => not,
            },
            (None, Some(flag)) => Words::Flag(flag),
            (None, None) => not,
        }
    }
}

/// Defaults on devices of so much memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByMemory {
    /// Memory at least, GiB.
    gib: u64,
    /// Devices left out, by parts of their names.
    #[serde(default)]
    not: Vec<String>,
    /// By knob.
    pub(super) defaults: BTreeMap<String, String>,
}

impl ByMemory {
    /// True where they hold on `device`.
    #[must_use]
    pub fn holds(&self, device: &DeviceProfile) -> bool {
        let name = device.name.to_ascii_lowercase();
        device.memory_bytes >= self.gib.saturating_mul(1 << 30)
            && !self.not.iter().any(|part| name.contains(part))
    }
}
