//! One immutable generation: what the workers decide by.
//!
//! Built from the configuration, the service entries and the workloads at start and at every
//! reload; asked once per connection, with the original destination, for the verdict. It takes no
//! decision that depends on the connection's bytes and connects to nothing.
//!
//! The more specific entry wins: exact address, longest prefix, bare port. Only entries that have
//! the port compete. Lookup costs a hash probe, one walk down a prefix tree per port, and another
//! probe.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::service_entry::{Origin, Port, Reach, Resolution, ServiceEntry};
use crate::config::{Config, Mode};
pub use crate::identity::Identity;
use crate::prefix::{self, Prefixes};
use crate::problem::{Fault, PROBLEMS_MAX, Problem, Severity};
use crate::workload::{Workload, Workloads};

/// `destination_service_name` of connections that pass without a service entry.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// `destination_service_name` of connections that are blocked.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";

/// What a connection is accounted to: the `destination_*` labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// `destination_service_name`: `PassthroughCluster`, `BlackHoleCluster` or the entry's host.
    pub service_name: Box<str>,
    /// `destination_service`: the entry's host; `None` prints as `unknown`.
    pub service: Option<Box<str>>,
    /// `destination_service_namespace`: the entry's namespace; `None` prints as `unknown`.
    pub service_namespace: Option<Box<str>>,
}

/// Where a service's connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Resolution NONE: the original destination, with the port replaced by `targetPort` if set.
    OriginalDestination {
        /// The port to connect to instead.
        target_port: Option<u16>,
    },
    /// Resolution STATIC: one of these, round robin, the next on failure. Never empty.
    Endpoints(Vec<SocketAddr>),
}

/// One port of one service entry.
#[derive(Debug)]
pub struct Service {
    /// `namespace/name` of the ServiceEntry document.
    pub entry: Box<str>,
    /// What its connections are accounted to.
    pub cluster: Identity<Cluster>,
    /// The port that workloads connect to.
    pub port: u16,
    /// Where its connections go.
    pub target: Target,
    /// The entry's addresses; none: it matches by port alone.
    pub addresses: Arc<[IpNet]>,
    /// Where the document stands.
    pub origin: Origin,
    cursor: AtomicUsize,
}

/// How a service entry came to match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// By exactly this address and port.
    Address,
    /// By this prefix and the port.
    Prefix(IpNet),
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
    /// Nothing matches, and the policy is `REGISTRY_ONLY`.
    BlackHole,
}

/// One immutable generation.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub generation: u64,
    /// The configuration of this generation.
    pub config: Arc<Config>,
    /// Who the sources are.
    pub workloads: Workloads,
    services: Vec<Arc<Service>>,
    index: Index,
    passthrough: Identity<Cluster>,
    black_hole: Identity<Cluster>,
}

/// Positions in `Snapshot::services`, by what a connection shows.
#[derive(Debug, Default)]
struct Index {
    addresses: HashMap<(IpAddr, u16), usize, RandomState>,
    prefixes: HashMap<u16, Prefixes<usize>, RandomState>,
    ports: HashMap<u16, usize, RandomState>,
}

impl Snapshot {
    /// The snapshot of these parts, and a warning for each service entry that loses an address or a
    /// port to an earlier one.
    #[must_use]
    pub fn build(
        generation: u64,
        config: Arc<Config>,
        mut entries: Vec<ServiceEntry>,
        workloads: Workloads,
    ) -> (Self, Vec<Problem>) {
        // The first to claim an address keeps it, so the order is the tie-break: the oldest first,
        // those without a time last, then by name. The origin makes it total for equal names.
        entries.sort_by(|a, b| precedence(a).cmp(&precedence(b)));
        let mut services = Vec::new();
        let mut index = Index::default();
        let mut conflicts = Conflicts::default();
        for entry in &entries {
            for port in &entry.ports {
                let reach = entry.reach(port);
                if let Reach::Nothing(_) = reach {
                    continue;
                }
                let service = services.len();
                services.push(Arc::new(Service::new(entry, port)));
                index.add(service, &services, reach, &mut conflicts);
            }
        }
        let (passthrough, black_hole) =
            (reserved(PASSTHROUGH_CLUSTER), reserved(BLACK_HOLE_CLUSTER));
        let snapshot =
            Self { generation, config, workloads, services, index, passthrough, black_hole };
        (snapshot, conflicts.finish())
    }

