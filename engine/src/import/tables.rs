//! The vocabulary of imports: rows, sheets, and why tables cannot become a profile.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::KvDtype;
use crate::format::Format;
use crate::model::SpecError;
use crate::profile::{
    Collective, Delta, DeviceProfile, Exchange, Experts, FitError, Heads, Latent, Peaks,
    import_sheets,
};

/// The publisher of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// NVIDIA's AIConfigurator: kernels alone, any shape.
    AiConfigurator,
    /// Its successor AISimulate: the same, of more operators and formats.
    AiSimulate,
    /// Microsoft's Vidur: a model's operators, and links.
    Vidur,
    /// KAIST's LLMServingSim: a model's operators inside vLLM, with mixed batches.
    LlmServingSim,
    /// This program, on the machine it runs on.
    Knee,
}

impl Family {
    /// All that publish tables.
    pub const ALL: [Self; 4] =
        [Self::AiConfigurator, Self::AiSimulate, Self::Vidur, Self::LlmServingSim];

    /// Its name, which is that of its folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AiConfigurator => "aiconfigurator",
            Self::AiSimulate => "aisimulate",
            Self::Vidur => "vidur",
            Self::LlmServingSim => "llmservingsim",
            Self::Knee => "knee",
        }
    }

    /// The family called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

/// The reasons for which tables cannot become a profile.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file or folder that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A row or header that cannot be right.
    #[error("{}{place}: {reason}", path.display())]
    Row {
        /// The table.
        path: PathBuf,
        /// The place in it.
        place: Place,
        /// The fault.
        reason: String,
    },
    /// An operator whose rows are all of a kind that is not fitted.
    #[error(
        "none of the {rows} rows of {operator} can be used: all have shapes that no model's layer has, or ran from the \
         cache"
    )]
    Unusable {
        /// The operator.
        operator: String,
        /// Rows seen.
        rows: usize,
    },
    /// An operator without measurements.
    #[error(
        "no {operator} in the {family} tables of {system}: {}",
        compose.as_ref().map_or_else(
            || format!("give it in the sheet, with its source, as [{operator}]"),
            |f| format!("take it from another family with --compose {f}, or give it in the sheet, with its source")
        )
    )]
    Missing {
        /// The operator.
        operator: String,
        /// The family that was searched.
        family: &'static str,
        /// The device, as the family calls it.
        system: String,
        /// A family that has it, by the sheet.
        compose: Option<&'static str>,
    },
    /// A table that the sheet counts on.
    #[error("no table {name} in {}{}", dir.display(), if *derived { ": one marked DERIVED is there; to take it, say derived = true" } else { "" })]
    Absent {
        /// Its name, with `*` for the rest.
        name: String,
        /// The folder that was searched.
        dir: PathBuf,
        /// True where there is one that was derived from others and not measured.
        derived: bool,
    },
    /// Times that no hardware shows.
    #[error(
        "{operator} in the {family} tables of {system}: half of the times are {} {:.0} times what the data sheet \
         allows: are they in the unit that the family uses?",
        if *ratio < 1.0 { "less than 1 /" } else { "more than" },
        if *ratio < 1.0 { 1.0 / ratio } else { *ratio }
    )]
    Units {
        /// The operator.
        operator: String,
        /// The family of its tables.
        family: &'static str,
        /// The device.
        system: String,
        /// Median of measured over roofline.
        ratio: f64,
    },
    /// A sheet that is not one.
    #[error("{sheet}: {reason}")]
    Sheet {
        /// Its name.
        sheet: String,
        /// The fault.
        reason: String,
    },
    /// A model or device it names, or the profile it makes.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// A place in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of a text file, from 1, the header's.
    Line(u64),
    /// A row of a table that has no lines, from 1.
    Row(u64),
    /// The table as a whole.
    Whole,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => write!(f, ":{line}"),
            Self::Row(row) => write!(f, ", row {row}"),
            Self::Whole => Ok(()),
        }
    }
}

