//! The control plane's end of the metrics: knows every worker, sums over them.
//!
//! At start each worker is handed a [`WorkerMetrics`]; from then on the two share only cells, a
//! channel and two histograms. New series are taken from the channel at a scrape and *folded*:
//! equal label sets of several workers become one line. The fold is bounded like each table: first
//! come, first kept; what finds no room stays with one series of its source. A label set leaves the
//! fold when every worker has given it up, with all its flags; until then what a worker has given
//! up still counts, so that no sum goes back.

mod flags;
mod fold;

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::encode::{self, Format};
use super::labels::Labels;
use super::requests::{HistogramSum, Measure, RequestCells};
use super::room::{Room, since};
use super::series::{AddCells, Series, SeriesCells};
use super::timing::{Quantiles, Recorder, Timings, lock};
use super::{Cell, ControlCounters, SeriesTable, WorkerCounters};
use crate::drain::Phase;
use fold::Fold;
pub(super) use fold::Group;

/// What a worker owns of the metrics.
#[derive(Debug)]
pub struct WorkerMetrics {
    /// Counters beside the series.
    pub counters: Arc<WorkerCounters>,
    /// The `istio_tcp_*` series.
    pub series: SeriesTable<SeriesCells>,
    /// The `istio_request*` series.
    pub requests: SeriesTable<RequestCells>,
    recorder: Recorder,
}

impl WorkerMetrics {
    /// The time is now this, in microseconds.
    pub fn set_now(&mut self, now_us: u64) {
        let now = since(now_us);
        self.series.set_now(now);
        self.requests.set_now(now);
    }

    /// A label set without traffic for so long, in microseconds, may give its place away.
    pub fn set_idle(&mut self, idle_us: u64) {
        let idle = since(idle_us).max(1);
        self.series.set_idle(idle);
        self.requests.set_idle(idle);
    }

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
    /// Of label sets, in every worker.
    hashes: RandomState,
    workers: Vec<Worker>,
    connections: Collection<SeriesCells>,
    requests: Collection<RequestCells>,
}

/// The label sets of one kind.
#[derive(Debug)]
struct Collection<C> {
    announce: Sender<Arc<Series<C>>>,
    announced: Receiver<Arc<Series<C>>>,
    fold: Fold<C>,
    room: Arc<Room>,
    /// So many of what workers have given up are cleared away.
    cleared: u64,
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
    /// A hub for so many workers that, each and together, have at most `series_max` label sets of
    /// connections, and as many of requests.
    #[must_use]
    pub fn new(series_max: usize, workers: usize) -> Self {
        let connections = Collection::new(series_max, workers);
        let requests = Collection::new(series_max, workers);
        let (hashes, workers) = Default::default();
        let inner = Inner { series_max, hashes, workers, connections, requests };
        Self { inner: Arc::new(Mutex::new(inner)), control: Arc::default() }
    }

    /// The metrics of worker `id`, to be moved to its thread. Once per worker.
    #[must_use]
    pub fn worker(&self, id: usize) -> WorkerMetrics {
        let counters = Arc::new(WorkerCounters::default());
        let (recorder, timings) = Recorder::new();
        let mut inner = lock(&self.inner);
        let (series_max, hashes) = (inner.series_max, inner.hashes.clone());
        let (announce, room) = inner.connections.for_worker();
        let tables = (hashes.clone(), Arc::clone(&counters));
        let series = SeriesTable::new(series_max, tables.0, announce, tables.1, room);
        let (announce, room) = inner.requests.for_worker();
        let requests = SeriesTable::new(series_max, hashes, announce, Arc::clone(&counters), room);
        inner.workers.push(Worker { id, counters: Arc::clone(&counters), timings });
        WorkerMetrics { counters, series, requests, recorder }
    }

    /// The control plane's own counters.
    #[must_use]
    pub fn control(&self) -> &Arc<ControlCounters> {
        &self.control
    }

