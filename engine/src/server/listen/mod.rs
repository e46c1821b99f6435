//! Connections: their number, the size of their headers, the time they may take, and their end when the server ends.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::admit::Refusal;
use super::limits::Times;
use super::socket::Socket;

/// Connections at once; more wait to be accepted.
const MOST_CONNECTIONS: u32 = 4096;
/// Header lines, and bytes of them (somewhat more is let through when it comes all at once).
const MOST_HEADERS: usize = 100;
const MOST_HEADER_BYTES: usize = 64 * 1024;

/// Serves `router` on `listener` until `stop` is ready. It accepts no connection after that, and returns when every
/// request has been answered, or after `patience`. Returns true if all were answered.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    times: Times,
    stop: impl Future<Output = ()>,
    patience: Duration,
) -> bool {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS as usize));
    let (over, ends) = watch::channel(false);
    let mut stop = pin!(stop);
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, or the client is gone already.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (router, ends) = (router.clone(), ends.clone());
        tokio::spawn(async move {
            talk(stream, router, times, ends).await;
            drop(place);
        });
    }
    drop(listener);
    let _ = over.send(true);
    let all_gone = places.acquire_many(MOST_CONNECTIONS);
    tokio::time::timeout(patience, all_gone).await.is_ok()
}

/// Answers one connection's requests until it ends. Once `ends` is true, the request under way is the last.
async fn talk(stream: TcpStream, router: Router, times: Times, mut ends: watch::Receiver<bool>) {
    // Tokens are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(times.head)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEADER_BYTES);
    let socket = TokioIo::new(Socket::new(stream, times.write));
    let mut connection = http.serve_connection(socket, TowerToHyperService::new(router));
    let over = async {
        // An error means that the sender is gone: the server has ended.
        let _ = ends.wait_for(|over| *over).await;
    };
    let early = tokio::select! {
        result = &mut connection => Some(result),
        () = over => None,
    };
    let result = match early {
        Some(result) => result,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let parts = connection.into_parts();
    let socket = parts.io.into_inner();
    let late = || {
        // A connection without a request has only been idle.
        let begun = !parts.read_buf.is_empty();
        result.as_ref().is_err_and(|e| e.is_timeout() && begun)
    };
    let fault = socket.fault().or_else(|| late().then_some(StatusCode::REQUEST_TIMEOUT));
    if let Some(status) = fault {
        socket.refuse(status, &Refusal::framing(status).json().to_string()).await;
    }
    if !*ends.borrow() {
        socket.close().await;
    }
}

#[cfg(test)]
mod tests;
