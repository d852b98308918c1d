//! The control plane's end of the metrics: knows every worker, sums over them.
//!
//! At start each worker is handed a [`WorkerMetrics`]; from then on the two share only cells, a
//! channel and two histograms. New series are taken from the channel at a scrape and *folded*:
//! equal label sets of several workers become one line. The fold is bounded like each table: first
//! come, first kept; what finds no room stays with one series for good, so that no sum ever goes
//! back.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::encode::{self, Format};
use super::labels::Labels;
use super::series::{AlreadyHashed, Overflow, Series};
use super::timing::{Quantiles, Recorder, Timings, lock};
use super::{ControlCounters, SeriesTable, WorkerCounters};
use crate::drain::Phase;

/// What a worker owns of the metrics.
#[derive(Debug)]
pub struct WorkerMetrics {
    /// Counters beside the series.
    pub counters: Arc<WorkerCounters>,
    /// The `istio_tcp_*` series.
    pub series: SeriesTable,
    recorder: Recorder,
}

impl WorkerMetrics {
    /// Records the time from the start of a connect to the established connection.
    pub fn record_connect(&mut self, duration: Duration) {
        self.recorder.connect(duration);
    }

    /// Records the busy part of one loop turn.
    pub fn record_turn(&mut self, duration: Duration) {
        self.recorder.turn(duration);
    }

    /// Whether there are connect durations to hand over. Turns do not count: the one that hands
    /// over is recorded after it, and would keep an idle worker awake.
    #[must_use]
    pub fn is_unpublished(&self) -> bool {
        self.recorder.is_unpublished()
    }

    /// Hands the recorded durations to the control plane; never waits. Some 20 microseconds of
    /// work: call it about once per second.
    pub fn publish(&mut self) {
        self.recorder.publish();
    }
}

/// Every worker's metrics, and the control plane's own. Clones share one hub.
#[derive(Debug, Clone)]
pub struct MetricsHub {
    inner: Arc<Mutex<Inner>>,
    control: Arc<ControlCounters>,
}

#[derive(Debug)]
struct Inner {
    series_max: usize,
    workers: Vec<Worker>,
    announce: Sender<Arc<Series>>,
    announced: Receiver<Arc<Series>>,
    fold: Fold,
}

/// One worker, as the control plane sees it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: usize,
    pub(super) counters: Arc<WorkerCounters>,
    timings: Arc<Mutex<Timings>>,
}

/// Latency in a few numbers, over all workers since the start.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latencies {
    /// From the start of a connect to the established connection.
    pub connect: Quantiles,
    /// The busy part of a loop turn.
    pub turn: Quantiles,
}

impl MetricsHub {
    /// A hub whose workers, each and together, have at most `series_max` label sets.
    #[must_use]
    pub fn new(series_max: usize) -> Self {
        let (announce, announced) = channel();
        let fold = Fold::new(series_max);
        let inner = Inner { series_max, workers: Vec::new(), announce, announced, fold };
        Self { inner: Arc::new(Mutex::new(inner)), control: Arc::default() }
    }

    /// The metrics of worker `id`, to be moved to its thread. Once per worker.
    #[must_use]
    pub fn worker(&self, id: usize) -> WorkerMetrics {
        let counters = Arc::new(WorkerCounters::default());
        let (recorder, timings) = Recorder::new();
        let mut inner = lock(&self.inner);
        let series =
            SeriesTable::new(inner.series_max, inner.announce.clone(), Arc::clone(&counters));
        inner.workers.push(Worker { id, counters: Arc::clone(&counters), timings });
        WorkerMetrics { counters, series, recorder }
    }

    /// The control plane's own counters.
    #[must_use]
    pub fn control(&self) -> &Arc<ControlCounters> {
        &self.control
    }

    /// A scrape: every metric, in the order of the catalogue.
    #[must_use]
    pub fn encode(&self, format: Format, phase: Phase) -> String {
        encode::scrape(self.totals(phase), format)
    }

    /// Connections that the workers hold now.
    #[must_use]
    pub fn connections_active(&self) -> u64 {
        lock(&self.inner).workers.iter().map(|w| w.counters.connections_active.get()).sum()
    }

