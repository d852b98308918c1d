//! Where a request goes: what its host has led to, kept for the next request to the same host.

use std::cell::Cell;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::access_log::Decider;
use crate::config::Mode;
use crate::identity::Identity;
use crate::metrics::{CloseReason, KnownSeries, ResponseFlags};
use crate::registry::snapshot::{
    Cluster, Decision, Destination, NameTrust, Service, Shown, Target as ServiceTarget,
};
use crate::registry::{Snapshot, Verdict};
use crate::sniff::{Host, Name};
use crate::workload::Workload;

use super::{Mode as HttpMode, Reached};

/// The routes that one worker has found last: most requests ask a host that was asked before, on
/// this connection or another one.
#[derive(Debug)]
pub(crate) struct Routes {
    places: Box<[Option<Rc<Route>>]>,
}

/// Routes have one of so many places.
const PLACES: usize = 128;

/// What a route depends on beside the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    /// The generation that decides.
    pub(crate) generation: u64,
    /// Whether the host has a say.
    pub(crate) mode: HttpMode,
    pub(crate) source: IpAddr,
    pub(crate) destination: SocketAddr,
}

/// What a host has led to, in one generation.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) asker: Asker,
    /// The host; `None`: the request names none.
    pub(crate) host: Option<Host>,
    pub(crate) source: Identity<Workload>,
    pub(crate) cluster: Identity<Cluster>,
    pub(crate) action: RouteAction,
    pub(crate) standing: NameTrust,
    mode: Mode,
    /// The account's note: the series that was found last, with what it was found by.
    pub(crate) series: Cell<Option<(u16, ResponseFlags, KnownSeries)>>,
}

/// Where a route leads: the verdict, for as long as the route is kept.
#[derive(Debug, Clone)]
pub(crate) enum RouteAction {
    Service(Arc<Service>, Destination),
    Passthrough,
    BlackHole,
}

impl Default for Routes {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| None).collect() }
    }
}

impl Routes {
    /// The route of `asker` to `host`, made if it is not known.
    pub(crate) fn find(
        &mut self,
        asker: Asker,
        host: Option<&Host>,
        make: impl FnOnce() -> Route,
    ) -> Rc<Route> {
        let place = &mut self.places[place(asker, host)];
        match place {
            Some(known) if known.asker == asker && known.host.as_ref() == host => Rc::clone(known),
            _ => {
                let made = Rc::new(make());
                debug_assert!(made.asker == asker && made.host.as_ref() == host, "{made:?}");
                Rc::clone(place.insert(made))
            }
        }
    }

    /// Forgets all: there is a new generation.
    pub(crate) fn clear(&mut self) {
        self.places.fill(None);
    }
}

/// Peers choose the names. One that makes two of them share a place only has routes made anew.
#[expect(clippy::cast_possible_truncation, reason = "half an address will do; below PLACES")]
fn place(asker: Asker, host: Option<&Host>) -> usize {
    let name = match host {
        Some(Host::Name(name)) => name.as_str(),
        Some(Host::Address(_)) | None => "",
    };
    let name = FixedState::default().hash_one(name);
    let fold = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() as u64,
    };
    let ends = fold(asker.source) ^ fold(asker.destination.ip()).rotate_left(32);
    // Odd, with bits everywhere (the golden ratio's).
    let mixed = (ends ^ u64::from(asker.destination.port())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((name ^ mixed) >> (u64::BITS - PLACES.ilog2())) as usize
}

impl Route {
    /// The route of a request to `host`, on a connection from `source` to `destination`.
    pub(crate) fn decide(
        snapshot: &Snapshot,
        source: IpAddr,
        destination: SocketAddr,
        host: Option<Host>,
    ) -> Self {
        let generation = snapshot.generation;
        let asker = Asker { generation, mode: HttpMode::Gated, source, destination };
        let shown = Shown::Http(host.as_ref());
        let Decision { verdict, standing } = snapshot.decide(source, destination, shown);
        Self { host, standing, ..Self::of(snapshot, asker, verdict) }
    }

