//! TCP as its users see it: queues with limits, FIN and RST, and the errors of each call.
//!
//! Segments, windows and retransmission are not modelled; what a socket tells is. The sources:
//! tcp(7), socket(7), RFC 9293, net/ipv4/tcp*.c of Linux 6.18 where the manual is silent, and the
//! differential test (`tests/simulation/differential.rs`), which runs the same scripts on real
//! sockets.

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

    // Connecting.

    /// A listener of the worker.
    pub fn add_listener(&mut self) -> ListenerId {
        self.backlogs.push(Backlog::default());
        ListenerId(self.backlogs.len() - 1)
    }

    /// What connects to `address` meet from now on.
    pub fn serve(&mut self, address: SocketAddr, outcome: Outcome, link: Link) {
        self.servers.insert(address, (outcome, link));
    }

    /// A client's connection to the worker; `None`: refused.
    pub fn connect(
        &mut self,
        listener: ListenerId,
        from: SocketAddr,
        meant: Option<SocketAddr>,
        link: Link,
    ) -> Option<EndId> {
        let backlog = &self.backlogs[listener.0];
        if backlog.refuses || backlog.is_closed {
            return None;
        }
        let door = SocketAddr::new(self.worker_address, 15001);
        let client = self.add_end(Owner::Outside, from, door, link);
        let accepted = self.add_end(Owner::Worker, meant.unwrap_or(door), from, link);
        self.join(client, accepted);
        self.ends[accepted.0].meant = meant;
        self.ends[accepted.0].has_descriptor = false;
        self.backlogs[listener.0].queued.push_back(accepted);
        Some(client)
    }

    /// The next connection that a server has accepted, and its address.
    pub fn take_arrival(&mut self) -> Option<(SocketAddr, EndId)> {
        self.arrivals.pop_front()
    }

    fn add_end(
        &mut self,
        owner: Owner,
        local: SocketAddr,
        remote: SocketAddr,
        link: Link,
    ) -> EndId {
        self.ends.push(End {
            owner,
            local,
            remote,
            peer: None,
            meant: None,
            link,
            is_connected: false,
            received: VecDeque::new(),
            sending: VecDeque::new(),
            unacknowledged: 0,
            fin: Fin::No,
            peer_fin: false,
            error: None,
            is_dead: false,
            has_descriptor: true,
            has_port: false,
            resets_on_close: false,
            is_delivering: false,
        });
        EndId(self.ends.len() - 1)
    }

    fn join(&mut self, one: EndId, other: EndId) {
        for (id, peer) in [(one, other), (other, one)] {
            let end = &mut self.ends[id.0];
            (end.peer, end.is_connected) = (Some(peer), true);
        }
    }

    fn take_descriptor(&mut self) -> Result<(), Errno> {
        if self.descriptors >= self.descriptors_max {
            return Err(Errno::EMFILE);
        }
        self.descriptors += 1;
        Ok(())
    }

    pub(super) fn open(&mut self, address: &SocketAddr) -> Result<EndId, Errno> {
        self.take_descriptor()?;
        let unbound = SocketAddr::new(self.worker_address, 0);
        let link = Link { delay_us: 0, jitter_us: 0, send_bytes: 1, receive_bytes: 1 };
        Ok(self.add_end(Owner::Worker, unbound, *address, link))
    }

    pub(super) fn begin_connect(&mut self, id: EndId, address: SocketAddr) {
        if self.ports >= self.ports_max {
            let error = Connecting::Done(Err(Errno::EADDRNOTAVAIL));
            self.connects.insert(id, error);
            return;
        }
        self.ports += 1;
        self.ends[id.0].has_port = true;
        self.ends[id.0].local = SocketAddr::new(self.worker_address, self.next_port());
        self.connects.insert(id, Connecting::Waits);
        let Some(&(outcome, link)) = self.servers.get(&address) else {
            return self.schedule(0, Event::Fail(id, Errno::ECONNREFUSED as i32));
        };
        self.ends[id.0].link = link;
        let round_trip = self.travel(id) + self.travel(id);
        match outcome {
            Outcome::Accepted => self.schedule(round_trip, Event::Connect(id, address)),
            Outcome::Fails(errno, after) => self.schedule(after, Event::Fail(id, errno as i32)),
            Outcome::SeemsAccepted => self.schedule(round_trip, Event::SeemsConnected(id)),
        }
    }

    fn next_port(&mut self) -> u16 {
        self.port =
            if self.port < 32_768 || self.port == u16::MAX { 32_768 } else { self.port + 1 };
        self.port
    }

    fn arrive(&mut self, id: EndId, address: SocketAddr) {
        let end = &self.ends[id.0];
        if !end.has_descriptor {
            return;
        }
        let (local, link) = (end.local, end.link);
        let server = self.add_end(Owner::Outside, address, local, link);
        self.join(id, server);
        self.connects.insert(id, Connecting::Done(Ok(())));
        self.arrivals.push_back((address, server));
    }

    pub(super) fn connected(&mut self, id: EndId) -> Option<Result<(), Errno>> {
        match self.connects.get(&id)? {
            Connecting::Waits => None,
            Connecting::Done(result) => {
                let result = *result;
                self.connects.remove(&id);
                Some(result)
            }
        }
    }

    // The calls.

    /// Queues what there is room for (send(2)).
    ///
    /// # Errors
    /// EAGAIN: no room. The socket's error once, then EPIPE.
    pub fn write(&mut self, id: EndId, bytes: &[u8]) -> Result<usize, Errno> {
        let end = &mut self.ends[id.0];
        if let Some(error) = end.error.take() {
            return Err(error);
        }
        if end.is_dead || end.fin != Fin::No {
            return Err(Errno::EPIPE);
        }
        let room = end.room();
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = bytes.len().min(room);
        end.sending.extend(&bytes[..taken]);
        self.set_off(id);
        Ok(taken)
    }

    /// Takes at most `most` bytes (recv(2)); none: the peer has ended.
    ///
    /// # Errors
    /// EAGAIN: nothing has come. The socket's error once: what came before it is read first.
    pub fn read(&mut self, id: EndId, most: usize) -> Result<Vec<u8>, Errno> {
        let end = &mut self.ends[id.0];
        if !end.received.is_empty() {
            let taken = most.min(end.received.len());
            let bytes = take(&mut end.received, taken);
            if let Some(peer) = end.peer {
                self.set_off(peer);
            }
            return Ok(bytes);
        }
        if end.peer_fin {
            // An error behind the FIN is for who writes (SOCK_DONE, tcp_recvmsg()).
            return Ok(Vec::new());
        }
        match end.error.take() {
            Some(error) => Err(error),
            None if end.is_dead => Ok(Vec::new()),
            None => Err(Errno::EAGAIN),
        }
    }

    /// Queues FIN (shutdown(2)).
    ///
    /// # Errors
    /// ENOTCONN: the connection is gone.
    pub fn finish(&mut self, id: EndId) -> Result<(), Errno> {
        if !self.is_connected(id) {
            return Err(Errno::ENOTCONN);
        }
        let end = &mut self.ends[id.0];
        if end.fin == Fin::No {
            end.fin = Fin::Queued;
            self.set_off(id);
        }
        Ok(())
    }

    /// A close of the outside that sends RST.
    pub fn reset(&mut self, id: EndId) {
        self.ends[id.0].resets_on_close = true;
        self.close(id);
    }

    /// close(2): FIN behind what is queued; RST if asked for, or if bytes were not read (RFC 2525
    /// 2.17, tcp_close()).
    pub fn close(&mut self, id: EndId) {
        let end = &mut self.ends[id.0];
        assert!(end.has_descriptor, "{id:?} is closed twice");
        end.has_descriptor = false;
        self.descriptors -= usize::from(end.owner == Owner::Worker);
        self.ports -= u16::from(std::mem::take(&mut end.has_port));
        self.connects.remove(&id);
        let end = &mut self.ends[id.0];
        if !end.is_connected || end.is_dead {
            end.is_dead = true;
            return;
        }
        if end.resets_on_close || !end.received.is_empty() {
            return self.send_reset(id);
        }
        if end.fin == Fin::No {
            end.fin = Fin::Queued;
            self.set_off(id);
        }
    }

    /// Bytes that can be read now, or an end of them, or an error.
    #[must_use]
    pub fn is_readable(&self, id: EndId) -> bool {
        let end = &self.ends[id.0];
        !end.received.is_empty() || end.peer_fin || end.is_dead || end.error.is_some()
    }

    /// POLLOUT: a third of the queue is free (sk_stream_is_writeable()), or nothing more will be
    /// sent.
    pub(super) fn is_writable(&self, id: EndId) -> bool {
        let end = &self.ends[id.0];
        end.is_dead
            || end.error.is_some()
            || end.fin != Fin::No
            || end.room() * 3 >= end.link.send_bytes
    }

    /// POLLERR.
    pub(super) fn has_error(&self, id: EndId) -> bool {
        self.ends[id.0].error.is_some()
    }

    /// POLLHUP or POLLRDHUP, which end every wait in a ring.
    pub(super) fn has_hung_up(&self, id: EndId) -> bool {
        self.ends[id.0].peer_fin || self.ends[id.0].is_dead
    }

    pub(super) fn is_connected(&self, id: EndId) -> bool {
        let end = &self.ends[id.0];
        let is_over = end.peer_fin && end.fin == Fin::Acknowledged;
        end.is_connected && !end.is_dead && !is_over
    }

    pub(super) fn pending_error(&mut self, id: EndId) -> Option<Errno> {
        self.ends[id.0].error.take()
    }

    pub(super) fn clear_error(&mut self, id: EndId) {
        self.ends[id.0].error = None;
    }

    pub(super) fn has_received(&self, id: EndId) -> bool {
        !self.ends[id.0].received.is_empty()
    }

    pub(super) fn local_address(&self, id: EndId) -> SocketAddr {
        self.ends[id.0].local
    }

    pub(super) fn peer_address(&self, id: EndId) -> Result<SocketAddr, Errno> {
        if self.is_connected(id) { Ok(self.ends[id.0].remote) } else { Err(Errno::ENOTCONN) }
    }

    pub(super) fn meant(&self, id: EndId) -> Option<SocketAddr> {
        self.ends[id.0].meant
    }

    /// SIOCOUTQ: FIN counts as one byte until it is acknowledged.
    pub(super) fn unacknowledged(&self, id: EndId) -> usize {
        let end = &self.ends[id.0];
        let fin = matches!(end.fin, Fin::Queued | Fin::Delivered);
        if end.is_dead { 0 } else { end.sending.len() + end.unacknowledged + usize::from(fin) }
    }

    pub(super) fn reset_on_close(&mut self, id: EndId) {
        self.ends[id.0].resets_on_close = true;
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

    // Travelling.

    /// Something of `id` can travel: it sets off, if it has not.
    fn set_off(&mut self, id: EndId) {
        let end = &self.ends[id.0];
        let has_something = !end.sending.is_empty() || end.fin == Fin::Queued;
        if !has_something || end.is_delivering || end.is_dead || end.peer.is_none() {
            return;
        }
        self.ends[id.0].is_delivering = true;
        let after = self.travel(id);
        self.schedule(after, Event::Deliver(id));
    }

    fn deliver(&mut self, from: EndId) {
        self.ends[from.0].is_delivering = false;
        let Some(to) = self.ends[from.0].peer else { return };
        if self.ends[from.0].is_dead || self.ends[to.0].is_dead {
            return;
        }
        // Before a listener accepts a connection, bytes are queued all the same.
        let is_orphan = !self.ends[to.0].has_descriptor && self.ends[to.0].fin != Fin::No;
        if is_orphan && !self.ends[from.0].sending.is_empty() {
            // Data for a closed socket (RFC 9293 3.10.7, tcp_rcv_state_process()).
            self.ends[to.0].is_dead = true;
            let after = self.travel(from);
            return self.schedule(after, Event::Reset(from, Vec::new()));
        }
        let room =
            self.ends[to.0].link.receive_bytes.saturating_sub(self.ends[to.0].received.len());
        let most = room.min(self.ends[from.0].sending.len());
        let count = self.part(most);
        let bytes = take(&mut self.ends[from.0].sending, count);
        self.ends[to.0].received.extend(bytes);
        self.ends[from.0].unacknowledged += count;
        let ends = self.ends[from.0].sending.is_empty() && self.ends[from.0].fin == Fin::Queued;
        if ends {
            self.ends[from.0].fin = Fin::Delivered;
            self.ends[to.0].peer_fin = true;
        }
        let back = self.travel(to);
        self.schedule(back, Event::Acknowledge(from, count, ends));
        if count < room || count == 0 && ends {
            self.set_off(from);
        }
    }

    /// `id` is gone, and its peer will know, perhaps behind some of what was under way.
    fn send_reset(&mut self, id: EndId) {
        let end = &mut self.ends[id.0];
        end.is_dead = true;
        let sending = std::mem::take(&mut end.sending);
        end.received.clear();
        let Some(peer) = end.peer else { return };
        let most = sending.len() as u64;
        let kept = if self.is_whole { most } else { self.draw.up_to(most) };
        let bytes = Vec::from(sending)[..usize::try_from(kept).unwrap_or(0)].to_vec();
        let after = self.travel(id);
        self.schedule(after, Event::Reset(peer, bytes));
    }

    /// A reset has come: tcp_reset(). What was received before it can still be read.
    fn be_reset(&mut self, id: EndId, bytes: &[u8]) {
        if !self.is_connected(id) {
            // FIN went both ways: there is nothing left to reset.
            return;
        }
        let end = &mut self.ends[id.0];
        let room = end.link.receive_bytes.saturating_sub(end.received.len());
        end.received.extend(&bytes[..bytes.len().min(room)]);
        end.error = Some(if end.peer_fin { Errno::EPIPE } else { Errno::ECONNRESET });
        end.is_dead = true;
        end.sending.clear();
        end.unacknowledged = 0;
    }

    /// What still has a descriptor of the worker, sockets in a backlog apart.
    #[must_use]
    pub fn leaked(&self) -> Vec<EndId> {
        let of_worker = |end: &End| end.owner == Owner::Worker && end.has_descriptor;
        (0..self.ends.len()).filter(|&at| of_worker(&self.ends[at])).map(EndId).collect()
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
