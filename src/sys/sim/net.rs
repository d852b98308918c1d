//! TCP as its users see it: queues with limits, FIN and RST, and the errors of each call.
//!
//! Segments, windows and retransmission are not modelled; what a socket tells is. The sources:
//! tcp(7), socket(7), RFC 9293, net/ipv4/tcp*.c of Linux 6.18 where the manual is silent, and the
//! differential test (`tests/simulation/differential.rs`), which runs the same scripts on real
//! sockets.

mod calls;
mod connect;
mod travel;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::draw::Draw;
use crate::sys::kernel::Errno;

/// Microseconds of virtual time.
pub type Micros = u64;

/// Names one end of a connection; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndId(usize);

/// Names a listener of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(usize);

/// How bytes travel on one connection.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// One way, at least.
    pub delay_us: Micros,
    /// The most that is added to it, drawn each time.
    pub jitter_us: Micros,
    /// What a send queue holds (SO_SNDBUF).
    pub send_bytes: usize,
    /// What a receive queue holds (SO_RCVBUF).
    pub receive_bytes: usize,
}

/// What a connect meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A server that accepts.
    Accepted,
    /// An error, after this time.
    Fails(Errno, Micros),
    /// IORING_OP_CONNECT calls it a success, and the socket is not connected: an ICMP error message
    /// (observed on Linux 6.18).
    SeemsAccepted,
}

/// How far a FIN has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fin {
    No,
    Queued,
    Delivered,
    Acknowledged,
}

/// Who holds an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Worker,
    Outside,
}

#[derive(Debug)]
struct End {
    owner: Owner,
    local: SocketAddr,
    remote: SocketAddr,
    peer: Option<EndId>,
    meant: Option<SocketAddr>,
    link: Link,
    is_connected: bool,
    received: VecDeque<u8>,
    sending: VecDeque<u8>,
    /// Delivered, and the acknowledgement is on its way.
    unacknowledged: usize,
    fin: Fin,
    peer_fin: bool,
    error: Option<Errno>,
    /// Reset from either side, or never connected and failed.
    is_dead: bool,
    has_descriptor: bool,
    has_port: bool,
    resets_on_close: bool,
    is_delivering: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver(EndId),
    Acknowledge(EndId, usize, bool),
    /// A reset arrives, behind these bytes.
    Reset(EndId, Vec<u8>),
    Connect(EndId, SocketAddr),
    Fail(EndId, i32),
    SeemsConnected(EndId),
}

/// What became of a connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connecting {
    Waits,
    Done(Result<(), Errno>),
}

#[derive(Debug, Default)]
struct Backlog {
    queued: VecDeque<EndId>,
    refuses: bool,
    is_closed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Net {
    origin: Instant,
    now: Micros,
    draw: Draw,
    ends: Vec<End>,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    sequence: u64,
    /// Listeners of the worker.
    backlogs: Vec<Backlog>,
    /// What each address of the outside answers.
    servers: HashMap<SocketAddr, (Outcome, Link)>,
    arrivals: VecDeque<(SocketAddr, EndId)>,
    connects: HashMap<EndId, Connecting>,
    descriptors: usize,
    descriptors_max: usize,
    port: u16,
    ports: u16,
    ports_max: u16,
    worker_address: std::net::IpAddr,
    pipes: usize,
    pipe_bytes: usize,
    /// Buffers that were not in the pool when the worker's kernel was closed.
    pub(super) missing_buffers: usize,
    is_whole: bool,
}

impl Net {
    /// A net in which nobody listens.
    #[must_use]
    pub fn new(draw: Draw, worker_address: std::net::IpAddr) -> Self {
        Self {
            origin: Instant::now(),
            now: 0,
            draw,
            ends: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            backlogs: Vec::new(),
            servers: HashMap::new(),
            arrivals: VecDeque::new(),
            connects: HashMap::new(),
            descriptors: 0,
            descriptors_max: usize::MAX,
            port: 0,
            ports: 0,
            ports_max: u16::MAX,
            worker_address,
            pipes: 0,
            pipe_bytes: 0,
            missing_buffers: 0,
            is_whole: false,
        }
    }

    /// The clock.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.now
    }

    /// That time of the clock, as the worker sees it.
    #[must_use]
    pub fn instant(&self, at: Micros) -> Instant {
        self.origin + Duration::from_micros(at)
    }

    pub(super) fn micros(&self, at: Instant) -> Micros {
        // Rounded up: a wait must not end before its deadline and begin again.
        let since = at.saturating_duration_since(self.origin).as_nanos().div_ceil(1_000);
        Micros::try_from(since).unwrap_or(Micros::MAX)
    }

    /// Descriptors and ephemeral ports that the worker may have at a time, and what its pipes hold
    /// (0: there are none).
    pub fn limit(&mut self, descriptors: usize, ports: u16, pipe_bytes: usize) {
        (self.descriptors_max, self.ports_max, self.pipe_bytes) = (descriptors, ports, pipe_bytes);
    }

