//! One immutable generation: what the workers decide by.
//!
//! Built from the configuration, the service entries, the workloads and what names resolved to, at
//! start, at every reload and when an answer changes; asked once per connection, with the original
//! destination, and once more per name that the connection shows, for the verdict. It reads no
//! bytes of a connection and connects to nothing.
//!
//! The more specific entry wins: exact address, longest prefix, exact host, longest wildcard, bare
//! port. Only entries that have the port compete, and by name only those whose protocol spells its
//! name where the connection did. A name is a claim of the workload: [`NameTrust`] says whether
//! anything vouches for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

mod answers;
mod host_index;
mod index;
mod service;
mod warnings;

pub use self::answers::Answers;
pub use self::service::{Cluster, Destination, Service, Target};
pub use super::service_entry::NameSource;
pub use crate::identity::Identity;

use super::service_entry::{ByAddress, Reach, Resolution, ServiceEntry};
use crate::config::{Config, Mode, Unverified};
use crate::diagnostics::Diagnostic;
use crate::sniff::Name;
use crate::workload::{Workload, Workloads};
use index::Index;
use warnings::Warnings;

/// `destination_service_name` of connections that pass without a service entry.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// `destination_service_name` of connections that are blocked.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";

/// The name that a connection shows.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The name.
    pub name: &'a Name,
    /// Which bytes spelled it.
    pub by: NameSource,
}

/// How a service entry came to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// By exactly this address and port.
    Address,
    /// By an address that its name resolved to, and the port.
    Resolved,
    /// By this prefix and the port.
    Prefix(IpNet),
    /// By exactly this name and the port.
    Host,
    /// By a wildcard that takes in the name, and the port.
    Wildcard,
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
        let mut services: Vec<Arc<Service>> = Vec::new();
        let mut index = Index::default();
        let mut warnings = Warnings::default();
        for entry in in_order {
            warnings.effect_of_guard((&config.upstream).into(), entry);
            for (port, reach) in entry.reachable_ports() {
                warnings.effect_of(&config.names, entry, port, reach);
            }
            for service in services_of(entry, answers) {
                for taken in index.add(services.len(), &service) {
                    warnings.conflict(&service, &services[taken.by], &taken);
                }
                services.push(Arc::new(service));
            }
        }
        let (passthrough, black_hole) =
            (reserved(PASSTHROUGH_CLUSTER), reserved(BLACK_HOLE_CLUSTER));
        let snapshot =
            Self { generation, config, workloads, services, index, passthrough, black_hole };
        (snapshot, warnings.finish())
    }

    /// The verdict on a connection to `destination`, by address and port alone.
    #[must_use]
    pub fn lookup(&self, destination: SocketAddr) -> Verdict<'_> {
        self.decide(destination, None).verdict
    }

    /// Whether a name could still change what [`Snapshot::lookup`] says about a connection to
    /// `destination`, or give a connection that it blocks a chance.
    #[must_use]
    pub fn awaits_name(&self, destination: SocketAddr) -> bool {
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        if !self.config.names.decide_on(port) || self.index.by_address(address, port).is_some() {
            return false;
        }
        let is_blocked = self.mode() == Mode::RegistryOnly && self.index.by_port(port).is_none();
        is_blocked || self.index.has_hosts(port)
    }

    /// The verdict on a connection to `destination`, or on one of its requests, that shows the name
    /// in `claim`. The name decides only where no entry has the address.
    #[must_use]
    pub fn decide(&self, destination: SocketAddr, claim: Option<Claim<'_>>) -> Decision<'_> {
        let Some((service, matched)) = self.find(destination, claim) else {
            let verdict = match self.mode() {
                Mode::AllowAny => Verdict::Passthrough,
                Mode::RegistryOnly => Verdict::BlackHole,
            };
            return Decision { verdict, standing: NameTrust::NotNeeded };
        };
        let standing = service.standing(matched);
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
        destination: SocketAddr,
        claim: Option<Claim<'_>>,
    ) -> Option<(&Arc<Service>, Match)> {
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        let claim = claim.filter(|_| self.config.names.decide_on(port));
        let by_name = || self.index.by_name(claim?, port);
        let found = self.index.by_address(address, port).or_else(by_name);
        let (position, matched) = found.or_else(|| self.index.by_port(port))?;
        Some((&self.services[position], matched))
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

/// The services of `entry`: one per port and host that can be found.
fn services_of<'a>(
    entry: &'a ServiceEntry,
    answers: &'a Answers,
) -> impl Iterator<Item = Service> + 'a {
    let clusters: Vec<_> = entry.hosts.iter().map(|host| service::cluster(entry, host)).collect();
    entry.reachable_ports().flat_map(move |(port, reach)| {
        let hosts = entry.hosts.iter().zip(clusters.clone()).enumerate();
        hosts.filter_map(move |(rank, (host, cluster))| {
            let own_reach = reach_of_host(reach, rank)?;
            let standing = standing_by_name(entry, reach);
            let parts =
                service::ServiceParts { entry, port, host, cluster, reach: own_reach, standing };
            Some(Service::new(parts, answers))
        })
    })
}

/// What vouches for a name by which a port of `entry` with this reach is found.
fn standing_by_name(entry: &ServiceEntry, of_port: Reach) -> NameTrust {
    match entry.resolution {
        Resolution::Static | Resolution::Dns => NameTrust::Verified,
        // Every address is the entry's own: whatever the name, the port alone would do.
        Resolution::None if of_port.by_address == ByAddress::Any => NameTrust::NotNeeded,
        Resolution::None | Resolution::DynamicDns => NameTrust::Unverified,
    }
}

/// What the entry's host with this `rank` is found by. The addresses that an entry lists say
/// nothing about which of its hosts is meant: they are the first one's.
fn reach_of_host(of_port: Reach, rank: usize) -> Option<Reach> {
    let by_address = match of_port.by_address {
        ByAddress::Listed | ByAddress::Any if rank > 0 => ByAddress::Nothing,
        other => other,
    };
    let is_found = by_address != ByAddress::Nothing || of_port.by_name.is_some();
    is_found.then_some(Reach { by_address, ..of_port })
}

fn precedence(entry: &ServiceEntry) -> impl Ord + use<'_> {
    (entry.created.is_none(), entry.created, &entry.namespace, &entry.name, &entry.origin)
}

fn reserved(name: &str) -> Identity<Cluster> {
    Identity::new(Cluster { service_name: name.into(), service: None, service_namespace: None })
}

#[cfg(test)]
mod tests;
