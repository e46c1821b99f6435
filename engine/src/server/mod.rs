//! The OpenAI-compatible server over a live engine.
//!
//! It lets clients in and words the answers; the order of work is the engine's affair. A client that goes away is
//! noticed by the drop of its `Reply`, which cancels its request.

mod admit;
mod beams;
mod body;
mod forms;
mod limits;
mod listen;
mod metrics;
mod parse_request;
mod reply;
mod service;
mod socket;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

pub use metrics::Metrics;
pub use service::{Served, Service};

use admit::{Queue, Refusal};
use reply::{Reply, Wanted};

use crate::live::{Ask, Refused};

impl Service {
    /// Answers requests on `listener` until `stop` is ready; then no new request is let in, and those inside are
    /// answered to their end, for `patience` at most. Returns true if all were.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
        patience: Duration,
    ) -> bool {
        let times = self.times;
        listen::serve(listener, self.router(), times, stop, patience).await
    }

    fn router(self) -> Router {
        let service = Arc::new(self);
        let api = Router::new()
            .route("/v1/completions", post(completions))
            .route("/v1/chat/completions", post(chat_completions))
            .route("/v1/models", get(models))
            .route("/v1/models/{*name}", get(model))
            .layer(middleware::from_fn_with_state(Arc::clone(&service), check_key));
        api.route("/health", get(health))
            .route("/metrics", get(show_metrics))
            .route("/openapi.json", get(openapi))
            .fallback(unknown)
            .method_not_allowed_fallback(wrong_method)
            .layer(middleware::from_fn(check_framing))
            .with_state(service)
    }

    /// Reads a request, lets it in and answers it. `ask` turns it into a request for the engine.
    async fn answer<R: wire::Request + Send + 'static>(
        self: &Arc<Self>,
        headers: &HeaderMap,
        body: Body,
        ask: fn(&Self, R) -> Asked,
    ) -> Result<Response, Refusal> {
        let held = self.bodies.read(headers, body, self.times).await?;
        let Some(place) = Queue::enter(&self.queue) else {
            return Err(self.turn_away(self.queue.limit()));
        };
        let service = Arc::clone(self);
        // Off the reactor: reading a long prompt and tokenising it would keep others waiting.
        let asked = tokio::task::spawn_blocking(move || {
            // All of it, not `bytes` alone: its room is free again once the request is understood.
            let held = held;
            let request = R::read(&held.bytes);
            let request = request.map_err(|e| Refusal::bad(format!("not a valid request: {e}")));
            ask(&service, request?)
        });
        let failed =
            |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the request failed");
        let (ask, wanted) = asked.await.map_err(failed)??;
        let answer = self.live.ask(ask).await.map_err(|refused| match refused {
            Refused::Never(why) => Refusal::bad(why.to_string()),
            Refused::Full { waiting } => self.turn_away(waiting as usize),
            Refused::Stopped => Refusal::stopped(),
        })?;
        Ok(Reply::new(self, answer, place, wanted).respond().await)
    }

    /// The answer to a request that finds `waiting` others before it.
    fn turn_away(&self, waiting: usize) -> Refusal {
        self.metrics.turned_away();
        Refusal::busy(waiting)
    }

    /// The model as clients see it.
    fn about(&self) -> serde_json::Value {
        json!({"id": self.model.name, "object": "model", "created": self.created, "owned_by": "knee",
            "max_model_len": self.model.max_len})
    }
}

type Shared = State<Arc<Service>>;

/// A request for the engine, and the form of its answer.
type Asked = Result<(Ask, Wanted), Refusal>;

async fn completions(
    State(service): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    service.answer(&headers, body, Service::completion).await
}

async fn chat_completions(
    State(service): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    service.answer(&headers, body, Service::chat).await
}

async fn models(State(service): Shared) -> Response {
    Json(json!({"object": "list", "data": [service.about()]})).into_response()
}

async fn model(State(service): Shared, Path(name): Path<String>) -> Result<Response, Refusal> {
    if name == service.model.name {
        return Ok(Json(service.about()).into_response());
    }
    Err(Refusal::no_model(&name, &service.model.name))
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

async fn check_framing(request: Request, next: Next) -> Response {
    match body::framing(&request) {
        Some(status) => Refusal::framing(status).into_response(),
        None => next.run(request).await,
    }
}

async fn unknown(method: Method, uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no {method} {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    // The methods of RFC 9110, and PATCH.
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let status = match known.contains(&method.as_str()) {
        true => StatusCode::METHOD_NOT_ALLOWED,
        false => StatusCode::NOT_IMPLEMENTED,
    };
    Refusal::new(status, format!("{} does not take {method}", uri.path()))
}