    /// The route that `verdict` means, for no host.
    pub(crate) fn of(snapshot: &Snapshot, asker: Asker, verdict: Verdict<'_>) -> Self {
        Self {
            asker,
            host: None,
            source: snapshot.workload(asker.source).clone(),
            cluster: snapshot.cluster(verdict).clone(),
            action: RouteAction::of(verdict, asker.destination),
            standing: NameTrust::NotNeeded,
            mode: snapshot.config.outbound_traffic_policy.mode,
            series: Cell::new(None),
        }
    }

    /// The same route for another host, which changes nothing but labels.
    pub(crate) fn renamed(&self, host: Option<Host>) -> Self {
        Self {
            asker: self.asker,
            host,
            source: self.source.clone(),
            cluster: self.cluster.clone(),
            action: self.action.clone(),
            standing: self.standing,
            mode: self.mode,
            series: Cell::new(None),
        }
    }

    /// The name that the request asks for, for labels; `None`: none, or an address.
    pub(crate) fn name(&self) -> Option<&Name> {
        match &self.host {
            Some(Host::Name(name)) => Some(name),
            Some(Host::Address(_)) | None => None,
        }
    }

    /// What decided, for the access log.
    pub(crate) fn decider(&self) -> Decider {
        match &self.action {
            RouteAction::Service(service, _) => Decider::Entry(Arc::clone(service)),
            RouteAction::BlackHole if self.standing == NameTrust::Unverified => Decider::Unverified,
            RouteAction::Passthrough | RouteAction::BlackHole => Decider::Policy(self.mode),
        }
    }

    /// The flags of a request that finds no upstream connection there, for `reason`.
    pub(crate) fn unreachable_flags(&self, reason: CloseReason) -> ResponseFlags {
        match (reason.response_flags(), &self.action) {
            (ResponseFlags::ConnectFailed, RouteAction::Passthrough) => {
                ResponseFlags::PassthroughFailed
            }
            (flags, _) => flags,
        }
    }

    /// It leads nowhere.
    pub(crate) fn is_blocked(&self) -> bool {
        matches!(self.action, RouteAction::BlackHole)
    }

    /// Whether an upstream connection to `upstream` is where this route leads.
    pub(crate) fn leads_to(&self, upstream: &Reached, destination: SocketAddr) -> bool {
        match &self.action {
            RouteAction::BlackHole => false,
            RouteAction::Passthrough => upstream.address == destination,
            RouteAction::Service(_, Destination::Original { port, .. }) => {
                upstream.address == SocketAddr::new(destination.ip(), *port)
            }
            RouteAction::Service(service, Destination::Endpoints) => match &service.target {
                ServiceTarget::Endpoints(endpoints) => endpoints.contains(&upstream.address),
                ServiceTarget::OriginalDestination { .. } => false,
            },
            RouteAction::Service(_, Destination::Named { port }) => match &self.host {
                Some(Host::Name(name)) => {
                    upstream.name.as_ref() == Some(name) && upstream.address.port() == *port
                }
                Some(Host::Address(ip)) => {
                    upstream.address == SocketAddr::new(ip.to_canonical(), *port)
                }
                None => false,
            },
        }
    }

    /// Whether both lead to the same addresses. For routes of one generation.
    pub(crate) fn is_same_way(&self, other: &Self) -> bool {
        match (&self.action, &other.action) {
            (RouteAction::Service(one, to), RouteAction::Service(other_one, other_to)) => {
                let is_same_name = || match to {
                    Destination::Named { .. } => self.host == other.host,
                    Destination::Original { .. } | Destination::Endpoints => true,
                };
                Arc::ptr_eq(one, other_one) && to == other_to && is_same_name()
            }
            (RouteAction::Passthrough, RouteAction::Passthrough)
            | (RouteAction::BlackHole, RouteAction::BlackHole) => true,
            _ => false,
        }
    }
}

impl RouteAction {
    /// Where `verdict` leads a connection to `destination`.
    fn of(verdict: Verdict<'_>, destination: SocketAddr) -> Self {
        match verdict {
            Verdict::Service(service, matched) => {
                Self::Service(Arc::clone(service), service.destination(matched, destination))
            }
            Verdict::Passthrough => Self::Passthrough,
            Verdict::BlackHole => Self::BlackHole,
        }
    }
}
