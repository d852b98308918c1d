//! One immutable generation: what the workers decide by.
//!
//! Built from the configuration, the service entries, the workloads and what names resolved to, at
//! start, at every reload and when an answer changes; asked once per connection, with the original
//! destination, and once more per name that the connection shows, for the verdict. It reads no
//! bytes of a connection and connects to nothing.
//!
//! The more specific entry wins: listed address, longest listed prefix, exact host, longest
//! wildcard, resolved address, bare port. Only entries that have the port compete, and what each
//! can be found by depends on the protocol that it declares
//! ([`ServiceEntry::reach`](super::service_entry::ServiceEntry::reach)). A name is a claim of the
//! workload: [`NameTrust`] says whether anything vouches for it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

mod answers;
mod host_index;
mod index;
mod service;
mod warnings;

pub use self::answers::Answers;
pub use self::service::{Cluster, Destination, Service, Target};
pub use crate::identity::Identity;

use super::service_entry::{ByAddress, Protocol, Reach, ServiceEntry};
use crate::config::{Config, Mode, Unverified};
use crate::diagnostics::Diagnostic;
use crate::sniff::{Host, Name};
use crate::workload::{Workload, Workloads};
use index::{AtPort, Index};
use warnings::Warnings;

/// `destination_service_name` of connections that pass without a service entry.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// `destination_service_name` of connections that are blocked.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";

/// What a connection shows of where it means to go.
#[derive(Debug, Clone, Copy)]
pub enum Shown<'a> {
    /// HTTP, and the host that a request asks for, if it names one.
    Http(Option<&'a Host>),
    /// TLS, and the name in its SNI, if it has one.
    Tls(Option<&'a Name>),
    /// Nothing in which Egret reads a name, or nothing yet.
    Nothing,
}

impl<'a> Shown<'a> {
    /// The name, if it is one.
    #[must_use]
    pub fn name(self) -> Option<&'a Name> {
        match self {
            Self::Http(Some(Host::Name(name))) => Some(name),
            Self::Tls(name) => name,
            Self::Http(Some(Host::Address(_)) | None) | Self::Nothing => None,
        }
    }
}

/// How a service entry came to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// By exactly this address and port.
    Address,
    /// By this address, which several hosts have, its SNI, and the port.
    AddressAndSni,
    /// By this prefix and the port.
    Prefix(IpNet),
    /// By this prefix, its SNI, and the port.
    PrefixAndSni(IpNet),
    /// By exactly this name and the port.
    Host,
    /// By a wildcard that takes in the name, and the port.
    Wildcard,
    /// By a Host that spells an address of the entry, and the port.
    HostAddress,
    /// By an address that its name resolved to, and the port.
    Resolved,
    /// By the port alone.
    Port,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    /// A service entry matches.
    Service(&'a Arc<Service>, Match),
    /// Nothing matches, and the policy is `ALLOW_ANY`.
    Passthrough,
    /// Nothing matches, and the policy is `REGISTRY_ONLY`; or the name that matches is unverified,
    /// and `names.unverified` is `block`.
    BlackHole,
}

/// What vouches for the name that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameTrust {
    /// No name decided, or the entry takes any address on the port.
    NotNeeded,
    /// The connection goes to the entry's own endpoints, wherever the workload meant it to go.
    Verified,
    /// The connection goes to an address that Egret resolves for the name, wherever the workload
    /// meant it to go.
    Resolved,
    /// Nothing: the connection would go where the workload says, under a name that it chose. (Were
    /// that address among the entry's own, it would have matched by address.)
    Unverified,
}

/// A verdict, and what it rests on.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// What happens.
    pub verdict: Verdict<'a>,
    /// What vouches for the name.
    pub standing: NameTrust,
}

/// One immutable generation.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub generation: u64,
    /// The configuration of this generation.
    pub config: Arc<Config>,
    /// Who the sources are.
    pub workloads: Arc<Workloads>,
    services: Vec<Arc<Service>>,
    index: Index,
    /// By the position of a service: those of other namespaces with the same host and port, which
    /// their own namespace's workloads find in its place.
    namesakes: HashMap<usize, Vec<usize>>,
    passthrough: Identity<Cluster>,
    black_hole: Identity<Cluster>,
}

