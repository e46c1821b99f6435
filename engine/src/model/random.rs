//! Weights made up from a seed, for tests and for measuring shapes whose weights are not at hand.
//!
//! Each element is made from its place, so that a GPU makes its own where it is wanted.
//! Scaled so that activations keep their size through the layers and logits spread over a few units: the most likely
//! token then depends on the context, and is neither always the same nor the last one again.

use kernels::random::Uniform;

use super::llama::LlamaConfig;
use super::weights::{MadeUp, ModelError, Tensor, Weights, expected_shape};
use crate::request::mix;

/// Random weights of a model: the same for the same seed, in every order of asking.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomWeights {
    /// The model.
    pub config: LlamaConfig,
    /// Any number.
    pub seed: u64,
}

impl Weights for RandomWeights {
    fn config(&self) -> &LlamaConfig {
        &self.config
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor, ModelError> {
        let Some(MadeUp { rows, cols, numbers }) = self.made_up(name) else {
            let model = self.config.name.clone();
            return Err(ModelError::Missing { model, tensor: name.to_owned() });
        };
        let data = (0..(rows * cols) as u64).map(|i| numbers.at(i)).collect();
        Ok(Tensor { rows, cols, data })
    }

    fn made_up(&self, name: &str) -> Option<MadeUp> {
        let (rows, cols) = expected_shape(&self.config, name)?;
        let (mean, deviation) = if name.ends_with("norm.weight") {
            (1.0, 0.1)
        } else if name.ends_with(".bias") {
            (0.0, 0.1)
        } else if name == "model.embed_tokens.weight" || name == "lm_head.weight" {
            (0.0, 2.0 / (cols as f32).sqrt())
        } else {
            (0.0, 1.0 / (cols as f32).sqrt())
        };
        // FNV-1a: a stream for each name, so that the order of asking does not matter.
        let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        // Uniform with the deviation asked for.
        let half_width = deviation * 3f32.sqrt();
        Some(MadeUp {
            rows,
            cols,
            numbers: Uniform { key: mix(self.seed, stream), mean, half_width },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_weights_in_any_order() {
        let weights = |seed| RandomWeights { config: LlamaConfig::tiny(), seed };
        let (norm, query) = ("model.norm.weight", "model.layers.3.self_attn.q_proj.weight");
        let (mut a, mut b, mut c) = (weights(1), weights(1), weights(2));
        let first = (a.tensor(norm).unwrap(), a.tensor(query).unwrap());
        let second = (b.tensor(query).unwrap(), b.tensor(norm).unwrap());
        assert_eq!(first, (second.1, second.0));
        assert_ne!(first.1, c.tensor(query).unwrap());
        assert_eq!((first.1.rows, first.1.cols, first.1.data.len()), (128, 128, 128 * 128));
    }

    #[test]
    fn projections_keep_the_size_of_what_goes_through() {
        let mut weights = RandomWeights { config: LlamaConfig::tiny(), seed: 7 };
        let w = weights.tensor("model.layers.0.mlp.up_proj.weight").unwrap();
        let square: f32 = w.data.iter().map(|x| x * x).sum::<f32>() / w.data.len() as f32;
        assert!((square * w.cols as f32 - 1.0).abs() < 0.05, "{square}");
        assert_eq!(
            weights.tensor("lm_head.weight").unwrap_err().to_string(),
            "tiny has no tensor `lm_head.weight`"
        );
    }
}