    /// The verdict on a connection to `destination`.
    #[must_use]
    pub fn lookup(&self, destination: SocketAddr) -> Verdict<'_> {
        match self.index.find(destination.ip().to_canonical(), destination.port()) {
            Some((service, matched)) => Verdict::Service(&self.services[service], matched),
            None => match self.config.outbound_traffic_policy.mode {
                Mode::AllowAny => Verdict::Passthrough,
                Mode::RegistryOnly => Verdict::BlackHole,
            },
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
}

impl Service {
    fn new(entry: &ServiceEntry, port: &Port) -> Self {
        let host = entry.hosts.first().cloned().unwrap_or_default();
        let target = match entry.resolution {
            Resolution::Static => {
                let address = |endpoint| ServiceEntry::endpoint_port(port, endpoint);
                let endpoints = entry.endpoints.iter();
                Target::Endpoints(endpoints.map(|e| (e.address, address(e)).into()).collect())
            }
            Resolution::None | Resolution::ByName => {
                Target::OriginalDestination { target_port: port.target_port }
            }
        };
        Self {
            entry: entry.full_name().into(),
            cluster: Identity::new(Cluster {
                service_name: host.clone(),
                service: Some(host),
                service_namespace: Some(entry.namespace.clone()),
            }),
            port: port.number,
            target,
            addresses: Arc::clone(&entry.addresses),
            origin: entry.origin.clone(),
            cursor: AtomicUsize::new(0),
        }
    }

    /// Where to start in `Target::Endpoints` for the next connection (round robin over all
    /// workers); 0 for another target.
    #[must_use]
    pub fn next_endpoint(&self) -> usize {
        match &self.target {
            // Nothing is published through the cursor, so no ordering is needed.
            Target::Endpoints(list) => self.cursor.fetch_add(1, Ordering::Relaxed) % list.len(),
            Target::OriginalDestination { .. } => 0,
        }
    }
}

/// For the admin server's registry dump.
impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut view = serializer.serialize_struct("Service", 8)?;
        view.serialize_field("entry", &self.entry)?;
        view.serialize_field("host", &self.cluster.value.service_name)?;
        let addresses: Vec<String> = self.addresses.iter().map(prefix::display).collect();
        view.serialize_field("addresses", &addresses)?;
        view.serialize_field("port", &self.port)?;
        let (resolution, endpoints, target_port) = match &self.target {
            Target::OriginalDestination { target_port } => ("NONE", &[][..], *target_port),
            Target::Endpoints(endpoints) => ("STATIC", endpoints.as_slice(), None),
        };
        view.serialize_field("resolution", resolution)?;
        view.serialize_field("targetPort", &target_port)?;
        view.serialize_field("endpoints", endpoints)?;
        view.serialize_field("origin", &self.origin)?;
        view.end()
    }
}

impl Index {
    fn find(&self, address: IpAddr, port: u16) -> Option<(usize, Match)> {
        if let Some(service) = self.addresses.get(&(address, port)) {
            return Some((*service, Match::Address));
        }
        let prefixes = self.prefixes.get(&port);
        if let Some((prefix, service)) = prefixes.and_then(|p| p.longest(address)) {
            return Some((*service, Match::Prefix(prefix)));
        }
        self.ports.get(&port).map(|service| (*service, Match::Port))
    }

    fn add(
        &mut self,
        service: usize,
        services: &[Arc<Service>],
        reach: Reach,
        conflicts: &mut Conflicts,
    ) {
        let newcomer = &services[service];
        let port = newcomer.port;
        if reach == Reach::BarePort {
            let winner = *self.ports.entry(port).or_insert(service);
            if winner != service {
                conflicts.add(newcomer, &services[winner], "every address");
            }
            return;
        }
        for prefix in newcomer.addresses.iter() {
            let winner = if prefix::is_single(prefix) {
                *self.addresses.entry((prefix.addr(), port)).or_insert(service)
            } else {
                let prefixes = self.prefixes.entry(port).or_default();
                prefixes.get(prefix).copied().unwrap_or_else(|| {
                    prefixes.insert(*prefix, service);
                    service
                })
            };
            if winner != service {
                conflicts.add(newcomer, &services[winner], &prefix::display(prefix));
            }
        }
    }
}

#[derive(Debug, Default)]
struct Conflicts {
    problems: Vec<Problem>,
    left_out: usize,
}

impl Conflicts {
    fn add(&mut self, loser: &Service, winner: &Service, what: &str) {
        if self.problems.len() >= PROBLEMS_MAX {
            self.left_out += 1;
            return;
        }
        let Service { entry, port, .. } = loser;
        let Origin { file, line } = &winner.origin;
        let message = format!(
            "{entry} loses {what} port {port} to {} ({}:{line})",
            winner.entry,
            file.display()
        );
        let fix = "the older entry wins, then the first by name; remove it from one of them";
        let fault = Fault::at(loser.origin.line, message).fix(fix);
        self.problems.push(fault.problem(Severity::Warning, &loser.origin.file));
    }

    fn finish(mut self) -> Vec<Problem> {
        if let Some(last) = self.problems.last().filter(|_| self.left_out > 0) {
            let more = Fault::whole(format!("{} more conflicts, in all files", self.left_out));
            let problem = more.problem(Severity::Warning, &last.file);
            self.problems.push(problem);
        }
        self.problems
    }
}

fn precedence(entry: &ServiceEntry) -> impl Ord + use<'_> {
    (entry.created.is_none(), entry.created, &entry.namespace, &entry.name, &entry.origin)
}

fn reserved(name: &str) -> Identity<Cluster> {
    Identity::new(Cluster { service_name: name.into(), service: None, service_namespace: None })
}

#[cfg(test)]
mod tests;
