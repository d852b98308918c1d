//! An HTTP server that cannot be made to hold many descriptors for long.
//!
//! Admin, exporter and health each run one. Each has a number of connections that it holds at most;
//! the next ones wait in the listen queue. A client has [`HEAD_TIMEOUT`] for each request
//! head, and its connection ends after [`CONNECTION_AGE`] (the answer under way is finished first).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Time to send a request head; also how long a connection may idle between requests.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// When a connection is closed at the next opportunity.
const CONNECTION_AGE: Duration = Duration::from_secs(120);
/// Time for the answer under way after that; then the client reads too slowly.
const LAST_ANSWER: Duration = Duration::from_secs(30);
/// Pause after an accept that failed: the descriptors or the memory that it lacks come back slowly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Bytes of a request head at most.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves `router` on `listener`, `connections_max` clients at a time, until the runtime ends.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
) -> Infallible {
    let slots = Arc::new(Semaphore::new(connections_max));
    loop {
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed: nobody calls close on it");
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accept failed on a control port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One client, from its first request to its last. What goes wrong is the client's own affair.
async fn connection(stream: TcpStream, router: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    if tokio::time::timeout(CONNECTION_AGE, served.as_mut()).await.is_err() {
        served.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_ANSWER, served).await;
    }
}
