//! One host and port of one namespace has the endpoints of every entry that has it.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Service, Target};
use crate::sniff::Name;

/// The endpoints of several services together, each once; shared by all of them.
#[derive(Debug)]
pub(in crate::registry::snapshot) struct Merged {
    pub(super) endpoints: Arc<[SocketAddr]>,
    pub(super) names: Arc<[Name]>,
    pub(super) listed: Arc<[IpAddr]>,
}

impl Merged {
    pub(in crate::registry::snapshot) fn of<'a>(
        services: impl Iterator<Item = &'a Service> + Clone,
    ) -> Self {
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
