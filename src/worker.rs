//! The worker: one pinned thread, one ring, one listener per address, its own connections and
//! counters.
//!
//! One loop. A turn hands the queued operations to the kernel, sleeps until something completes,
//! and calls one handler per completion; the handlers queue what follows. Nothing here waits for
//! anything but the ring, takes a lock that another thread may hold for long, or allocates per
//! message.
//!
//! The handlers live by subject: [`accept`] up to the verdict, [`connect`] the upstream,
//! [`transfer`] the bytes, [`ending`] and [`close`] the end, [`sweep`] time, [`stop`] drain and the
//! control plane's questions.

mod accept;
mod account;
mod answers;
mod close;
mod connect;
mod connection;
mod direction;
mod ending;
mod http1;
mod http2;
mod last_words;
mod line;
mod observe;
mod recognise;
mod requests;
mod route;
mod splice;
mod stop;
mod streams;
mod sweep;
mod token;
mod transfer;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use slab::Slab;

use crate::access_log::AccessLog;
use crate::admission::Admission;
use crate::drain::Drain;
use crate::http1::KnownHeads;
use crate::mailbox::Request;
use crate::metrics::WorkerMetrics;
use crate::registry::{Reader, Snapshot};
use crate::relay::Side;
use crate::sys::pipe::PipePool;
use crate::sys::ring::{Completion, Recorded, Ring, Sockets, Token};
use crate::sys::socket::Listener;
use crate::sys::waker::Waker;
use accept::{AcceptState, Accepting};
use connect::HeldAcks;
use connection::{Connection, Micros};
use direction::Arrived;
use route::Routes;
use stop::DrainStage;
use sweep::{Limits, Sweep};
use token::{Key, Target};

pub(crate) use sweep::KEEPALIVE;

const MICROS_PER_SECOND: u64 = 1_000_000;

/// How long a blackholed downstream has to close after it was sent FIN.
const LINGER_US: u64 = MICROS_PER_SECOND;

/// How long a reset waits for the other side to acknowledge what was sent before.
const RESET_WAIT_US: u64 = 5 * MICROS_PER_SECOND;

/// One turn in so many is timed: a look at the clock is a fiftieth of what a small message costs.
const TURNS_PER_TIMED: u64 = 16;

/// The current snapshot. A worker holds it per decision by the `Rc`, because the count of the `Arc`
/// is one memory location for all workers.
type HeldSnapshot = Rc<Arc<Snapshot>>;

/// What a worker is made of, apart from its ring, which must be made on its thread.
#[derive(Debug)]
pub struct Parts {
    /// Counted from 0.
    pub id: usize,
    /// Listening sockets of this worker alone.
    pub listeners: Vec<Listener>,
    /// How the kernel records the original destination.
    pub recorded: Recorded,
    /// The registry, as this worker sees it.
    pub reader: Reader,
    /// Connection limit and self-call guard.
    pub admission: Arc<Admission>,
    /// This worker's counters.
    pub metrics: WorkerMetrics,
    /// Where what happened to its connections is told.
    pub access_log: AccessLog,
    /// The process's life.
    pub drain: Drain,
    /// Requests of the control plane.
    pub inbox: Receiver<Request>,
    /// Ends a wait when there is a request.
    pub waker: Waker,
    /// Pipes that may be lent to connections at a time.
    pub pipes_max: usize,
}

/// The worker.
#[derive(Debug)]
pub struct Worker<R, S> {
    id: usize,
    ring: R,
    sockets: S,
    listeners: Vec<Accepting>,
    drain_stage: DrainStage,
    recorded: Recorded,
    connections: Slab<Connection>,
    generation: u32,
    /// Halves that wait for a buffer.
    starved: VecDeque<(Key, Side)>,
    held_acks: HeldAcks,
    pipes: PipePool,
    known_heads: KnownHeads,
    routes: Routes,
    reader: Reader,
    snapshot: HeldSnapshot,
    timeouts: Limits,
    mark: Option<u32>,
    admission: Arc<Admission>,
    metrics: WorkerMetrics,
    access_log: AccessLog,
    drain: Drain,
    inbox: Receiver<Request>,
    waker: Waker,
    sweep: Sweep,
    origin: Instant,
    now_us: Micros,
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// A worker that accepts nothing yet.
    pub fn new(parts: Parts, ring: R, sockets: S) -> Self {
        let mut reader = parts.reader;
        let snapshot = Rc::new(Arc::clone(reader.load()));
        let accepting =
            |listener| Accepting { listener: Some(listener), state: AcceptState::Paused(0) };
        Self {
            id: parts.id,
            sockets,
            listeners: parts.listeners.into_iter().map(accepting).collect(),
            drain_stage: DrainStage::Serving,
            recorded: parts.recorded,
            connections: Slab::new(),
            generation: 0,
            starved: VecDeque::new(),
            held_acks: HeldAcks::default(),
            pipes: PipePool::new(parts.pipes_max),
            known_heads: KnownHeads::default(),
            routes: Routes::default(),
            timeouts: Limits::from(&*snapshot.config),
            mark: snapshot.config.upstream.mark,
            reader,
            snapshot,
            admission: parts.admission,
            metrics: parts.metrics,
            access_log: parts.access_log,
            drain: parts.drain,
            inbox: parts.inbox,
            waker: parts.waker,
            sweep: Sweep::default(),
            origin: ring.now(),
            now_us: 0,
            ring,
        }
    }

