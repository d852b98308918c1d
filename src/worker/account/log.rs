//! The lines of the access log: of a request, and of a connection.

use std::sync::Arc;
use std::time::Duration;

use super::{LogContext, details, line, verdict_of};
use crate::access_log::{Decider, NameOrigin, Outcome, Protocol, Record, Request};
use crate::config::{Mode, Unverified};
use crate::gate::{Answered, AnsweredBy, Logged, Micros, Why};
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
        let Answered { request: mut exchange, status, body_bytes, .. } = answered;
        let answered_by = exchange.answered_by;
        let Some(logged) = exchange.logged.take() else { return };
        let route = &exchange.route;
        let protocol = match &*logged {
            Logged::Stream(..) => Protocol::Http2,
            Logged::Head(..) | Logged::Unread(_) => Protocol::Http1,
        };
        let (verdict, decided_by) = match answered_by {
            AnsweredBy::Egret { why: Why::Malformed(_) | Why::Late, .. } => {
                (Outcome::Refused, Decider::Malformed)
            }
            AnsweredBy::Egret { .. } | AnsweredBy::Upstream => {
                (outcome(verdict_of(route)), route.decider())
            }
        };
        let waited = exchange.responded.map(|at| at.saturating_sub(exchange.began));
        let request = Request {
            status,
            details: details::of(answered_by, status, flags, protocol),
            unreachable: match answered_by {
                AnsweredBy::Egret { why: Why::Unreachable(reason), .. } => Some(reason),
                AnsweredBy::Egret { .. } | AnsweredBy::Upstream => None,
            },
            first_byte: waited.map(Duration::from_micros),
            ..line::of(&logged, route.name())
        };
        let context = LogContext {
            workload: Arc::clone(&route.source.value),
            cluster: Arc::clone(&route.cluster.value),
            name: route.name().map(|name| name.as_str().into()),
            name_source: match route.name() {
                Some(_) => NameOrigin::Host,
                None => NameOrigin::None,
            },
            verdict,
            decided_by,
            protocol,
        };
        cx.log(Record {
            flags,
            bytes_received: exchange.body_bytes,
            bytes_sent: body_bytes,
            request: Some(request),
            ..self.record(context, Duration::from_micros(took_us), cx)
        });
    }

    #[cold]
    pub(super) fn log_connection(&self, log: LogContext, reason: CloseReason, cx: &Context<K>) {
        let took = Duration::from_micros(cx.now.saturating_sub(self.accepted_at));
        cx.log(Record {
            flags: reason.response_flags(),
            close_reason: Some(reason),
            ..self.record(log, took, cx)
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
    fn record(&self, context: LogContext, took: Duration, cx: &Context<K>) -> Record {
        let LogContext { workload, cluster, name, name_source, verdict, decided_by, protocol } =
            context;
        let upstream = self.ends[Side::Upstream as usize].socket.as_ref();
        Record {
            start: cx.kernel.wall_time() - took,
            duration: took,
            source: self.source,
            workload,
            original_destination: self.original_destination,
            upstream: self.upstream_address(),
            upstream_local: upstream.and_then(|socket| socket.local_address().ok()),
            name,
            name_source,
            verdict,
            cluster,
            decided_by,
            protocol,
            flags: ResponseFlags::None,
            bytes_received: self.directions[Side::Downstream as usize].bytes,
            bytes_sent: self.directions[Side::Upstream as usize].written,
            close_reason: None,
            request: None,
        }
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
