//! A record as a JSON object on one line: Istio's keys, then Egret's.
//!
//! Istio's are those of `EnvoyJSONLogFormatIstio` (`pilot/pkg/model/telemetry_logging.go`), with
//! the types that Envoy gives them: counts are numbers, what is absent is null, `response_flags`
//! is never absent, and `upstream_service_time` is text, because with Envoy it is a header's value.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

use super::record::{Excerpt, Record, Request};

/// Adds the line of `record`, with its line end, to `out`.
pub(super) fn write(record: &Record, out: &mut String) {
    let mut bytes = std::mem::take(out).into_bytes();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Printable);
    Line::of(record).serialize(&mut serializer).expect("a record has nothing that JSON lacks");
    bytes.push(b'\n');
    *out = String::from_utf8(bytes).expect("serde_json writes UTF-8");
}

/// The keys, in the order of the line.
#[derive(Serialize)]
struct Line<'a> {
    start_time: String,
    route_name: Option<&'static str>,
    method: Option<String>,
    path: Option<String>,
    protocol: Option<&'static str>,
    response_code: u16,
    response_flags: &'static str,
    response_code_details: Option<&'static str>,
    connection_termination_details: Option<&'static str>,
    bytes_received: u64,
    bytes_sent: u64,
    /// In milliseconds.
    duration: u128,
    /// In milliseconds.
    upstream_service_time: Option<String>,
    x_forwarded_for: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    authority: Option<String>,
    upstream_host: Option<String>,
    upstream_cluster: Option<String>,
    upstream_local_address: Option<String>,
    downstream_local_address: String,
    downstream_remote_address: String,
    requested_server_name: Option<&'a str>,
    upstream_transport_failure_reason: Option<&'static str>,
    // Egret's own.
    source_workload: Option<&'a str>,
    source_namespace: Option<&'a str>,
    original_destination: String,
    name: Option<&'a str>,
    name_source: &'static str,
    recognised_protocol: &'static str,
    verdict: &'static str,
    decided_by: String,
    close_reason: Option<&'static str>,
}

impl<'a> Line<'a> {
    fn of(record: &'a Record) -> Self {
        let request = record.request.as_ref();
        let details = request.map(|r| r.details);
        Self {
            start_time: super::timestamp(record.start).to_string(),
            route_name: record.route_name(),
            method: request.map(|r| shown(&r.method)),
            path: request.map(|r| shown(&r.target)),
            protocol: request.map(|r| r.version),
            response_code: request.map_or(0, |r| r.status),
            response_flags: record.flags.label(),
            response_code_details: details.filter(|details| !details.is_empty()),
            connection_termination_details: record.termination_details(),
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            duration: record.duration.as_millis(),
            upstream_service_time: request.and_then(Request::service_time_ms).map(text),
            x_forwarded_for: request.and_then(|r| r.forwarded_for.as_ref().map(shown)),
            user_agent: request.and_then(|r| r.user_agent.as_ref().map(shown)),
            request_id: request.and_then(|r| r.request_id.as_ref().map(shown)),
            authority: request.and_then(|r| r.authority.as_ref().map(shown)),
            upstream_host: record.upstream.map(text),
            upstream_cluster: record.upstream_cluster().map(text),
            upstream_local_address: record.upstream_local.map(text),
            downstream_local_address: text(record.original_destination),
            downstream_remote_address: text(record.source),
            requested_server_name: record.requested_server_name(),
            upstream_transport_failure_reason: record.transport_failure(),
            source_workload: record.workload.workload.as_deref(),
            source_namespace: record.workload.namespace.as_deref(),
            original_destination: text(record.original_destination),
            name: record.name.as_deref(),
            name_source: record.name_source.label(),
            recognised_protocol: record.protocol.label(),
            verdict: record.verdict.label(),
            decided_by: text(&record.decided_by),
            close_reason: record.close_reason.map(|reason| reason.label()),
        }
    }
}

fn text(value: impl ToString) -> String {
    value.to_string()
}

/// What a peer sent, as text; bytes that are no UTF-8 become U+FFFD.
fn shown<const BYTES_MAX: usize>(excerpt: &Excerpt<BYTES_MAX>) -> String {
    String::from_utf8_lossy(excerpt.bytes()).into_owned() + excerpt.ellipsis()
}

/// Compact JSON that escapes every character that could end a line or steer a terminal;
/// `serde_json` escapes only those that JSON must not hold (below U+0020).
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, found)) = rest.char_indices().find(|(_, c)| super::is_unprintable(*c)) {
            // All of them are in the basic plane: one escape of four digits each.
            write!(writer, "{}\\u{:04x}", &rest[..at], u32::from(found))?;
            rest = &rest[at + found.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}
