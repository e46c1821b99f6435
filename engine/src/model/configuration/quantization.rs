//! The number formats of a checkpoint: `quantization_config` in a `config.json`, and `hf_quant_config.json` beside it.

use serde_json::Value;

use super::fields::{Fields, short};
use super::patterns::Modules;
use crate::format::Format;
use crate::model::attention::Attention;
use crate::model::feed_forward::FeedForward;
use crate::model::operators::Formats;

/// The number formats of a checkpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct Quantization {
    /// The format of every linear layer, or of experts alone.
    everywhere: Option<Format>,
    experts_only: bool,
    /// Modules that keep bf16.
    ignored: Modules<()>,
    /// Modules that are named with their format.
    listed: Modules<Format>,
    /// Remarks for readers of the shape.
    pub(super) notes: Vec<String>,
}

/// The names of modules in lists of quantised and other modules, by the work of a layer.
const FULL: [&str; 2] = ["self_attn.q_proj", "mixer.q_proj"];
const LATENT: [&str; 2] = ["self_attn.q_b_proj", "self_attn.kv_b_proj"];
const LINEAR: [&str; 2] = ["linear_attn.in_proj_qkv", "linear_attn.in_proj_qkvz"];
const MAMBA: [&str; 2] = ["mixer.in_proj", "mamba.in_proj"];
const OUT: [&str; 2] = ["self_attn.o_proj", "mixer.o_proj"];
const LINEAR_OUT: [&str; 1] = ["linear_attn.out_proj"];
const MAMBA_OUT: [&str; 2] = ["mixer.out_proj", "mamba.out_proj"];
const DENSE: [&str; 3] = ["mlp.gate_proj", "mixer.up_proj", "feed_forward.gate_proj"];
const EXPERTS: [&str; 4] = [
    "mlp.experts.0.gate_proj",
    "mixer.experts.0.up_proj",
    "block_sparse_moe.experts.0.w1",
    "feed_forward.experts.gate_proj",
];
const SHARED: [&str; 4] = [
    "mlp.shared_experts.gate_proj",
    "mlp.shared_expert.gate_proj",
    "mixer.shared_experts.up_proj",
    "feed_forward.shared_expert.gate_proj",
];
/// Gemma 4 has its experts beside its dense layer.
const BESIDE: [&str; 1] = ["experts.0.gate_proj"];

