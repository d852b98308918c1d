//! Name, type and help of every metric, in the order of a scrape: the one list.
//!
//! `encode` gives the values; a test compares this list with what a scrape shows. A new metric is a
//! variant here, its row below, and its values there: the compiler asks for the last two.

use super::requests::BOUNDS_THOUSANDTHS;
use super::timing::{CONNECT_BOUNDS_US, TURN_BOUNDS_US};

/// How a metric's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound; the bounds in microseconds (of bytes: in thousandths).
    Histogram(&'static [u64]),
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// `istio_tcp_connections_opened_total`
    Opened,
    /// `istio_tcp_connections_closed_total`
    Closed,
    /// `istio_tcp_sent_bytes_total`
    SentBytes,
    /// `istio_tcp_received_bytes_total`
    ReceivedBytes,
    /// `istio_requests_total`
    Requests,
    /// `istio_request_duration_milliseconds`
    RequestDuration,
    /// `istio_request_bytes`
    RequestBytes,
    /// `istio_response_bytes`
    ResponseBytes,
    /// `egret_connections_active`
    ConnectionsActive,
    /// `egret_worker_connections_active`
    WorkerConnectionsActive,
    /// `egret_accepts_total`
    Accepts,
    /// `egret_self_calls_total`
    SelfCalls,
    /// `egret_connections_closed_total`
    ConnectionsClosed,
    /// `egret_connect_duration_seconds`
    ConnectDuration,
    /// `egret_copied_bytes_total`
    CopiedBytes,
    /// `egret_spliced_bytes_total`
    SplicedBytes,
    /// `egret_pipes_in_use`
    PipesInUse,
    /// `egret_pipe_fallbacks_total`
    PipeFallbacks,
    /// `egret_buffers_starved_total`
    BuffersStarved,
    /// `egret_completion_queue_overflows_total`
    CompletionQueueOverflows,
    /// `egret_worker_busy_seconds_total`
    WorkerBusySeconds,
    /// `egret_worker_turns_total`
    WorkerTurns,
    /// `egret_worker_completions_total`
    WorkerCompletions,
    /// `egret_worker_turn_duration_seconds`
    TurnDuration,
    /// `egret_metric_series`
    Series,
    /// `egret_metric_series_overflow_total`
    SeriesOverflow,
    /// `egret_recognised_connections_total`
    Recognised,
    /// `egret_recognising_connections`
    Recognising,
    /// `egret_recognising_bytes`
    RecognisingBytes,
    /// `egret_unverified_names_total`
    UnverifiedNames,
    /// `egret_name_conflicts_total`
    NameConflicts,
    /// `egret_junk_names_total`
    JunkNames,
    /// `egret_http_refused_requests_total`
    RefusedRequests,
    /// `egret_http_unframed_answers_total`
    UnframedAnswers,
    /// `egret_http_upstream_switches_total`
    UpstreamSwitches,
    /// `egret_http2_blocked_streams_total`
    BlockedStreams,
    /// `egret_access_log_lines_total`
    AccessLogLines,
    /// `egret_access_log_dropped_total`
    AccessLogDropped,
    /// `egret_access_log_lost_total`
    AccessLogLost,
    /// `egret_config_generation`
    ConfigGeneration,
    /// `egret_config_reloads_total`
    ConfigReloads,
    /// `egret_config_last_success_timestamp_seconds`
    ConfigLastSuccess,
    /// `egret_dns_resolutions_total`
    DnsResolutions,
    /// `egret_dns_names`
    DnsNames,
    /// `egret_phase`
    Phase,
    /// `egret_open_descriptors`
    OpenDescriptors,
    /// `egret_descriptors_limit`
    DescriptorsLimit,
    /// `egret_build_info`
    BuildInfo,
}

/// A metric as it is told to the scraper.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which one.
    pub metric: Metric,
    /// How its values behave.
    pub kind: Kind,
    /// The name in the plain text format; see [`Row::family`] for OpenMetrics.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// Every metric, in the order of a scrape.
