//! The other end: echo, sink, source and HTTP servers, as cheap as they can be.
//!
//! They count what they did, so that a test can compare it with what the load believes.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::process;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use monoio::io::{AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use nix::sys::signal::Signal;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use self::http::Answers;
use crate::arguments::Serve;
use crate::bulk::{CHUNK_BYTES, Reader};
use crate::connection::read_more;
use crate::payload::{Check, HEADER_BYTES, Stream};
use crate::runtime;

mod http;

/// Connections that wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// What an echo begins with; it doubles while messages fill it.
const ECHO_BYTES: usize = 4 << 10;
const ECHO_BYTES_MAX: usize = 256 << 10;

/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy)]
enum Service {
    Echo,
    Sink,
    Source,
    Http,
}

/// What one thread's servers did. Written by it, read by the thread that prints.
#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    requests: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    mismatches: AtomicU64,
}

impl Counts {
    fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Serve until SIGTERM or SIGINT; SIGUSR1 prints the counts so far.
pub(crate) fn run(options: &Serve) -> anyhow::Result<()> {
    let threads = options.cpus.cpus.len().max(1);
    let counts: Arc<[Counts]> = (0..threads).map(|_| Counts::default()).collect();
    let printed = counts.clone();
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1];
    runtime::on_signals(&signals, move |signal| {
        println!("{}", line(&printed));
        if signal != Signal::SIGUSR1 {
            process::exit(0);
        }
    })?;
    // All are bound before any thread runs, so that an error ends the program.
    let listeners = (0..threads).map(|_| listen(options)).collect::<anyhow::Result<Vec<_>>>()?;
    let listening = AtomicUsize::new(0);
    let (check, answers) = (Check::from(options.verify), Answers::new(options.body));
    runtime::on_each_core(&options.cpus, |share| {
        let listeners = listeners[share.thread]
            .iter()
            .map(|(service, listener)| Ok((*service, listener.try_clone()?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let server = Server { thread: share.thread, counts: counts.clone(), check, answers };
        runtime::block_on(async {
            if listening.fetch_add(1, Ordering::Relaxed) + 1 == threads {
                println!("ready");
            }
            serve(server, listeners).await
        })?
    })?;
    Ok(())
}

fn line(counts: &[Counts]) -> serde_json::Value {
    let sum = |count: fn(&Counts) -> &AtomicU64| -> u64 {
        counts.iter().map(|counts| count(counts).load(Ordering::Relaxed)).sum()
    };
    json!({
        "accepted": sum(|counts| &counts.accepted),
        "requests": sum(|counts| &counts.requests),
        "bytes": sum(|counts| &counts.received_bytes) + sum(|counts| &counts.sent_bytes),
        "bytes_received": sum(|counts| &counts.received_bytes),
        "bytes_sent": sum(|counts| &counts.sent_bytes),
        "mismatches": sum(|counts| &counts.mismatches),
    })
}

/// One thread's listeners: each thread has its own, and the kernel spreads connections over them.
fn listen(options: &Serve) -> anyhow::Result<Vec<(Service, StdListener)>> {
    let services = [
        (Service::Echo, options.echo),
        (Service::Sink, options.sink),
        (Service::Source, options.source),
        (Service::Http, options.http),
    ];
    let mut listeners = Vec::new();
    for &address in &options.address {
        for (service, port) in services {
            if let Some(port) = port {
                listeners.push((service, bind(address, port)?));
            }
        }
    }
    if listeners.is_empty() {
        bail!("nothing to serve: name a port with --echo, --sink, --source or --http");
    }
    Ok(listeners)
}

fn bind(address: IpAddr, port: u16) -> anyhow::Result<StdListener> {
    let address = SocketAddr::new(address, port);
    let bind = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok::<_, std::io::Error>(StdListener::from(socket))
    };
    bind().with_context(|| format!("cannot listen on {address}"))
}

async fn serve(server: Server, listeners: Vec<(Service, StdListener)>) -> anyhow::Result<()> {
    let server = Rc::new(server);
    let accept = |(service, listener)| {
        let listener = TcpListener::from_std(listener)?;
        Ok(monoio::spawn(server.clone().accept(service, listener)))
    };
    let accepting = listeners.into_iter().map(accept).collect::<anyhow::Result<Vec<_>>>()?;
    for task in accepting {
        task.await;
    }
    Ok(())
}

/// One thread's servers.
#[derive(Debug)]
struct Server {
    thread: usize,
    counts: Arc<[Counts]>,
    check: Check,
    answers: Answers,
}

impl Server {
    fn counts(&self) -> &Counts {
        &self.counts[self.thread]
    }

    async fn accept(self: Rc<Self>, service: Service, listener: TcpListener) {
        for number in 0.. {
            match listener.accept().await {
                Ok((stream, _)) => {
                    self.counts().accepted.fetch_add(1, Ordering::Relaxed);
                    monoio::spawn(self.clone().connection(service, stream, number));
                }
                // Out of descriptors, or the peer has gone already.
                Err(_) => monoio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Serve one connection. However it ends, the client knows and counts it.
    async fn connection(self: Rc<Self>, service: Service, stream: TcpStream, number: usize) {
        let counts = self.counts();
        let _ = match service {
            Service::Echo => echo(stream, counts).await,
            Service::Sink => sink(stream, counts, self.check).await,
            Service::Source => source(stream, counts, Stream::new(number, self.check)).await,
            Service::Http => http::answer(stream, counts, self.answers).await,
        };
    }
}

async fn echo(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(ECHO_BYTES);
    loop {
        buffer.clear();
        let count = read_more(&mut stream, &mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        counts.received(count);
        let (result, rest) = stream.write_all(buffer).await;
        result?;
        counts.sent(count);
        buffer = rest;
        if count == buffer.capacity() && count < ECHO_BYTES_MAX {
            // One read filled it: larger ones save system calls.
            buffer.reserve(2 * count);
        }
    }
}

async fn sink(mut stream: TcpStream, counts: &Counts, check: Check) -> io::Result<()> {
    let mut reader = Reader::new(check);
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    loop {
        buffer.clear();
        let count = read_more(&mut stream, &mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        counts.received(count);
        if !reader.matches(&buffer) {
            counts.mismatches.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
    }
}

async fn source(mut stream: TcpStream, counts: &Counts, mut payload: Stream) -> io::Result<()> {
    let header = Box::new(payload.header());
    stream.write_all(header).await.0?;
    counts.sent(HEADER_BYTES);
    loop {
        let count = stream.write(payload.peek(CHUNK_BYTES)).await.0?;
        payload.advance(count);
        counts.sent(count);
    }
}
