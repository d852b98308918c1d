//! A scrape as text, in the plain text format or as OpenMetrics.
//!
//! `prometheus-client` writes OpenMetrics. The plain text format differs in one thing that matters:
//! a counter's family carries the `_total` of its samples. So there a counter is written under its
//! full name, sample by sample like a gauge, and `promtool` finds type and help of each.
//!
//! Writes as it goes, and keeps no text; knows no sockets (see `control::exporter`).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use strum::VariantArray;

use super::catalogue::{CATALOGUE, Kind, Metric, Row};
use super::hub::{SeriesSum, Totals};
use super::labels::{LabelText, Labels};
use super::requests::Measure;
use super::timing::{Buckets, CONNECT_BOUNDS_US, TURN_BOUNDS_US, seconds};
use super::{
    Cell, CloseReason, DnsResult, Recognised, ReloadResult, ResponseFlags, WorkerCounters,
};
use crate::drain::Phase;
use crate::http1::{Lost, RefusalKind};
use crate::http2::FrameErrorKind;
use crate::sniff::NameError;

/// How a scrape is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The plain text format of Prometheus, version 0.0.4.
    #[default]
    Text,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header prefers; plain text when it leaves the choice.
    #[must_use]
    pub fn from_accept(accept: &str) -> Self {
        let weight = |wanted: &str| {
            accept
                .split(',')
                .filter(|range| range.split(';').next().is_some_and(|t| t.trim() == wanted))
                .map(quality)
                .fold(0.0, f32::max)
        };
        let open = weight("application/openmetrics-text");
        let plain = weight("text/plain").max(weight("text/*")).max(weight("*/*"));
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of a scrape.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The `q` of one media range: 1 unless it says otherwise, 0 when it cannot be read.
fn quality(range: &str) -> f32 {
    let q = range.split(';').skip(1).find_map(|p| p.trim().strip_prefix("q="));
    q.map_or(1.0, |q| q.trim().parse().unwrap_or(0.0))
}

/// Writes a scrape, piece by piece.
pub(super) fn scrape(totals: Totals, format: Format, out: &mut impl fmt::Write) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { totals, format }));
    text::encode_registry(out, &registry)?;
    match format {
        Format::OpenMetrics => text::encode_eof(out),
        Format::Text => Ok(()),
    }
}

#[derive(Debug)]
struct Scrape {
    totals: Totals,
    format: Format,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for row in CATALOGUE {
            let (name, kind) = match (row.kind, self.format) {
                (Kind::Counter, Format::Text) => (row.name, MetricType::Counter),
                (Kind::Counter, Format::OpenMetrics) => (row.family(), MetricType::Counter),
                (Kind::Gauge, _) => (row.name, MetricType::Gauge),
                (Kind::Histogram, _) => (row.name, MetricType::Histogram),
            };
            let encoder = encoder.encode_descriptor(name, row.help, None, kind)?;
            let mut family = Family { encoder, format: self.format, kind: row.kind };
            self.values(row, &mut family)?;
        }
        Ok(())
    }
}

