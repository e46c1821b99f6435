//! Small groups of flags that several commands have, each said once.

use std::path::PathBuf;

use clap::Args;

use super::headings::{MACHINE, OUTPUT, RECORDED, SEARCH};
use super::values::{MOST_THREADS, listen, whole};

/// The form of a result that is no report.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Print {
    /// Print JSON
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
}

/// The same, beside a drawing.
#[derive(Debug, Args)]
pub(crate) struct Draw {
    /// Draw predicted against measured
    #[arg(long, help_heading = OUTPUT, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) print: Print,
}

/// The machine of one configuration.
#[derive(Debug, Args)]
pub(crate) struct On {
    /// Hardware profile (a name or a TOML file), or this machine, with the real engine: cpu, cuda:N, or as many GPUs as
    /// --tp and --pp make parts (cuda:0-3; not tested on several GPUs)
    #[arg(long, help_heading = MACHINE, default_value = "h100-sxm")]
    pub(crate) device: String,
}

/// The address that a server of ours listens on.
#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Address to listen on: ADDRESS:PORT, :PORT or PORT; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen, default_value = ":8000", conflicts_with_all = ["host", "port"])]
    listen: (String, u16),
    /// The address alone
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// The port alone
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

impl Listen {
    /// Address and port.
    pub(crate) fn address(&self) -> (&str, u16) {
        let (host, port) = &self.listen;
        (self.host.as_deref().unwrap_or(host), self.port.unwrap_or(*port))
    }
}

/// The engine of a simulation.
#[derive(Debug, Clone, Args)]
pub(crate) struct By {
    /// Engine that is simulated: vllm, sglang, tensorrt-llm or knee, perhaps with a version (vllm@0.15), or a TOML file;
    /// its settings, defaults and times outside the GPU (see `knee engines`; default: any engine)
    #[arg(long, help_heading = MACHINE, value_name = "NAME[@VERSION]")]
    pub(crate) engine: Option<String>,
    /// As --engine, for the host time alone: vllm-v0, or none
    #[arg(long, hide = true, help_heading = MACHINE, ignore_case = true, value_parser = ["vllm-v0", "none"], conflicts_with = "engine")]
    pub(crate) host_time: Option<String>,
}

/// The share of this machine that a search may use.
#[derive(Debug, Args)]
pub(crate) struct Work {
    /// Threads (default: all)
    #[arg(long, help_heading = SEARCH, value_name = "N", value_parser = whole::<usize, 1, MOST_THREADS>, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
}

/// The facts that go with the file of a recorded run.
#[derive(Debug, Args)]
pub(crate) struct Recorded {
    /// Only this run of a file that holds several
    #[arg(long, help_heading = RECORDED, value_name = "NAME")]
    pub(crate) run: Option<String>,
    /// The prompts that were sent, so that those which begin alike share KV: JSON lines in order of arrival, each
    /// with prompt_token_ids
    #[arg(long, help_heading = RECORDED, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
}
