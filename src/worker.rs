//! The worker: one pinned thread, one ring, one listener per address, its own connections and
//! counters.
//!
//! One loop. A turn hands the queued operations to the kernel, sleeps until something completes,
//! and gives each completion to its connection as an event ([`connection`]); what a connection does
//! about it, it does with what all of them share ([`context`]). The worker itself knows no
//! protocol. Nothing here waits for anything but the ring, takes a lock that another thread may
//! hold for long, or allocates per message on a connection without a gate.
//!
//! [`listener`] goes from an accept to a slot, [`sweep`] and [`deadlines`] keep the time,
//! `pressure` takes from the greediest when something runs short, `review` ends what a new policy
//! forbids, `commands` answers the control plane, [`account`] is where connections and requests are
//! counted.

mod account;
mod commands;
mod connection;
mod context;
mod deadlines;
mod listener;
mod pressure;
mod review;
mod shares;
mod sweep;
mod token;

#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use slab::Slab;

use crate::access_log::AccessLog;
use crate::admission::Admission;
use crate::commands::Command;
use crate::drain::{Drain, Phase as ProcessPhase};
use crate::failed_addresses::FailedAddresses;
use crate::gate::Micros;
use crate::metrics::WorkerMetrics;
use crate::questions;
use crate::registry::Reader;
use crate::sys::kernel::{Completion, Errno, Kernel, Recorded};
use crate::sys::socket::Keepalive;
use crate::sys::waker::Waker;
use connection::{Arrived, Connection, Event, Fate};
use context::Context;
use listener::{Accepting, Admitted};
use sweep::Sweep;
use token::{Key, SLOTS_MAX, Target};

/// Both sides, as conntrack and NAT devices on the way expect some sign of life (product limits).
pub(crate) const KEEPALIVE: Keepalive =
    Keepalive { idle_seconds: 180, interval_seconds: 180, probes: 9 };

/// One turn in so many is timed: a look at the clock is a fiftieth of what a small message costs.
const TURNS_PER_TIMED: u64 = 16;

/// How long a draining worker goes on accepting handshakes that had begun before. New ones are not
/// begun any more, so this needs to cover one round trip to the workload, not more.
const ACCEPT_GRACE_US: Micros = 200_000;

/// What a worker is made of, apart from its kernel, whose ring must be made on its thread.
#[derive(Debug)]
pub struct Parts<L> {
    /// Counted from 0.
    pub id: usize,
    /// Listening sockets of this worker alone.
    pub listeners: Vec<L>,
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
    pub inbox: Receiver<Command>,
    /// Ends a wait when there is a request.
    pub waker: Waker,
    /// Where the names go that are to be resolved.
    pub questions: questions::Sender,
    /// Shared by all workers.
    pub failed_addresses: Arc<FailedAddresses>,
    /// Pipes that may be lent to connections at a time.
    pub pipes_max: usize,
    /// How many workers there are: what all of them may hold is shared by so many.
    pub workers: u32,
}

/// How far a worker's drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrainStage {
    /// It has not begun.
    Serving,
    /// Handshakes under way are still accepted, until this time.
    Grace(Micros),
    /// The listeners are closed as soon as they are empty.
    Closing,
}

/// The worker.
#[derive(Debug)]
pub struct Worker<K: Kernel> {
    id: usize,
    connections: Slab<Connection<K>>,
    generation: u32,
    listeners: Vec<Accepting<K::Listener>>,
    drain_stage: DrainStage,
    drain: Drain,
    inbox: Receiver<Command>,
    waker: Waker,
    sweep: Sweep,
    cx: Context<K>,
}

impl<K: Kernel> Worker<K> {
    /// A worker that accepts nothing yet.
    pub fn new(parts: Parts<K::Listener>, kernel: K) -> Self {
        let accepting = |(index, listener)| Accepting::new(index, listener);
        Self {
            id: parts.id,
            connections: Slab::new(),
            generation: 0,
            listeners: parts.listeners.into_iter().enumerate().map(accepting).collect(),
            drain_stage: DrainStage::Serving,
            drain: parts.drain,
            inbox: parts.inbox,
            waker: parts.waker,
            sweep: Sweep::default(),
            cx: Context::new(
                kernel,
                context::Shared {
                    recorded: parts.recorded,
                    reader: parts.reader,
                    admission: parts.admission,
                    metrics: parts.metrics,
                    access_log: parts.access_log,
                    failed_addresses: parts.failed_addresses,
                    questions: parts.questions,
                    worker: parts.id,
                    pipes_max: parts.pipes_max,
                    workers: parts.workers,
                },
            ),
        }
    }

