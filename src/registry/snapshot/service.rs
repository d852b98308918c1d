//! One host on one port of a service entry: what its connections are accounted to, and where they
//! go.
//!
//! Istio has one service per host, and so have the metrics here: a connection is accounted to the
//! host by which it was found, or to the entry's first host when it was found by address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;

mod dump;
mod merge;

pub(super) use merge::merge_endpoints;

use super::{Answers, Match, NameTrust};
use crate::config::Unverified;
use crate::identity::Identity;
use crate::registry::service_entry::{
    Allocated, ByAddress, EndpointAddress, HostPattern, Origin, Port, Protocol, Reach, Resolution,
    ServiceEntry,
};
use crate::sniff::Name;
use crate::upstream_guard::LedBy;

/// What a connection is accounted to: the `destination_*` labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// `destination_service_name`: `PassthroughCluster`, `BlackHoleCluster` or the entry's host.
    pub service_name: Box<str>,
    /// `destination_service` of a connection that showed no name: the entry's host; `None` prints
    /// as `unknown`.
    pub service: Option<Box<str>>,
    /// `destination_workload`: the entry's name; `None` prints as `unknown`.
    pub workload: Option<Box<str>>,
    /// `destination_service_namespace`, `destination_workload_namespace`: the entry's namespace;
    /// `None` prints as `unknown`.
    pub service_namespace: Option<Box<str>>,
}

impl Cluster {
    /// What is accounted to a name of Egret's own, to no service entry.
    #[must_use]
    pub fn reserved(name: &str) -> Self {
        Self { service_name: name.into(), service: None, workload: None, service_namespace: None }
    }
}

/// Where a service's connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Resolution NONE or DYNAMIC_DNS: the original destination, or an address of the name that has
    /// found the service ([`NameTrust::Resolved`]), with the port replaced by `targetPort` if set.
    OriginalDestination {
        /// The port to connect to instead.
        target_port: Option<u16>,
    },
    /// Resolution STATIC or DNS: one of these, round robin, the next on failure. Empty with STATIC
    /// if none can be connected to, and with DNS as long as no name has resolved.
    Endpoints(Arc<[SocketAddr]>),
}

/// Where a connection goes that has found a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To the address that it meant.
    Original {
        /// At this port.
        port: u16,
        /// What lets it go there.
        led_by: LedBy,
    },
    /// To one of the service's endpoints.
    Endpoints,
    /// To an address that Egret resolves for the name that it shows.
    Named {
        /// At this port.
        port: u16,
    },
}

/// One host on one port of one service entry.
#[derive(Debug)]
pub struct Service {
    /// `namespace/name` of the ServiceEntry document.
    pub entry: Box<str>,
    /// What its connections are accounted to.
    pub cluster: Identity<Cluster>,
    /// The host as the entry writes it.
    pub host: HostPattern,
    /// The port that workloads connect to.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// What it is found by.
    pub reach: Reach,
    /// How the upstream address is found.
    pub resolution: Resolution,
    /// Where its connections go.
    pub target: Target,
    /// The addresses that the entry lists.
    pub addresses: Arc<[IpNet]>,
    /// The addresses that Istio has allocated for the host.
    pub allocated: Box<[IpAddr]>,
    /// With resolution DNS: the names whose addresses are its endpoints.
    pub resolved_names: Arc<[Name]>,
    /// The endpoints' addresses that the entry itself lists.
    listed_endpoints: Arc<[IpAddr]>,
    /// Where the document stands.
    pub origin: Origin,
    /// The document is refused as it is now: this is the version that was good.
    is_stale: bool,
    /// If it is found by them: the addresses that DNS gave for its host and its endpoints, and at
    /// which port a connection to each of them goes there; `None`: it goes to the endpoints.
    resolved: BTreeMap<IpAddr, Option<u16>>,
    /// Of a connection that finds it by its name.
    standing: NameTrust,
    cursor: AtomicUsize,
}

/// What a service is made of.
pub(super) struct ServiceParts<'a> {
    pub(super) entry: &'a ServiceEntry,
    pub(super) port: &'a Port,
    pub(super) host: &'a HostPattern,
    pub(super) cluster: Identity<Cluster>,
    pub(super) reach: Reach,
    /// What vouches for a name by which it is found.
    pub(super) standing: NameTrust,
}

