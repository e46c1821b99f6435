//! The OpenAI-compatible server over a live engine.
//!
//! It decides who gets in and how an answer is worded; what runs when is the engine's affair. A client that goes away is
//! noticed by the drop of its `Reply`, which cancels its request.

mod admit;
mod ask;
mod beams;
mod listen;
mod metrics;
mod reply;
mod wire;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::TcpListener;

pub use metrics::Metrics;

use admit::{Queue, Refusal};
use reply::{Reply, Wanted};

use crate::live::{Ask, Live, Refused};
use crate::model::chat::ChatTemplate;
use crate::model::tokenizer::Tokenizer;
use crate::request::Token;

/// Largest body, bytes: a prompt of a million tokens as numbers.
const MOST_BODY: usize = 8 * 1024 * 1024;
/// How long a client may take to send one.
const BODY_TIME: Duration = Duration::from_secs(60);

/// What is served.
pub struct Served {
    /// What clients call it.
    pub name: String,
    /// Its text.
    pub tokenizer: Arc<Tokenizer>,
    /// How it is spoken to.
    pub chat: Option<ChatTemplate>,
    /// Tokens that end its output.
    pub ends: Vec<Token>,
    /// Tokens it knows.
    pub vocab: u32,
    /// Longest prompt and output together.
    pub max_len: u32,
}

/// A server that is not listening yet.
pub struct Service {
    live: Live,
    model: Served,
    metrics: Metrics,
    queue: Arc<Queue>,
    key: Option<String>,
    created: u64,
}

impl Service {
    /// Serves `model` out of `live`, whose watch is `metrics`'; `max_queue` requests may wait to be started, and clients
    /// must know `key` if there is one.
    #[must_use]
    pub fn new(
        live: Live,
        model: Served,
        metrics: Metrics,
        max_queue: usize,
        key: Option<String>,
    ) -> Self {
        let queue = Arc::new(Queue::new(max_queue));
        Self { live, model, metrics, queue, key, created: unix_time() }
    }

    /// Answers requests on `listener` until `stop` is ready; then nobody new is let in, and those inside are answered
    /// to their end, for `patience` at most. Returns whether all were.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
        patience: Duration,
    ) -> bool {
        listen::serve(listener, self.router(), stop, patience).await
    }

    fn router(self) -> Router {
        let service = Arc::new(self);
        let api = Router::new()
            .route("/v1/completions", post(completions))
            .route("/v1/chat/completions", post(chat_completions))
            .route("/v1/models", get(models))
            .layer(middleware::from_fn_with_state(Arc::clone(&service), check_key));
        api.route("/health", get(health))
            .route("/metrics", get(show_metrics))
            .route("/openapi.json", get(openapi))
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .with_state(service)
    }

    /// Lets a request in and answers it.
    async fn answer(self: &Arc<Self>, ask: Ask, wanted: Wanted) -> Result<Response, Refusal> {
        let Some(place) = Queue::enter(&self.queue) else {
            self.metrics.turned_away();
            return Err(Refusal::busy(self.queue.limit()));
        };
        let answer = self.live.ask(ask).await.map_err(|refused| match refused {
            Refused::Never(why) => Refusal::bad(why.to_string()),
            Refused::Stopped => Refusal::stopped(),
        })?;
        Ok(Reply::new(self, answer, place, wanted).respond().await)
    }
}

type Shared = State<Arc<Service>>;

async fn completions(State(service): Shared, body: Body) -> Result<Response, Refusal> {
    let request = read(body).await?;
    let (ask, wanted) = off_the_reactor(&service, |s| s.completion(request)).await?;
    service.answer(ask, wanted).await
}

async fn chat_completions(State(service): Shared, body: Body) -> Result<Response, Refusal> {
    let request = read(body).await?;
    let (ask, wanted) = off_the_reactor(&service, |s| s.chat(request)).await?;
    service.answer(ask, wanted).await
}

/// Tokenising a long prompt takes long enough to keep others waiting.
async fn off_the_reactor<T: Send + 'static>(
    service: &Arc<Service>,
    work: impl FnOnce(&Service) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let service = Arc::clone(service);
    let done = tokio::task::spawn_blocking(move || work(&service)).await;
    done.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the request failed"))?
}

/// The JSON in `body`.
async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, MOST_BODY)).await;
    let slow = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not come");
    let bytes = bytes.map_err(|_| slow())?.map_err(|_| {
        let message = format!("the body is longer than {MOST_BODY} bytes, or was cut short");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    })?;
    serde_json::from_slice(&bytes).map_err(|e| Refusal::bad(format!("not a valid request: {e}")))
}

async fn models(State(service): Shared) -> Response {
    let model = json!({"id": service.model.name, "object": "model", "created": service.created,
        "owned_by": "knee", "max_model_len": service.model.max_len});
    Json(json!({"object": "list", "data": [model]})).into_response()
}

async fn health(State(service): Shared) -> Result<StatusCode, Refusal> {
    if service.live.is_dead() { Err(Refusal::stopped()) } else { Ok(StatusCode::OK) }
}

async fn show_metrics(State(service): Shared) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], service.metrics.text())
        .into_response()
}

async fn openapi() -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], include_str!("openapi.json")).into_response()
}

async fn check_key(State(service): Shared, request: Request, next: Next) -> Response {
    match &service.key {
        Some(key) if !admit::knows(request.headers(), key) => {
            Refusal::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong")
                .into_response()
        }
        _ => next.run(request).await,
    }
}

async fn unknown(method: Method, uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no {method} {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("{} does not take {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Seconds since 1970.
fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