impl Quantization {
    /// That of a configuration, and of the file beside it.
    ///
    /// # Errors
    /// When it is in a format or by a method that is not known.
    pub(super) fn read(fields: &Fields<'_>, beside: Option<&Value>) -> Result<Self, String> {
        let mut found = Self::default();
        let own = fields.any(&["quantization_config", "compression_config"]);
        let beside =
            beside.map(|b| if b["quantization"].is_object() { &b["quantization"] } else { b });
        let Some(said) = own.or(beside) else { return Ok(found) };
        let get = |names: &[&str]| {
            let of = |from: &Value| names.iter().map(|n| &from[*n]).find(|v| !v.is_null()).cloned();
            of(said).or_else(|| beside.and_then(of)).unwrap_or_default()
        };
        for name in
            ["ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers", "exclude"]
        {
            for module in get(&[name]).as_array().into_iter().flatten().filter_map(Value::as_str) {
                found.ignored.add(module, ())?;
            }
        }
        let kv = get(&["kv_cache_quant_algo", "kv_cache_scheme"]);
        if kv.as_str().is_some_and(|s| s.eq_ignore_ascii_case("fp8")) || kv["num_bits"] == 8 {
            found.notes.push(
                "its checkpoint brings scales for FP8 keys and values: kv-dtype fp8".to_owned(),
            );
        }
        let algorithm = get(&["quant_algo"]);
        let method = get(&["quant_method"]);
        let method = method.as_str().unwrap_or(if algorithm.is_null() { "" } else { "modelopt" });
        match (method.to_ascii_lowercase().as_str(), algorithm.as_str()) {
            (_, Some("MIXED_PRECISION")) => found.mixed(&get(&["quantized_layers"]))?,
            (_, Some(algorithm)) => found.everywhere = Some(found.algorithm(algorithm)?),
            ("fp8" | "fbgemm_fp8" | "modelopt_fp8", None) => {
                found.everywhere = Some(block(&get(&["weight_block_size"]))?);
            }
            ("compressed-tensors" | "modelopt", None) => found.groups(&get(&["config_groups"]))?,
            ("mxfp4", None) => {
                (found.everywhere, found.experts_only) = (Some(Format::Mxfp4), true);
            }
            ("modelopt_fp4" | "nvfp4", None) => found.everywhere = Some(Format::Nvfp4),
            ("awq" | "gptq" | "auto-round" | "auto_round", None) => {
                let bits = get(&["bits", "w_bit"]);
                let group = get(&["group_size", "q_group_size"]);
                found.everywhere = Some(found.integers(&bits, &group)?);
                for pattern in get(&["dynamic"]).as_object().into_iter().flatten() {
                    if let Some(pattern) = pattern.0.strip_prefix("-:") {
                        found.ignored.add(&format!("re:{pattern}"), ())?;
                    }
                }
            }
            ("quark", None) => {
                let weight = &get(&["global_quant_config"])["weight"];
                let weight = if weight.is_array() { &weight[0] } else { weight };
                found.everywhere = Some(match weight["dtype"].as_str().unwrap_or_default() {
                    "fp4" => Format::Mxfp4,
                    "fp8_e4m3" => Format::Fp8,
                    "int8" => Format::Int8,
                    "int4" | "uint4" => Format::Int4,
                    other => return Err(format!("weights as `{other}` (quark) are not known")),
                });
            }
            (other, None) => {
                return Err(format!(
                    "quant_method `{other}` is not known: give the format of its weights with --quantization"
                ));
            }
        }
        Ok(found)
    }

    /// The format that an algorithm of ModelOpt makes.
    fn algorithm(&mut self, name: &str) -> Result<Format, String> {
        Ok(match name.to_ascii_uppercase().as_str() {
            "FP8" | "FP8_PER_CHANNEL_PER_TOKEN" => Format::Fp8,
            "FP8_PB_WO" | "FP8_BLOCK_SCALES" | "FP8_PB_REAL" => Format::Fp8Block,
            "NVFP4" | "NVFP4_AWQ" => Format::Nvfp4,
            "W4A16_NVFP4" => {
                self.note("weights in NVFP4 with bf16 activations are priced as NVFP4");
                Format::Nvfp4
            }
            "MXFP4" | "W4A8_MXFP4_FP8" | "W4A16_MXFP4" => Format::Mxfp4,
            "W4A16_AWQ" | "W4A8_AWQ" | "INT4_AWQ" | "W4A16" => Format::Int4,
            "W8A16" | "INT8_SQ" | "W8A8_SQ_PER_CHANNEL" => Format::Int8,
            _ => {
                return Err(format!(
                    "quant_algo `{name}` is not known: give the format of its weights with --quantization"
                ));
            }
        })
    }

    fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|n| n == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// Modules with an algorithm each.
    fn mixed(&mut self, layers: &Value) -> Result<(), String> {
        let layers = layers.as_object();
        let layers = layers.ok_or("MIXED_PRECISION without `quantized_layers`")?;
        for (module, how) in layers {
            let name = how["quant_algo"].as_str().unwrap_or_default();
            let format = self.algorithm(name)?;
            self.listed.add(module, format)?;
        }
        Ok(())
    }