    /// A scrape: every metric, in the order of the catalogue, written in small parts. Ten thousand
    /// label sets of requests are half a GiB of text, which nobody should hold as a whole. No lock
    /// is held while it is written.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, format: Format, phase: Phase, out: &mut impl fmt::Write) -> fmt::Result {
        encode::scrape(self.totals(phase), format, out)
    }

    /// A scrape in one piece.
    #[must_use]
    pub fn encode(&self, format: Format, phase: Phase) -> String {
        let mut text = String::new();
        self.write(format, phase, &mut text).expect("writing to a string does not fail");
        text
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

    /// What a scrape shows. The numbers of connections are taken together before a line is written,
    /// because the workers go on counting while the text is built, and opened and closed must fit.
    fn totals(&self, phase: Phase) -> Totals {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let (connections, requests) = (inner.connections.fold(), inner.requests.fold());
        let refused: u64 = inner.workers.iter().map(|w| w.counters.series_refused.get()).sum();
        let folds_refused = connections.refused.len() + requests.refused.len();
        Totals {
            series: connections.show(),
            requests: requests.groups().cloned().collect(),
            series_overflow: refused.wrapping_add(folds_refused as u64),
            timings: inner.timings(),
            workers: inner.workers.iter().map(|w| (w.id, Arc::clone(&w.counters))).collect(),
            control: Arc::clone(&self.control),
            phase,
        }
    }
}

impl<C: AddCells> Collection<C> {
    fn new(series_max: usize, workers: usize) -> Self {
        let (announce, announced) = channel();
        let room = Arc::new(Room::for_workers(workers));
        Self { announce, announced, fold: Fold::new(series_max), room, cleared: 0 }
    }

    /// What a worker's table needs of it.
    fn for_worker(&self) -> (Sender<Arc<Series<C>>>, Arc<Room>) {
        (self.announce.clone(), Arc::clone(&self.room))
    }

    /// The label sets up to now.
    fn fold(&mut self) -> &mut Fold<C> {
        // Before those that come instead.
        let retired = self.room.retired_until_now();
        if retired != self.cleared {
            self.cleared = retired;
            self.fold.clear_retired();
        }
        for series in self.announced.try_iter() {
            self.fold.take(series);
        }
        self.room.set_short(self.fold.is_nearly_full());
        &mut self.fold
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
    /// Their numbers are read as they are written: they are many, and each histogram is whole by
    /// itself.
    pub(super) requests: Vec<Group<RequestCells>>,
    pub(super) series_overflow: u64,
    pub(super) timings: Timings,
    pub(super) workers: Vec<(usize, Arc<WorkerCounters>)>,
    pub(super) control: Arc<ControlCounters>,
    pub(super) phase: Phase,
}

impl Totals {
    /// A cell, summed over the workers.
    pub(super) fn sum(&self, cell: impl Fn(&WorkerCounters) -> &Cell) -> u64 {
        self.workers.iter().fold(0, |sum, (_, w)| sum.wrapping_add(cell(w).get()))
    }
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

impl Group<SeriesCells> {
    fn closed(&self) -> u64 {
        self.total(|cells| &cells.closed)
    }

    fn sum(&self, closed: u64) -> SeriesSum {
        SeriesSum {
            labels: Arc::clone(&self.labels),
            closed,
            opened: self.total(|cells| &cells.opened),
            sent_bytes: self.total(|cells| &cells.sent_bytes),
            received_bytes: self.total(|cells| &cells.received_bytes),
        }
    }

    fn total(&self, cell: fn(&SeriesCells) -> &Cell) -> u64 {
        self.cells().fold(0, |sum, cells| sum.wrapping_add(cell(cells).get()))
    }
}

impl Group<RequestCells> {
    /// How many requests.
    pub(super) fn requests(&self) -> u64 {
        self.cells().fold(0, |sum, cells| sum.wrapping_add(cells.requests()))
    }

    /// One of the histograms.
    pub(super) fn histogram(&self, measure: Measure) -> HistogramSum {
        let mut sum = HistogramSum::new(measure);
        self.cells().for_each(|cells| sum.add(cells));
        sum
    }
}
