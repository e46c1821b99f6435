//! A model by its name: a folder, a file, one on the Hugging Face hub, the built-in one, or a shape filled with random
//! weights.

use std::path::Path;

use super::ModelShape;
use super::chat::ChatTemplate;
use super::gguf::Gguf;
use super::hub;
use super::llama::LlamaConfig;
use super::random::RandomWeights;
use super::safetensors::Folder;
use super::tokenizer::Tokenizer;
use super::weights::{ModelError, Weights};
use crate::request::Token;

/// Everything it takes to serve a model.
pub struct Model {
    /// Its weights and its arithmetic.
    pub weights: Box<dyn Weights + Send>,
    /// Its text.
    pub tokenizer: Tokenizer,
    /// Its chat template; none for a base model.
    pub chat: Option<ChatTemplate>,
    /// Tokens that end its output.
    pub ends: Vec<Token>,
}

impl Model {
    /// Opens `name`: `tiny`, a Hugging Face folder, a `.gguf` file, `hf:ORG/NAME`; with a seed in `random`, weights are
    /// made up, and a shipped shape or a TOML shape file will do too.
    ///
    /// # Errors
    /// When it cannot be read, or cannot be run.
    pub fn open(name: &str, random: Option<u64>) -> Result<Self, ModelError> {
        let path = Path::new(name);
        if name == "tiny" {
            return Self::made_up(LlamaConfig::tiny(), random.unwrap_or(0)).checked(name);
        }
        let mut model = if let Some(id) = name.strip_prefix(hub::PREFIX) {
            Self::folder(&hub::folder(id)?, |dir| Folder::open_as(dir, id))?
        } else if path.is_dir() {
            Self::folder(path, Folder::open)?
        } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            Self::gguf(path)?
        } else {
            let Some(seed) = random else {
                let what = "model: expected tiny, a Hugging Face folder, a .gguf file, hf:ORG/NAME, or a shape with random \
                            weights";
                return Err(ModelError::unsupported(path, what));
            };
            let shape = ModelShape::load(name)?;
            return Self::made_up(LlamaConfig::of_shape(&shape)?, seed).checked(name);
        };
        if let Some(seed) = random {
            let config = model.weights.config().clone();
            model.weights = Box::new(RandomWeights { config, seed });
        }
        model.checked(name)
    }

    /// Refuses tokens that its weights have no row for.
    fn checked(self, name: &str) -> Result<Self, ModelError> {
        let vocab = self.weights.config().vocab;
        let words = self.tokenizer.words();
        let reason = if words > vocab {
            format!("its tokenizer makes {words} tokens, but its weights have {vocab}")
        } else if let Some(end) = self.ends.iter().find(|end| **end >= vocab) {
            format!("token {end} ends its output, but its weights have {vocab} tokens")
        } else {
            return Ok(self);
        };
        Err(ModelError::broken(Path::new(name), reason))
    }

    fn made_up(config: LlamaConfig, seed: u64) -> Self {
        let tokenizer = Tokenizer::bytes();
        let ends = tokenizer.token("<|im_end|>").into_iter().collect();
        let chat = Some(ChatTemplate::chat_ml());
        Self { weights: Box::new(RandomWeights { config, seed }), tokenizer, chat, ends }
    }

    fn folder(
        dir: &Path,
        open: impl FnOnce(&Path) -> Result<Folder, ModelError>,
    ) -> Result<Self, ModelError> {
        let weights = open(dir)?;
        let tokenizer = Tokenizer::open(&dir.join("tokenizer.json"))?;
        let ends = weights.ends().to_vec();
        Ok(Self { chat: ChatTemplate::open(dir)?, weights: Box::new(weights), tokenizer, ends })
    }

    fn gguf(path: &Path) -> Result<Self, ModelError> {
        let gguf = Gguf::open(path)?;
        let tokenizer = Tokenizer::of_gguf(&gguf)?;
        let chat = ChatTemplate::of_gguf(&gguf, &tokenizer);
        let ends = ["eos", "eot", "eom"].map(|end| format!("tokenizer.ggml.{end}_token_id"));
        let mut ends: Vec<Token> = ends.iter().filter_map(|key| gguf.meta().count(key)).collect();
        ends.dedup();
        Ok(Self { weights: Box::new(gguf), tokenizer, chat, ends })
    }
}
