//! What connections and requests are accounted to: the series, once the labels are known, and the
//! line in the access log.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::access_log::{Decider, NameOrigin, Outcome, Protocol, Record};
use crate::config::Mode;
use crate::metrics::{CloseReason, Recognised, ResponseFlags, SeriesIndex, SeriesKey};
use crate::registry::snapshot::{Claim, Cluster, Decision, Match, NameSource, Standing};
use crate::registry::{Snapshot, Verdict};
use crate::relay::Side;
use crate::sniff::Name;
use crate::sys::ring::{Ring, Sockets};
use crate::sys::socket::Socket;
use crate::worker::Worker;
use crate::worker::connection::{Account, Connection, Guide, Phase};
use crate::worker::http1::Mode as HttpMode;
use crate::worker::route::{Asker, Exchange, Route, Way};
use crate::worker::token::Key;
use crate::workload::Workload;

/// What the access log says of a connection, from the time its labels are known.
#[derive(Debug)]
pub(super) struct Story {
    workload: Arc<Workload>,
    cluster: Arc<Cluster>,
    name: Option<Box<str>>,
    name_source: NameOrigin,
    verdict: Outcome,
    decided_by: Decider,
    protocol: Protocol,
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// The labels of a connection are known: what it has moved so far is accounted.
    pub(super) fn settle(
        &mut self,
        key: Key,
        snapshot: &Snapshot,
        decision: Decision<'_>,
        claim: Option<Claim<'_>>,
        protocol: Protocol,
    ) {
        let Some(connection) = self.connections.get(key.slot) else { return };
        let ends = (connection.source, connection.original_destination);
        let blocked = matches!(decision.verdict, Verdict::BlackHole);
        let flags = match blocked {
            true => CloseReason::BlackHole.response_flags(),
            false => ResponseFlags::None,
        };
        let name = claim.map(|claim| claim.name.as_str());
        let series = self.series(snapshot, decision.verdict, ends, name, flags);
        let story = self.access_log.is_on().then(|| {
            Box::new(Story {
                workload: Arc::clone(&snapshot.workload(ends.0.ip()).value),
                cluster: Arc::clone(&snapshot.cluster(decision.verdict).value),
                name: best_name(decision.verdict, claim),
                name_source: origin(decision.verdict, claim),
                verdict: outcome(decision.verdict),
                decided_by: decider(&decision, snapshot.config.outbound_traffic_policy.mode),
                protocol,
            })
        });
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.account = Account::Tcp(series);
        connection.story = story;
        if blocked {
            return;
        }
        let cells = self.metrics.series.cells(series);
        cells.received_bytes.add(connection.directions[Side::Downstream as usize].bytes);
        if let Phase::Relaying = connection.phase {
            cells.opened.add(1);
            cells.sent_bytes.add(connection.directions[Side::Upstream as usize].written);
        }
    }

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
        })
    }

    /// A connection has ended: it is counted, and logged, once.
    pub(super) fn account_end(&mut self, key: Key, reason: CloseReason) {
        self.recognition_over(key);
        self.settle_nameless(key, Recognised::Ended);
        self.settle_first_stream(key);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if connection.account == Account::Unsettled {
            let spoken = match connection.guide {
                Guide::Http2(_) => Protocol::Http2,
                _ => Protocol::Tcp,
            };
            let snapshot = self.snapshot();
            let Some(connection) = self.connections.get_mut(key.slot) else { return };
            let decision = snapshot.decide(connection.original_destination, None);
            self.settle(key, &snapshot, decision, None, spoken);
        }
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        match connection.account {
            Account::Unsettled => {}
            Account::Tcp(series) => {
                let series = self.metrics.series.with_flags(series, reason.response_flags());
                self.metrics.series.cells(series).closed.add(1);
                self.log_connection(key, reason);
            }
            Account::Requests => self.account_unanswered(key, reason),
        }
    }

    /// The requests that get no whole answer any more.
    pub(super) fn account_unanswered(&mut self, key: Key, reason: CloseReason) {
        while let Some(exchange) = self.next_unanswered(key).or_else(|| self.told(key)) {
            let cut = exchange.status == 0 && reason == CloseReason::Finished;
            // The upstream has closed instead of answering.
            let flags = if cut { ResponseFlags::UpstreamReset } else { reason.response_flags() };
            self.account_exchange(key, exchange, flags);
        }
    }

    /// A request that was read and has not passed.
    fn told(&mut self, key: Key) -> Option<Exchange> {
        let connection = self.connections.get_mut(key.slot)?;
        match &mut connection.guide {
            Guide::Http1(http) => http.take_told(self.now_us),
            _ => None,
        }
    }

    /// A connection is followed no further: its requests are counted, and what their answers will
    /// be is not known.
    pub(super) fn account_unseen(&mut self, key: Key) {
        while let Some(exchange) = self.next_unanswered(key) {
            self.account_exchange(key, exchange, ResponseFlags::None);
        }
    }

    fn next_unanswered(&mut self, key: Key) -> Option<Exchange> {
        match &mut self.connections.get_mut(key.slot)?.guide {
            Guide::Http1(http) => http.pop_unanswered(),
            _ => None,
        }
    }

    /// The exchanges that have been answered.
    pub(super) fn account_finished(&mut self, key: Key) {
        loop {
            let Some(connection) = self.connections.get_mut(key.slot) else { return };
            let Guide::Http1(http) = &mut connection.guide else { return };
            let Some(exchange) = http.pop_finished() else { return };
            self.account_exchange(key, exchange, ResponseFlags::None);
        }
    }

    /// A request is over: it is counted, and logged.
    pub(super) fn account_exchange(&mut self, key: Key, exchange: Exchange, flags: ResponseFlags) {
        let took_us = self.now_us.saturating_sub(exchange.began);
        let route = &exchange.route;
        let series = match route.series.get() {
            Some((status, same, series)) if (status, same) == (exchange.status, flags) => series,
            _ => {
                let series = self.metrics.requests.find(SeriesKey {
                    source: &route.source,
                    cluster: &route.cluster,
                    service: route.name.as_ref().map(Name::as_str),
                    destination_ip: None,
                    response_code: Some(exchange.status),
                    flags,
                });
                route.series.set(Some((exchange.status, flags, series)));
                series
            }
        };
        let cells = self.metrics.requests.cells(series);
        cells.record(took_us, exchange.request_bytes, exchange.response_bytes);
        if exchange.line.is_some() {
            self.log_exchange(key, exchange, flags, Duration::from_micros(took_us));
        }
    }

    #[cold]
    fn log_exchange(
        &mut self,
        key: Key,
        mut exchange: Exchange,
        flags: ResponseFlags,
        took: Duration,
    ) {
        let Some(connection) = self.connections.get(key.slot) else { return };
        let line = exchange.line.take();
        let protocol = match &line {
            Some(line) if line.version == "HTTP/2" => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let route = &exchange.route;
        let record = Record {
            workload: Arc::clone(&route.source.value),
            name: route.name.as_ref().map(|name| name.as_str().into()),
            name_source: match route.name {
                Some(_) => NameOrigin::Host,
                None => NameOrigin::None,
            },
            verdict: match route.way {
                Way::Service(_) => Outcome::Service,
                Way::Passthrough => Outcome::Passthrough,
                Way::BlackHole => Outcome::BlackHole,
            },
            cluster: Arc::clone(&route.cluster.value),
            decided_by: route.decider(),
            protocol,
            flags,
            bytes_received: exchange.request_bytes,
            bytes_sent: exchange.response_bytes,
            close_reason: None,
            request: line.map(|mut line| {
                line.status = exchange.status;
                *line
            }),
            ..self.record_of(connection, took)
        };
        self.log(record);
    }

    #[cold]
    fn log_connection(&mut self, key: Key, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Some(story) = connection.story.take() else { return };
        let Some(connection) = self.connections.get(key.slot) else { return };
        let took = Duration::from_micros(self.now_us.saturating_sub(connection.accepted_at));
        let record = Record {
            workload: story.workload,
            name: story.name,
            name_source: story.name_source,
            verdict: story.verdict,
            cluster: story.cluster,
            decided_by: story.decided_by,
            protocol: story.protocol,
            flags: reason.response_flags(),
            close_reason: Some(reason),
            ..self.record_of(connection, took)
        };
        self.log(record);
    }

    /// A connection that got no slot is logged all the same.
    #[cold]
    pub(super) fn log_refused(
        &self,
        snapshot: &Snapshot,
        verdict: Verdict<'_>,
        (source, destination): (SocketAddr, SocketAddr),
        reason: CloseReason,
    ) {
        if !self.access_log.is_on() {
            return;
        }
        self.log(Record {
            start: SystemTime::now(),
            duration: Duration::ZERO,
            source,
            workload: Arc::clone(&snapshot.workload(source.ip()).value),
            original_destination: destination,
            upstream: None,
            upstream_local: None,
            name: best_name(verdict, None),
            name_source: origin(verdict, None),
            verdict: Outcome::Refused,
            cluster: Arc::clone(&snapshot.cluster(verdict).value),
            decided_by: Decider::Limit,
            protocol: Protocol::Tcp,
            flags: reason.response_flags(),
            bytes_received: 0,
            bytes_sent: 0,
            close_reason: Some(reason),
            request: None,
        });
    }

    /// What every line of a connection says.
    fn record_of(&self, connection: &Connection, took: Duration) -> Record {
        let upstream = connection.ends[Side::Upstream as usize].socket.as_ref();
        Record {
            start: SystemTime::now() - took,
            duration: took,
            source: connection.source,
            workload: Arc::default(),
            original_destination: connection.original_destination,
            upstream: connection.upstream,
            upstream_local: upstream.and_then(|socket| Socket::local_address(socket).ok()),
            name: None,
            name_source: NameOrigin::None,
            verdict: Outcome::Refused,
            cluster: Arc::clone(&self.snapshot.cluster(Verdict::BlackHole).value),
            decided_by: Decider::Malformed,
            protocol: Protocol::Tcp,
            flags: ResponseFlags::None,
            bytes_received: connection.directions[Side::Downstream as usize].bytes,
            bytes_sent: connection.directions[Side::Upstream as usize].written,
            close_reason: None,
            request: None,
        }
    }

    fn log(&self, record: Record) {
        if self.access_log.log(Box::new(record)).is_err() {
            self.metrics.counters.access_log_dropped.add(1);
        }
    }

    /// The route of the gated head that was told.
    pub(super) fn route(&mut self, key: Key) -> Option<Rc<Route>> {
        let connection = self.connections.get_mut(key.slot)?;
        let (source, destination) = (connection.source.ip(), connection.original_destination);
        let generation = self.snapshot.generation;
        let asker = Asker { generation, mode: HttpMode::Gated, source, destination };
        let Guide::Http1(http) = &mut connection.guide else { return None };
        let name = http.told.as_ref()?.host.as_ref();
        if let Some(last) = &http.route
            && last.asker == asker
            && last.name.as_ref() == name
        {
            return Some(Rc::clone(last));
        }
        let decide = || Route::decide(&self.snapshot, source, destination, name.cloned());
        let route = self.routes.find(asker, name, decide);
        if route.standing == Standing::Unverified {
            self.metrics.counters.unverified_names.add(1);
        }
        http.route = Some(Rc::clone(&route));
        Some(route)
    }
}

