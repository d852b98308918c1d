//! An HTTP server that its clients cannot starve.
//!
//! Admin, exporter and health each run one, and another for loopback alone (see `control::listen`).
//! Each has a number of places. A client that finds none takes the place of another one: of the
//! source that has most places, the one that has been silent for longest. So whoever opens many
//! connections, and says nothing or little on them, pushes out its own.
//!
//! A client has [`HEAD_TIMEOUT`] for each request head, and its connection ends after
//! [`CONNECTION_AGE`] (the answer under way is finished first).

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

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

/// Serves `router` on `listener` until the runtime ends: `places` clients at a time.
pub(super) async fn serve(listener: TcpListener, router: Router, places: usize) -> Infallible {
    let mut places = Places::new(places);
    let progress = Progress::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let source = peer.ip().to_canonical();
                let heard = progress.of_a_client();
                let stream = Heard { stream, heard: heard.clone() };
                let task = tokio::spawn(connection(stream, router.clone())).abort_handle();
                places.take(Client { source, heard, task });
            }
            Err(error) => {
                tracing::debug!(%error, "accept failed on a control port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One client, from its first request to its last. What goes wrong is the client's own affair.
async fn connection(stream: Heard, router: Router) {
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

/// Clients that may be connected at a time.
#[derive(Debug)]
struct Places {
    places_max: usize,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    source: IpAddr,
    heard: LastHeard,
    task: AbortHandle,
}

impl Places {
    fn new(places_max: usize) -> Self {
        Self { places_max, clients: Vec::new() }
    }

    /// Gives `client` a place, if need be another one's.
    fn take(&mut self, client: Client) {
        self.clients.retain(|client| !client.task.is_finished());
        self.clients.push(client);
        if self.clients.len() > self.places_max
            && let Some(place) = self.to_give_way()
        {
            self.clients.swap_remove(place).task.abort();
        }
    }

    /// Of the source that has most places, the client that has been silent for longest.
    fn to_give_way(&self) -> Option<usize> {
        let mut counts = HashMap::new();
        for client in &self.clients {
            *counts.entry(client.source).or_insert(0) += 1;
        }
        let most = counts.values().max()?;
        let greedy = |client: &Client| counts.get(&client.source) == Some(most);
        let clients = self.clients.iter().enumerate().filter(|(_, client)| greedy(client));
        clients.min_by_key(|(_, client)| client.heard.at()).map(|(place, _)| place)
    }
}

/// Counts what all clients of a server send and read: a clock that only tells earlier from later.
#[derive(Debug, Clone, Default)]
struct Progress(Arc<AtomicU64>);

/// When a client has last sent or read something.
#[derive(Debug, Clone)]
struct LastHeard {
    at: Arc<AtomicU64>,
    progress: Progress,
}

impl Progress {
    fn of_a_client(&self) -> LastHeard {
        let heard = LastHeard { at: Arc::default(), progress: self.clone() };
        heard.now();
        heard
    }
}

impl LastHeard {
    fn now(&self) {
        self.at.store(self.progress.0.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }
}

/// A client's connection, which notes when bytes move.
#[derive(Debug)]
struct Heard {
    stream: TcpStream,
    heard: LastHeard,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.heard.now();
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.heard.now();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::SocketAddr;
    use std::time::Instant;

    use axum::routing::get;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    /// A runtime on a thread of its own that serves with this many places, and where.
    fn server(places: usize) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                serve(listener, Router::new().route("/", get(async || "here\n")), places).await
            })
        });
        address
    }

    fn client(address: SocketAddr, says: &[u8]) -> std::net::TcpStream {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(says).unwrap();
        stream
    }

    #[test]
    fn a_request_is_answered_however_many_clients_are_silent_or_half_said() {
        let address = server(4);
        for says in [&b""[..], b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let silent: Vec<_> = (0..40).map(|_| client(address, says)).collect();
            let began = Instant::now();
            let mut answer = String::new();
            client(address, REQUEST).read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with("here\n"), "{answer}");
            // A client's own time-out is twenty seconds.
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            drop(silent);
        }
    }

    /// Clients of these sources, by the order in which they were heard last, find two places.
    fn those_that_stay(sources: &[&str]) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut places, progress) = (Places::new(2), Progress::default());
            for source in sources {
                let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
                let (source, heard) = (source.parse().unwrap(), progress.of_a_client());
                places.take(Client { source, heard, task });
            }
            places.clients.iter().map(|client| client.source.to_string()).collect()
        })
    }

    #[test]
    fn the_longest_silent_of_the_greediest_source_gives_way() {
        let table: [(&[&str], &[&str]); 4] = [
            (&["10.0.0.1", "10.0.0.2"], &["10.0.0.1", "10.0.0.2"]),
            // Of equals the one that was heard first.
            (&["10.0.0.1", "10.0.0.2", "10.0.0.3"], &["10.0.0.3", "10.0.0.2"]),
            // Many of one source push out their own.
            (&["10.0.0.9", "10.0.0.2", "10.0.0.2", "10.0.0.2"], &["10.0.0.9", "10.0.0.2"]),
            (&["10.0.0.2", "10.0.0.2", "10.0.0.9", "10.0.0.2"], &["10.0.0.9", "10.0.0.2"]),
        ];
        for (sources, stay) in table {
            let mut left = those_that_stay(sources);
            left.sort_by_key(|source| stay.iter().position(|wanted| wanted == source));
            assert_eq!(left, stay, "{sources:?}");
        }
    }
}
