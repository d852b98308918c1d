//! One host on one port of a service entry: what its connections are accounted to, and where they
//! go.
//!
//! Istio has one service per host, and so have the metrics here: a connection is accounted to the
//! host by which it was found, or to the entry's first host when it was found by address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{Answers, Match, NameTrust};
use crate::identity::Identity;
use crate::prefix;
use crate::registry::service_entry::{
    ByAddress, EndpointAddress, HostPattern, Origin, Port, Reach, Resolution, ServiceEntry,
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
    /// `destination_service_namespace`: the entry's namespace; `None` prints as `unknown`.
    pub service_namespace: Option<Box<str>>,
}

/// Where a service's connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Resolution NONE or DYNAMIC_DNS: the original destination, with the port replaced by
    /// `targetPort` if set.
    OriginalDestination {
        /// The port to connect to instead.
        target_port: Option<u16>,
    },
    /// Resolution STATIC or DNS: one of these, round robin, the next on failure. Empty only with
    /// DNS, as long as no name has resolved.
    Endpoints(Vec<SocketAddr>),
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
    /// What it is found by.
    pub reach: Reach,
    /// How the upstream address is found.
    pub resolution: Resolution,
    /// Where its connections go.
    pub target: Target,
    /// The addresses that the entry lists, if it is found by them.
    pub addresses: Arc<[IpNet]>,
    /// With resolution DNS: the names whose addresses are its endpoints.
    pub resolved_names: Box<[Name]>,
    /// The endpoints' addresses that the entry itself lists.
    listed_endpoints: Box<[IpAddr]>,
    /// Where the document stands.
    pub origin: Origin,
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
        let addresses = match reach.by_address {
            ByAddress::Listed => Arc::clone(&entry.addresses),
            ByAddress::Resolved | ByAddress::Any | ByAddress::Nothing => Arc::default(),
        };
        Self {
            entry: entry.full_name().into(),
            cluster,
            host: host.clone(),
            port: port.number,
            reach,
            resolution: entry.resolution,
            target,
            addresses,
            resolved_names,
            listed_endpoints,
            origin: entry.origin.clone(),
            standing,
            cursor: AtomicUsize::new(0),
        }
    }

    /// What vouches for the name of a connection that found this service so.
    pub(super) fn standing(&self, matched: Match) -> NameTrust {
        match matched {
            Match::Address | Match::Resolved | Match::Prefix(_) | Match::Port => {
                NameTrust::NotNeeded
            }
            Match::Host | Match::Wildcard => self.standing,
        }
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

/// What connections to `host` on `port` are accounted to.
pub(super) fn cluster(entry: &ServiceEntry, host: &HostPattern) -> Identity<Cluster> {
    let host: Box<str> = host.to_string().into();
    Identity::new(Cluster {
        service_name: host.clone(),
        service: Some(host),
        service_namespace: Some(entry.namespace.clone()),
    })
}

/// Where connections go, and the names that were resolved for it.
fn target(
    entry: &ServiceEntry,
    port: &Port,
    host: &HostPattern,
    answers: &Answers,
) -> (Target, Box<[Name]>) {
    let target_port = port.target_port;
    let addresses_of = |name: &Name| answers.current(name.as_str());
    let at = |number: u16| move |ip: &IpAddr| SocketAddr::new(*ip, number);
    match entry.resolution {
        Resolution::None | Resolution::DynamicDns => {
            (Target::OriginalDestination { target_port }, Box::default())
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
            (Target::Endpoints(endpoints), names.into())
        }
    }
}

/// For the admin server's registry dump.
impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut view = serializer.serialize_struct("Service", 10)?;
        view.serialize_field("entry", &self.entry)?;
        view.serialize_field("host", &self.cluster.value.service_name)?;
        let addresses: Vec<String> = self.addresses.iter().map(prefix::display).collect();
        view.serialize_field("addresses", &addresses)?;
        view.serialize_field("port", &self.port)?;
        view.serialize_field("name", &self.reach.by_name.map(|source| source.label()))?;
        view.serialize_field("resolution", self.resolution.label())?;
        let (endpoints, target_port) = match &self.target {
            Target::OriginalDestination { target_port } => (&[][..], *target_port),
            Target::Endpoints(endpoints) => (endpoints.as_slice(), None),
        };
        view.serialize_field("targetPort", &target_port)?;
        view.serialize_field("endpoints", endpoints)?;
        let names: Vec<&str> = self.resolved_names.iter().map(Name::as_str).collect();
        view.serialize_field("resolvedNames", &names)?;
        view.serialize_field("origin", &self.origin)?;
        view.end()
    }
}