    /// Serves until a drain is complete.
    ///
    /// # Errors
    /// The ring has failed. The caller must end the process: this worker's share of the connections
    /// has no other way.
    pub fn run(mut self) -> io::Result<()> {
        self.ring.poll_waker(&self.waker, Target::Mailbox.encode());
        self.resume_accepts(0);
        while !self.is_drained() {
            self.turn()?;
        }
        self.publish_metrics();
        // The last closes.
        self.ring.submit()
    }

    fn turn(&mut self) -> io::Result<()> {
        if !self.held_acks.is_empty() {
            // What is to carry them may never come.
            self.ring.hurry();
        }
        self.ring.wait(self.sleep_until())?;
        let began = self.ring.now();
        self.now_us = micros_between(self.origin, began);
        self.refresh_snapshot();
        self.release_acks();
        let mut completions = 0;
        while let Some(completion) = self.ring.next_completion() {
            self.dispatch(completion);
            completions += 1;
        }
        self.retry_starved();
        self.keep_time();
        let counters = &self.metrics.counters;
        counters.turns.add(1);
        counters.completions.add(completions);
        counters.cq_overflow.set(self.ring.overflows());
        if counters.turns.get().is_multiple_of(TURNS_PER_TIMED) {
            self.metrics.record_turn(self.ring.now().saturating_duration_since(began));
        }
        Ok(())
    }

    fn dispatch(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { token, result, rearm } => {
                if let Target::Listener(index) = Target::decode(token) {
                    self.on_accepted(index, result, rearm);
                }
            }
            Completion::Connected { token, result } => {
                if let Some((key, _)) = self.find(token) {
                    self.on_connected(key, result);
                }
            }
            Completion::Received { token, result, expect, rearm } => match self.find(token) {
                Some((key, side)) => {
                    self.on_received(key, side, Arrived { result, expect }, rearm);
                }
                None => self.throw_away(result),
            },
            Completion::Sent { token, result } => {
                if let Some((key, side)) = self.find(token) {
                    self.on_sent(key, side, result);
                }
            }
            Completion::Ready { token, operation, result } => match Target::decode(token) {
                Target::Mailbox => self.on_mail(),
                Target::Listener(_) => {}
                Target::Connection(..) => {
                    if let Some((key, side)) = self.find(token) {
                        self.on_poll(key, side, operation, result);
                    }
                }
            },
        }
    }

    /// The connection that a token names, if it still lives.
    fn find(&self, token: Token) -> Option<(Key, Side)> {
        let Target::Connection(key, side) = Target::decode(token) else { return None };
        let connection = self.connections.get(key.slot)?;
        (connection.generation == key.generation).then_some((key, side))
    }

    fn insert(&mut self, mut connection: Connection) -> Key {
        self.generation = Key::generation_after(self.generation);
        connection.generation = self.generation;
        let slot = self.connections.insert(connection);
        Key { slot, generation: self.generation }
    }

    /// The current snapshot, to be held while a decision is taken.
    fn snapshot(&self) -> HeldSnapshot {
        Rc::clone(&self.snapshot)
    }

    fn refresh_snapshot(&mut self) {
        let current = self.reader.load();
        if !Arc::ptr_eq(current, &self.snapshot) {
            self.snapshot = Rc::new(Arc::clone(current));
            self.routes.clear();
            self.timeouts = Limits::from(&*self.snapshot.config);
            self.mark = self.snapshot.config.upstream.mark;
        }
    }

    /// Hands over what is not written to a counter as it happens.
    fn publish_metrics(&mut self) {
        let used = crate::sys::thread::processor_time();
        let used_us = u64::try_from(used.as_micros()).unwrap_or(u64::MAX);
        self.metrics.counters.busy_us.set(used_us);
        self.metrics.publish();
    }

    /// Every connection.
    fn keys(&self) -> Vec<Key> {
        let key = |(slot, connection): (usize, &Connection)| Key {
            slot,
            generation: connection.generation,
        };
        self.connections.iter().map(key).collect()
    }
}

fn micros_between(from: Instant, to: Instant) -> Micros {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
