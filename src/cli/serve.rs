//! `knee serve`: what can be typed.

use clap::Args;

use super::blocks::Listen;
use super::computing::Computing;
use super::headings::MACHINE;
use crate::knobs::Knobs;

/// `knee serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// A Hugging Face folder, a .gguf file, hf:ORG/NAME (fetched from the hub), tiny (built in), or a model shape (with
    /// --weights random)
    #[arg(long, help_heading = MACHINE, value_name = "PATH|tiny")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// Name that clients call the model by (default: that of its folder or file)
    #[arg(long, value_name = "NAME")]
    pub(crate) served_model_name: Option<String>,
    /// Key that clients must know (also from the environment: KNEE_API_KEY, which other users do not see)
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// The device that computes: cpu, cuda:N, or as many GPUs as --tp and --pp make parts (cuda:0-3; not tested on
    /// several GPUs)
    #[arg(long, help_heading = MACHINE, default_value = "cpu")]
    pub(crate) device: String,
    #[command(flatten)]
    pub(crate) computing: Computing,
    #[command(flatten)]
    pub(crate) knobs: Knobs,
}
