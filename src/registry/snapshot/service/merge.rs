//! Services of several entries that are one for Istio.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{Cluster, Service, Target};
use crate::sniff::Name;

/// One host and port of one namespace is one service for Istio, with the endpoints of every entry
/// that has it and finds them in the same way.
pub(in crate::registry::snapshot) fn merge_endpoints(services: &mut [Service]) {
    for positions in groups_of_several(services) {
        let merged = Merged::of(positions.iter().map(|n| &services[*n]));
        for position in positions {
            services[position].replace_endpoints(&merged);
        }
    }
}

/// The positions of services that are one, in their order.
fn groups_of_several(services: &[Service]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let mut firsts = HashMap::with_capacity_and_hasher(services.len(), RandomState::default());
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let with_endpoints = services.iter().enumerate().filter(|(_, service)| service.has_endpoints());
    for (position, service) in with_endpoints {
        let first = *firsts.entry(service.group()).or_insert(position);
        if first != position {
            groups.entry(first).or_insert_with(|| vec![first]).push(position);
        }
    }
    groups.into_values()
}

/// The endpoints of several services together, each once; shared by all of them.
#[derive(Debug)]
struct Merged {
    endpoints: Arc<[SocketAddr]>,
    names: Arc<[Name]>,
    listed: Arc<[IpAddr]>,
}

impl Merged {
    fn of<'a>(services: impl Iterator<Item = &'a Service> + Clone) -> Self {
        let endpoints = services.clone().flat_map(|service| match &service.target {
            Target::Endpoints(own) => &own[..],
            Target::OriginalDestination { .. } => &[],
        });
        Self {
            endpoints: each_once(endpoints),
            names: each_once(services.clone().flat_map(|service| &*service.resolved_names)),
            listed: each_once(services.flat_map(|service| &*service.listed_endpoints)),
        }
    }
}

fn each_once<'a, T: Clone + Eq + Hash + 'a>(all: impl Iterator<Item = &'a T>) -> Arc<[T]> {
    let mut seen = HashSet::new();
    all.filter(|one| seen.insert(*one)).cloned().collect()
}

impl Service {
    /// Services that are equal in this are one: they have the endpoints of all. One is a host in a
    /// namespace, whichever entries have it.
    pub(super) fn group(&self) -> impl Eq + Hash + use<'_> {
        let Cluster { service_name, service_namespace, .. } = &*self.cluster.value;
        (service_name, service_namespace, self.port, self.resolution)
    }

    /// It has endpoints, which it has in common with its group.
    pub(super) fn has_endpoints(&self) -> bool {
        matches!(self.target, Target::Endpoints(_))
    }

    /// Takes over the endpoints of all entries of its group.
    fn replace_endpoints(&mut self, merged: &Merged) {
        if let Target::Endpoints(own) = &mut self.target {
            own.clone_from(&merged.endpoints);
            self.resolved_names = Arc::clone(&merged.names);
            self.listed_endpoints = Arc::clone(&merged.listed);
        }
    }
}
