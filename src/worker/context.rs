//! What all connections of one worker share, and what each of them may change.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::access_log::{AccessLog, Dropped, Record};
use crate::admission::Admission;
use crate::config::Config;
use crate::failed_addresses::FailedAddresses;
use crate::gate::{HeldSnapshot, Logging, Micros, Tables};
use crate::metrics::{Shed, WorkerMetrics};
use crate::probe::planted;
use crate::questions::{self, Question};
use crate::registry::Reader;
use crate::relay::Side;
use crate::sniff::Name;
use crate::sys::buffers::Buffer;
use crate::sys::kernel::{Errno, Kernel, Recorded};
use crate::sys::pipe::PipePool;
use crate::worker::deadlines::Deadlines;
use crate::worker::review::Review;
use crate::worker::shares::{Share, Shares};
use crate::worker::token::Key;

/// See the module.
#[derive(Debug)]
pub(super) struct Context<K: Kernel> {
    pub(super) kernel: K,
    /// Where the time begins.
    pub(super) origin: Instant,
    /// Coarse: read once per turn.
    pub(super) now: Micros,
    pub(super) recorded: Recorded,
    reader: Reader,
    pub(super) snapshot: HeldSnapshot,
    pub(super) limits: Limits,
    pub(super) tables: Tables,
    pub(super) pipes: PipePool<K::Pipe>,
    /// Directions that wait for a buffer, in order.
    pub(super) starved: VecDeque<(Key, Side)>,
    pub(super) held_acks: HeldAcks,
    pub(super) deadlines: Deadlines,
    pub(super) admission: Arc<Admission>,
    pub(super) failed_addresses: Arc<FailedAddresses>,
    questions: questions::Sender,
    worker: usize,
    pub(super) metrics: WorkerMetrics,
    pub(super) access_log: AccessLog,
    pub(super) shares: Shares,
    pub(super) unverified_log: Seldom,
    /// The memory of what all connections hold back.
    pub(super) held_kib: u64,
    /// So many waiting connections have to give way.
    pub(super) giving_way: u32,
    pub(super) review: Review,
    /// Whether connections with nothing outstanding are to end.
    pub(super) draining: bool,
    workers: u32,
}

/// What a context is made of, apart from the kernel.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) recorded: Recorded,
    pub(super) reader: Reader,
    pub(super) admission: Arc<Admission>,
    pub(super) metrics: WorkerMetrics,
    pub(super) access_log: AccessLog,
    pub(super) failed_addresses: Arc<FailedAddresses>,
    pub(super) questions: questions::Sender,
    /// The worker's own number.
    pub(super) worker: usize,
    pub(super) pipes_max: usize,
    pub(super) workers: u32,
}

/// New upstream connections whose handshake's last segment is held back
/// ([`Kernel::open_socket`]) for two turns: in the first, what the downstream has sent already is
/// received, in the second it is sent.
#[derive(Debug, Default)]
pub(super) struct HeldAcks {
    keys: VecDeque<Key>,
    /// So many of them, from the first on, have had one turn.
    due: usize,
}

impl HeldAcks {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A connection has been made.
    pub(super) fn hold(&mut self, key: Key) {
        self.keys.push_back(key);
    }

    /// The next one that has had its two turns.
    pub(super) fn pop_due(&mut self) -> Option<Key> {
        self.due = self.due.checked_sub(1)?;
        self.keys.pop_front()
    }

    /// A turn begins for those that are left.
    pub(super) fn begin_turn(&mut self) {
        self.due = self.keys.len();
    }
}

/// A log line that peers can cause, and that is written once a second at most.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    /// When the last one was written.
    said: Option<Micros>,
    /// How often there was a reason for one since.
    unsaid: u64,
}

impl Seldom {
    const PERIOD_US: Micros = 1_000_000;

    /// There is a reason for a line: whether it is written, and how many were not before it.
    pub(super) fn may_say(&mut self, now: Micros) -> Option<u64> {
        if self.said.is_some_and(|said| now.saturating_sub(said) < Self::PERIOD_US) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// The timeouts of the current snapshot, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) connect_us: Micros,
    pub(super) idle_us: Micros,
    pub(super) half_close_us: Micros,
    /// How long a name is waited for (`names.deadline`).
    pub(super) name_us: Micros,
    /// How long the rest of a request's head is waited for.
    pub(super) head_us: Micros,
    /// Without traffic for so long a label set may give its place away.
    series_idle_us: Micros,
    /// Connections of one source; `None`: a quarter of all.
    per_source: Option<u32>,
    /// Bytes that all workers together may hold back.
    held_bytes: u64,
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
            head_us: micros(timeouts.head),
            series_idle_us: micros(config.metrics.idle),
            per_source: config.limits.per_source,
            held_bytes: config.limits.held_bytes,
        }
    }
}

