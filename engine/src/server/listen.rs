//! Connections: how many, how big their headers, and how they end when the server does.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once; more wait to be accepted.
const MOST_CONNECTIONS: usize = 4096;
/// Header lines, and bytes of them (somewhat more is let through when it comes all at once).
const MOST_HEADERS: usize = 100;
const MOST_HEADER_BYTES: usize = 64 * 1024;
/// How long a client may take for its headers, or keep a connection without asking.
const HEADER_TIME: Duration = Duration::from_secs(75);

/// Serves `router` on `listener` until `stop` is ready. Then nobody is accepted any more, and it returns when every
/// request has been answered, or after `patience`. Returns whether all were.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
    patience: Duration,
) -> bool {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEADER_BYTES);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
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
        // Tokens are small and must not wait for each other.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // What a client does to its connection is its own affair.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    tokio::time::timeout(patience, graceful.shutdown()).await.is_ok()
}