/// The operator that was run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Run {
    /// `[m,k] x [k,n]`.
    Gemm {
        /// Rows.
        m: f64,
        /// Columns.
        n: u32,
        /// Depth.
        k: u32,
        /// Of the weights.
        format: Format,
    },
    /// Fused experts of one layer on one rank.
    Experts {
        /// Their shape on the rank.
        experts: Experts,
        /// Of the weights.
        format: Format,
        /// Tokens routed through the layer.
        tokens: f64,
        /// True where every expert gets as many.
        even: bool,
    },
    /// A block of latent attention with its projections: sequences of so many new tokens after `history`.
    Latent {
        /// Its heads on the rank.
        latent: Latent,
        /// Of the weights.
        format: Format,
        /// Of keys and values.
        kv: KvDtype,
        /// Sequences.
        seqs: f64,
        /// New tokens of each.
        tokens: f64,
        /// Computed tokens before them.
        history: f64,
        /// True where sequences decode.
        decode: bool,
    },
    /// A gated delta net without its projections.
    Delta {
        /// Its heads on the rank.
        delta: Delta,
        /// Sequences.
        seqs: f64,
        /// New tokens of each.
        tokens: f64,
        /// True where sequences decode.
        decode: bool,
    },
    /// A gather, scatter or exchange of `bytes` over `ranks`.
    Collective {
        /// The operation.
        of: Collective,
        /// Of the whole tensor.
        bytes: f64,
        /// GPUs.
        ranks: u32,
    },
    /// Tokens carried to their experts' ranks, or back.
    Exchange {
        /// The kernels.
        by: Exchange,
        /// True on the way there.
        dispatch: bool,
        /// Width of a token, experts it goes to, experts of the layer.
        shape: [u32; 3],
        /// Of each rank.
        tokens: f64,
        /// GPUs that share the experts.
        ranks: u32,
    },
    /// `chunks` prompt chunks of `tokens` after `history`, and `decodes` of `length`.
    Attention {
        /// On the rank.
        heads: Heads,
        /// Of keys and values.
        kv: KvDtype,
        /// Prompt chunks.
        chunks: f64,
        /// New tokens of each.
        tokens: f64,
        /// Computed tokens before them.
        history: f64,
        /// Sequences that decode a token.
        decodes: f64,
        /// Context of each, the new token included.
        length: f64,
    },
    /// A batch of decodes of unequal lengths, beside the same at its mean and at its longest length: seconds.
    Skew {
        /// At the mean.
        mean: f64,
        /// At the longest.
        longest: f64,
    },
    /// A kernel that moves `bytes`.
    Move {
        /// Read and written.
        bytes: f64,
    },
    /// Choosing tokens from `bytes` of float32 logits.
    Choose {
        /// Of logits.
        bytes: f64,
    },
    /// A sum over ranks.
    AllReduce {
        /// Of the tensor.
        bytes: f64,
        /// GPUs.
        ranks: u32,
    },
    /// From one GPU to another, of the same node or not.
    Send {
        /// One way.
        bytes: f64,
        /// To another node.
        network: bool,
    },
}

/// A measurement on one rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The operator that was run.
    pub run: Run,
    /// The time it took.
    pub seconds: f64,
}

/// A measurement beside its predictions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The operator that was run.
    pub run: Run,
    /// Measured, seconds.
    pub measured: f64,
    /// By the profile, seconds.
    pub fitted: f64,
    /// By a fit that had not seen it, seconds.
    pub unseen: f64,
}

/// A profile made from tables.
#[derive(Debug)]
pub struct Imported {
    /// The profile as a file.
    pub toml: String,
    /// The same, read back.
    pub profile: DeviceProfile,
    /// Every measurement that was fitted, by operator.
    pub points: BTreeMap<String, Vec<Point>>,
    /// Notes: tables that were composed, values that are assumed.
    pub notes: Vec<String>,
}

/// Seed of the cross-validation in shipped profiles.
pub const SEED: u64 = 20_261_121;

/// The choices that the tables leave open.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choices {
    /// Models whose tables are read, as the files call them; all where none is named.
    #[serde(default)]
    pub(super) models: Vec<String>,
    /// True where tables marked DERIVED, computed from others and not measured, count too.
    #[serde(default)]
    pub(super) derived: bool,
    /// Writing new keys and values to the cache: by the tables, where it is not said.
    #[serde(default)]
    pub(super) kv_cache_save: CacheSave,
    /// True where a layer adds its residual in a kernel of its own, once, as Vidur counts. Engines do it in their
    /// norms.
    #[serde(default)]
    pub(super) residual_add: bool,
    /// Host time to launch a sum over ranks, µs, on top of each.
    #[serde(default)]
    pub(super) all_reduce_launch_us: f64,
}

/// The time that writing new keys and values to the cache takes, beside attention.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum CacheSave {
    /// As measured: column `attn_kv_cache_save`, which older tables lack.
    #[default]
    Measured,
    /// Nothing.
    Omit,
    /// A kernel of so many µs, its bytes not counted: 4 KB a token and layer, below 1 % of a layer.
    Us(f64),
}