impl Scrape {
    // tidy: long, because the compiler then asks for each metric's values.
    fn values(&self, row: &Row, family: &mut Family<'_>) -> fmt::Result {
        let totals = &self.totals;
        match row.metric {
            Metric::Opened => self.series(family, |s| s.opened),
            Metric::Closed => self.all_series(family, |s| s.closed),
            Metric::Requests => {
                family.series(totals.requests.iter().map(|r| (&*r.labels, r.requests())))
            }
            Metric::RequestDuration => self.requests(family, Measure::Duration),
            Metric::RequestBytes => self.requests(family, Measure::RequestBytes),
            Metric::ResponseBytes => self.requests(family, Measure::ResponseBytes),
            Metric::SentBytes => self.series(family, |s| s.sent_bytes),
            Metric::ReceivedBytes => self.series(family, |s| s.received_bytes),
            Metric::ConnectionsActive => self.sum(family, |w| &w.connections_active),
            Metric::WorkerConnectionsActive => {
                self.by_worker(family, |w| Number::Whole(w.connections_active.get()))
            }
            Metric::Accepts => self.accepts(family),
            Metric::SelfCalls => self.sum(family, |w| &w.self_call),
            Metric::ConnectionsClosed => {
                self.by_label::<CloseReason>(family, "reason", |w| &w.closed)
            }
            Metric::ConnectDuration => {
                family.histogram(&totals.timings.connect.buckets(CONNECT_BOUNDS_US))
            }
            Metric::CopiedBytes => self.sum(family, |w| &w.bytes_copied),
            Metric::SplicedBytes => self.sum(family, |w| &w.bytes_spliced),
            Metric::PipesInUse => self.sum(family, |w| &w.pipes_in_use),
            Metric::PipeFallbacks => self.sum(family, |w| &w.pipe_fallbacks),
            Metric::BuffersStarved => self.sum(family, |w| &w.buffers_starved),
            Metric::CompletionQueueOverflows => self.sum(family, |w| &w.cq_overflow),
            Metric::WorkerBusySeconds => {
                self.by_worker(family, |w| Number::Seconds(seconds(w.busy_us.get())))
            }
            Metric::WorkerTurns => self.by_worker(family, |w| Number::Whole(w.turns.get())),
            Metric::WorkerCompletions => {
                self.by_worker(family, |w| Number::Whole(w.completions.get()))
            }
            Metric::TurnDuration => family.histogram(&totals.timings.turn.buckets(TURN_BOUNDS_US)),
            Metric::Series => self.series_counts(family),
            Metric::SeriesOverflow => family.number(Number::Whole(totals.series_overflow)),
            Metric::Recognised => self.by_label::<Recognised>(family, "result", |w| &w.recognised),
            Metric::Recognising => self.sum(family, |w| &w.recognising),
            Metric::RecognisingBytes => self.sum(family, |w| &w.recognising_bytes),
            Metric::UnverifiedNames => self.sum(family, |w| &w.unverified_names),
            Metric::NameConflicts => self.sum(family, |w| &w.name_conflicts),
            Metric::JunkNames => self.by_label::<NameError>(family, "reason", |w| &w.junk_names),
            Metric::RefusedRequests => {
                self.by_label::<RefusalKind>(family, "reason", |w| &w.refused_requests)
            }
            Metric::UnframedAnswers => {
                self.by_label::<Lost>(family, "reason", |w| &w.unframed_answers)
            }
            Metric::RefusedFrames => {
                self.by_label::<FrameErrorKind>(family, "reason", |w| &w.refused_frames)
            }
            Metric::UpstreamSwitches => self.sum(family, |w| &w.upstream_switches),
            Metric::BlockedStreams => self.sum(family, |w| &w.blocked_streams),
            Metric::AccessLogDropped => self.sum(family, |w| &w.access_log_dropped),
            Metric::AccessLogLines => {
                family.number(Number::Whole(totals.control.access_log_lines.get()))
            }
            Metric::AccessLogLost => {
                family.number(Number::Whole(totals.control.access_log_lost.get()))
            }
            Metric::ConfigGeneration => {
                family.number(Number::Whole(totals.control.config_generation.get()))
            }
            Metric::ConfigReloads => {
                let counts = totals.control.reloads.iter().map(Cell::get);
                family.by_label::<ReloadResult>("result", counts)
            }
            Metric::ConfigLastSuccess => {
                family.number(Number::Whole(totals.control.config_last_success_s.get()))
            }
            Metric::DnsResolutions => {
                let counts = totals.control.dns_resolutions.iter().map(Cell::get);
                family.by_label::<DnsResult>("result", counts)
            }
            Metric::DnsNames => family.number(Number::Whole(totals.control.dns_names.get())),
            Metric::Phase => PHASES.into_iter().try_for_each(|(phase, label)| {
                let here = u64::from(phase == totals.phase);
                family.labelled("phase", label, Number::Whole(here))
            }),
            Metric::OpenDescriptors => family.number(Number::Whole(open_descriptors())),
            Metric::DescriptorsLimit => family.number(Number::Whole(descriptors_limit())),
            Metric::BuildInfo => {
                family.labelled("version", env!("CARGO_PKG_VERSION"), Number::Whole(1))
            }
        }
    }

    /// Every series, those with flags included.
    fn all_series(&self, family: &mut Family<'_>, value: fn(&SeriesSum) -> u64) -> fmt::Result {
        family.series(self.totals.series.iter().map(|s| (&*s.labels, value(s))))
    }

    /// The series without flags: the flags are known at the end, when only the close is counted.
    fn series(&self, family: &mut Family<'_>, value: fn(&SeriesSum) -> u64) -> fmt::Result {
        let series = self.totals.series.iter().filter(|s| s.labels.flags == ResponseFlags::None);
        family.series(series.map(|s| (&*s.labels, value(s))))
    }

    fn requests(&self, family: &mut Family<'_>, measure: Measure) -> fmt::Result {
        let mut text = LabelText::default();
        self.totals.requests.iter().try_for_each(|group| {
            let sum = group.histogram(measure);
            let mut encoder = family.encoder.encode_family(text.replace(&group.labels))?;
            encoder.encode_histogram::<NoLabelSet>(sum.sum(), sum.count(), &sum.buckets(), None)
        })
    }

    /// One value per variant of `E`, over all workers.
    fn by_label<E: LabelValues>(
        &self,
        family: &mut Family<'_>,
        name: &str,
        cells: fn(&WorkerCounters) -> &[Cell],
    ) -> fmt::Result {
        let counts = (0..E::VARIANTS.len()).map(|at| self.total(|worker| &cells(worker)[at]));
        family.by_label::<E>(name, counts)
    }

