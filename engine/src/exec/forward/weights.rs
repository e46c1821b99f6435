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

    /// The whole of the projection by which a router chooses, which is taken in the reference precision where there is a
    /// choice: a rounded share may be another expert.
    fn router(&mut self, weight: String) -> Result<Self::Matrix, Self::Error>;

    /// This rank's part of a projection back to the residual stream.
    fn back(&mut self, weight: String) -> Result<Self::Matrix, Self::Error>;
}

/// A rank's share of a feed-forward layer, or of one expert: inner features.
#[derive(Debug)]
pub(in crate::exec) struct Gated<M> {
    pub(in crate::exec) gate_up: M,
    pub(in crate::exec) down: M,
}

/// The part of a layer that follows attention.
#[derive(Debug)]
pub(in crate::exec) enum FeedForward<M> {
    /// One layer for all tokens.
    Dense(Gated<M>),
    /// Experts, and the router that chooses some for each token.
    Experts { router: M, experts: Vec<Gated<M>> },
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
    pub(in crate::exec) feed_forward: FeedForward<M>,
}

impl<M> Gated<M> {
    /// Reads the one whose tensors' names begin with `part`.
    fn load<S: Store<Matrix = M>>(store: &mut S, part: &str) -> Result<Self, S::Error> {
        let name = |product: &str| format!("{part}.{product}_proj.weight");
        Ok(Self {
            gate_up: store.gated(name("gate"), name("up"))?,
            down: store.back(name("down"))?,
        })
    }
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
            feed_forward: match config.mixture {
                None => FeedForward::Dense(Gated::load(store, &name("mlp"))?),
                Some(mixture) => FeedForward::Experts {
                    router: store.router(name("mlp.gate.weight"))?,
                    experts: (0..mixture.experts)
                        .map(|expert| Gated::load(store, &name(&format!("mlp.experts.{expert}"))))
                        .collect::<Result<_, _>>()?,
                },
            },
        })
    }

    /// Its products: those of all tokens, and those of each expert.
    pub(in crate::exec) fn matrices(&self) -> (Vec<&M>, Vec<[&M; 2]>) {
        let mut all = vec![&self.qkv, &self.out];
        match &self.feed_forward {
            FeedForward::Dense(Gated { gate_up, down }) => {
                all.extend([gate_up, down]);
                (all, Vec::new())
            }
            FeedForward::Experts { router, experts } => {
                all.push(router);
                (all, experts.iter().map(|expert| [&expert.gate_up, &expert.down]).collect())
            }
        }
    }
}
