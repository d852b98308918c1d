//! What connections and requests are accounted to: the series, once the labels are known, and the
//! line in the access log.

mod details;
mod line;
mod log;
mod shown;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::access_log::{Decider, NameOrigin, Outcome, Protocol, Record};
use crate::gate::{Answered, AnsweredBy, Attribution, DecidedBy, Route, RouteAction, Unfollowed};
use crate::metrics::{
    CloseReason, Detected, ResponseCode, ResponseFlags, SeriesCells, SeriesIndex, SeriesKey,
};
use crate::probe::planted;
use crate::registry::snapshot::{Cluster, Decision, Match, NameTrust, Shown};
use crate::registry::{Snapshot, Verdict};
use crate::relay::Side;
use crate::sniff::Name;
use crate::sys::kernel::Kernel;
use crate::worker::connection::Connection;
use crate::worker::context::Context;
use crate::workload::Workload;
use log::{best_name, decider, origin, outcome};

/// What a connection is accounted to.
#[derive(Debug)]
pub(super) enum Account {
    /// Its labels are not known yet; what it moves meanwhile is accounted when they are.
    Unsettled,
    /// A series of the TCP metrics, from the time that there is an upstream connection.
    /// `protocol`: in which it has shown its name. `log`: for the access log, if it is on.
    Labelled { series: SeriesIndex, protocol: Protocol, log: Option<Box<LogContext>> },
    /// A series of the TCP metrics, which counts it as open.
    Tcp { series: SeriesIndex, protocol: Protocol, log: Option<Box<LogContext>> },
    /// Its requests, one by one.
    Requests,
    /// It has ended, and that is counted.
    Ended,
}

/// What the access log says of a connection, from the time its labels are known.
#[derive(Debug)]
pub(super) struct LogContext {
    workload: Arc<Workload>,
    cluster: Arc<Cluster>,
    name: Option<Box<str>>,
    name_source: NameOrigin,
    verdict: Outcome,
    decided_by: Decider,
    protocol: Protocol,
}

