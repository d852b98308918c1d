//! Positions in the snapshot's services, by what a connection shows.
//!
//! The first claim is kept, so services are added the oldest entry first. A lookup
//! allocates nothing: it costs a hash probe per way to be found, one walk down a prefix tree, and
//! for a name one probe per label.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::RandomState;

use super::host_index::HostIndex;
use super::service::Service;
use super::{Claim, Match};
use crate::prefix::{self, Prefixes};
use crate::registry::service_entry::{ByAddress, NameSource};

type Map<K, V> = HashMap<K, V, RandomState>;

/// Where services stand, by address, name and port.
#[derive(Debug, Default)]
pub(super) struct Index {
    listed: Map<(IpAddr, u16), usize>,
    resolved: Map<(IpAddr, u16), usize>,
    prefixes: Map<u16, Prefixes<usize>>,
    hosts: Map<(u16, NameSource), HostIndex>,
    ports: Map<u16, usize>,
}

/// A claim of a newcomer that another service has already.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) by: usize,
    /// What both want, in words.
    pub(super) what: String,
}

impl Index {
    /// The service that is found by the address, which must be canonical. What an operator wrote
    /// goes before what a name resolved to: an answer from outside never takes it over.
    pub(super) fn by_address(&self, address: IpAddr, port: u16) -> Option<(usize, Match)> {
        if let Some(service) = self.listed.get(&(address, port)) {
            return Some((*service, Match::Address));
        }
        let prefixes = self.prefixes.get(&port);
        if let Some((prefix, service)) = prefixes.and_then(|all| all.longest(address)) {
            return Some((*service, Match::Prefix(prefix)));
        }
        let service = self.resolved.get(&(address, port))?;
        Some((*service, Match::Resolved))
    }

    /// The service whose host matches the name.
    pub(super) fn by_name(&self, claim: Claim<'_>, port: u16) -> Option<(usize, Match)> {
        self.hosts.get(&(port, claim.by))?.find(claim.name)
    }

    /// The service that has the port whatever the address.
    pub(super) fn by_port(&self, port: u16) -> Option<(usize, Match)> {
        self.ports.get(&port).map(|service| (*service, Match::Port))
    }

    /// Whether any service is found by a name on this port.
    pub(super) fn has_hosts(&self, port: u16) -> bool {
        let has = |source| self.hosts.contains_key(&(port, source));
        has(NameSource::Host) || has(NameSource::Sni)
    }

    /// Adds the service at `position`; returns what it claims in vain.
    pub(super) fn add(&mut self, position: usize, service: &Service) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut claim = |holder: usize, what: &dyn Fn() -> String| {
            if holder != position {
                taken.push(Taken { by: holder, what: what() });
            }
        };
        let port = service.port;
        match service.reach.by_address {
            ByAddress::Nothing => {}
            ByAddress::Any => {
                let holder = *self.ports.entry(port).or_insert(position);
                claim(holder, &|| "every address".into());
            }
            ByAddress::Resolved => {
                for address in service.resolved_addresses() {
                    let holder = *self.resolved.entry((address, port)).or_insert(position);
                    claim(holder, &|| address.to_string());
                }
            }
            ByAddress::Listed => {
                for prefix in service.addresses.iter() {
                    let holder = if prefix::is_single(prefix) {
                        *self.listed.entry((prefix.addr(), port)).or_insert(position)
                    } else {
                        let prefixes = self.prefixes.entry(port).or_default();
                        prefixes.get(prefix).copied().unwrap_or_else(|| {
                            prefixes.insert(*prefix, position);
                            position
                        })
                    };
                    claim(holder, &|| prefix::display(prefix));
                }
            }
        }
        if let Some(source) = service.reach.by_name {
            let hosts = self.hosts.entry((port, source)).or_default();
            claim(hosts.add(&service.host, position), &|| service.host.to_string());
        }
        taken
    }
}
