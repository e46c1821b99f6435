//! The tensors of a layer, and how ranks share them.

use crate::model::llama::LlamaConfig;
use crate::model::weights::ModelError;

/// Reads tensors, and keeps what one rank has of them in a backend's own form.
pub(in crate::exec) trait Store {
    /// Projections of one input, packed as one; with their biases.
    type Matrix;
    /// A vector.
    type Vector;
    /// A tensor that cannot be read, or kept.
    type Error: From<ModelError>;

    /// The whole of a vector.
    fn vector(&mut self, name: &str) -> Result<Self::Vector, Self::Error>;

    /// This rank's output features of some projections, one after the other.
    fn rows(&mut self, weights: &[String], biases: &[String]) -> Result<Self::Matrix, Self::Error>;

    /// The same of a gate and of what it gates.
    fn gated(&mut self, gate: String, up: String) -> Result<Self::Matrix, Self::Error>;

    /// This rank's part of a projection back to the residual stream.
    fn back(&mut self, weight: String) -> Result<Self::Matrix, Self::Error>;
}

/// A rank's share of a transformer layer: heads, and inner features.
#[derive(Debug)]
pub(in crate::exec) struct Layer<M, V> {
    pub(in crate::exec) attention_norm: V,
    /// Queries, keys, values.
    pub(in crate::exec) qkv: M,
    /// Norms of single query and key heads.
    pub(in crate::exec) head_norms: Option<(V, V)>,
    pub(in crate::exec) out: M,
    pub(in crate::exec) mlp_norm: V,
    pub(in crate::exec) gate_up: M,
    pub(in crate::exec) down: M,
}

impl<M, V> Layer<M, V> {
    /// Reads layer `i` of a model of `config`.
    ///
    /// # Errors
    /// When a tensor cannot be read or kept.
    pub(in crate::exec) fn load<S: Store<Matrix = M, Vector = V>>(
        store: &mut S,
        config: &LlamaConfig,
        i: u32,
    ) -> Result<Self, S::Error> {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let qkv = |kind: &str| ["q", "k", "v"].map(|p| name(&format!("self_attn.{p}_proj.{kind}")));
        let biases = if config.qkv_bias { &qkv("bias")[..] } else { &[] };
        let attention_norm = store.vector(&name("input_layernorm.weight"))?;
        let qkv = store.rows(&qkv("weight"), biases)?;
        let head_norms = if config.qk_norm {
            let query = store.vector(&name("self_attn.q_norm.weight"))?;
            Some((query, store.vector(&name("self_attn.k_norm.weight"))?))
        } else {
            None
        };
        Ok(Self {
            attention_norm,
            qkv,
            head_norms,
            out: store.back(name("self_attn.o_proj.weight"))?,
            mlp_norm: store.vector(&name("post_attention_layernorm.weight"))?,
            gate_up: store.gated(name("mlp.gate_proj.weight"), name("mlp.up_proj.weight"))?,
            down: store.back(name("mlp.down_proj.weight"))?,
        })
    }

    /// Its products, in the order of the pass.
    pub(in crate::exec) fn matrices(&self) -> [&M; 4] {
        [&self.qkv, &self.out, &self.gate_up, &self.down]
    }
}
