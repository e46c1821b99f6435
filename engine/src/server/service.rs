//! The parts that every answer needs: the engine, the model, and the room for requests.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::admit::Queue;
use super::body::Bodies;
use super::limits::Times;
use super::metrics::Metrics;
use crate::live::Live;
use crate::model::renderer::Renderer;
use crate::model::tokenizer::Tokenizer;
use crate::request::Token;

/// A model as it is served.
pub struct Served {
    /// The name that clients use for it.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; none for a base model.
    pub chat: Option<Renderer>,
    /// Tokens that end its output.
    pub ends: Vec<Token>,
    /// Tokens it knows.
    pub vocab: u32,
    /// Longest prompt and output together.
    pub max_len: u32,
}

/// A server that is not listening yet.
pub struct Service {
    pub(super) live: Live,
    pub(super) model: Served,
    pub(super) metrics: Metrics,
    pub(super) queue: Arc<Queue>,
    pub(super) bodies: Bodies,
    pub(super) times: Times,
    pub(super) key: Option<String>,
    pub(super) created: u64,
}

impl Service {
    /// Serves `model` out of `live`, whose watch is `metrics`'. At most `places` requests are read, or wait to be
    /// started; none of them limits it. Clients must know `key` if there is one.
    #[must_use]
    pub fn new(
        live: Live,
        model: Served,
        metrics: Metrics,
        places: Option<usize>,
        key: Option<String>,
    ) -> Self {
        let queue = Arc::new(Queue::new(places.unwrap_or(usize::MAX)));
        let text = model.tokenizer.most_bytes(model.max_len);
        let (bodies, times) = (Bodies::new(model.max_len, text), Times::USUAL);
        Self { live, model, metrics, queue, bodies, times, key, created: unix_time() }
    }
}

/// Seconds since 1970.
pub(super) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
