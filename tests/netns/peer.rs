//! Scripted peers: both ends of the connections that go through the proxy.
//!
//! What they send is a pattern that only depends on the connection's id, the direction and the
//! position, so a receiver notices every byte that is missing, doubled, out of order or another
//! connection's. They count what they move in the lab's `Tally`. Each wait of theirs is bounded.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::libc::linger;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Linger, RcvBuf, ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::lab::{PATIENCE, wait_for};
use crate::pattern::{Pattern, Random};
use crate::retry::uninterrupted;

/// Which end of the proxy a peer is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
}

/// Bytes that all peers of a test have moved, by side.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
    has_strangers: AtomicBool,
}

impl Tally {
    /// Others than peers talk through the proxy too, and nobody counts what they move.
    pub(crate) fn expect_strangers(&self) {
        self.has_strangers.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_strangers(&self) -> bool {
        self.has_strangers.load(Ordering::SeqCst)
    }

    pub(crate) fn sent(&self, side: Side) -> u64 {
        self.sent[side as usize].load(Ordering::SeqCst)
    }

    pub(crate) fn received(&self, side: Side) -> u64 {
        self.received[side as usize].load(Ordering::SeqCst)
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream, side: Side, tally: &Arc<Tally>) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("it is not zero");
        // Write patterns are to reach the proxy as they are.
        stream.set_nodelay(true).expect("it is a TCP socket");
        let other = stream.try_clone().expect("descriptors are left");
        let mut peer = Self {
            sender: Sender { stream, side, tally: tally.clone(), pattern: Pattern::default() },
            receiver: Receiver {
                stream: other,
                side,
                tally: tally.clone(),
                pattern: Pattern::default(),
            },
        };
        peer.set_id(0);
        peer
    }

    /// Tells the other end the id of this connection, which seeds both directions.
    pub(crate) fn announce(&mut self, id: u64) {
        self.sender.send_raw(&id.to_be_bytes());
        self.set_id(id);
    }

    /// Learns the id that the other end announces; `None` if it goes away instead.
    pub(crate) fn learn(&mut self) -> Option<u64> {
        let mut bytes = [0; 8];
        self.receiver.recv_raw(&mut bytes).ok()?;
        let id = u64::from_be_bytes(bytes);
        self.set_id(id);
        Some(id)
    }

    fn set_id(&mut self, id: u64) {
        let upstream_writes = u64::from(self.sender.side == Side::Upstream);
        self.sender.pattern = Pattern::new(2 * id + upstream_writes);
        self.receiver.pattern = Pattern::new(2 * id + 1 - upstream_writes);
    }

    pub(crate) fn send(&mut self, bytes: u64) {
        self.sender.send(bytes);
    }

    pub(crate) fn recv(&mut self, bytes: u64) {
        self.receiver.recv(bytes);
    }

    /// Sends what is no pattern, but means something to the proxy.
    pub(crate) fn send_text(&mut self, text: &[u8]) {
        self.sender.send_raw(text);
    }

    /// Receives what the other end has sent as text.
    pub(crate) fn recv_text(&mut self, bytes: usize) -> Vec<u8> {
        let mut text = vec![0; bytes];
        self.receiver.recv_raw(&mut text).expect("the connection is open");
        text
    }

    /// A byte to the other end, which must answer with one.
    pub(crate) fn ping(&mut self) {
        self.send(1);
        self.recv(1);
    }

    pub(crate) fn shutdown(&self) {
        self.sender.shutdown();
    }

    pub(crate) fn expect_eof(&mut self) {
        assert_eq!(self.receiver.recv_to_end(), (0, End::Eof), "end of stream expected");
    }

