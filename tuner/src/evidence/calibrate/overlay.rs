//! The result of a calibration, as a file that is laid over a hardware profile.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::DeviceProfile;
use engine::exec::Correction;
use engine::files::{LONGEST_SETTINGS, read_text};
use engine::profile::Host;
use serde::{Deserialize, Serialize};

/// Constants for one device; every one says where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// The profile it belongs to.
    #[serde(rename = "calibrates")]
    pub device: String,
    /// The rows it was fitted to, and its errors on those held out.
    pub source: String,
    /// Host time in place of the engine's.
    pub host: Option<HostTime>,
    /// Factors on operator classes; those not named stay as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub factors: BTreeMap<String, f64>,
}

/// CPU time of an iteration that the GPU does not hide.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTime {
    /// Per iteration, µs.
    pub step_us: f64,
    /// Per sequence in it, µs.
    pub seq_us: f64,
}

/// Ten seconds, µs: no host takes so long for an iteration.
const LONGEST_US: f64 = 1e7;

/// Why an overlay cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct OverlayError {
    path: String,
    problem: String,
}

impl Overlay {
    /// Reads one.
    ///
    /// # Errors
    /// A file that cannot be read, or is not an overlay.
    pub fn read(path: &Path) -> Result<Self, OverlayError> {
        let failed = |problem: String| OverlayError { path: path.display().to_string(), problem };
        let text = read_text(path, LONGEST_SETTINGS)
            .map_err(|e| failed(format!("cannot be read: {e}")))?;
        let overlay: Self = toml::from_str(&text)
            .map_err(|e| failed(format!("not a calibration: {}", e.to_string().trim_end())))?;
        overlay.correction().map_err(failed)?;
        match overlay.host {
            Some(HostTime { step_us, seq_us })
                if [step_us, seq_us].iter().any(|us| !(0.0..=LONGEST_US).contains(us)) =>
            {
                Err(failed(format!("host times must not be negative or above {LONGEST_US} µs")))
            }
            _ => Ok(overlay),
        }
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// `device` with the host time found.
    #[must_use]
    pub fn apply(&self, device: &DeviceProfile) -> DeviceProfile {
        let mut device = device.clone();
        if let Some(host) = self.host {
            let HostTime { step_us, seq_us } = host;
            device.host = Some(Host { step_us, seq_us, source: self.source.clone() });
        }
        device.name += " (calibrated)";
        device.provenance += &format!("\nCalibration: {}", self.source);
        device
    }

    /// The factors, if any differ from 1.
    ///
    /// # Errors
    /// A class that does not exist, or a negative factor.
    pub fn correction(&self) -> Result<Option<Arc<Correction>>, String> {
        if self.factors.is_empty() {
            return Ok(None);
        }
        Correction::new(&self.factors).map(|c| Some(Arc::new(c)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_reads_back_and_mistakes_are_named() {
        let overlay = Overlay {
            device: "h100-sxm".into(),
            source: "steps.csv".into(),
            host: Some(HostTime { step_us: 300.5, seq_us: 2.25 }),
            factors: [("dense".to_owned(), 1.02)].into(),
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, overlay.text()).unwrap();
        assert_eq!(Overlay::read(&path).unwrap(), overlay);
        let device = overlay.apply(&DeviceProfile::load("h100").unwrap());
        let host = device.host.unwrap();
        assert_eq!((host.step_us, host.seq_us, host.source.as_str()), (300.5, 2.25, "steps.csv"));
        let say = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Overlay::read(&path).unwrap_err().to_string()
        };
        let head = "calibrates = \"x\"\nsource = \"y\"\n";
        assert!(
            say(&format!("{head}[factors]\ndence = 1.0\n"))
                .contains("no operator class `dence`: expected dense")
        );
        assert!(say(&format!("{head}[factors]\ndense = -1.0\n")).contains("must not be negative"));
        assert!(
            say(&format!("{head}[host]\nstep_us = -1.0\nseq_us = 0.0\n"))
                .contains("must not be negative")
        );
        assert!(say("name = \"x\"").contains("not a calibration"));
    }
}