    fn accepts(&self, family: &mut Family<'_>) -> fmt::Result {
        let results: [(&str, CellOf); 4] = [
            ("accepted", |w| &w.accepted),
            ("refused_limit", |w| &w.refused_limit),
            ("self_call", |w| &w.self_call),
            ("error", |w| &w.accept_error),
        ];
        results.into_iter().try_for_each(|(result, cell)| {
            family.labelled("result", result, Number::Whole(self.total(cell)))
        })
    }

    fn total(&self, cell: impl Fn(&WorkerCounters) -> &Cell) -> u64 {
        self.totals.workers.iter().fold(0, |sum, (_, w)| sum.wrapping_add(cell(w).get()))
    }

    fn sum(&self, family: &mut Family<'_>, cell: CellOf) -> fmt::Result {
        family.number(Number::Whole(self.total(cell)))
    }

    fn by_worker(
        &self,
        family: &mut Family<'_>,
        value: fn(&WorkerCounters) -> Number,
    ) -> fmt::Result {
        self.totals
            .workers
            .iter()
            .try_for_each(|(id, w)| family.labelled("worker", &id.to_string(), value(w)))
    }

    fn series_counts(&self, family: &mut Family<'_>) -> fmt::Result {
        let counts =
            [("connections", self.totals.series.len()), ("requests", self.totals.requests.len())];
        counts.into_iter().try_for_each(|(kind, count)| {
            family.labelled("kind", kind, Number::Whole(count as u64))
        })
    }
}

/// The enums that are the values of a label.
trait LabelValues: VariantArray + Copy + Into<&'static str> {}
impl<E: VariantArray + Copy + Into<&'static str>> LabelValues for E {}

/// Picks one cell of a worker.
type CellOf = fn(&WorkerCounters) -> &Cell;

/// A value as it is printed.
#[derive(Debug, Clone, Copy)]
enum Number {
    Whole(u64),
    Seconds(f64),
}

/// The lines of one metric.
struct Family<'a> {
    encoder: MetricEncoder<'a>,
    format: Format,
    kind: Kind,
}

impl Family<'_> {
    fn number(&mut self, value: Number) -> fmt::Result {
        write_number(&mut self.encoder, self.format, self.kind, value)
    }

    fn with<L: EncodeLabelSet>(&mut self, labels: &L, value: Number) -> fmt::Result {
        let (format, kind) = (self.format, self.kind);
        write_number(&mut self.encoder.encode_family(labels)?, format, kind, value)
    }

    /// One line per label set.
    fn series<'l>(&mut self, mut lines: impl Iterator<Item = (&'l Labels, u64)>) -> fmt::Result {
        let mut text = LabelText::default();
        lines.try_for_each(|(labels, n)| self.with(text.replace(labels), Number::Whole(n)))
    }

    fn labelled(&mut self, name: &str, label: &str, value: Number) -> fmt::Result {
        self.with(&[(name, label)], value)
    }

    /// One line per variant of `E`, in the order of declaration.
    fn by_label<E: LabelValues>(
        &mut self,
        name: &str,
        counts: impl Iterator<Item = u64>,
    ) -> fmt::Result {
        let mut lines = E::VARIANTS.iter().zip(counts);
        lines.try_for_each(|(label, n)| self.labelled(name, (*label).into(), Number::Whole(n)))
    }

    fn histogram(&mut self, buckets: &Buckets) -> fmt::Result {
        let Buckets { sum_seconds, count, counts } = buckets;
        self.encoder.encode_histogram::<NoLabelSet>(*sum_seconds, *count, counts, None)
    }
}

fn write_number(
    encoder: &mut MetricEncoder<'_>,
    format: Format,
    kind: Kind,
    value: Number,
) -> fmt::Result {
    match (kind, format, value) {
        (Kind::Counter, Format::OpenMetrics, Number::Whole(n)) => {
            encoder.encode_counter::<NoLabelSet, u64, u64>(&n, None)
        }
        (Kind::Counter, Format::OpenMetrics, Number::Seconds(n)) => {
            encoder.encode_counter::<NoLabelSet, f64, u64>(&n, None)
        }
        (_, _, Number::Whole(n)) => encoder.encode_gauge(&n),
        (_, _, Number::Seconds(n)) => encoder.encode_gauge(&n),
    }
}

/// The phases and their labels.
const PHASES: [(Phase, &str); 3] =
    [(Phase::Starting, "starting"), (Phase::Serving, "serving"), (Phase::Draining, "draining")];

/// Descriptors that the process holds. The size of the directory is their number since Linux 6.2
/// (proc_pid_fd(5)); before, it is 0 and they are counted one by one.
fn open_descriptors() -> u64 {
    match std::fs::metadata("/proc/self/fd").map(|directory| directory.len()) {
        Ok(0) => std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        Ok(count) => count,
        Err(_) => 0,
    }
}

fn descriptors_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}
