//! Every metric in the order of a scrape: type, name, help, and where its values come from.
//!
//! A new metric is a row here and a cell in `counters`. `encode` has the ways to write values.
//! Tests compare this list with a scrape and with README's table.

use std::fmt;

use strum::VariantArray;

use super::encode::Lines;
use super::process::{descriptors_limit, listen_overflows, open_descriptors};
use super::requests::Measure;
use super::timing::{CONNECT_BOUNDS_US, TURN_BOUNDS_US};
use super::{CloseReason, Detected, DnsResult, ReloadResult, ResolvedClaim, Shed, UnaskedStatus};
use crate::drain::Phase;
use crate::http1::FramingError;
use crate::http2::FrameErrorKind;
use crate::judge::RequestErrorKind;
use crate::sniff::NameError;
use crate::upstream_guard::Refused;

/// How a metric's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound.
    Histogram,
}

/// One metric.
pub(super) struct Row {
    pub(super) kind: Kind,
    /// The name in the plain text format; see [`Row::family`] for OpenMetrics.
    pub(super) name: &'static str,
    /// One sentence.
    pub(super) help: &'static str,
    /// Writes the values.
    pub(super) values: Values,
}

type Values = fn(&mut Lines<'_>) -> fmt::Result;

const fn counter(name: &'static str, help: &'static str, values: Values) -> Row {
    Row { kind: Kind::Counter, name, help, values }
}

const fn gauge(name: &'static str, help: &'static str, values: Values) -> Row {
    Row { kind: Kind::Gauge, name, help, values }
}

const fn histogram(name: &'static str, help: &'static str, values: Values) -> Row {
    Row { kind: Kind::Histogram, name, help, values }
}

impl Row {
    /// The name of the family in OpenMetrics, where `_total` belongs to the sample.
    pub(super) fn family(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }
}

/// Every metric, in the order of a scrape.
pub(super) const CATALOGUE: &[Row] = &[
    counter(
        "istio_tcp_connections_opened_total",
        "Connections that got an upstream connection, or ended without one.",
        |out| out.series_and_flags(|s| s.opened),
    ),
    counter(
        "istio_tcp_connections_closed_total",
        "Connections that ended, blackholed and failed ones included.",
        |out| out.series_and_flags(|s| s.closed),
    ),
    counter(
        "istio_tcp_sent_bytes_total",
        "Bytes written to the downstream (the workload).",
        |out| out.series(|s| s.sent_bytes),
    ),
    counter(
        "istio_tcp_received_bytes_total",
        "Bytes read from the downstream (the workload).",
        |out| out.series(|s| s.received_bytes),
    ),
    counter(
        "istio_requests_total",
        "HTTP requests that ended, blocked and failed ones included.",
        |out| out.requests(),
    ),
    histogram(
        "istio_request_duration_milliseconds",
        "From a request's head to the end of its answer.",
        |out| out.of_requests(Measure::Duration),
    ),
    histogram(
        "istio_request_bytes",
        "Bytes of a request as they came, head and framing included.",
        |out| out.of_requests(Measure::RequestBytes),
    ),
    histogram(
        "istio_response_bytes",
        "Bytes of an answer as they came, head and framing included.",
        |out| out.of_requests(Measure::ResponseBytes),
    ),
    gauge("istio_build", "Always 1; the version stands in the label tag.", |out| {
        let labels = [("component", "proxy"), ("tag", env!("CARGO_PKG_VERSION"))];
        out.all_labelled(&labels, 1)
    }),
    gauge("egret_connections_active", "Connections held now, over all workers.", |out| {
        out.sum(|w| &w.connections_active)
    }),
    gauge("egret_worker_connections_active", "Connections held now, by worker.", |out| {
        out.by_worker(|w| &w.connections_active)
    }),
    counter(
        "egret_accepts_total",
        "Accepts by result: accepted, refused_limit, self_call or error.",
        accepts,
    ),
    counter(
        "egret_shed_total",
        "What was refused or taken from the source with most of it, so that others have a share.",
        |out| out.by_value::<Shed>("what", |w| &w.shed),
    ),
    gauge("egret_held_bytes", "Memory of the bytes that wait for a decision now.", |out| {
        out.sum(|w| &w.held_bytes)
    }),
    counter(
        "egret_self_calls_total",
        "Connections that were not redirected or came from Egret itself, closed at once.",
        |out| out.sum(|w| &w.self_call),
    ),
    counter("egret_connections_closed_total", "Connections that ended, by close reason.", |out| {
        out.by_value::<CloseReason>("reason", |w| &w.closed)
    }),
    histogram(
        "egret_connect_duration_seconds",
        "From the decision to the established upstream connection, failed attempts included.",
        |out| out.timing(|t| t.connect.buckets(CONNECT_BOUNDS_US)),
    ),
    counter(
        "egret_copied_bytes_total",
        "Bytes relayed through a buffer, both directions.",
        |out| out.sum(|w| &w.bytes_copied),
    ),
    counter(
        "egret_spliced_bytes_total",
        "Bytes relayed through a pipe by splice, both directions.",
        |out| out.sum(|w| &w.bytes_spliced),
    ),
    gauge("egret_pipes_in_use", "Pipes lent to connections now.", |out| {
        out.sum(|w| &w.pipes_in_use)
    }),
    counter(
        "egret_pipe_fallbacks_total",
        "Times a connection wanted a pipe, got none, and went on copying.",
        |out| out.sum(|w| &w.pipe_fallbacks),
    ),
    counter(
        "egret_buffers_starved_total",
        "Receives that found no free buffer and waited for one.",
        |out| out.sum(|w| &w.buffers_starved),
    ),
    counter(
        "egret_completion_queue_overflows_total",
        "Times a worker's completion queue was full.",
        |out| out.sum(|w| &w.cq_overflow),
    ),
    counter(
        "egret_worker_busy_seconds_total",
        "Processor time of a worker, user and kernel, by worker.",
        |out| out.seconds_by_worker(|w| &w.busy_us),
    ),
    counter("egret_worker_turns_total", "Turns of a worker's loop, by worker.", |out| {
        out.by_worker(|w| &w.turns)
    }),
    counter(
        "egret_worker_completions_total",
        "Completions that a worker handled, by worker.",
        |out| out.by_worker(|w| &w.completions),
    ),
    histogram(
        "egret_worker_turn_duration_seconds",
        "Busy part of a turn of a worker's loop, of one turn in sixteen.",
        |out| out.timing(|t| t.turn.buckets(TURN_BOUNDS_US)),
    ),
    gauge(
        "egret_metric_series",
        "Label sets of Istio's metrics by what they count; metrics.seriesMax bounds each kind.",
        series_counts,
    ),
    counter(
        "egret_metric_series_overflow_total",
        "Times a label set found no room and was accounted to destination_service other.",
        |out| out.one(out.totals.series_overflow),
    ),
    counter(
        "egret_recognised_connections_total",
        "Connections by what their first bytes are, or why that was not found out.",
        |out| out.by_value::<Detected>("result", |w| &w.detected),
    ),
    gauge("egret_recognising_connections", "Connections that wait for a name now.", |out| {
        out.sum(|w| &w.detecting)
    }),
    gauge("egret_recognising_bytes", "Bytes of the connections that wait for a name now.", |out| {
        out.sum(|w| &w.detecting_bytes)
    }),
    counter(
        "egret_unverified_names_total",
        "Names that decided, and for which nothing but the workload's word stands.",
        |out| out.sum(|w| &w.unverified_names),
    ),
    counter(
        "egret_resolved_claims_total",
        "Names that a workload claimed and Egret resolved, by whether it meant an address of it.",
        |out| out.by_value::<ResolvedClaim>("destination", |w| &w.resolved_claims),
    ),
    counter("egret_name_conflicts_total", "Requests that name two hosts.", |out| {
        out.sum(|w| &w.name_conflicts)
    }),
    counter(
        "egret_junk_names_total",
        "Server names in a ClientHello that are no names, by reason.",
        |out| out.by_value::<NameError>("reason", |w| &w.junk_names),
    ),
    counter(
        "egret_http_refused_requests_total",
        "Requests whose head, framing or trailers are refused, by reason.",
        |out| out.by_value::<RequestErrorKind>("reason", |w| &w.refused_requests),
    ),
    counter(
        "egret_http_unjudged_total",
        "Requests that passed without judgement to where they meant to go, by reason.",
        |out| out.by_value::<RequestErrorKind>("reason", |w| &w.unjudged_requests),
    ),
    counter(
        "egret_http_unasked_answers_total",
        "Answers that no request asked for, by status.",
        |out| out.by_value::<UnaskedStatus>("status", |w| &w.unasked_answers),
    ),
    counter(
        "egret_http_unframed_answers_total",
        "HTTP/1 answers whose end cannot be told, by reason.",
        |out| out.by_value::<FramingError>("reason", |w| &w.unframed_answers),
    ),
    counter(
        "egret_http_upstream_switches_total",
        "Times a connection got another upstream for its next request.",
        |out| out.sum(|w| &w.upstream_switches),
    ),
    counter(
        "egret_refused_upstreams_total",
        "Times an upstream address was not connected to, by why.",
        |out| out.by_value::<Refused>("why", |w| &w.refused_upstreams),
    ),
    counter(
        "egret_private_upstreams_total",
        "Connects to private addresses that DNS gave.",
        |out| out.sum(|w| &w.private_upstreams),
    ),
    counter(
        "egret_http2_blocked_streams_total",
        "HTTP/2 requests that were blocked behind an allowed one.",
        |out| out.sum(|w| &w.blocked_streams),
    ),
    counter(
        "egret_http2_refused_connections_total",
        "HTTP/2 connections on which nothing more could pass, by reason.",
        |out| out.by_value::<FrameErrorKind>("reason", |w| &w.refused_frames),
    ),
    counter("egret_access_log_lines_total", "Lines of the access log that were written.", |out| {
        out.control(|c| &c.access_log_lines)
    }),
    counter(
        "egret_access_log_dropped_total",
        "Lines of the access log that found the queue full.",
        |out| out.sum(|w| &w.access_log_dropped),
    ),
    counter(
        "egret_access_log_lost_total",
        "Lines of the access log that could not be written.",
        |out| out.control(|c| &c.access_log_lost),
    ),
    gauge(
        "egret_config_generation",
        "Generation of the configuration and registry in use.",
        |out| out.control(|c| &c.config_generation),
    ),
    counter(
        "egret_config_reloads_total",
        "Reloads by result: success, failure (what was good before serves on) or unchanged.",
        |out| out.control_by_value::<ReloadResult>("result", |c| &c.reloads),
    ),
    gauge(
        "egret_config_last_success_timestamp_seconds",
        "When configuration and registry were last read without an error.",
        |out| out.control(|c| &c.config_last_success_s),
    ),
    gauge(
        "egret_registry_refused_documents",
        "Documents that are not in use as the file has them, by file; none is not shown.",
        |out| {
            let by_file = out.totals.control.refused_documents();
            by_file.iter().try_for_each(|(file, count)| out.labelled("file", file, *count))
        },
    ),
    counter(
        "egret_dns_resolutions_total",
        "Names asked for by result: success, failure (the known addresses are kept) or empty.",
        |out| out.control_by_value::<DnsResult>("result", |c| &c.dns_resolutions),
    ),
    gauge("egret_dns_names", "Names of the registry whose addresses are kept.", |out| {
        out.control(|c| &c.dns_names)
    }),
    gauge(
        "egret_dns_claimed_names",
        "Names that workloads claimed and Egret has resolved.",
        |out| out.control(|c| &c.dns_claimed_names),
    ),
    gauge(
        "egret_dns_addresses",
        "Addresses that vouch for a name of the registry: those of all recent answers.",
        |out| out.control(|c| &c.dns_addresses),
    ),
    counter(
        "egret_dns_evicted_addresses_total",
        "Addresses that vouch for their name no more because there were too many.",
        |out| out.control(|c| &c.dns_evicted),
    ),
    gauge(
        "egret_phase",
        "Where the process stands: 1 for starting, serving or draining, 0 for the others.",
        phase,
    ),
    counter(
        "egret_listen_overflows_total",
        "Connections that found a full listen queue in this network namespace.",
        |out| out.one(listen_overflows()),
    ),
    gauge("egret_open_descriptors", "File descriptors that the process holds open.", |out| {
        out.one(open_descriptors())
    }),
    gauge(
        "egret_descriptors_limit",
        "File descriptors that the process may hold open (RLIMIT_NOFILE).",
        |out| out.one(descriptors_limit()),
    ),
    gauge("egret_build_info", "Always 1; the version stands in the label.", |out| {
        out.labelled("version", env!("CARGO_PKG_VERSION"), 1)
    }),
];

fn accepts(out: &mut Lines<'_>) -> fmt::Result {
    let sums = out.totals;
    out.labelled("result", "accepted", sums.sum(|w| &w.accepted))?;
    out.labelled("result", "refused_limit", sums.sum(|w| &w.refused_limit))?;
    out.labelled("result", "self_call", sums.sum(|w| &w.self_call))?;
    out.labelled("result", "error", sums.sum(|w| &w.accept_error))
}

fn series_counts(out: &mut Lines<'_>) -> fmt::Result {
    out.labelled("kind", "connections", out.totals.series.len() as u64)?;
    out.labelled("kind", "requests", out.totals.requests.len() as u64)
}

/// 1 for the phase that the process is in, 0 for the others.
fn phase(out: &mut Lines<'_>) -> fmt::Result {
    Phase::VARIANTS.iter().try_for_each(|phase| {
        let is_here = *phase == out.totals.phase;
        out.labelled("phase", phase.into(), u64::from(is_here))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_follow_the_naming_rules() {
        let names: HashSet<_> = CATALOGUE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        for row in CATALOGUE {
            assert!(row.name.starts_with("istio_") || row.name.starts_with("egret_"));
            assert_eq!(row.name.ends_with("_total"), row.kind == Kind::Counter, "{}", row.name);
            assert!(row.help.ends_with('.'), "{}", row.name);
        }
    }
}