    pub(crate) fn expect_reset(&mut self) {
        assert_eq!(self.receiver.recv_to_end(), (0, End::Reset), "reset expected");
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        let abort = linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.sender.stream, Linger, &abort).expect("it is a socket");
    }

    /// Keeps its receive buffer small, so that little is in flight when it does not read.
    pub(crate) fn shrink_receive_buffer(&self) {
        setsockopt(&self.receiver.stream, RcvBuf, &4096).expect("it is a socket");
    }

    /// Keeps the connection by one descriptor, where there are thousands of them.
    pub(crate) fn into_idle(self) -> Idle {
        let Self { sender, receiver } = self;
        Idle {
            stream: sender.stream,
            side: sender.side,
            patterns: [sender.pattern, receiver.pattern],
        }
    }

    /// Goes on where the connection was left.
    pub(crate) fn wake(idle: Idle, tally: &Arc<Tally>) -> Self {
        let mut peer = Self::new(idle.stream, idle.side, tally);
        [peer.sender.pattern, peer.receiver.pattern] = idle.patterns;
        peer
    }

    pub(crate) fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

/// A connection that nobody uses for a while.
#[derive(Debug)]
pub(crate) struct Idle {
    stream: TcpStream,
    side: Side,
    patterns: [Pattern; 2],
}

/// Sends as many bytes as come, a read at a time, until the end; then ends too.
pub(crate) fn echo(peer: Peer) {
    let Peer { mut sender, mut receiver } = peer;
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = uninterrupted(|| receiver.stream.read(&mut buffer)) {
        receiver.count(n);
        receiver.pattern.check(&buffer[..n]);
        if sender.try_send(n as u64).1.is_err() {
            return;
        }
    }
    sender.shutdown_if_open();
}

/// The sending half of a peer.
#[derive(Debug)]
pub(crate) struct Sender {
    stream: TcpStream,
    side: Side,
    tally: Arc<Tally>,
    pattern: Pattern,
}

impl Sender {
    pub(crate) fn send(&mut self, bytes: u64) {
        let (sent, result) = self.try_send(bytes);
        result.unwrap_or_else(|error| panic!("send: {error} after {sent} of {bytes} bytes"));
    }

    /// In pieces of random sizes, 1 byte to 1 MiB, that depend on `seed`.
    pub(crate) fn send_in_pieces(&mut self, mut bytes: u64, seed: u64) {
        let mut random = Random::new(seed);
        while bytes > 0 {
            // Small pieces are as likely as large ones.
            let magnitude = 1 + random.below(20);
            let piece = (1 + random.below(1 << magnitude)).min(bytes);
            self.send(piece);
            bytes -= piece;
        }
    }

    /// Sends until all is sent or the connection fails; returns how much was taken.
    pub(crate) fn try_send(&mut self, bytes: u64) -> (u64, io::Result<()>) {
        let mut buffer = vec![0; usize::try_from(bytes.min(1 << 18)).expect("it is small")];
        let mut sent = 0;
        while sent < bytes {
            let n = usize::try_from(bytes - sent).unwrap_or(usize::MAX).min(buffer.len());
            let start = self.pattern;
            self.pattern.fill(&mut buffer[..n]);
            match uninterrupted(|| self.stream.write(&buffer[..n])) {
                Ok(n) => {
                    self.pattern = start.advanced(n as u64);
                    self.count(n);
                    sent += n as u64;
                }
                Err(error) => {
                    self.pattern = start;
                    return (sent, Err(error));
                }
            }
        }
        (sent, Ok(()))
    }

    pub(crate) fn shutdown(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    fn shutdown_if_open(&self) {
        // The other end may have reset the connection meanwhile.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the connection is open");
        self.count(bytes.len());
    }

    fn count(&self, n: usize) {
        self.tally.sent[self.side as usize].fetch_add(n as u64, Ordering::SeqCst);
    }
}

/// The receiving half of a peer.
#[derive(Debug)]
pub(crate) struct Receiver {
    stream: TcpStream,
    side: Side,
    tally: Arc<Tally>,
    pattern: Pattern,
}

impl Receiver {
    /// Receives exactly that much.
    pub(crate) fn recv(&mut self, bytes: u64) {
        let mut buffer = [0; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            match uninterrupted(|| self.stream.read(&mut buffer[..n])) {
                Ok(0) => panic!("end of stream, {left} of {bytes} bytes are missing"),
                Ok(n) => {
                    self.count(n);
                    self.pattern.check(&buffer[..n]);
                    left -= n as u64;
                }
                Err(error) => panic!("recv: {error}, {left} of {bytes} bytes are missing"),
            }
        }
    }

