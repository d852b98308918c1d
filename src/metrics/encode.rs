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
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
    NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use strum::VariantArray;

use super::catalogue::{CATALOGUE, Kind};
use super::hub::{SeriesSum, Totals};
use super::labels::{LabelText, Labels};
use super::requests::Measure;
use super::timing::{Buckets, Timings, seconds};
use super::{Cell, ControlCounters, ResponseFlags, WorkerCounters};

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
            let as_counter = row.kind == Kind::Counter && self.format == Format::OpenMetrics;
            (row.values)(&mut Lines { totals: &self.totals, encoder, as_counter })?;
        }
        Ok(())
    }
}

/// The lines of one metric, and what they are written from.
pub(super) struct Lines<'a> {
    pub(super) totals: &'a Totals,
    encoder: MetricEncoder<'a>,
    /// OpenMetrics writes a counter's name with `_total`; elsewhere a number is just a number.
    as_counter: bool,
}

/// The enums that are the values of a label, each named by its label.
pub(super) trait LabelValues: VariantArray + Copy + Into<&'static str> {}
impl<E: VariantArray + Copy + Into<&'static str>> LabelValues for E {}

impl Lines<'_> {
    /// The only value.
    pub(super) fn one(&mut self, value: u64) -> fmt::Result {
        write_number(&mut self.encoder, self.as_counter, value)
    }

    /// The value where the label `name` is `label`.
    pub(super) fn labelled(&mut self, name: &str, label: &str, value: u64) -> fmt::Result {
        self.all_labelled(&[(name, label)], value)
    }

    /// The value where the labels are these.
    pub(super) fn all_labelled<const N: usize>(
        &mut self,
        labels: &[(&str, &str); N],
        value: u64,
    ) -> fmt::Result {
        self.with(labels, value)
    }

    /// A cell of the workers, summed.
    pub(super) fn sum(&mut self, cell: fn(&WorkerCounters) -> &Cell) -> fmt::Result {
        self.one(self.totals.sum(cell))
    }

    /// A cell of the workers, one by one.
    pub(super) fn by_worker(&mut self, cell: fn(&WorkerCounters) -> &Cell) -> fmt::Result {
        let mut workers = self.totals.workers.iter();
        workers.try_for_each(|(id, w)| self.labelled("worker", &id.to_string(), cell(w).get()))
    }

    /// A cell of the workers that counts microseconds, one by one.
    pub(super) fn seconds_by_worker(&mut self, us: fn(&WorkerCounters) -> &Cell) -> fmt::Result {
        let mut workers = self.totals.workers.iter();
        workers.try_for_each(|(id, w)| {
            let labels = [("worker", id.to_string())];
            let encoder = &mut self.encoder.encode_family(&labels)?;
            write_number(encoder, self.as_counter, seconds(us(w).get()))
        })
    }

    /// One cell of the workers per variant of `E`, summed.
    pub(super) fn by_value<E: LabelValues>(
        &mut self,
        name: &str,
        cells: fn(&WorkerCounters) -> &[Cell],
    ) -> fmt::Result {
        E::VARIANTS.iter().enumerate().try_for_each(|(at, label)| {
            // The arrays of cells have one for each variant.
            let sum = self.totals.sum(|worker| &cells(worker)[at]);
            self.labelled(name, (*label).into(), sum)
        })
    }

    /// A cell of the control plane.
    pub(super) fn control(&mut self, cell: fn(&ControlCounters) -> &Cell) -> fmt::Result {
        self.one(cell(&self.totals.control).get())
    }

    /// One cell of the control plane per variant of `E`.
    pub(super) fn control_by_value<E: LabelValues>(
        &mut self,
        name: &str,
        cells: fn(&ControlCounters) -> &[Cell],
    ) -> fmt::Result {
        let mut values = E::VARIANTS.iter().zip(cells(&self.totals.control));
        values.try_for_each(|(label, cell)| self.labelled(name, (*label).into(), cell.get()))
    }

    /// Every series of connections.
    pub(super) fn series_and_flags(&mut self, value: fn(&SeriesSum) -> u64) -> fmt::Result {
        self.label_sets(self.totals.series.iter().map(|s| (&*s.labels, value(s))))
    }

    /// The series without flags: with them there is nothing but a connection's end.
    pub(super) fn series(&mut self, value: fn(&SeriesSum) -> u64) -> fmt::Result {
        let series = self.totals.series.iter().filter(|s| s.labels.flags == ResponseFlags::None);
        self.label_sets(series.map(|s| (&*s.labels, value(s))))
    }

    /// How many requests, by series.
    pub(super) fn requests(&mut self) -> fmt::Result {
        self.label_sets(self.totals.requests.iter().map(|r| (&*r.labels, r.requests())))
    }

    /// A histogram of requests, by series.
    pub(super) fn of_requests(&mut self, measure: Measure) -> fmt::Result {
        let mut text = LabelText::default();
        self.totals.requests.iter().try_for_each(|group| {
            let sum = group.histogram(measure);
            let mut encoder = self.encoder.encode_family(text.replace(&group.labels))?;
            encoder.encode_histogram::<NoLabelSet>(sum.sum(), sum.count(), &sum.buckets(), None)
        })
    }

    /// A histogram of what the workers time.
    pub(super) fn timing(&mut self, buckets: fn(&Timings) -> Buckets) -> fmt::Result {
        let Buckets { sum_seconds, count, counts } = buckets(&self.totals.timings);
        self.encoder.encode_histogram::<NoLabelSet>(sum_seconds, count, &counts, None)
    }

    fn label_sets<'l>(
        &mut self,
        mut lines: impl Iterator<Item = (&'l Labels, u64)>,
    ) -> fmt::Result {
        let mut text = LabelText::default();
        lines.try_for_each(|(labels, n)| self.with(text.replace(labels), n))
    }

    fn with<L: EncodeLabelSet>(&mut self, labels: &L, value: u64) -> fmt::Result {
        write_number(&mut self.encoder.encode_family(labels)?, self.as_counter, value)
    }
}

fn write_number<N>(encoder: &mut MetricEncoder<'_>, as_counter: bool, value: N) -> fmt::Result
where
    N: EncodeCounterValue + EncodeGaugeValue,
{
    if as_counter {
        encoder.encode_counter::<NoLabelSet, N, u64>(&value, None)
    } else {
        encoder.encode_gauge(&value)
    }
}