impl Snapshot {
    /// The snapshot of these parts, and a warning for each service that loses an address, a name or
    /// a port to an earlier one, or that the configuration leaves without effect.
    #[must_use]
    pub fn build(
        generation: u64,
        config: Arc<Config>,
        entries: &[ServiceEntry],
        workloads: Arc<Workloads>,
        answers: &Answers,
    ) -> (Self, Vec<Diagnostic>) {
        // The first to claim something keeps it, so the order is the tie-break: the oldest first,
        // those without a time last, then by name. The origin makes it total for equal names.
        let mut in_order: Vec<&ServiceEntry> = entries.iter().collect();
        in_order.sort_by(|a, b| precedence(a).cmp(&precedence(b)));
        let mut warnings = Warnings::default();
        let mut all = Vec::new();
        for entry in in_order {
            warnings.effect_of_guard((&config.upstream).into(), entry);
            warnings.reach_of_claims(&config, entry);
            for (port, reach) in entry.reachable_ports() {
                warnings.effect_of(&config.names, entry, port, reach);
            }
            all.extend(services_of(entry, answers, config.names.unverified));
        }
        service::merge_endpoints(&mut all);
        let mut services: Vec<Arc<Service>> = Vec::with_capacity(all.len());
        let mut index = Index::default();
        let mut namesakes: HashMap<usize, Vec<usize>> = HashMap::new();
        for service in all {
            let position = services.len();
            for taken in index.add(position, &service, &services) {
                let winner = &services[taken.by];
                if taken.is_name && service.namespace() != winner.namespace() {
                    namesakes.entry(taken.by).or_default().push(position);
                }
                warnings.conflict(&service, winner, &taken);
            }
            services.push(Arc::new(service));
        }
        index.finish();
        let (passthrough, black_hole) =
            (reserved(PASSTHROUGH_CLUSTER), reserved(BLACK_HOLE_CLUSTER));
        let snapshot = Self {
            generation,
            config,
            workloads,
            services,
            index,
            namesakes,
            passthrough,
            black_hole,
        };
        (snapshot, warnings.finish())
    }

    /// The verdict on a connection to `destination`, by address and port alone.
    #[must_use]
    pub fn lookup(&self, destination: SocketAddr) -> Verdict<'_> {
        // Whose it is matters among names only.
        self.decide(IpAddr::V4(Ipv4Addr::UNSPECIFIED), destination, Shown::Nothing).verdict
    }

    /// Whether names are read on `port`. `names.opaquePorts` holds for ports of which no entry says
    /// otherwise.
    #[must_use]
    pub fn reads_names(&self, port: u16) -> bool {
        self.reads_names_at(port, self.index.at(port))
    }

    fn reads_names_at(&self, port: u16, at: Option<&AtPort>) -> bool {
        let names = &self.config.names;
        names.enabled && (at.is_some_and(AtPort::declares_names) || names.decide_on(port))
    }

    /// Whether a connection to `destination` waits for its name: it could change what
    /// [`Snapshot::lookup`] says, or is what a blocked connection is answered and counted by.
    #[must_use]
    pub fn awaits_name(&self, destination: SocketAddr) -> bool {
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        let at = self.index.at(port);
        if !self.reads_names_at(port, at) {
            return false;
        }
        let Some(at) = at else { return self.mode() == Mode::RegistryOnly };
        at.depends_on_names(address)
            || self.mode() == Mode::RegistryOnly && at.find(address, Shown::Nothing).is_none()
    }

    /// Whether a name could change what [`Snapshot::lookup`] says about a connection to
    /// `destination`.
    #[must_use]
    pub fn depends_on_name(&self, destination: SocketAddr) -> bool {
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        let at = self.index.at(port);
        self.reads_names_at(port, at) && at.is_some_and(|at| at.depends_on_names(address))
    }

    /// The verdict on a connection from `source` to `destination`, or on one of its requests.
    #[must_use]
    pub fn decide(
        &self,
        source: IpAddr,
        destination: SocketAddr,
        shown: Shown<'_>,
    ) -> Decision<'_> {
        let Some((service, matched)) = self.find(source, destination, shown) else {
            let verdict = match self.mode() {
                Mode::AllowAny => Verdict::Passthrough,
                Mode::RegistryOnly => Verdict::BlackHole,
            };
            return Decision { verdict, standing: NameTrust::NotNeeded };
        };
        let standing = service.standing(matched, destination.ip());
        let is_refused =
            standing == NameTrust::Unverified && self.config.names.unverified == Unverified::Block;
        let verdict =
            if is_refused { Verdict::BlackHole } else { Verdict::Service(service, matched) };
        Decision { verdict, standing }
    }

    /// The service that a connection finds, and how, before any policy.
    #[must_use]
    pub fn find(
        &self,
        source: IpAddr,
        destination: SocketAddr,
        shown: Shown<'_>,
    ) -> Option<(&Arc<Service>, Match)> {
        let at = self.index.at(destination.port())?;
        let port = destination.port();
        let shown = match shown {
            Shown::Http(_) | Shown::Tls(_) if self.reads_names_at(port, Some(at)) => shown,
            Shown::Http(_) | Shown::Tls(_) | Shown::Nothing => Shown::Nothing,
        };
        let (position, matched) = at.find(destination.ip().to_canonical(), shown)?;
        let position = match matched {
            Match::Host | Match::Wildcard if !self.namesakes.is_empty() => {
                self.own_namesake(position, source)
            }
            _ => position,
        };
        Some((&self.services[position], matched))
    }

    /// The services of other namespaces that stand in the place of `service` for the workloads of
    /// theirs.
    pub fn namesakes(&self, service: &Arc<Service>) -> impl Iterator<Item = &Arc<Service>> {
        let is_it = |position: &usize| Arc::ptr_eq(&self.services[*position], service);
        let positions = self.namesakes.iter().find(|(position, _)| is_it(position));
        positions.into_iter().flat_map(|(_, others)| others.iter().map(|n| &self.services[*n]))
    }

    /// The service of the source's own namespace, if it has one in the place of this one.
    fn own_namesake(&self, position: usize, source: IpAddr) -> usize {
        let Some(others) = self.namesakes.get(&position) else { return position };
        let Some(own) = self.workload(source).value.namespace.as_deref() else { return position };
        let is_own = |position: &&usize| self.services[**position].namespace() == own;
        match self.services[position].namespace() == own {
            true => position,
            false => others.iter().find(is_own).copied().unwrap_or(position),
        }
    }

    /// Cluster of a verdict, for accounting.
    #[must_use]
    pub fn cluster<'a>(&'a self, verdict: Verdict<'a>) -> &'a Identity<Cluster> {
        match verdict {
            Verdict::Service(service, _) => &service.cluster,
            Verdict::Passthrough => &self.passthrough,
            Verdict::BlackHole => &self.black_hole,
        }
    }

    /// Who owns `source`.
    #[must_use]
    pub fn workload(&self, source: IpAddr) -> &Identity<Workload> {
        self.workloads.find(source)
    }

    /// Every service that can match, the oldest entry first.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    fn mode(&self) -> Mode {
        self.config.outbound_traffic_policy.mode
    }
}

