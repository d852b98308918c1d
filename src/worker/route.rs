//! Where a request goes: what its host has led to, kept for the next request of the same host.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use crate::access_log::{Decider, Request};
use crate::config::Mode;
use crate::identity::Identity;
use crate::metrics::{ResponseFlags, SeriesIndex};
use crate::registry::snapshot::{
    Claim, Cluster, Decision, NameSource, Service, Standing, Target as ServiceTarget,
};
use crate::registry::{Snapshot, Verdict};
use crate::sniff::Name;
use crate::worker::connection::Micros;
use crate::workload::Workload;

/// What a host has led to, in one generation.
#[derive(Debug)]
pub(super) struct Route {
    /// The generation that decided.
    pub(super) generation: u64,
    /// The host; `None`: the request names none, or an address.
    pub(super) name: Option<Name>,
    pub(super) source: Identity<Workload>,
    pub(super) cluster: Identity<Cluster>,
    pub(super) way: Way,
    pub(super) standing: Standing,
    mode: Mode,
    /// The series that was found last, with what it was found by.
    pub(super) series: Cell<Option<(u16, ResponseFlags, SeriesIndex)>>,
}

/// A request that has passed, until it is accounted.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) route: Rc<Route>,
    pub(super) began: Micros,
    /// Of its answer; 0 before there is one.
    pub(super) status: u16,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    /// It offers to go on with HTTP/2.
    pub(super) wants_h2c: bool,
    /// For the access log, if there is one.
    pub(super) line: Option<Box<Request>>,
}

/// The verdict, for as long as a route is kept.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Service(Arc<Service>),
    Passthrough,
    BlackHole,
}

impl Route {
    /// The route of a request to `name`, on a connection from `source` to `destination`.
    pub(super) fn decide(
        snapshot: &Snapshot,
        source: IpAddr,
        destination: SocketAddr,
        name: Option<Name>,
    ) -> Self {
        let claim = name.as_ref().map(|name| Claim { name, by: NameSource::Host });
        let Decision { verdict, standing } = snapshot.decide(destination, claim);
        Self { name, standing, ..Self::of(snapshot, source, verdict) }
    }

    /// The route that `verdict` means, for no name.
    pub(super) fn of(snapshot: &Snapshot, source: IpAddr, verdict: Verdict<'_>) -> Self {
        Self {
            generation: snapshot.generation,
            name: None,
            source: snapshot.workload(source).clone(),
            cluster: snapshot.cluster(verdict).clone(),
            way: Way::from(verdict),
            standing: Standing::NotNeeded,
            mode: snapshot.config.outbound_traffic_policy.mode,
            series: Cell::new(None),
        }
    }

    /// The same way for another name, which changes nothing but labels.
    pub(super) fn renamed(&self, name: Option<Name>) -> Self {
        Self {
            generation: self.generation,
            name,
            source: self.source.clone(),
            cluster: self.cluster.clone(),
            way: self.way.clone(),
            standing: self.standing,
            mode: self.mode,
            series: Cell::new(None),
        }
    }

    /// What decided, for the access log.
    pub(super) fn decider(&self) -> Decider {
        match &self.way {
            Way::Service(service) => Decider::Entry(Arc::clone(service)),
            Way::BlackHole if self.standing == Standing::Unverified => Decider::Unverified,
            Way::Passthrough | Way::BlackHole => Decider::Policy(self.mode),
        }
    }

    /// Nothing may pass.
    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.way, Way::BlackHole)
    }

    /// Whether an upstream connection to `upstream` is where this route leads.
    pub(super) fn leads_to(&self, upstream: SocketAddr, destination: SocketAddr) -> bool {
        match &self.way {
            Way::BlackHole => false,
            Way::Passthrough => upstream == destination,
            Way::Service(service) => match &service.target {
                ServiceTarget::OriginalDestination { target_port } => {
                    let port = target_port.unwrap_or(destination.port());
                    upstream == SocketAddr::new(destination.ip(), port)
                }
                ServiceTarget::Endpoints(endpoints) => endpoints.contains(&upstream),
            },
        }
    }
}

impl Way {
    /// Whether both lead to the same endpoints. For ways of one generation.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::Passthrough, Self::Passthrough) | (Self::BlackHole, Self::BlackHole) => true,
            _ => false,
        }
    }
}

impl From<Verdict<'_>> for Way {
    fn from(verdict: Verdict<'_>) -> Self {
        match verdict {
            Verdict::Service(service, _) => Self::Service(Arc::clone(service)),
            Verdict::Passthrough => Self::Passthrough,
            Verdict::BlackHole => Self::BlackHole,
        }
    }
}