/// The name that a connection showed, else the one that the registry knows.
fn best_name(verdict: Verdict<'_>, claim: Option<Claim<'_>>) -> Option<Box<str>> {
    match (claim, verdict) {
        (Some(claim), _) => Some(claim.name.as_str().into()),
        (None, Verdict::Service(service, _)) => service.cluster.value.service.clone(),
        (None, _) => None,
    }
}

fn origin(verdict: Verdict<'_>, claim: Option<Claim<'_>>) -> NameOrigin {
    match (claim.map(|claim| claim.by), verdict) {
        (Some(NameSource::Host), _) => NameOrigin::Host,
        (Some(NameSource::Sni), _) => NameOrigin::Sni,
        (None, Verdict::Service(_, Match::Resolved)) => NameOrigin::Dns,
        (None, _) => NameOrigin::None,
    }
}

fn outcome(verdict: Verdict<'_>) -> Outcome {
    match verdict {
        Verdict::Service(..) => Outcome::Service,
        Verdict::Passthrough => Outcome::Passthrough,
        Verdict::BlackHole => Outcome::BlackHole,
    }
}

fn decider(decision: &Decision<'_>, mode: Mode) -> Decider {
    match (decision.verdict, decision.standing) {
        (Verdict::Service(service, _), _) => Decider::Entry(Arc::clone(service)),
        (Verdict::BlackHole, Standing::Unverified) => Decider::Unverified,
        _ => Decider::Policy(mode),
    }
}
