//! Putting a model's weights on a device: tensors that are read go through the host, those that are made up are made
//! where they are wanted.

use half::bf16;
use kernels::cuda::{Buffer, CudaError, Device, Window};

use super::weights::{CudaModelError, Head, Layer, Layout, Shard, joins};
use crate::exec::cpu::Part;
use crate::model::llama::LlamaConfig;
use crate::model::weights::{MadeUp, Weights};

/// What a rank takes of a tensor.
#[derive(Clone, Copy)]
enum Share {
    Whole,
    /// Its output features, or its part of a vector.
    Rows,
    /// Its input features.
    Columns,
}

impl Share {
    /// Which elements those are.
    fn window(self, part: Part, &MadeUp { rows, cols, .. }: &MadeUp) -> Window {
        let (mut of_rows, mut of_cols) = (0..rows, 0..cols);
        match self {
            Self::Whole => {}
            Self::Rows if rows == 1 => of_cols = part.range(cols),
            Self::Rows => of_rows = part.range(rows),
            Self::Columns => of_cols = part.range(cols),
        }
        Window {
            first: (of_rows.start * cols + of_cols.start) as u64,
            rows: of_rows.len(),
            cols: of_cols.len(),
            stride: cols as u64,
        }
    }
}

/// Reads tensors and puts what one shard has of them on its device.
pub(super) struct Loader<'a> {
    pub(super) device: &'a Device,
    pub(super) weights: &'a mut dyn Weights,
    pub(super) layout: Layout,
    pub(super) part: Part,
}

impl Loader<'_> {
    pub(super) fn shard(mut self) -> Result<Shard, CudaModelError> {
        let (part, config) = (self.part, self.weights.config().clone());
        let (first, last) = (part.stage == 0, part.stage + 1 == part.stages);
        let table = "model.embed_tokens.weight";
        let embedding = first.then(|| self.rows(&[table.to_owned()])).transpose()?;
        let name = if config.tied_embeddings { table } else { "lm_head.weight" };
        let own = last && !(config.tied_embeddings && first);
        let weight = own.then(|| self.rows(&[name.to_owned()])).transpose()?;
        let layers = part.layers(config.layers).map(|i| self.layer(&config, i));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = last.then(|| self.whole("model.norm.weight")).transpose()?;
        let head = norm.map(|norm| Head { norm, weight });
        Ok(Shard { device: self.device.clone(), part, embedding, layers, head })
    }

    /// Its share of tensors, one below the other.
    fn joined(&mut self, names: &[String], share: Share) -> Result<Buffer<bf16>, CudaModelError> {
        let made_up: Option<Vec<_>> = names.iter().map(|name| self.weights.made_up(name)).collect();
        if let Some(tensors) = made_up {
            return Ok(self.filled(&tensors, share)?);
        }
        let (part, mut rows) = (self.part, Vec::new());
        for name in names {
            let tensor = self.weights.tensor(name)?;
            let taken = match share {
                Share::Whole => tensor.data,
                Share::Rows if part.ranks == 1 => tensor.data,
                Share::Rows => part.rows(&tensor).to_vec(),
                Share::Columns => part.cols(tensor),
            };
            rows.extend(taken.iter().map(|&x| bf16::from_f32(x)));
        }
        Ok(self.device.upload(&rows)?)
    }

    /// The same of tensors that the device makes up by itself.
    fn filled(&self, tensors: &[MadeUp], share: Share) -> Result<Buffer<bf16>, CudaError> {
        let window = |tensor: &MadeUp| share.window(self.part, tensor);
        let mut buffer = self.device.zeros(tensors.iter().map(|t| window(t).len()).sum())?;
        let mut at = 0;
        for tensor in tensors {
            self.device.fill(&mut buffer, at, tensor.numbers, window(tensor))?;
            at += window(tensor).len();
        }
        Ok(buffer)
    }

    fn whole(&mut self, name: &str) -> Result<Buffer<bf16>, CudaModelError> {
        self.joined(&[name.to_owned()], Share::Whole)
    }

    /// Its output features.
    fn rows(&mut self, names: &[String]) -> Result<Buffer<bf16>, CudaModelError> {
        self.joined(names, Share::Rows)
    }

    /// What leads back to the residual stream: its input features, or, where ranks exchange these, its output features.
    fn back(&mut self, name: String) -> Result<Buffer<bf16>, CudaModelError> {
        self.joined(&[name], if joins(self.layout) { Share::Rows } else { Share::Columns })
    }

    fn layer(&mut self, config: &LlamaConfig, i: u32) -> Result<Layer, CudaModelError> {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let all = |parts: [&str; 3], kind: &str| {
            parts.map(|p| name(&format!("self_attn.{p}_proj.{kind}"))).to_vec()
        };
        let head_norms = if config.qk_norm {
            let query = self.whole(&name("self_attn.q_norm.weight"))?;
            Some((query, self.whole(&name("self_attn.k_norm.weight"))?))
        } else {
            None
        };
        let biases = all(["q", "k", "v"], "bias");
        Ok(Layer {
            attention_norm: self.whole(&name("input_layernorm.weight"))?,
            qkv: self.rows(&all(["q", "k", "v"], "weight"))?,
            qkv_bias: config.qkv_bias.then(|| self.rows(&biases)).transpose()?,
            head_norms,
            out: self.back(name("self_attn.o_proj.weight"))?,
            mlp_norm: self.whole(&name("post_attention_layernorm.weight"))?,
            gate_up: self.rows(&["gate", "up"].map(|p| name(&format!("mlp.{p}_proj.weight"))))?,
            down: self.back(name("mlp.down_proj.weight"))?,
        })
    }
}
