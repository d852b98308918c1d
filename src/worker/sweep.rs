//! Time: every connection is visited once per period, a slice at a time, without a timer of its
//! own.
//!
//! The period is a twentieth of the shortest timeout, so a timeout is kept to within 5 %. A worker
//! without connections does not wake at all.

use std::time::{Duration, Instant};

use crate::drain::Phase as ProcessPhase;
use crate::gate::Micros;
use crate::metrics::CloseReason;
use crate::sys::kernel::{Kernel, Trimmed};
use crate::worker::connection::Event;
use crate::worker::context::Limits;
use crate::worker::{DrainStage, Worker};

/// Parts of a period: a slice is short even with 100 000 connections.
const SLICES: u64 = 8;

/// Bounds of the period.
pub(super) const PERIOD_US_MIN: Micros = 20_000;
pub(super) const PERIOD_US_MAX: Micros = 1_000_000;

const SECOND_US: Micros = 1_000_000;

impl Limits {
    /// The time from one slice to the next.
    pub(super) fn slice_us(&self) -> Micros {
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
    /// The kernel's end has unused memory to give back.
    untrimmed: bool,
    /// The next slot that may have to give way.
    looked_at: usize,
}

impl Sweep {
    /// The first of the next `count` of `slots`, in turn.
    pub(super) fn next_looked_at(&mut self, count: usize, slots: usize) -> usize {
        let from = if self.looked_at < slots { self.looked_at } else { 0 };
        self.looked_at = from + count;
        from
    }
}

impl<K: Kernel> Worker<K> {
    /// Until when the worker may sleep.
    pub(super) fn sleep_until(&self) -> Option<Instant> {
        let mut until = None;
        let mut not_after = |at: Micros| until = Some(until.map_or(at, |u: Micros| u.min(at)));
        let busy = !self.connections.is_empty() || self.cx.metrics.is_unpublished();
        if busy || self.sweep.untrimmed {
            not_after(self.sweep.next_at);
        }
        if self.cx.review.is_pending() {
            not_after(self.cx.now);
        }
        self.listeners.iter().filter_map(super::Accepting::due).for_each(&mut not_after);
        self.cx.deadlines.next().into_iter().for_each(&mut not_after);
        if let DrainStage::Grace(end) = self.drain_stage {
            not_after(end);
        }
        until.map(|at| self.cx.origin + Duration::from_micros(at))
    }

    /// Does what is due by now.
    pub(super) fn keep_time(&mut self) {
        self.resume_accepts(self.cx.now);
        if self.drain.phase() == ProcessPhase::Draining {
            self.keep_drain();
        }
        if self.sweep.next_at > self.cx.now {
            return;
        }
        self.sweep.next_at = self.cx.now + self.cx.limits.slice_us();
        self.sweep_slice();
        self.shed_stuck();
        if self.drain.deadline().is_some_and(|deadline| deadline <= self.cx.kernel.now()) {
            self.visit(0..usize::MAX, || Event::End(CloseReason::DrainDeadline));
        }
        if self.sweep.second_at <= self.cx.now {
            self.sweep.second_at = self.cx.now + SECOND_US;
            self.cx.publish_metrics();
            self.sweep.untrimmed = self.cx.kernel.trim() == Trimmed::Partly;
        }
    }

    fn sweep_slice(&mut self) {
        let slots = self.connections.capacity();
        let count = slots.div_ceil(usize::try_from(SLICES).unwrap_or(1));
        let from = if self.sweep.cursor >= slots { 0 } else { self.sweep.cursor };
        let to = (from + count).min(slots);
        self.visit(from..to, || Event::Visit);
        self.sweep.cursor = to;
    }
}
