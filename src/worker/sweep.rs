//! Time: every connection is looked at once per period, a slice at a time, without a timer of its
//! own.
//!
//! The period is a twentieth of the shortest timeout, so a timeout is kept to within 5 %. A worker
//! without connections does not wake at all.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::drain::Phase as ProcessPhase;
use crate::metrics::{CloseReason, Recognised};
use crate::relay::{Half, Side, State};
use crate::sys::ring::{Operation, Ring, Sockets, Trimmed};
use crate::sys::socket::Keepalive;
use crate::worker::accept::AcceptState;
use crate::worker::connection::{Connection, Guide, Micros, Phase, Watched};
use crate::worker::direction::Held;
use crate::worker::http1::Waits;
use crate::worker::stop::DrainStage;
use crate::worker::token::{Key, Target};
use crate::worker::{MICROS_PER_SECOND, RESET_WAIT_US, Worker};

/// Parts of a period: a slice is short even with 100 000 connections.
const SLICES: u64 = 8;

/// Bounds of the period, in microseconds.
const PERIOD_US_MIN: u64 = 20_000;
const PERIOD_US_MAX: u64 = 1_000_000;

/// A half that has been still for so long gives up its receive, and waits for readiness only: that
/// holds a third of the kernel's memory, and costs one more operation when bytes come again.
const PARK_US: u64 = 2 * MICROS_PER_SECOND;

/// Both sides, as conntrack and NAT devices on the way expect some sign of life (product limits).
pub(crate) const KEEPALIVE: Keepalive =
    Keepalive { idle_seconds: 180, interval_seconds: 180, probes: 9 };

/// The timeouts of the current snapshot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) connect_us: u64,
    pub(super) idle_us: u64,
    pub(super) half_close_us: u64,
    /// How long a name is waited for (`names.deadline`).
    pub(super) name_us: u64,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 2);
        let timeouts = &config.timeouts;
        Self {
            name_us: micros(config.names.deadline),
            connect_us: micros(timeouts.connect),
            idle_us: micros(timeouts.idle),
            half_close_us: micros(timeouts.half_close),
        }
    }
}

impl Limits {
    fn slice_us(&self) -> u64 {
        let shortest = self.connect_us.min(self.idle_us).min(self.half_close_us).min(self.name_us);
        (shortest / 20).clamp(PERIOD_US_MIN, PERIOD_US_MAX) / SLICES
    }
}

