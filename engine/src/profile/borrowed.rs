//! A device of which nothing was timed: its data sheet, and the efficiencies of the measured device most like it.
//!
//! ```toml
//! name = "mi300x"
//! like = "h200-sxm"
//! source = "the data sheet"
//! memory_bytes = 206_000_000_000
//! memory_bandwidth = 5.325e12
//! peak_flops = 1307e12
//! peak_fp8_flops = 2615e12
//! gpus_per_node = 8
//! link_bandwidth = 448e9
//! price_per_gpu_hour = 2.50
//! ```
//!
//! An operator takes its roofline by this sheet over the efficiency that the measured device reaches for it. The error
//! of that was found by borrowing for devices that were measured ([`SIGMA`]).

use serde::{Deserialize, Serialize};

use super::device::DeviceProfile;
use super::parts::PriceBasis;

/// Standard deviation of ln(borrowed / own) over the iteration times of measured devices, each predicted from the one
/// most like it: `cargo run --release --example borrowed_error`.
pub const SIGMA: f64 = 0.26;

/// The same of measured devices of which the table of one operator is hidden, so that what is most like it stands in:
/// over models with that operator, and batches. From 0.4 % (latent attention of prompts) to beyond 100 % (experts).
pub const OPERATOR_SIGMA: f64 = 0.29;

/// Share of a link's data sheet that a copy between two GPUs reaches: what the links of an H100 DGX do.
const LINK_SHARE: f64 = 0.8;

/// A device by its data sheet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSheet {
    /// The name that people use.
    pub name: String,
    /// The measured device whose efficiencies are borrowed.
    pub like: String,
    /// The source of the figures.
    pub source: String,
    /// Device memory, bytes.
    pub memory_bytes: u64,
    /// Peak of device memory, bytes/s.
    pub memory_bandwidth: f64,
    /// Dense bf16 peak, FLOP/s.
    pub peak_flops: f64,
    /// Dense fp8 peak, FLOP/s; 0 = it does not compute in fp8.
    #[serde(default)]
    pub peak_fp8_flops: f64,
    /// Dense fp4 peak, FLOP/s; 0 = it does not compute in fp4.
    #[serde(default)]
    pub peak_fp4_flops: f64,
    /// GPUs that share the fast links.
    pub gpus_per_node: u32,
    /// Bytes that a GPU sends to the others of its node at once, bytes/s, each direction.
    pub link_bandwidth: f64,
    /// The same to other nodes; as the measured device's where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_bandwidth: Option<f64>,
    /// US dollars per GPU and hour.
    pub price_per_gpu_hour: f64,
}

impl DataSheet {
    /// True where `text` is one: it says which device it is like before its first table.
    pub(super) fn is_one(text: &str) -> bool {
        let mut top = text.lines().map(str::trim_start).take_while(|line| !line.starts_with('['));
        top.any(|line| {
            line.strip_prefix("like").is_some_and(|rest| rest.trim_start().starts_with('='))
        })
    }

    /// The device with the efficiencies of `base`.
    #[must_use]
    pub fn onto(self, base: &DeviceProfile) -> DeviceProfile {
        let mut device = base.clone();
        let like = base.name.clone();
        device.provenance = format!(
            "{}. No operator of it was measured: each takes its roofline by this data sheet over the efficiency of {like}. \
             {like}: {}",
            self.source, base.provenance
        );
        device.sources.insert("peaks".to_owned(), self.source.clone());
        device.sources.insert("memory_bytes".to_owned(), self.source.clone());
        // The sums of two ranks run at the rate of the link.
        let link = base.all_reduce_law(2).bandwidth;
        for sum in &mut device.all_reduce {
            sum.bandwidth *= self.link_bandwidth / link;
            sum.source = format!("borrowed from {like}: {}", sum.source);
        }
        device.node.bandwidth = LINK_SHARE * self.link_bandwidth;
        device.node.source = format!("{LINK_SHARE} of the data sheet's link");
        if let Some(bandwidth) = self.network_bandwidth {
            device.network.bandwidth = LINK_SHARE * bandwidth;
            device.network.source = format!("{LINK_SHARE} of the network given");
        }
        device.price.per_gpu_hour = self.price_per_gpu_hour;
        device.price.basis = PriceBasis::Assumed;
        "USD".clone_into(&mut device.price.currency);
        device.price.source = "given with the data sheet; use your own (--price)".to_owned();
        device.fit.clear();
        DeviceProfile {
            name: self.name,
            memory_bytes: self.memory_bytes,
            memory_bandwidth: self.memory_bandwidth,
            peak_flops: self.peak_flops,
            peak_fp8_flops: self.peak_fp8_flops,
            peak_fp4_flops: self.peak_fp4_flops,
            gpus_per_node: self.gpus_per_node,
            like: Some(like),
            ..device
        }
    }
}

impl DeviceProfile {
    /// The sheet of this device, its efficiencies to be borrowed from `like`.
    #[must_use]
    pub fn data_sheet(&self, like: &str) -> DataSheet {
        DataSheet {
            name: self.name.clone(),
            like: like.to_owned(),
            source: self.sources.get("peaks").cloned().unwrap_or_default(),
            memory_bytes: self.memory_bytes,
            memory_bandwidth: self.memory_bandwidth,
            peak_flops: self.peak_flops,
            peak_fp8_flops: self.peak_fp8_flops,
            peak_fp4_flops: self.peak_fp4_flops,
            gpus_per_node: self.gpus_per_node,
            link_bandwidth: self.all_reduce_law(2).bandwidth,
            network_bandwidth: Some(self.network.bandwidth / LINK_SHARE),
            price_per_gpu_hour: self.price.per_gpu_hour,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_like_itself_is_itself_but_for_its_links() {
        for name in DeviceProfile::names() {
            let own = DeviceProfile::load(name).unwrap();
            if own.like.is_some() {
                continue;
            }
            let same = own.data_sheet(name).onto(&own);
            assert_eq!(same.gemm, own.gemm);
            let rates =
                |d: &DeviceProfile| d.all_reduce.iter().map(|s| s.bandwidth).collect::<Vec<_>>();
            assert_eq!((rates(&same), same.peak_flops), (rates(&own), own.peak_flops), "{name}");
            assert!((same.network.bandwidth / own.network.bandwidth - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn shipped_sheets_stand_on_measured_devices() {
        let borrowed: Vec<_> = DeviceProfile::names()
            .map(|name| DeviceProfile::load(name).unwrap())
            .filter(|d| d.like.is_some())
            .collect();
        assert!(!borrowed.is_empty());
        for device in borrowed {
            let base = DeviceProfile::load(device.like.as_deref().unwrap()).unwrap();
            assert!(base.like.is_none() && base.name != device.name);
            assert!(device.provenance.contains("No operator of it was measured"));
        }
    }

    #[test]
    fn the_most_alike_computes_in_the_same_formats() {
        let alike = |figures| DeviceProfile::most_alike(figures, "").unwrap().name;
        assert_eq!(alike([148e12, 296e12, 0.0, 4e12]), "h200-sxm");
        assert_eq!(alike([70e12, 0.0, 0.0, 600e9]), "a40");
        assert_eq!(alike([2500e12, 5000e12, 10000e12, 8e12]), "gb200");
    }
}