    /// Serves until a drain is complete.
    ///
    /// # Errors
    /// The ring has failed. The caller must end the process: this worker's share of the connections
    /// cannot go on.
    pub fn run(mut self) -> io::Result<()> {
        self.cx.kernel.poll_waker(&self.waker, Target::Commands.encode());
        self.resume_accepts(0);
        while !self.is_drained() {
            self.turn()?;
        }
        self.cx.publish_metrics();
        // The last closes.
        self.cx.kernel.submit()
    }

    fn turn(&mut self) -> io::Result<()> {
        if !self.cx.held_acks.is_empty() {
            // What is to carry them may never come.
            self.cx.kernel.hurry();
        }
        self.cx.kernel.wait(self.sleep_until())?;
        let began = self.cx.kernel.now();
        self.cx.now = micros_between(self.cx.origin, began);
        self.cx.metrics.set_now(self.cx.now);
        self.cx.refresh_snapshot();
        self.release_acks();
        let mut completions = 0;
        while let Some(completion) = self.cx.kernel.next_completion() {
            self.dispatch(completion);
            completions += 1;
        }
        self.review_some();
        self.serve_starved();
        self.meet_deadlines();
        self.shed_held();
        self.keep_time();
        let counters = &self.cx.metrics.counters;
        counters.turns.add(1);
        counters.completions.add(completions);
        counters.cq_overflow.set(self.cx.kernel.overflows());
        if counters.turns.get().is_multiple_of(TURNS_PER_TIMED) {
            let took = self.cx.kernel.now().saturating_duration_since(began);
            self.cx.metrics.record_turn(took);
        }
        Ok(())
    }

    fn dispatch(&mut self, completion: Completion<K::Socket>) {
        match completion {
            Completion::Accepted { token, result, rearm } => {
                if let Target::Listener(index) = Target::decode(token) {
                    self.on_accepted(index, result, rearm);
                }
            }
            Completion::Connected { token, result } => {
                if let Target::Attempt(key, number) = Target::decode(token) {
                    self.with(key, Event::Connected { number, result });
                }
            }
            Completion::Received { token, result, expect, rearm } => {
                if let Target::Connection(key, side) = Target::decode(token) {
                    let arrived = Arrived { result, expect };
                    self.with(key, Event::Received { side, arrived, rearm });
                }
            }
            Completion::Sent { token, result } => {
                if let Target::Connection(key, side) = Target::decode(token) {
                    self.with(key, Event::Sent { side, result });
                }
            }
            Completion::Ready { token, operation, result } => match Target::decode(token) {
                Target::Commands => self.on_commands(),
                Target::Listener(_) | Target::Attempt(..) => {}
                Target::Connection(key, side) => {
                    self.with(key, Event::Ready { side, operation, result });
                }
            },
        }
    }

    /// Gives an event to its connection, if that still lives. The only look-up by key.
    fn with(&mut self, key: Key, event: Event) {
        let slot = key.slot as usize;
        match self.connections.get_mut(slot).filter(|connection| connection.key == key) {
            Some(connection) => {
                if connection.on(event, &mut self.cx) == Fate::Over {
                    connection.give_back(&mut self.cx);
                    self.remove(slot);
                }
            }
            None => event.discard(&mut self.cx),
        }
    }

    /// Tells the connections whose short deadlines have passed.
    fn meet_deadlines(&mut self) {
        while let Some(key) = self.cx.deadlines.pop_due(self.cx.now) {
            self.with(key, Event::Due);
        }
    }

    /// Gives an event to every connection in these slots.
    fn visit(&mut self, slots: Range<usize>, event: impl Fn() -> Event) {
        for slot in slots.start..slots.end.min(self.connections.capacity()) {
            if let Some(connection) = self.connections.get_mut(slot)
                && connection.on(event(), &mut self.cx) == Fate::Over
            {
                connection.give_back(&mut self.cx);
                self.remove(slot);
            }
        }
    }

