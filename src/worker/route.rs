//! Where a request goes: what its host has led to, kept for the next request of the same host.

use std::cell::Cell;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;

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
use crate::worker::http1::Mode as HttpMode;
use crate::workload::Workload;

/// The routes that one worker has found last: most requests ask a host that was asked before, on
/// this connection or another one.
#[derive(Debug)]
pub(super) struct Routes {
    places: Box<[Option<Rc<Route>>]>,
}

/// Routes have one of so many places.
const PLACES: usize = 128;

/// What a route depends on beside the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    /// The generation that decides.
    pub(super) generation: u64,
    /// Whether the host has a say.
    pub(super) mode: HttpMode,
    pub(super) source: IpAddr,
    pub(super) destination: SocketAddr,
}

/// What a host has led to, in one generation.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) asker: Asker,
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

impl Default for Routes {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| None).collect() }
    }
}

impl Routes {
    /// The route of `asker` to `name`, made if it is not known.
    pub(super) fn find(
        &mut self,
        asker: Asker,
        name: Option<&Name>,
        make: impl FnOnce() -> Route,
    ) -> Rc<Route> {
        let place = &mut self.places[place(asker, name)];
        match place {
            Some(known) if known.asker == asker && known.name.as_ref() == name => Rc::clone(known),
            _ => {
                let made = Rc::new(make());
                debug_assert!(made.asker == asker && made.name.as_ref() == name, "{made:?}");
                Rc::clone(place.insert(made))
            }
        }
    }

    /// Forgets all: there is a new generation.
    pub(super) fn clear(&mut self) {
        self.places.fill(None);
    }
}

/// Names are chosen by peers: who makes two of them meet in a place has routes made anew.
#[expect(clippy::cast_possible_truncation, reason = "half an address will do; below PLACES")]
fn place(asker: Asker, name: Option<&Name>) -> usize {
    let name = FixedState::default().hash_one(name.map_or("", Name::as_str));
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
    /// The route of a request to `name`, on a connection from `source` to `destination`.
    pub(super) fn decide(
        snapshot: &Snapshot,
        source: IpAddr,
        destination: SocketAddr,
        name: Option<Name>,
    ) -> Self {
        let generation = snapshot.generation;
        let asker = Asker { generation, mode: HttpMode::Gated, source, destination };
        let claim = name.as_ref().map(|name| Claim { name, by: NameSource::Host });
        let Decision { verdict, standing } = snapshot.decide(destination, claim);
        Self { name, standing, ..Self::of(snapshot, asker, verdict) }
    }

    /// The route that `verdict` means, for no name.
    pub(super) fn of(snapshot: &Snapshot, asker: Asker, verdict: Verdict<'_>) -> Self {
        Self {
            asker,
            name: None,
            source: snapshot.workload(asker.source).clone(),
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
            asker: self.asker,
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