    /// Descriptors that the worker has open, listeners apart.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Buffers that the worker has not given back in its life.
    #[must_use]
    pub fn missing_buffers(&self) -> usize {
        self.missing_buffers
    }

    /// Pipes that the worker has open.
    #[must_use]
    pub fn pipes(&self) -> usize {
        self.pipes
    }

    // Time.

    pub(super) fn advance(&mut self, to: Micros) {
        debug_assert!(to >= self.now, "time does not run backwards");
        self.now = to;
    }

    pub(super) fn next_event(&self) -> Option<Micros> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn is_due(&self) -> bool {
        self.next_event().is_some_and(|at| at <= self.now)
    }

    pub(super) fn run_due(&mut self) {
        while self.is_due()
            && let Some(Reverse((_, _, event))) = self.events.pop()
        {
            self.happen(event);
        }
    }

    fn schedule(&mut self, after: Micros, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((self.now + after, self.sequence, event)));
    }

    fn travel(&mut self, id: EndId) -> Micros {
        let link = self.ends[id.0].link;
        link.delay_us + self.draw.up_to(link.jitter_us)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(from) => self.deliver(from),
            Event::Acknowledge(id, bytes, fin) => {
                let end = &mut self.ends[id.0];
                end.unacknowledged = end.unacknowledged.saturating_sub(bytes);
                if fin && end.fin == Fin::Delivered {
                    end.fin = Fin::Acknowledged;
                }
            }
            Event::Reset(id, bytes) => self.be_reset(id, &bytes),
            Event::Connect(id, address) => self.arrive(id, address),
            Event::Fail(id, errno) => {
                let end = &mut self.ends[id.0];
                end.is_dead = true;
                self.connects.insert(id, Connecting::Done(Err(Errno::from_raw(errno))));
            }
            Event::SeemsConnected(id) => {
                self.ends[id.0].is_dead = true;
                self.connects.insert(id, Connecting::Done(Ok(())));
            }
        }
    }

    // Listeners.

    pub(super) fn accept(&mut self, listener: ListenerId) -> Option<Result<EndId, Errno>> {
        let id = *self.backlogs[listener.0].queued.front()?;
        if let Err(error) = self.take_descriptor() {
            return Some(Err(error));
        }
        self.backlogs[listener.0].queued.pop_front();
        self.ends[id.0].has_descriptor = true;
        Some(Ok(id))
    }

    pub(super) fn refuse_handshakes(&mut self, listener: ListenerId) {
        self.backlogs[listener.0].refuses = true;
    }

    /// Connections that wait in a closed listener are reset (tcp(7): inet_csk_listen_stop()).
    pub(super) fn close_listener(&mut self, listener: ListenerId) {
        self.backlogs[listener.0].is_closed = true;
        while let Some(id) = self.backlogs[listener.0].queued.pop_front() {
            self.send_reset(id);
        }
    }

    // Pipes.

    pub(super) fn open_pipe(&mut self) -> Result<usize, Errno> {
        if self.pipe_bytes == 0 {
            return Err(Errno::EPERM);
        }
        if self.descriptors + 2 > self.descriptors_max {
            return Err(Errno::EMFILE);
        }
        self.descriptors += 2;
        self.pipes += 1;
        Ok(self.pipe_bytes)
    }

    pub(super) fn close_pipe(&mut self) {
        self.descriptors -= 2;
        self.pipes -= 1;
    }

    /// What still has a descriptor of the worker, sockets in a backlog apart.
    #[must_use]
    pub fn leaked(&self) -> Vec<EndId> {
        let of_worker = |end: &End| end.owner == Owner::Worker && end.has_descriptor;
        (0..self.ends.len()).filter(|&at| of_worker(&self.ends[at])).map(EndId).collect()
    }

    /// Bytes of the outside are on their way to the worker.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        let moves =
            |end: &End| end.owner == Owner::Outside && !end.sending.is_empty() && !end.is_dead;
        self.ends.iter().any(moves)
    }

    /// Nothing is cut or held up that need not be: a delivery or a call takes all it can.
    pub fn deliver_whole(&mut self) {
        self.is_whole = true;
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub(super) fn part(&mut self, whole: usize) -> usize {
        if self.is_whole { whole } else { self.draw.part(whole) }
    }

    /// An end of the outside was reset by its peer, or is closed.
    #[must_use]
    pub fn is_dead(&self, id: EndId) -> bool {
        self.ends[id.0].is_dead
    }
}

impl End {
    fn room(&self) -> usize {
        self.link.send_bytes.saturating_sub(self.sending.len() + self.unacknowledged)
    }
}

/// The first `count` bytes of `queue`.
fn take(queue: &mut VecDeque<u8>, count: usize) -> Vec<u8> {
    let (front, back) = queue.as_slices();
    let of_front = count.min(front.len());
    let mut bytes = Vec::with_capacity(count);
    bytes.extend_from_slice(&front[..of_front]);
    bytes.extend_from_slice(&back[..count - of_front]);
    queue.drain(..count);
    bytes
}