    /// A connection is over, and has given everything back.
    fn remove(&mut self, slot: usize) {
        self.connections.remove(slot);
        // A descriptor is free again: accepts that ran out of them can go on.
        self.resume_accepts(Micros::MAX);
    }

    /// A connection has a slot.
    fn insert(&mut self, admitted: Admitted<K::Socket>) {
        self.generation = Key::generation_after(self.generation);
        let entry = self.connections.vacant_entry();
        let slot = entry.key();
        assert!(slot < SLOTS_MAX, "a token cannot name slot {slot}");
        let key = Key { slot: u32::try_from(slot).unwrap_or(0), generation: self.generation };
        self.cx.shares.enter(admitted.share, admitted.source.ip(), key.slot);
        let connection = entry.insert(Connection::new(key, admitted, self.cx.now));
        if connection.begin(&mut self.cx) == Fate::Over {
            connection.give_back(&mut self.cx);
            self.remove(slot);
        }
    }

    /// Lets go of the handshakes' last segments that no bytes have carried by now.
    fn release_acks(&mut self) {
        while let Some(key) = self.cx.held_acks.pop_due() {
            self.with(key, Event::HandshakeAckDue);
        }
        self.cx.held_acks.begin_turn();
    }

    /// Serves the directions that found no buffer, as far as there are buffers now.
    fn serve_starved(&mut self) {
        let chances = self.cx.starved.len().min(self.cx.kernel.pool().free());
        for _ in 0..chances {
            let Some((key, side)) = self.cx.starved.pop_front() else { return };
            self.with(key, Event::BufferFree(side));
        }
    }

    /// An accept brought a connection, or failed.
    fn on_accepted(&mut self, index: usize, result: Result<K::Socket, Errno>, ended: bool) {
        let failure = match result {
            Ok(socket) => {
                self.take_in(socket);
                None
            }
            Err(Errno::ECANCELED) => None,
            Err(error) => {
                self.cx.metrics.counters.accept_error.add(1);
                tracing::debug!(%error, "accept failed");
                Some(error)
            }
        };
        if ended && self.listeners[index].ended(failure, &mut self.cx) {
            self.empty_and_close(index);
        }
    }

    fn take_in(&mut self, socket: K::Socket) {
        if let Some(admitted) = self.cx.admit(socket) {
            self.make_room(admitted.share);
            self.insert(admitted);
        }
    }

    /// Arms the accepts whose pause is over at `until`.
    fn resume_accepts(&mut self, until: Micros) {
        for index in 0..self.listeners.len() {
            match self.listeners[index].due() {
                Some(at) if at > until => {}
                None => {}
                Some(_) if self.listeners[index].begins_to_empty() => self.empty_and_close(index),
                Some(_) => self.listeners[index].arm(&mut self.cx),
            }
        }
    }

    /// Takes what is still queued, and closes the listener.
    fn empty_and_close(&mut self, index: usize) {
        loop {
            let may_wait = !self.connections.is_empty();
            let Some(socket) = self.listeners[index].take_queued(may_wait, self.cx.now) else {
                return;
            };
            self.take_in(socket);
        }
    }

    /// Goes on with the drain: refuses new handshakes, and closes the listeners after their grace.
    fn keep_drain(&mut self) {
        match self.drain_stage {
            DrainStage::Serving => {
                self.cx.draining = true;
                self.drain_stage = DrainStage::Grace(self.cx.now + ACCEPT_GRACE_US);
                for listener in &self.listeners {
                    if let Err(error) = listener.refuse_new_handshakes() {
                        let message = "new handshakes cannot be refused, some may be reset";
                        tracing::warn!(%error, "{message}");
                        break;
                    }
                }
            }
            DrainStage::Grace(end) if end <= self.cx.now => {
                self.drain_stage = DrainStage::Closing;
                for index in 0..self.listeners.len() {
                    if self.listeners[index].close(&mut self.cx) {
                        self.empty_and_close(index);
                    }
                }
            }
            DrainStage::Grace(_) | DrainStage::Closing => {}
        }
    }

    /// Whether a drain has begun and nothing is left.
    fn is_drained(&self) -> bool {
        self.drain.phase() == ProcessPhase::Draining
            && self.listeners.iter().all(Accepting::is_closed)
            && self.connections.is_empty()
    }
}

#[inline]
fn micros_between(from: Instant, to: Instant) -> Micros {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