    /// Receives exactly that much, if it comes; the end is an error too.
    pub(crate) fn try_recv(&mut self, bytes: usize) -> io::Result<()> {
        let mut buffer = vec![0; bytes];
        self.recv_raw(&mut buffer)?;
        self.pattern.check(&buffer);
        Ok(())
    }

    /// Receives to the end; returns how much came and how it ended.
    pub(crate) fn recv_to_end(&mut self) -> (u64, End) {
        let mut buffer = [0; 64 * 1024];
        let mut received = 0;
        loop {
            match uninterrupted(|| self.stream.read(&mut buffer)) {
                Ok(0) => return (received, End::Eof),
                Ok(n) => {
                    self.count(n);
                    self.pattern.check(&buffer[..n]);
                    received += n as u64;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return (received, End::Reset);
                }
                Err(error) => panic!("recv: {error} after {received} bytes"),
            }
        }
    }

    /// Nothing comes for that long: neither bytes nor an end.
    pub(crate) fn expect_silence(&mut self, how_long: Duration) {
        self.stream.set_read_timeout(Some(how_long)).expect("it is not zero");
        let result = uninterrupted(|| self.stream.read(&mut [0]));
        let quiet = matches!(&result, Err(error) if error.kind() == ErrorKind::WouldBlock);
        assert!(quiet, "silence expected, not {result:?}");
        self.stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    }

    fn recv_raw(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.stream.read_exact(bytes)?;
        self.count(bytes.len());
        Ok(())
    }

    fn count(&self, n: usize) {
        self.tally.received[self.side as usize].fetch_add(n as u64, Ordering::SeqCst);
    }
}

/// A listener whose accepts are bounded.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: TcpListener,
    tally: Arc<Tally>,
}

/// How often a waiting accept looks whether it is to stop.
const ACCEPT_TURN: i64 = 50;

impl Listening {
    pub(crate) fn bind(at: SocketAddr, tally: &Arc<Tally>) -> Self {
        let listener = TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}"));
        // On Linux it bounds accept(2) too, see socket(7).
        setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(ACCEPT_TURN))
            .expect("it is a socket");
        Self { listener, tally: tally.clone() }
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Peer {
        wait_for("a connection", || self.try_accept())
    }

    /// The next connection, if one comes soon.
    pub(crate) fn try_accept(&self) -> Option<Peer> {
        match self.listener.accept() {
            Ok((stream, _)) => Some(Peer::new(stream, Side::Upstream, &self.tally)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            // One that was reset while it waited.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => None,
            Err(error) => panic!("accept: {error}"),
        }
    }
}

/// A server: threads that serve until it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

impl Server {
    pub(crate) fn start(
        listening: Listening,
        serve: impl Fn(Peer) + Send + Sync + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let serve = Arc::new(serve);
        let accepting = std::thread::spawn(move || {
            let mut serving = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                let Some(peer) = listening.try_accept() else { continue };
                let serve = serve.clone();
                serving.push(std::thread::spawn(move || serve(peer)));
            }
            serving
        });
        Self { stop, accepting: Some(accepting) }
    }

    /// Waits for all connections to be served; returns how many there were. What failed in them
    /// fails here.
    pub(crate) fn finish(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let accepting = self.accepting.take().expect("it is taken only here");
        let serving = accepting.join().unwrap_or_else(|panic| resume_unwind(panic));
        let served = serving.len();
        for thread in serving {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        served
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