/// The services of `entry`: one per port and host that can be found, the hosts in alphabetical
/// order.
fn services_of<'a>(
    entry: &'a ServiceEntry,
    answers: &'a Answers,
    unverified: Unverified,
) -> impl Iterator<Item = Service> + 'a {
    let mut hosts: Vec<_> =
        entry.hosts.iter().map(|host| (host, service::cluster(entry, host))).collect();
    hosts.sort_by(|(_, one), (_, other)| one.value.service_name.cmp(&other.value.service_name));
    entry.reachable_ports().flat_map(move |(port, reach)| {
        hosts.clone().into_iter().enumerate().filter_map(move |(rank, (host, cluster))| {
            let own_reach = reach_of_host(reach, rank);
            let is_found = own_reach.finds()
                || !entry.allocated.is_empty()
                // Its host may be one of the virtual hosts of the port.
                || port.protocol == Protocol::Auto;
            let standing = service::standing_by_name(entry, reach, unverified);
            let parts =
                service::ServiceParts { entry, port, host, cluster, reach: own_reach, standing };
            is_found.then(|| Service::new(parts, answers))
        })
    })
}

/// What the entry's host with this `rank` is found by. Where no name is read, the addresses that an
/// entry lists say nothing about which of its hosts is meant: they are the first one's.
fn reach_of_host(of_port: Reach, rank: usize) -> Reach {
    let by_address = match of_port.by_address {
        ByAddress::Listed | ByAddress::AsHost | ByAddress::Any if rank > 0 => ByAddress::Nothing,
        other => other,
    };
    Reach { by_address, ..of_port }
}

fn precedence(entry: &ServiceEntry) -> impl Ord + use<'_> {
    (entry.created.is_none(), entry.created, &entry.namespace, &entry.name, &entry.origin)
}

fn reserved(name: &str) -> Identity<Cluster> {
    Identity::new(Cluster::reserved(name))
}

#[cfg(test)]
mod tests;