/// The place of a device's tables, as its sheet gives it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    pub(super) family: Family,
    /// The device, as the family calls it.
    pub(super) system: String,
    /// The node, as the family calls it.
    pub(super) links: Option<String>,
    /// Operators to take; all there are, where none is named.
    #[serde(default)]
    pub(super) operators: Vec<String>,
    /// The device's own sheet, where the tables are another device's: only efficiencies are taken.
    pub(super) of: Option<String>,
    /// Choices among Vidur's tables, where they leave one.
    #[serde(default)]
    pub(super) vidur: Choices,
    /// More families, in the order in which they are asked.
    #[serde(default)]
    pub(super) compose: Vec<Self>,
}

impl Tables {
    /// True where any of these operators may be taken.
    pub(super) fn wants(&self, operators: &[&str]) -> bool {
        self.operators.is_empty() || self.operators.iter().any(|o| operators.contains(&o.as_str()))
    }
}

/// The figures of a sheet that a fit needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// True where only shapes that large dense models have are wanted.
    pub(super) large: bool,
    pub(super) peak_flops: f64,
    pub(super) peak_fp8_flops: f64,
    pub(super) peak_fp4_flops: f64,
    pub(super) memory_bandwidth: f64,
    pub(super) cache_bytes: f64,
    pub(super) multiprocessors: f64,
}

impl Limits {
    pub(super) fn peaks(&self) -> Peaks {
        Peaks {
            flops: self.peak_flops,
            fp8: self.peak_fp8_flops,
            fp4: self.peak_fp4_flops,
            bandwidth: self.memory_bandwidth,
            cache_bytes: self.cache_bytes,
            multiprocessors: self.multiprocessors,
        }
    }
}

/// A sheet, taken apart.
pub(super) struct Sheet {
    pub(super) name: String,
    pub(super) rest: toml::Table,
    pub(super) tables: Tables,
    pub(super) limits: Limits,
}

impl Sheet {
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, ImportError> {
        let bad = |reason: String| ImportError::Sheet { sheet: name.to_owned(), reason };
        let mut rest: toml::Table =
            toml::from_str(text).map_err(|e| bad(e.to_string().trim_end().to_owned()))?;
        let tables = rest
            .remove("import")
            .ok_or_else(|| {
                bad("has no [import] that says which tables are the device's".to_owned())
            })?
            .try_into()
            .map_err(|e: toml::de::Error| bad(format!("[import]: {}", e.to_string().trim_end())))?;
        let number = |key: &str| {
            let value = rest.get(key);
            value.and_then(|v| v.as_float().or_else(|| v.as_integer().map(|i| i as f64)))
        };
        let figure = |key: &str| {
            number(key).filter(|x| *x > 0.0).ok_or_else(|| bad(format!("{key} must be positive")))
        };
        let limits = Limits {
            large: true,
            peak_flops: figure("peak_flops")?,
            peak_fp8_flops: number("peak_fp8_flops").unwrap_or(0.0),
            peak_fp4_flops: number("peak_fp4_flops").unwrap_or(0.0),
            memory_bandwidth: figure("memory_bandwidth")?,
            cache_bytes: number("cache_bytes").unwrap_or(0.0),
            multiprocessors: number("multiprocessors").unwrap_or(0.0),
        };
        Ok(Self { name: name.to_owned(), rest, tables, limits })
    }

    pub(super) fn shipped(name: &str) -> Result<Self, ImportError> {
        let (_, text) = import_sheets().find(|(n, _)| *n == name).ok_or_else(|| {
            let known: Vec<&str> = import_sheets().map(|(n, _)| n).collect();
            ImportError::Sheet {
                sheet: name.to_owned(),
                reason: format!(
                    "unknown: expected {} or the path of a .toml file",
                    known.join(", ")
                ),
            }
        })?;
        Self::parse(name, text)
    }
}

/// The rows that a family has of a device.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    /// Engine and version that each kind of operator was timed in, where that is said.
    pub(super) timed: BTreeMap<String, String>,
    /// Tables that were chosen among several, and those that could not be read.
    pub(super) notes: Vec<String>,
}

/// One family's rows and how to look at them.
pub(super) struct Part {
    pub(super) from: Tables,
    pub(super) limits: Limits,
    pub(super) rows: Vec<Row>,
    /// As [`Found::timed`].
    pub(super) timed: BTreeMap<String, String>,
}

/// The result of a fit.
#[derive(Default)]
pub(super) struct Fitted {
    /// Top-level entries of the profile.
    pub(super) entries: toml::Table,
    /// Tables in further formats, by operator and format.
    pub(super) operators: BTreeMap<String, BTreeMap<String, toml::Table>>,
    pub(super) composed: Vec<String>,
    pub(super) fit: BTreeMap<String, FitError>,
    pub(super) points: BTreeMap<String, Vec<Point>>,
    pub(super) notes: Vec<String>,
}
