//! Matrix products `[m,k] x [k,n]` by number format.
//!
//! x = m. In fp8, fp8_block and nvfp4 the times hold the kernel that quantises the activations: the tables' kernels were
//! timed with bf16 at both ends (in fp8 a thin product over many rows takes several times as long as in bf16, which only
//! the quantisation explains), so that nothing is added for it. Scales that are fixed beforehand save a part of it, some
//! microseconds at most where few tokens are computed.

use crate::format::Format;
use crate::profile::table::{Place, Roof, Times, place};
use crate::profile::{DeviceProfile, Peaks};

/// Products of like depth are alike; their width decides how they fall into tiles and waves.
#[must_use]
pub fn gemm_metric(shape: &[u32]) -> Place {
    place([f64::from(shape[0]), f64::from(shape[1])], [3.0, 1.0])
}

/// The roofline by m, weights of `element_bytes`: activations are bf16 at both ends.
#[must_use]
pub fn gemm_roof(peaks: &Peaks, [n, k]: [f64; 2], format: Format, element_bytes: f64) -> Roof {
    let activations = element_bytes.max(2.0);
    Roof {
        start: 0.0,
        compute: 2.0 * n * k / peaks.rate(format),
        fixed: element_bytes * n * k / peaks.bandwidth,
        memory: activations * (n + k) / peaks.bandwidth,
        full: 0.0,
    }
}

impl DeviceProfile {
    /// Seconds to multiply `[m,k]` by `[k,n]`, weights in `format`, by m.
    #[must_use]
    pub fn gemm(&self, n: f64, k: f64, format: Format) -> Times {
        self.gemm_of(n, k, format, format.element_bytes())
    }

    /// The same for weights of another number of bytes than the format's own.
    #[must_use]
    pub fn gemm_of(&self, n: f64, k: f64, format: Format, element_bytes: f64) -> Times {
        let (table, from) = self.table_for("gemm", format).unwrap_or((&self.gemm, None));
        let sustained = self.sustained_gemm.unwrap_or(self.sustained);
        let roof = gemm_roof(&self.peaks_at(sustained), [n, k], format, element_bytes);
        let roof = Roof { start: table.start_us * 1e-6, ..roof };
        table.times(&[n.round() as u32, k.round() as u32], gemm_metric, roof).borrowed(from)
    }
}