impl<K: Kernel> Connection<K> {
    /// The labels are known: returns the decision that they come from.
    pub(super) fn attribute<'a>(
        &mut self,
        attribution: &'a Attribution,
        cx: &mut Context<K>,
    ) -> Decision<'a> {
        let Attribution { snapshot, decided_by, host: _, protocol, found, junk } = attribution;
        if let Some(found) = found {
            cx.metrics.counters.detected(*found).add(1);
        }
        if let Some(junk) = junk {
            cx.metrics.counters.junk_names(*junk).add(1);
        }
        let shown = attribution.shown();
        let decision = match decided_by {
            DecidedBy::Name => snapshot.decide(self.source.ip(), self.original_destination, shown),
            DecidedBy::Address => Decision {
                verdict: snapshot.lookup(self.original_destination),
                standing: NameTrust::NotNeeded,
            },
        };
        // Of a stream of HTTP/2 the gate has told it.
        if decision.standing == NameTrust::Unverified && *protocol != Protocol::Http2 {
            self.note_unverified(shown.name(), cx);
        }
        self.settle(snapshot, &decision, shown, *protocol, cx);
        decision
    }

    /// An observed connection shows no name: the address labels it.
    pub(super) fn attribute_nameless(
        &mut self,
        snapshot: &Snapshot,
        found: Detected,
        cx: &mut Context<K>,
    ) {
        cx.metrics.counters.detected(found).add(1);
        let verdict = snapshot.lookup(self.original_destination);
        let decision = Decision { verdict, standing: NameTrust::NotNeeded };
        self.settle(snapshot, &decision, Shown::Nothing, Protocol::Tcp, cx);
    }

    /// The labels are these: what the connection has moved so far is accounted.
    pub(super) fn settle(
        &mut self,
        snapshot: &Snapshot,
        decision: &Decision<'_>,
        shown: Shown<'_>,
        protocol: Protocol,
        cx: &mut Context<K>,
    ) {
        let ends = (self.source, self.original_destination);
        let is_relaying = self.is_relaying();
        // A blocked connection has no label set without flags: it is never open.
        let flags = match decision.verdict {
            Verdict::BlackHole if !is_relaying => CloseReason::BlackHole.response_flags(),
            Verdict::BlackHole | Verdict::Passthrough | Verdict::Service(..) => ResponseFlags::None,
        };
        let name = shown.name().map(Name::as_str);
        let series = cx.series(snapshot, decision.verdict, ends, name, flags);
        let log = cx.access_log.is_on().then(|| {
            Box::new(LogContext {
                workload: Arc::clone(&snapshot.workload(ends.0.ip()).value),
                cluster: Arc::clone(&snapshot.cluster(decision.verdict).value),
                name: best_name(decision.verdict, shown),
                name_source: origin(decision.verdict, shown),
                verdict: outcome(decision.verdict),
                decided_by: decider(decision, snapshot.config.outbound_traffic_policy.mode),
                protocol,
            })
        });
        self.let_go(cx);
        cx.metrics.series.hold(series);
        self.account = Account::Labelled { series, protocol, log };
        if is_relaying {
            self.count_opened(cx);
        }
    }

    /// The series that it was accounted to, if it was one, may go.
    fn let_go(&mut self, cx: &mut Context<K>) {
        let before = std::mem::replace(&mut self.account, Account::Unsettled);
        debug_assert!(!matches!(before, Account::Tcp { .. }), "it counts as open");
        if let Account::Labelled { series, .. } = before {
            cx.metrics.series.release(series);
        }
    }

    /// There is an upstream connection: if the labels are known, it counts as open, and so do the
    /// bytes that have come.
    pub(super) fn count_opened(&mut self, cx: &Context<K>) {
        self.account = match std::mem::replace(&mut self.account, Account::Unsettled) {
            Account::Labelled { series, protocol, log } => {
                let cells = cx.metrics.series.cells(series);
                cells.opened.add(1);
                cells.received_bytes.add(self.directions[Side::Downstream as usize].bytes);
                cells.sent_bytes.add(self.directions[Side::Upstream as usize].written);
                Account::Tcp { series, protocol, log }
            }
            other @ (Account::Unsettled
            | Account::Tcp { .. }
            | Account::Requests
            | Account::Ended) => other,
        };
    }

    /// Bytes have come from `side`.
    pub(super) fn count_read(&mut self, side: Side, bytes: u64, cx: &Context<K>) {
        self.moved_at = cx.now;
        self.directions[side as usize].bytes += bytes;
        if let (Side::Downstream, Account::Tcp { series, .. }) = (side, &self.account) {
            cx.metrics.series.cells(*series).received_bytes.add(bytes);
        }
    }

    /// The half reading from `side` has written bytes to the other one.
    pub(super) fn count_written(&mut self, side: Side, bytes: u64, cx: &Context<K>) {
        self.moved_at = cx.now;
        self.directions[side as usize].written += bytes;
        if let (Side::Upstream, Account::Tcp { series, .. }) = (side, &self.account) {
            cx.metrics.series.cells(*series).sent_bytes.add(bytes);
        }
    }

    /// A connection cannot be followed any further: from here on it is opaque bytes,
    /// accounted as TCP. Its requests are counted, and what their responses will be is not known.
    pub(super) fn unfollow(&mut self, unfollowed: Unfollowed, cx: &mut Context<K>) {
        let Unfollowed { mut requests, unjudged, refusal, unframed } = unfollowed;
        if let Some(why) = unjudged {
            cx.metrics.counters.unjudged_requests(why).add(1);
        }
        if let Some(refusal) = refusal {
            cx.metrics.counters.refused_requests(refusal).add(1);
        }
        if let Some(unframed) = unframed {
            cx.metrics.counters.unframed_answers(unframed).add(1);
        }
        let now = cx.moment();
        while let Some(answered) =
            requests.pop_ended().or_else(|| requests.pop_unanswered(&[], now))
        {
            self.account_answered(answered, ResponseFlags::None, cx);
        }
        self.account = Account::Unsettled;
        let Some(route) = requests.route() else { return };
        let decision = Decision { verdict: verdict_of(route), standing: route.standing };
        let shown = Shown::Http(route.host.as_ref());
        let snapshot = Arc::clone(&cx.snapshot);
        self.settle(&snapshot, &decision, shown, Protocol::Http1, cx);
    }

    /// The connection has ended: it is counted, and logged, once.
    pub(super) fn account_end(&mut self, reason: CloseReason, cx: &mut Context<K>) {
        let attribution = self.gate.stop_observing(Detected::Ended);
        if let Some(attribution) = attribution.or_else(|| self.gate.take_attribution()) {
            self.attribute(&attribution, cx);
        }
        if self.gate.has_failed()
            && let Account::Requests = self.account
        {
            // They are lost with it.
            self.account = Account::Unsettled;
        }
        if let Account::Unsettled = self.account {
            let snapshot = Arc::clone(&cx.snapshot);
            let protocol = self.gate.protocol();
            let shown = match protocol {
                Protocol::Http1 | Protocol::Http2 => Shown::Http(None),
                Protocol::Tcp | Protocol::Tls => Shown::Nothing,
            };
            let decision = snapshot.decide(self.source.ip(), self.original_destination, shown);
            self.settle(&snapshot, &decision, shown, protocol, cx);
        }
        match std::mem::replace(&mut self.account, Account::Ended) {
            Account::Unsettled | Account::Ended => {}
            Account::Labelled { series, log, .. } => {
                self.account_closed((series, log), SeriesCells::count_failed, reason, cx);
            }
            Account::Tcp { series, log, .. } => {
                self.account_closed((series, log), SeriesCells::count_closed, reason, cx);
            }
            Account::Requests => {
                self.account = Account::Requests;
                self.account_unanswered(reason, cx);
            }
        }
    }

    fn account_closed(
        &self,
        (series, log): (SeriesIndex, Option<Box<LogContext>>),
        count: fn(&SeriesCells),
        reason: CloseReason,
        cx: &mut Context<K>,
    ) {
        let flagged = cx.metrics.series.with_flags(series, reason.response_flags());
        count(cx.metrics.series.cells(flagged));
        cx.metrics.series.release(series);
        if let Some(log) = log {
            self.log_connection(*log, reason, cx);
        }
    }

    /// The requests that get no whole response any more.
    fn account_unanswered(&mut self, reason: CloseReason, cx: &mut Context<K>) {
        while let Some(answered) = self.pop_unanswered(cx) {
            let flags = match (reason, answered.status) {
                // The upstream has closed instead of responding.
                (CloseReason::UpstreamReset, _) | (CloseReason::Finished, 0) => {
                    ResponseFlags::UpstreamTerminated
                }
                _ => reason.response_flags(),
            };
            self.account_answered(answered, flags, cx);
        }
    }

    /// The requests whose responses have ended.
    pub(super) fn account_ended(&mut self, cx: &mut Context<K>) {
        while let Some(answered) = self.gate.pop_ended() {
            self.account_answered(answered, ResponseFlags::None, cx);
        }
    }

    /// A request is over: it is counted, and logged.
    pub(super) fn account_answered(
        &mut self,
        answered: Answered,
        flags: ResponseFlags,
        cx: &mut Context<K>,
    ) {
        let Answered { request: exchange, status, bytes: response_bytes, .. } = &answered;
        let took_us = cx.now.saturating_sub(exchange.began);
        let route = &exchange.route;
        let known = route.series.get().filter(|known| (known.0, known.1) == (*status, flags));
        let series = match known.and_then(|known| cx.metrics.requests.recall(known.2)) {
            Some(series) => series,
            None => {
                let series = cx.metrics.requests.find(SeriesKey {
                    source: &route.source,
                    cluster: &route.cluster,
                    service: route.name().map(Name::as_str),
                    destination_ip: None,
                    response_code: Some(match exchange.answered_by {
                        AnsweredBy::Egret { grpc: true, .. } => ResponseCode::GrpcUnavailable,
                        _ => ResponseCode::Http(*status),
                    }),
                    flags,
                    maker: self.source.ip(),
                });
                let known = cx.metrics.requests.remember(series);
                route.series.set(Some((*status, flags, known)));
                series
            }
        };
        let cells = cx.metrics.requests.cells(series);
        cells.record(took_us, exchange.request_bytes, *response_bytes);
        if planted!(RequestCountedTwice) {
            cells.record(took_us, exchange.request_bytes, *response_bytes);
        }
        if exchange.logged.is_some() {
            self.log_request(answered, flags, took_us, cx);
        }
    }
}