impl Service {
    pub(super) fn new(parts: ServiceParts<'_>, answers: &Answers) -> Self {
        let ServiceParts { entry, port, host, cluster, reach, standing } = parts;
        let (target, resolved_names) = target(entry, port, host, answers);
        let listed_endpoints = entry.listed_endpoints().collect();
        let is_for_host = |allocated: &&Allocated| {
            allocated.host.as_ref().is_none_or(|text| **text == *cluster.value.service_name)
        };
        let allocated = entry.allocated.iter().filter(is_for_host).map(|one| one.address).collect();
        let resolved = match reach.by_address {
            ByAddress::Resolved => resolved(entry, port, host, answers),
            ByAddress::Listed
            | ByAddress::ListedWithSni
            | ByAddress::AsHost
            | ByAddress::Any
            | ByAddress::Nothing => BTreeMap::new(),
        };
        Self {
            entry: entry.full_name().into(),
            cluster,
            host: host.clone(),
            port: port.number,
            protocol: port.protocol,
            reach,
            resolution: entry.resolution,
            target,
            addresses: Arc::clone(&entry.addresses),
            allocated,
            resolved_names,
            listed_endpoints,
            origin: entry.origin.clone(),
            is_stale: entry.is_stale,
            resolved,
            standing,
            cursor: AtomicUsize::new(0),
        }
    }

    /// What vouches for the name of a connection to `destination` that found this service so.
    pub(super) fn standing(&self, matched: Match, destination: IpAddr) -> NameTrust {
        match matched {
            Match::Address
            | Match::AddressAndSni
            | Match::Prefix(_)
            | Match::PrefixAndSni(_)
            | Match::Resolved
            | Match::Port => NameTrust::NotNeeded,
            Match::Host | Match::Wildcard | Match::HostAddress => self.standing_at(destination),
        }
    }

    /// Whether Egret resolves the name of a connection that finds it by one, and goes there.
    #[must_use]
    pub fn resolves_claims(&self) -> bool {
        self.standing == NameTrust::Resolved
    }

    fn standing_at(&self, destination: IpAddr) -> NameTrust {
        match self.standing {
            NameTrust::Unverified | NameTrust::Resolved if self.lists(destination) => {
                NameTrust::NotNeeded
            }
            standing => standing,
        }
    }

    /// The entry has this address.
    fn lists(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses.iter().any(|prefix| prefix.contains(&address))
    }

    /// The namespace of the ServiceEntry document.
    pub(super) fn namespace(&self) -> &str {
        self.cluster.value.service_namespace.as_deref().unwrap_or_default()
    }

    /// Both have the endpoints of all entries of their group.
    pub(super) fn shares_endpoints(&self, other: &Self) -> bool {
        self.has_endpoints() && self.group() == other.group()
    }

    /// What leads to the endpoint with this address.
    #[must_use]
    pub fn led_by(&self, endpoint: IpAddr) -> LedBy {
        if self.resolved_names.is_empty() || self.listed_endpoints.contains(&endpoint) {
            LedBy::File
        } else {
            LedBy::Dns
        }
    }

    /// The addresses that DNS gave by which it is found.
    pub(super) fn resolved_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.resolved.keys().copied()
    }

    /// Where a connection to `original` goes that has found this service so.
    ///
    /// One that was found by an address that DNS gave goes to that address: the owner of a name
    /// says whose connections it takes, and must not say where they go instead. Only to endpoints
    /// that the entry lists beside its host it is led elsewhere.
    #[must_use]
    pub fn destination(&self, matched: Match, original: SocketAddr) -> Destination {
        let resolved = || self.resolved.get(&original.ip().to_canonical()).copied().flatten();
        match &self.target {
            Target::OriginalDestination { target_port } => {
                let port = target_port.unwrap_or(original.port());
                match self.standing(matched, original.ip()) {
                    NameTrust::Resolved => Destination::Named { port },
                    NameTrust::NotNeeded | NameTrust::Verified | NameTrust::Unverified => {
                        Destination::Original { port, led_by: LedBy::Workload }
                    }
                }
            }
            Target::Endpoints(_) if matched == Match::Resolved => match resolved() {
                Some(port) => Destination::Original { port, led_by: self.led_by(original.ip()) },
                None => Destination::Endpoints,
            },
            Target::Endpoints(_) => Destination::Endpoints,
        }
    }

    /// Where to start in `Target::Endpoints` for the next connection (round robin over all
    /// workers); 0 for another target, and for no endpoint.
    #[must_use]
    pub fn next_endpoint(&self) -> usize {
        match &self.target {
            // Nothing is published through the cursor, so no ordering is needed.
            Target::Endpoints(list) if !list.is_empty() => {
                self.cursor.fetch_add(1, Ordering::Relaxed) % list.len()
            }
            Target::Endpoints(_) | Target::OriginalDestination { .. } => 0,
        }
    }
}

