//! The lines of the access log: of a request, and of a connection.

use std::sync::Arc;
use std::time::Duration;

use super::{LogContext, line, verdict_of};
use crate::access_log::{Decider, NameOrigin, Outcome, Protocol, Record, Request};
use crate::config::{Mode, Unverified};
use crate::gate::{Answered, AnsweredBy, Logged, Micros};
use crate::metrics::{CloseReason, ResponseFlags};
use crate::registry::Verdict;
use crate::registry::snapshot::{Decision, Match, NameTrust, Shown};
use crate::relay::Side;
use crate::sniff::Name;
use crate::sys::kernel::{Kernel, StreamSocket};
use crate::worker::connection::Connection;
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    #[cold]
    pub(super) fn log_request(
        &self,
        answered: Answered,
        flags: ResponseFlags,
        took_us: Micros,
        cx: &Context<K>,
    ) {
        let Answered { request: mut exchange, status, bytes: response_bytes } = answered;
        let answered_by = exchange.answered_by;
        let Some(logged) = exchange.logged.take() else { return };
        let route = &exchange.route;
        let protocol = match &*logged {
            Logged::Stream(..) => Protocol::Http2,
            Logged::Head(..) => Protocol::Http1,
        };
        let waited = exchange.responded.map(|at| at.saturating_sub(exchange.began));
        let request = Request {
            status,
            details: details(answered_by, (status, flags), protocol),
            first_byte: waited.map(Duration::from_micros),
            ..line::of(&logged, route.name())
        };
        let record = Record {
            workload: Arc::clone(&route.source.value),
            name: route.name().map(|name| name.as_str().into()),
            name_source: match route.name() {
                Some(_) => NameOrigin::Host,
                None => NameOrigin::None,
            },
            verdict: outcome(verdict_of(route)),
            cluster: Arc::clone(&route.cluster.value),
            decided_by: route.decider(),
            protocol,
            flags,
            bytes_received: exchange.request_bytes,
            bytes_sent: response_bytes,
            close_reason: None,
            request: Some(request),
            ..self.record(Duration::from_micros(took_us), cx)
        };
        cx.log(record);
    }

    #[cold]
    pub(super) fn log_connection(&self, log: LogContext, reason: CloseReason, cx: &Context<K>) {
        let took = Duration::from_micros(cx.now.saturating_sub(self.accepted_at));
        cx.log(Record {
            workload: log.workload,
            name: log.name,
            name_source: log.name_source,
            verdict: log.verdict,
            cluster: log.cluster,
            decided_by: log.decided_by,
            protocol: log.protocol,
            flags: reason.response_flags(),
            close_reason: Some(reason),
            ..self.record(took, cx)
        });
    }

    /// A name has decided for which nothing vouches.
    pub(in crate::worker) fn note_unverified(&self, name: Option<&Name>, cx: &mut Context<K>) {
        cx.metrics.counters.unverified_names.add(1);
        if cx.snapshot.config.names.unverified == Unverified::Log
            && let Some(unsaid) = cx.unverified_log.may_say(cx.now)
        {
            let name = name.map_or("", Name::as_str);
            tracing::warn!(
                name,
                downstream.addr = %self.source,
                original.dst = %self.original_destination,
                unsaid,
                "nothing vouches for a name that a workload has claimed"
            );
        }
    }

    /// What every line of a connection says.
    fn record(&self, took: Duration, cx: &Context<K>) -> Record {
        let upstream = self.ends[Side::Upstream as usize].socket.as_ref();
        Record {
            start: cx.kernel.wall_time() - took,
            duration: took,
            source: self.source,
            workload: Arc::default(),
            original_destination: self.original_destination,
            upstream: self.upstream_address(),
            upstream_local: upstream.and_then(|socket| socket.local_address().ok()),
            name: None,
            name_source: NameOrigin::None,
            verdict: Outcome::Refused,
            cluster: Arc::clone(&cx.snapshot.cluster(Verdict::BlackHole).value),
            decided_by: Decider::Malformed,
            protocol: Protocol::Tcp,
            flags: ResponseFlags::None,
            bytes_received: self.directions[Side::Downstream as usize].bytes,
            bytes_sent: self.directions[Side::Upstream as usize].written,
            close_reason: None,
            request: None,
        }
    }
}

/// Where a response's status comes from, in Envoy's words.
fn details(
    answered_by: AnsweredBy,
    (status, flags): (u16, ResponseFlags),
    protocol: Protocol,
) -> &'static str {
    match (answered_by, status) {
        (AnsweredBy::Upstream, _) => "via_upstream",
        (AnsweredBy::Egret, _) if flags == ResponseFlags::NameUnresolved => {
            "dns_resolution_failure"
        }
        // Of the limits this one alone is met with a request.
        (AnsweredBy::Egret, _) if flags == ResponseFlags::Overflow => "dns_cache_overflow",
        (AnsweredBy::Egret, 408) => "request_header_timeout",
        (AnsweredBy::Egret, 502) => "direct_response",
        (AnsweredBy::Egret, 503) => "upstream_reset_before_response_started",
        (AnsweredBy::Egret, _) if protocol == Protocol::Http2 => {
            "upstream_reset_before_response_started"
        }
        (AnsweredBy::Egret, _) => "codec_error",
    }
}

/// The name that a connection showed, else the one that the registry knows.
pub(super) fn best_name(verdict: Verdict<'_>, shown: Shown<'_>) -> Option<Box<str>> {
    match (shown.name(), verdict) {
        (Some(name), _) => Some(name.as_str().into()),
        (None, Verdict::Service(service, _)) => service.cluster.value.service.clone(),
        (None, _) => None,
    }
}

pub(super) fn origin(verdict: Verdict<'_>, shown: Shown<'_>) -> NameOrigin {
    match (shown.name(), shown, verdict) {
        (Some(_), Shown::Http(_), _) => NameOrigin::Host,
        (Some(_), _, _) => NameOrigin::Sni,
        (None, _, Verdict::Service(_, Match::Resolved)) => NameOrigin::Dns,
        (None, _, _) => NameOrigin::None,
    }
}

pub(super) fn outcome(verdict: Verdict<'_>) -> Outcome {
    match verdict {
        Verdict::Service(..) => Outcome::Service,
        Verdict::Passthrough => Outcome::Passthrough,
        Verdict::BlackHole => Outcome::BlackHole,
    }
}

pub(super) fn decider(decision: &Decision<'_>, mode: Mode) -> Decider {
    match (decision.verdict, decision.standing) {
        (Verdict::Service(service, _), _) => Decider::Entry(Arc::clone(service)),
        (Verdict::BlackHole, NameTrust::Unverified) => Decider::Unverified,
        _ => Decider::Policy(mode),
    }
}