impl<K: Kernel> Context<K> {
    pub(super) fn new(kernel: K, shared: Shared) -> Self {
        let mut reader = shared.reader;
        let snapshot = Rc::new(Arc::clone(reader.load()));
        let limits = Limits::from(&*snapshot.config);
        let mut metrics = shared.metrics;
        metrics.set_idle(limits.series_idle_us);
        Self {
            origin: kernel.now(),
            now: 0,
            recorded: shared.recorded,
            limits,
            reader,
            snapshot,
            tables: Tables::default(),
            pipes: PipePool::new(shared.pipes_max),
            starved: VecDeque::new(),
            held_acks: HeldAcks::default(),
            deadlines: Deadlines::default(),
            admission: shared.admission,
            failed_addresses: shared.failed_addresses,
            questions: shared.questions,
            worker: shared.worker,
            metrics,
            access_log: shared.access_log,
            shares: Shares::default(),
            unverified_log: Seldom::default(),
            held_kib: 0,
            giving_way: 0,
            review: Review::default(),
            draining: false,
            workers: shared.workers.max(1),
            kernel,
        }
    }

    /// Takes up a new generation.
    pub(super) fn refresh_snapshot(&mut self) {
        let current = self.reader.load();
        if !Arc::ptr_eq(current, &self.snapshot) && !planted!(SnapshotStale) {
            // When only the addresses of names have changed, the configuration is the same one.
            let are_other_files = !Arc::ptr_eq(&current.config, &self.snapshot.config);
            self.snapshot = Rc::new(Arc::clone(current));
            if are_other_files {
                self.review.begin(self.snapshot.config.outbound_traffic_policy.open_connections);
            }
            self.tables.routes.clear();
            self.limits = Limits::from(&*self.snapshot.config);
            self.metrics.set_idle(self.limits.series_idle_us);
        }
    }

    /// The time of this turn, as the other threads count it.
    pub(super) fn time(&self) -> Instant {
        self.origin + Duration::from_micros(self.now)
    }

    /// Asks for the addresses of a name on behalf of a connection; returns whether there was room
    /// for that.
    pub(super) fn ask(&self, name: &Name, source: IpAddr, key: Key) -> bool {
        let connection = key.to_bits();
        let worker = self.worker;
        self.questions.ask(Question { name: name.clone(), source, worker, connection })
    }

    /// Whether a source has its share of connections, at a time when that counts. The kernel
    /// spreads a source's connections over the workers, so each allows its part.
    pub(super) fn is_over_share(&self, share: Share) -> bool {
        let share_max = self.limits.per_source.unwrap_or(self.admission.connections_max() / 4);
        let everywhere = self.shares.connections(share).saturating_mul(self.workers);
        self.admission.is_crowded() && everywhere >= share_max
    }

    /// What this worker's connections may hold back, in KiB.
    pub(super) fn held_kib_max(&self) -> u64 {
        self.limits.held_bytes / 1024 / u64::from(self.workers)
    }

    /// What one connection holds back is `now` KiB, and was `before`.
    pub(super) fn change_held(&mut self, before: u16, now: u16) {
        self.held_kib = self.held_kib + u64::from(now) - u64::from(before);
        self.metrics.counters.held_bytes.set(self.held_kib * 1024);
    }

    /// Hands over what is not written to a counter as it happens.
    pub(super) fn publish_metrics(&mut self) {
        let used = self.kernel.processor_time();
        let used_us = u64::try_from(used.as_micros()).unwrap_or(u64::MAX);
        self.metrics.counters.busy_us.set(used_us);
        self.metrics.publish();
    }

    /// What a gate has to know of the moment: the time, and whether the access log is on.
    #[inline]
    pub(super) fn moment(&self) -> (Micros, Logging) {
        (self.now, if self.access_log.is_on() { Logging::On } else { Logging::Off })
    }

    pub(super) fn log(&self, record: Record) {
        let Err(dropped) = self.access_log.log(Box::new(record)) else { return };
        self.metrics.counters.access_log_dropped.add(1);
        if dropped == Dropped::Share {
            self.metrics.counters.shed(Shed::LogLines).add(1);
        }
    }

    /// Gives back what a receive has brought that nothing wants.
    pub(super) fn throw_away(&mut self, result: Result<Option<Buffer>, Errno>) {
        if let Ok(Some(unwanted)) = result {
            self.kernel.pool_mut().release(unwanted);
        }
    }

    /// A direction waits for a buffer.
    pub(super) fn starve(&mut self, key: Key, side: Side) {
        self.metrics.counters.buffers_starved.add(1);
        if !planted!(StarvedForgotten) {
            self.starved.push_back((key, side));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_peers_can_cause_is_written_once_a_second_and_counts_the_others() {
        let mut seldom = Seldom::default();
        let at = [0, 1, 999_999, 1_000_000, 1_000_001, 5_000_000, 5_999_999, 6_000_000];
        let said = at.map(|now| seldom.may_say(now));
        assert_eq!(said, [Some(0), None, None, Some(2), None, Some(1), None, Some(1)]);
    }
}