/// What vouches for a name by which a port of `entry` with this reach is found.
pub(super) fn standing_by_name(
    entry: &ServiceEntry,
    of_port: Reach,
    unverified: Unverified,
) -> NameTrust {
    match entry.resolution {
        Resolution::Static | Resolution::Dns => NameTrust::Verified,
        Resolution::DynamicDns => NameTrust::Resolved,
        // Every address is the entry's own: whatever the name, the port alone would do.
        Resolution::None if of_port.by_address == ByAddress::Any => NameTrust::NotNeeded,
        Resolution::None if unverified == Unverified::Resolve => NameTrust::Resolved,
        Resolution::None => NameTrust::Unverified,
    }
}

/// What connections to `host` on `port` are accounted to.
pub(super) fn cluster(entry: &ServiceEntry, host: &HostPattern) -> Identity<Cluster> {
    let host: Box<str> = host.to_string().into();
    Identity::new(Cluster {
        service_name: host.clone(),
        service: Some(host),
        workload: Some(entry.name.clone()),
        service_namespace: Some(entry.namespace.clone()),
    })
}

/// Where connections go, and the names that were resolved for it.
fn target(
    entry: &ServiceEntry,
    port: &Port,
    host: &HostPattern,
    answers: &Answers,
) -> (Target, Arc<[Name]>) {
    let target_port = port.target_port;
    let addresses_of = |name: &Name| answers.current(name.as_str());
    let at = |number: u16| move |ip: &IpAddr| SocketAddr::new(*ip, number);
    match entry.resolution {
        Resolution::None | Resolution::DynamicDns => {
            (Target::OriginalDestination { target_port }, [].into())
        }
        Resolution::Dns if entry.endpoints.is_empty() => {
            let number = target_port.unwrap_or(port.number);
            let addresses = host.exact().map_or(&[][..], addresses_of);
            let endpoints = addresses.iter().map(at(number)).collect();
            (Target::Endpoints(endpoints), host.exact().cloned().into_iter().collect())
        }
        Resolution::Static | Resolution::Dns => {
            let (mut endpoints, mut names) = (Vec::new(), Vec::new());
            for endpoint in &entry.endpoints {
                let number = ServiceEntry::endpoint_port(port, endpoint);
                match &endpoint.address {
                    EndpointAddress::Ip(ip) => endpoints.push(SocketAddr::new(*ip, number)),
                    EndpointAddress::Name(name) => {
                        endpoints.extend(addresses_of(name).iter().map(at(number)));
                        names.push(name.clone());
                    }
                }
            }
            (Target::Endpoints(endpoints.into()), names.into())
        }
    }
}

/// See [`Service::resolved`].
fn resolved(
    entry: &ServiceEntry,
    port: &Port,
    host: &HostPattern,
    answers: &Answers,
) -> BTreeMap<IpAddr, Option<u16>> {
    let of_name = |name: &Name, port: Option<u16>| {
        let addresses: Vec<IpAddr> = answers.recent(name.as_str()).to_vec();
        addresses.into_iter().map(move |ip| (ip, port))
    };
    let own = entry.endpoints.is_empty().then(|| port.target_port.unwrap_or(port.number));
    let of_host = host.exact().into_iter().flat_map(|name| of_name(name, own));
    let of_endpoints = entry.endpoints.iter().flat_map(|endpoint| {
        let number = Some(ServiceEntry::endpoint_port(port, endpoint));
        match &endpoint.address {
            EndpointAddress::Ip(ip) => vec![(*ip, number)],
            EndpointAddress::Name(name) => of_name(name, number).collect(),
        }
    });
    // An endpoint's own port goes before what is said about the host.
    of_host.chain(of_endpoints).collect()
}
