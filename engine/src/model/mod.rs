//! The shapes of the models people serve, and what follows from them: parameters, weight bytes, KV bytes per token.
//!
//! A model is layers of kinds; a kind of layer is an [`attention`] and a [`feed_forward`]; each of those is
//! [`operators`], and an operator has a shape and a number format. Everything that is counted is a sum over them. A
//! shape holds only figures that cost time or memory. Shapes come from the catalogue, from a `config.json`
//! ([`configuration`]) or from a flat list of figures ([`dense`]). The parts that run a model are below: its arithmetic
//! ([`llama`]) and its weights ([`weights`]).

pub mod attention;
mod bounds;
mod cache;
mod catalogue;
pub mod chat;
mod config_json;
pub mod configuration;
pub mod dense;
pub mod feed_forward;
pub mod gguf;
mod gguf_header;
pub mod hub;
pub mod layers;
pub mod llama;
mod open;
pub mod operators;
pub mod random;
#[cfg(test)]
mod reading;
pub mod renderer;
pub mod safetensors;
mod shape;
mod spec;
#[cfg(test)]
mod tests;
pub mod tokenizer;
pub mod weights;

pub use cache::kv_element_bytes;
pub use catalogue::Entry;
pub use dense::DenseShape;
pub use layers::{Layer, Layers};
pub use open::Model;
pub use shape::ModelShape;
pub use spec::SpecError;
pub(crate) use spec::{Catalogue, Shipped, parse, text_of};