    /// Connect durations and loop turns since the start, as quantiles.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        let timings = lock(&self.inner).timings();
        Latencies { connect: timings.connect.quantiles(), turn: timings.turn.quantiles() }
    }

    /// What a scrape shows, taken together before a line is written: the workers go on counting
    /// while the text is built.
    fn totals(&self, phase: Phase) -> Totals {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        for series in inner.announced.try_iter() {
            inner.fold.take(series);
        }
        let refused: u64 = inner.workers.iter().map(|w| w.counters.series_refused.get()).sum();
        Totals {
            series: inner.fold.sums(),
            series_count: inner.fold.len() as u64,
            series_overflow: refused.wrapping_add(inner.fold.refused.len() as u64),
            timings: inner.timings(),
            workers: inner.workers.iter().map(|w| (w.id, Arc::clone(&w.counters))).collect(),
            control: Arc::clone(&self.control),
            phase,
        }
    }
}

impl Inner {
    fn timings(&self) -> Timings {
        let mut sum = Timings::new();
        for worker in &self.workers {
            sum.add(&lock(&worker.timings));
        }
        sum
    }
}

/// Everything that a scrape shows.
#[derive(Debug)]
pub(super) struct Totals {
    pub(super) series: Vec<SeriesSum>,
    pub(super) series_count: u64,
    pub(super) series_overflow: u64,
    pub(super) timings: Timings,
    pub(super) workers: Vec<(usize, Arc<WorkerCounters>)>,
    pub(super) control: Arc<ControlCounters>,
    pub(super) phase: Phase,
}

/// One label set, summed over the workers.
#[derive(Debug, Clone)]
pub(super) struct SeriesSum {
    pub(super) labels: Arc<Labels>,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

/// The label sets of all workers, equal ones together.
#[derive(Debug)]
struct Fold {
    series_max: usize,
    groups: Vec<Group>,
    /// Hash to the groups with that hash.
    by_hash: HashMap<u64, Vec<usize>, BuildHasherDefault<AlreadyHashed>>,
    /// What found no room, here or at a worker.
    other: Option<Group>,
    /// The label sets that found no room here, by hash: to count each once.
    refused: HashSet<u64, BuildHasherDefault<AlreadyHashed>>,
}

#[derive(Debug)]
struct Group {
    labels: Arc<Labels>,
    parts: Vec<Arc<Series>>,
}

impl Fold {
    fn new(series_max: usize) -> Self {
        let (by_hash, refused) = (HashMap::default(), HashSet::default());
        Self { series_max, groups: Vec::new(), by_hash, other: None, refused }
    }

    fn len(&self) -> usize {
        self.groups.len() + usize::from(self.other.is_some())
    }

    /// Gives a worker's series its place, for good.
    fn take(&mut self, series: Arc<Series>) {
        if series.overflow == Overflow::Yes {
            self.other().parts.push(series);
            return;
        }
        let same_hash = self.by_hash.entry(series.hash).or_default();
        let place = same_hash.iter().find(|at| *self.groups[**at].labels == series.labels);
        if let Some(at) = place {
            self.groups[*at].parts.push(series);
        } else if self.groups.len() < self.series_max {
            same_hash.push(self.groups.len());
            let labels = Arc::new(series.labels.clone());
            self.groups.push(Group { labels, parts: vec![series] });
        } else {
            self.refused.insert(series.hash);
            self.other().parts.push(series);
        }
    }

    fn other(&mut self) -> &mut Group {
        self.other
            .get_or_insert_with(|| Group { labels: Arc::new(Labels::other()), parts: Vec::new() })
    }

    fn sums(&self) -> Vec<SeriesSum> {
        self.groups.iter().chain(&self.other).map(Group::sum).collect()
    }
}

impl Group {
    fn sum(&self) -> SeriesSum {
        let sum = |cell: fn(&Series) -> u64| {
            self.parts.iter().fold(0_u64, |sum, part| sum.wrapping_add(cell(part)))
        };
        // Closed before opened: a connection that opens and closes meanwhile shows as open, and
        // opened minus closed is never negative.
        let closed = sum(|s| s.cells.closed.get());
        SeriesSum {
            labels: Arc::clone(&self.labels),
            closed,
            opened: sum(|s| s.cells.opened.get()),
            sent_bytes: sum(|s| s.cells.sent_bytes.get()),
            received_bytes: sum(|s| s.cells.received_bytes.get()),
        }
    }
}
