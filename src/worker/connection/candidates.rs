//! The addresses that an upstream connection may go to, and the order in which they are tried.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::registry::snapshot::{Service, Target};
use crate::sniff::Name;
use crate::upstream_guard::LedBy;

/// The addresses that there are, and which of them have been tried.
#[derive(Debug)]
pub(super) struct Candidates {
    list: List,
    /// The index to begin with.
    first: usize,
    tried: Vec<usize>,
}

#[derive(Debug)]
pub(super) enum List {
    /// The endpoints of a service.
    Service(Arc<Service>),
    /// What a name has resolved to.
    Name(Name, Box<[SocketAddr]>),
}

impl Candidates {
    /// Nothing has been tried; `first` is the index to begin with.
    pub(super) fn new(list: List, first: usize) -> Self {
        Self { list, first, tried: Vec::new() }
    }

    /// What leads to `address`, which is one of these.
    pub(super) fn led_by(&self, address: IpAddr) -> LedBy {
        match &self.list {
            List::Service(service) => service.led_by(address),
            List::Name(..) => LedBy::Dns,
        }
    }

    fn endpoints(&self) -> &[SocketAddr] {
        match &self.list {
            List::Name(_, addresses) => addresses,
            List::Service(service) => match &service.target {
                Target::Endpoints(endpoints) => endpoints,
                Target::OriginalDestination { .. } => &[],
            },
        }
    }

    /// The name whose addresses these are.
    pub(super) fn name(&self) -> Option<&Name> {
        match &self.list {
            List::Service(_) => None,
            List::Name(name, _) => Some(name),
        }
    }

    pub(super) fn has_more(&self) -> bool {
        self.tried.len() < self.endpoints().len()
    }

    /// The next address to try, better of the family that is asked for.
    pub(super) fn next(
        &mut self,
        wants_v4: bool,
        has_failed: impl Fn(SocketAddr) -> bool,
    ) -> Option<SocketAddr> {
        let index = choose(self.endpoints(), self.first, &self.tried, wants_v4, has_failed)?;
        self.tried.push(index);
        Some(self.endpoints()[index])
    }
}

/// The index of the best endpoint that has not been tried: one that has not just failed, of the
/// family that is asked for, the first one in the round from `first` on.
fn choose(
    endpoints: &[SocketAddr],
    first: usize,
    tried: &[usize],
    wants_v4: bool,
    has_failed: impl Fn(SocketAddr) -> bool,
) -> Option<usize> {
    let mut best = None;
    for index in (first..endpoints.len()).chain(0..first) {
        if tried.contains(&index) {
            continue;
        }
        let address = endpoints[index];
        let rank = (has_failed(address), address.is_ipv4() != wants_v4);
        if rank == (false, false) {
            return Some(index);
        }
        if best.is_none_or(|(other, _)| rank < other) {
            best = Some((rank, index));
        }
    }
    best.map(|(_, index)| index)
}

#[cfg(test)]
mod tests;