/// Where the sweep is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    cursor: usize,
    next_at: Micros,
    second_at: Micros,
    /// The ring has unused memory to give back.
    untrimmed: bool,
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Until when the worker may sleep.
    pub(super) fn sleep_until(&self) -> Option<Instant> {
        let mut until = None;
        let mut not_after = |at: Micros| until = Some(until.map_or(at, |u: Micros| u.min(at)));
        let busy = !self.connections.is_empty() || self.metrics.is_unpublished();
        if busy || self.sweep.untrimmed {
            not_after(self.sweep.next_at);
        }
        for accepting in &self.listeners {
            if let AcceptState::Paused(end) = accepting.state {
                not_after(end);
            }
        }
        if let DrainStage::Grace(end) = self.drain_stage {
            not_after(end);
        }
        until.map(|at| self.origin + Duration::from_micros(at))
    }

    /// Does what is due by now.
    pub(super) fn keep_time(&mut self) {
        self.resume_accepts(self.now_us);
        if self.drain.phase() == ProcessPhase::Draining {
            self.keep_drain();
        }
        if self.sweep.next_at > self.now_us {
            return;
        }
        self.sweep.next_at = self.now_us + self.timeouts.slice_us();
        self.sweep_slice();
        if self.drain.deadline().is_some_and(|deadline| deadline <= self.ring.now()) {
            self.end_all(CloseReason::DrainDeadline);
        }
        if self.sweep.second_at <= self.now_us {
            self.sweep.second_at = self.now_us + MICROS_PER_SECOND;
            self.publish_metrics();
            self.sweep.untrimmed = self.ring.trim() == Trimmed::Partly;
        }
    }

    fn sweep_slice(&mut self) {
        let slots = self.connections.capacity();
        let count = slots.div_ceil(usize::try_from(SLICES).unwrap_or(1));
        let from = if self.sweep.cursor >= slots { 0 } else { self.sweep.cursor };
        let to = (from + count).min(slots);
        for slot in from..to {
            let Some(connection) = self.connections.get(slot) else { continue };
            let key = Key { slot, generation: connection.generation };
            self.visit(key);
        }
        self.sweep.cursor = to;
    }

    fn visit(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        match &connection.phase {
            Phase::Recognising { deadline } if *deadline <= self.now_us => {
                self.decide_nameless(key, Recognised::Deadline);
            }
            Phase::Connecting { deadline, .. } if *deadline <= self.now_us => {
                // It completes as cancelled, which is a failed attempt.
                let token = Target::Connection(key, Side::Upstream).encode();
                self.ring.cancel(Operation::Connect, token);
            }
            Phase::Connecting { .. } => {
                // Most are connected before this is worth an operation.
                if self.now_us.saturating_sub(connection.accepted_at) > PERIOD_US_MIN {
                    self.watch(key, Side::Downstream);
                }
            }
            Phase::Relaying => self.visit_relaying(key),
            Phase::Lingering { deadline, reason } if *deadline <= self.now_us => {
                let reason = *reason;
                self.end(key, reason);
            }
            Phase::Answering { reason, .. } => {
                let reason = *reason;
                if self.now_us.saturating_sub(connection.moved_at) >= RESET_WAIT_US {
                    // It does not read.
                    self.end(key, reason);
                }
            }
            Phase::Resetting { .. } => self.continue_reset(key),
            Phase::Retiring { .. } => {
                if self.now_us.saturating_sub(connection.moved_at) >= RESET_WAIT_US {
                    self.end(key, CloseReason::ConnectFailed);
                }
            }
            Phase::Recognising { .. } | Phase::Lingering { .. } | Phase::Closing => {}
        }
    }

    fn visit_relaying(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let still_us = self.now_us.saturating_sub(connection.moved_at);
        let half_closed = connection.directions.iter().any(|direction| direction.half.is_over());
        if half_closed && still_us >= self.timeouts.half_close_us {
            return self.end(key, CloseReason::HalfClose);
        }
        let lost = matches!(&connection.guide, Guide::Http1(http)
            if http.is_lost() && http.waits != Waits::No);
        if lost && still_us >= self.timeouts.half_close_us {
            return self.end(key, CloseReason::HalfClose);
        }
        if still_us >= self.timeouts.idle_us {
            return self.end(key, CloseReason::Idle);
        }
        if !connection.kept_alive {
            // Not at connect: most connections do not live long enough to need it.
            connection.kept_alive = true;
            if let Some(socket) = &connection.end(Side::Upstream).socket
                && let Err(error) = socket.set_keepalive(KEEPALIVE)
            {
                tracing::debug!(%error, "keepalive was refused");
            }
        }
        if self.now_us.saturating_sub(connection.accepted_at) >= self.timeouts.name_us {
            self.settle_nameless(key, Recognised::Deadline);
        }
        for side in Side::BOTH {
            self.take_idle_pipe(key, side, still_us);
            let Some(connection) = self.connections.get(key.slot) else { return };
            let direction = &connection.directions[side as usize];
            if direction.operation == Some(Operation::Receive) && still_us >= PARK_US {
                let token = Target::Connection(key, side).encode();
                self.ring.cancel(Operation::Receive, token);
            }
            if direction.is_lost_early() && still_us >= PERIOD_US_MAX {
                // The kernel does not tell it to a watch again.
                return self.end(key, Connection::loss_of(side));
            }
            let unread = direction.half.is_holding() || direction.operation.is_none();
            if direction.half.is_over() || (unread && still_us >= PERIOD_US_MAX) {
                // Nothing is read from this side (any more, or for now): only a watch finds its
                // reset.
                self.watch(key, side);
            }
        }
    }

    /// A half that has been still for a while does not keep a pipe from others.
    fn take_idle_pipe(&mut self, key: Key, side: Side, still_us: u64) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let direction = connection.direction(side);
        let idle = still_us >= self.timeouts.slice_us();
        if idle
            && direction.half.state() == State::Filling
            && matches!(direction.held, Held::Pipe(_))
        {
            Half::put_pipe_back(&mut direction.half);
            self.drop_held(key, side);
        }
    }

    /// Waits for the death of `side`, unless that is in flight already.
    fn watch(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let end = &mut connection.ends[side as usize];
        if end.watched == Watched::Yes {
            return;
        }
        let Some(socket) = &end.socket else { return };
        self.ring.poll(socket, Operation::Dead, Target::Connection(key, side).encode());
        end.watched = Watched::Yes;
    }
}