pub const CATALOGUE: &[Row] = &[
    row(
        Metric::Opened,
        Kind::Counter,
        "istio_tcp_connections_opened_total",
        "Upstream connections established.",
    ),
    row(
        Metric::Closed,
        Kind::Counter,
        "istio_tcp_connections_closed_total",
        "Connections that ended, blackholed and failed ones included.",
    ),
    row(
        Metric::SentBytes,
        Kind::Counter,
        "istio_tcp_sent_bytes_total",
        "Bytes written to the downstream (the workload).",
    ),
    row(
        Metric::ReceivedBytes,
        Kind::Counter,
        "istio_tcp_received_bytes_total",
        "Bytes read from the downstream (the workload).",
    ),
    row(
        Metric::Requests,
        Kind::Counter,
        "istio_requests_total",
        "HTTP requests that ended, blocked and failed ones included.",
    ),
    row(
        Metric::RequestDuration,
        Kind::Histogram(BOUNDS_THOUSANDTHS),
        "istio_request_duration_milliseconds",
        "From a request's head to the end of its answer.",
    ),
    row(
        Metric::RequestBytes,
        Kind::Histogram(BOUNDS_THOUSANDTHS),
        "istio_request_bytes",
        "Bytes of a request as they came, head and framing included.",
    ),
    row(
        Metric::ResponseBytes,
        Kind::Histogram(BOUNDS_THOUSANDTHS),
        "istio_response_bytes",
        "Bytes of an answer as they came, head and framing included.",
    ),
    row(
        Metric::ConnectionsActive,
        Kind::Gauge,
        "egret_connections_active",
        "Connections held now, over all workers.",
    ),
    row(
        Metric::WorkerConnectionsActive,
        Kind::Gauge,
        "egret_worker_connections_active",
        "Connections held now, by worker.",
    ),
    row(
        Metric::Accepts,
        Kind::Counter,
        "egret_accepts_total",
        "Accepts by result: accepted, refused_limit, self_call or error.",
    ),
    row(
        Metric::SelfCalls,
        Kind::Counter,
        "egret_self_calls_total",
        "Connections that were not redirected or came from Egret itself, closed at once.",
    ),
    row(
        Metric::ConnectionsClosed,
        Kind::Counter,
        "egret_connections_closed_total",
        "Connections that ended, by close reason.",
    ),
    row(
        Metric::ConnectDuration,
        Kind::Histogram(CONNECT_BOUNDS_US),
        "egret_connect_duration_seconds",
        "Time from the accept to the established upstream connection.",
    ),
    row(
        Metric::CopiedBytes,
        Kind::Counter,
        "egret_copied_bytes_total",
        "Bytes relayed through a buffer, both directions.",
    ),
    row(
        Metric::SplicedBytes,
        Kind::Counter,
        "egret_spliced_bytes_total",
        "Bytes relayed through a pipe by splice, both directions.",
    ),
    row(Metric::PipesInUse, Kind::Gauge, "egret_pipes_in_use", "Pipes lent to connections now."),
    row(
        Metric::PipeFallbacks,
        Kind::Counter,
        "egret_pipe_fallbacks_total",
        "Times a connection wanted a pipe, got none, and went on copying.",
    ),
    row(
        Metric::BuffersStarved,
        Kind::Counter,
        "egret_buffers_starved_total",
        "Receives that found no free buffer and waited for one.",
    ),
    row(
        Metric::CompletionQueueOverflows,
        Kind::Counter,
        "egret_completion_queue_overflows_total",
        "Times a worker's completion queue was full.",
    ),
    row(
        Metric::WorkerBusySeconds,
        Kind::Counter,
        "egret_worker_busy_seconds_total",
        "Processor time of a worker, user and kernel, by worker.",
    ),
    row(
        Metric::WorkerTurns,
        Kind::Counter,
        "egret_worker_turns_total",
        "Turns of a worker's loop, by worker.",
    ),
    row(
        Metric::WorkerCompletions,
        Kind::Counter,
        "egret_worker_completions_total",
        "Completions that a worker handled, by worker.",
    ),
    row(
        Metric::TurnDuration,
        Kind::Histogram(TURN_BOUNDS_US),
        "egret_worker_turn_duration_seconds",
        "Busy part of one turn of a worker's loop.",
    ),
    row(
        Metric::Series,
        Kind::Gauge,
        "egret_metric_series",
        "Label sets of the istio_tcp metrics; metrics.seriesMax bounds them.",
    ),
    row(
        Metric::SeriesOverflow,
        Kind::Counter,
        "egret_metric_series_overflow_total",
        "Times a label set found no room and was accounted to destination_service other.",
    ),
    row(
        Metric::Recognised,
        Kind::Counter,
        "egret_recognised_connections_total",
        "Connections by what their first bytes are, or why that was not found out.",
    ),
    row(
        Metric::Recognising,
        Kind::Gauge,
        "egret_recognising_connections",
        "Connections that wait for a name now.",
    ),
    row(
        Metric::RecognisingBytes,
        Kind::Gauge,
        "egret_recognising_bytes",
        "Bytes of the connections that wait for a name now.",
    ),
    row(
        Metric::UnverifiedNames,
        Kind::Counter,
        "egret_unverified_names_total",
        "Names that decided, and for which nothing but the workload's word stands.",
    ),
    row(
        Metric::NameConflicts,
        Kind::Counter,
        "egret_name_conflicts_total",
        "Requests that name two hosts.",
    ),
    row(
        Metric::JunkNames,
        Kind::Counter,
        "egret_junk_names_total",
        "Server names in a ClientHello that are no names, by reason.",
    ),
    row(
        Metric::RefusedRequests,
        Kind::Counter,
        "egret_http_refused_requests_total",
        "HTTP/1 requests whose framing or head is refused, by reason.",
    ),
    row(
        Metric::UnframedAnswers,
        Kind::Counter,
        "egret_http_unframed_answers_total",
        "HTTP/1 answers whose end cannot be told, by reason.",
    ),
    row(
        Metric::UpstreamSwitches,
        Kind::Counter,
        "egret_http_upstream_switches_total",
        "Times a connection got another upstream for its next request.",
    ),
    row(
        Metric::BlockedStreams,
        Kind::Counter,
        "egret_http2_blocked_streams_total",
        "HTTP/2 requests that were blocked behind an allowed one.",
    ),
    row(
        Metric::AccessLogLines,
        Kind::Counter,
        "egret_access_log_lines_total",
        "Lines of the access log that were written.",
    ),
    row(
        Metric::AccessLogDropped,
        Kind::Counter,
        "egret_access_log_dropped_total",
        "Lines of the access log that found the queue full.",
    ),
    row(
        Metric::AccessLogLost,
        Kind::Counter,
        "egret_access_log_lost_total",
        "Lines of the access log that could not be written.",
    ),
    row(
        Metric::ConfigGeneration,
        Kind::Gauge,
        "egret_config_generation",
        "Generation of the configuration and registry in use.",
    ),
    row(
        Metric::ConfigReloads,
        Kind::Counter,
        "egret_config_reloads_total",
        "Reloads by result: success, failure (the last good generation serves on) or unchanged.",
    ),
    row(
        Metric::ConfigLastSuccess,
        Kind::Gauge,
        "egret_config_last_success_timestamp_seconds",
        "When configuration and registry were last read without an error.",
    ),
    row(
        Metric::DnsResolutions,
        Kind::Counter,
        "egret_dns_resolutions_total",
        "Names asked for by result: success, failure (the known addresses are kept) or empty.",
    ),
    row(
        Metric::DnsNames,
        Kind::Gauge,
        "egret_dns_names",
        "Names of the registry whose addresses are kept.",
    ),
    row(
        Metric::Phase,
        Kind::Gauge,
        "egret_phase",
        "Where the process stands: 1 for starting, serving or draining, 0 for the others.",
    ),
    row(
        Metric::OpenDescriptors,
        Kind::Gauge,
        "egret_open_descriptors",
        "File descriptors that the process holds open.",
    ),
    row(
        Metric::DescriptorsLimit,
        Kind::Gauge,
        "egret_descriptors_limit",
        "File descriptors that the process may hold open (RLIMIT_NOFILE).",
    ),
    row(
        Metric::BuildInfo,
        Kind::Gauge,
        "egret_build_info",
        "Always 1; the version stands in the label.",
    ),
];

const fn row(metric: Metric, kind: Kind, name: &'static str, help: &'static str) -> Row {
    Row { metric, kind, name, help }
}

impl Row {
    /// The name of the family in OpenMetrics, where `_total` belongs to the sample.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram(_) => self.name,
        }
    }
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
