//! Name, type and help of every metric, in the order of a scrape: the one list.
//!
//! `encode` gives the values; a test compares this list with what a scrape shows. A new metric is a
//! variant here, its row below, and its values there: the compiler asks for the last two.

mod rows;

pub use rows::CATALOGUE;

/// How a metric's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound.
    Histogram,
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
    /// `egret_http2_refused_connections_total`
    RefusedFrames,
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

const fn row(metric: Metric, kind: Kind, name: &'static str, help: &'static str) -> Row {
    Row { metric, kind, name, help }
}

impl Row {
    /// The name of the family in OpenMetrics, where `_total` belongs to the sample.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
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