    /// Groups of modules with bits and scales each.
    fn groups(&mut self, groups: &Value) -> Result<(), String> {
        let groups = groups.as_object().ok_or("a quantisation without `config_groups`")?;
        for group in groups.values() {
            let weights = &group["weights"];
            let format = self.weights(weights)?;
            let targets: Vec<&str> = group["targets"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            if targets.is_empty() || targets.contains(&"Linear") {
                self.everywhere = Some(format);
            } else {
                targets.iter().try_for_each(|target| self.listed.add(target, format))?;
            }
        }
        Ok(())
    }

    fn weights(&mut self, weights: &Value) -> Result<Format, String> {
        let group = &weights["group_size"];
        match (weights["num_bits"].as_u64(), weights["type"].as_str()) {
            (Some(8), Some("float")) if weights["strategy"] == "block" => {
                let size = &weights["block_structure"];
                if size.is_array() { block(size) } else { Ok(Format::Fp8Block) }
            }
            (Some(8), Some("float")) => Ok(Format::Fp8),
            (Some(4), Some("float")) if group == 32 => Ok(Format::Mxfp4),
            (Some(4), Some("float")) => Ok(Format::Nvfp4),
            (Some(_), Some("int")) => self.integers(&weights["num_bits"], group),
            _ => Err(format!("quantised weights of {} are not known", short(weights))),
        }
    }

    fn integers(&mut self, bits: &Value, group: &Value) -> Result<Format, String> {
        match bits.as_u64() {
            Some(8) => Ok(Format::Int8),
            Some(4) => match group.as_i64().filter(|size| *size > 0) {
                Some(..=32) => Ok(Format::Int4G32),
                Some(size @ ..128) => {
                    self.note(&format!(
                        "scales of its int4 weights are for {size} elements each and are counted as for 128"
                    ));
                    Ok(Format::Int4)
                }
                _ => Ok(Format::Int4),
            },
            _ => Err(format!("integer weights of {} bits are not known", short(bits))),
        }
    }

    /// The formats of layer `i`.
    pub(super) fn formats(
        &self,
        i: usize,
        attention: Option<&Attention>,
        feed_forward: Option<&FeedForward>,
        family: &str,
    ) -> Formats {
        let (into, out): (&[&str], &[&str]) = match attention {
            None | Some(Attention::Full(_)) => (&FULL, &OUT),
            Some(Attention::Latent(_)) => (&LATENT, &OUT),
            Some(Attention::GatedDelta(_)) => (&LINEAR, &LINEAR_OUT),
            Some(Attention::Mamba(_)) => (&MAMBA, &MAMBA_OUT),
        };
        let routed = matches!(feed_forward, Some(FeedForward::Experts(_)));
        let beside = routed && family.starts_with("gemma4");
        let (ffn, shared): (&[&str], &[&str]) = match (routed, beside) {
            (_, true) => (&BESIDE, &DENSE),
            (true, false) => (&EXPERTS, &SHARED),
            (false, false) => (&DENSE, &DENSE),
        };
        let linear =
            |names: &[&str]| if self.experts_only { Format::Bf16 } else { self.of(i, names) };
        Formats {
            projections: linear(into),
            output: linear(out),
            feed_forward: if routed { self.of(i, ffn) } else { linear(ffn) },
            shared: linear(shared),
        }
    }

    /// The format of the vocabulary head: it is quantised only where it is listed.
    pub(super) fn head(&self) -> Format {
        self.listed.find("lm_head").unwrap_or_default()
    }

    /// The format of the module of layer `i` that is called one of `names`.
    fn of(&self, i: usize, names: &[&str]) -> Format {
        let modules = || names.iter().map(|name| format!("layers.{i}.{name}"));
        if modules().any(|module| self.ignored.find(&module).is_some()) {
            return Format::Bf16;
        }
        let listed = modules().find_map(|module| self.listed.find(&module));
        listed.or(self.everywhere).unwrap_or_default()
    }
}

/// FP8 with a scale per tensor or channel, or per block.
fn block(size: &Value) -> Result<Format, String> {
    match size.as_array().map(|sides| sides.iter().map(Value::as_u64).collect::<Vec<_>>()) {
        None => Ok(Format::Fp8),
        Some(sides) if sides == [Some(128), Some(128)] => Ok(Format::Fp8Block),
        Some(_) => Err(format!("FP8 in blocks of {} is not known: 128 x 128 is", short(size))),
    }
}
