//! `knee device`: what can be typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::headings::{MACHINE, OUTPUT};
use super::values::{above_zero, quantity};

/// `knee device`.
#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Write a device's data sheet as a file that --device takes; efficiencies that were not
    /// measured are borrowed from a measured device
    Add(Add),
}

/// `knee device add`: quantities come with their unit, as data sheets have them.
#[derive(Debug, Args)]
#[command(next_help_heading = MACHINE, override_usage = "knee device add [OPTIONS] <NAME>")]
pub(crate) struct Add {
    /// Name of the device
    pub(crate) name: String,
    /// Memory: 192GB, 180GiB
    #[arg(long, value_name = "BYTES", value_parser = quantity)]
    pub(crate) memory: f64,
    /// Bandwidth of the memory: 5.3TB/s
    #[arg(long, value_name = "BYTES/S", value_parser = quantity)]
    pub(crate) bandwidth: f64,
    /// Dense bf16 peak: 1307TFLOPS
    #[arg(long, value_name = "FLOPS", value_parser = quantity)]
    pub(crate) bf16: f64,
    /// Dense fp8 peak, if it computes in fp8
    #[arg(long, value_name = "FLOPS", value_parser = quantity)]
    pub(crate) fp8: Option<f64>,
    /// Dense fp4 peak, if it computes in fp4
    #[arg(long, value_name = "FLOPS", value_parser = quantity)]
    pub(crate) fp4: Option<f64>,
    /// Bandwidth from one GPU to the others of its node, each direction: 448GB/s
    #[arg(long, value_name = "BYTES/S", value_parser = quantity)]
    pub(crate) link: f64,
    /// The same to other nodes (default: as the measured device's)
    #[arg(long, value_name = "BYTES/S", value_parser = quantity)]
    pub(crate) network: Option<f64>,
    /// GPUs that share the fast links
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = super::values::whole::<u32, 1, 65_536>)]
    pub(crate) gpus_per_node: u32,
    /// US dollars per GPU and hour
    #[arg(long, value_name = "USD", value_parser = above_zero)]
    pub(crate) price: f64,
    /// The measured device whose efficiencies are borrowed (default: the one most like it)
    #[arg(long, value_name = "NAME")]
    pub(crate) like: Option<String>,
    /// Source of these figures
    #[arg(long, value_name = "TEXT", default_value = "given to `knee device add`")]
    pub(crate) source: String,
    /// File to write (default: NAME.toml)
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.toml")]
    pub(crate) to: Option<PathBuf>,
}