impl<K: Kernel> Context<K> {
    /// The TCP series of a connection with these ends, and its flags.
    pub(super) fn series(
        &mut self,
        snapshot: &Snapshot,
        verdict: Verdict<'_>,
        (source, destination): (SocketAddr, SocketAddr),
        name: Option<&str>,
        flags: ResponseFlags,
    ) -> SeriesIndex {
        self.metrics.series.find(SeriesKey {
            source: snapshot.workload(source.ip()),
            cluster: snapshot.cluster(verdict),
            service: name,
            destination_ip: snapshot.config.metrics.destination_ip.then(|| destination.ip()),
            response_code: None,
            flags,
            maker: source.ip(),
        })
    }

    /// A connection that got no slot is counted, and logged, for where its address leads.
    #[cold]
    pub(super) fn account_refused(&mut self, ends: (SocketAddr, SocketAddr), reason: CloseReason) {
        let snapshot = Arc::clone(&self.snapshot);
        let (source, destination) = ends;
        let verdict = snapshot.lookup(destination);
        let flags = reason.response_flags();
        let series = self.series(&snapshot, verdict, ends, None, flags);
        self.metrics.series.cells(series).count_failed();
        if !self.access_log.is_on() {
            return;
        }
        self.log(Record {
            start: self.kernel.wall_time(),
            duration: Duration::ZERO,
            source,
            workload: Arc::clone(&snapshot.workload(source.ip()).value),
            original_destination: destination,
            upstream: None,
            upstream_local: None,
            name: best_name(verdict, Shown::Nothing),
            name_source: origin(verdict, Shown::Nothing),
            verdict: Outcome::Refused,
            cluster: Arc::clone(&snapshot.cluster(verdict).value),
            decided_by: Decider::Limit,
            protocol: Protocol::Tcp,
            flags,
            bytes_received: 0,
            bytes_sent: 0,
            close_reason: Some(reason),
            request: None,
        });
    }
}

/// The verdict that a route keeps.
fn verdict_of(route: &Route) -> Verdict<'_> {
    match &route.action {
        RouteAction::Service(service, _) => Verdict::Service(service, Match::Port),
        RouteAction::Passthrough => Verdict::Passthrough,
        RouteAction::BlackHole => Verdict::BlackHole,
    }
}
