//! Positions in the snapshot's services, by what a connection goes to and what it shows.
//!
//! Whoever claims something first keeps it, so services are added the oldest entry first. A lookup
//! allocates nothing: it costs a hash probe for the port and one per way to be found on it, one
//! walk down a prefix tree, and for a name one probe per label.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::host_index::HostIndex;
use super::service::Service;
use super::{Match, Shown};
use crate::prefix::{self, Prefixes};
use crate::registry::service_entry::{ByAddress, HostPattern, NameSource, Protocol};

type Map<K, V> = HashMap<K, V, RandomState>;

/// Where services stand, by port.
#[derive(Debug, Default)]
pub(super) struct Index {
    ports: Map<u16, AtPort>,
}

/// The services of one port, by each way to find them, the most specific first.
#[derive(Debug, Default)]
pub(super) struct AtPort {
    addresses: Map<IpAddr, Place>,
    prefixes: Prefixes<Place>,
    /// By the Host of HTTP, at any address.
    hosts: HostIndex,
    /// By a Host that spells an address which an entry lists, at any address.
    host_addresses: Map<IpAddr, usize>,
    /// By the SNI, at any address.
    server_names: HostIndex,
    resolved: Map<IpAddr, Resolved>,
    /// By the port alone.
    any: Option<usize>,
    /// Something that is no HTTP, and has no addresses, is declared here.
    is_opaque: bool,
    /// It is found by the port alone.
    is_any_opaque: bool,
    /// Services with an unset protocol and single addresses.
    beside_hosts: Vec<(HostPattern, usize)>,
    /// An entry declares that something with names is spoken here.
    declares_names: bool,
}

/// The services at one address or prefix that entries list.
#[derive(Debug, Default)]
struct Place {
    /// Whatever is spoken.
    any: Option<usize>,
    /// By the SNI; at a single address only where it has a choice.
    by_sni: Option<Box<HostIndex>>,
}

/// The services at one address that DNS has told.
#[derive(Debug)]
struct Resolved {
    /// Whatever is spoken but HTTP.
    not_http: usize,
    /// Whatever is spoken.
    any: Option<usize>,
}

/// A claim of a newcomer that another service has already.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) by: usize,
    /// What both want, in words.
    pub(super) what: String,
    /// It is a name, at any address.
    pub(super) is_name: bool,
}

impl Index {
    /// The services of `port`, if it has any.
    pub(super) fn at(&self, port: u16) -> Option<&AtPort> {
        self.ports.get(&port)
    }

    /// All services are there.
    pub(super) fn finish(&mut self) {
        self.ports.values_mut().for_each(AtPort::finish);
    }

    /// Adds the service at `position`, which comes behind `earlier` ones; returns what it claims
    /// in vain.
    pub(super) fn add(
        &mut self,
        position: usize,
        service: &Service,
        earlier: &[Arc<Service>],
    ) -> Vec<Taken> {
        let newcomer = Newcomer { position, service, earlier };
        self.ports.entry(service.port).or_default().add(&newcomer)
    }
}

impl AtPort {
    /// All services are there. Where HTTP is found by its Host, a host with an unset protocol is
    /// one of them, although its own address would be enough: Istio has one list of virtual hosts
    /// for a port. Where something opaque has the port, Istio has no such list.
    fn finish(&mut self) {
        let beside = std::mem::take(&mut self.beside_hosts);
        if !self.hosts.is_empty() && !self.is_opaque {
            for (host, position) in beside {
                self.hosts.add(&host, position);
            }
        }
    }

    /// The service that is found, and how. `address` must be canonical.
    pub(super) fn find(&self, address: IpAddr, shown: Shown<'_>) -> Option<(usize, Match)> {
        if let Some(place) = self.addresses.get(&address) {
            let found = place.find(shown);
            return found.map(|(service, by_sni)| match by_sni {
                true => (service, Match::AddressAndSni),
                false => (service, Match::Address),
            });
        }
        let in_prefix = self.prefixes.longest_that(address, |prefix, place| {
            place.find(shown).map(|(service, by_sni)| match by_sni {
                true => (service, Match::PrefixAndSni(prefix)),
                false => (service, Match::Prefix(prefix)),
            })
        });
        let by_name = || self.by_name(shown).filter(|_| !self.is_prefix_before_sni(address, shown));
        in_prefix.or_else(by_name).or_else(|| self.unlisted(address, shown))
    }

    /// As Envoy matches: the address first, then the names there. So an SNI finds nothing elsewhere
    /// where the longest prefix has names of its own.
    fn is_prefix_before_sni(&self, address: IpAddr, shown: Shown<'_>) -> bool {
        matches!(shown, Shown::Tls(_))
            && self.prefixes.longest(address).is_some_and(|(_, place)| place.by_sni.is_some())
    }

    /// Whether what a connection to `address` shows could change what it finds.
    pub(super) fn depends_on_names(&self, address: IpAddr) -> bool {
        if let Some(place) = self.addresses.get(&address) {
            return place.by_sni.is_some();
        }
        match self.prefixes.longest(address) {
            Some((_, place)) if place.by_sni.is_some() => true,
            Some(_) => false,
            None => !self.hosts.is_empty() || !self.server_names.is_empty(),
        }
    }

    /// Whether an entry declares that something with names is spoken here, and none that the port
    /// alone is enough for something without.
    pub(super) fn declares_names(&self) -> bool {
        self.declares_names && !self.is_any_opaque
    }

    /// Whether a port alone is enough for HTTP.
    fn takes_any_http(&self) -> bool {
        self.hosts.is_empty()
    }

    fn by_name(&self, shown: Shown<'_>) -> Option<(usize, Match)> {
        use crate::sniff::Host;
        match shown {
            Shown::Http(Some(Host::Name(name))) => self.hosts.find(name),
            Shown::Http(Some(Host::Address(address))) => {
                let service = self.host_addresses.get(&address.to_canonical())?;
                Some((*service, Match::HostAddress))
            }
            Shown::Tls(Some(name)) => self.server_names.find(name),
            Shown::Http(None) | Shown::Tls(None) | Shown::Nothing => None,
        }
    }

    /// The service that is found where no entry lists the address and no name is known. HTTP is
    /// found by its Host where there are hosts: another Host is nobody's.
    fn unlisted(&self, address: IpAddr, shown: Shown<'_>) -> Option<(usize, Match)> {
        let is_http = matches!(shown, Shown::Http(_));
        if let Some(resolved) = self.resolved.get(&address)
            && let Some(service) = resolved.find(is_http)
        {
            return Some((service, Match::Resolved));
        }
        let service = self.any.filter(|_| !is_http || self.takes_any_http())?;
        Some((service, Match::Port))
    }

    fn add(&mut self, newcomer: &Newcomer<'_>) -> Vec<Taken> {
        let Newcomer { position, service, .. } = *newcomer;
        let mut taken = Vec::new();
        let mut claim = |holder: usize, is_name: bool, what: &dyn Fn() -> String| {
            if holder != position {
                taken.push(Taken { by: holder, what: what(), is_name });
            }
        };
        for address in &service.allocated {
            let holder = self.add_single(*address, service.reach.at_allocated(), newcomer);
            claim(holder, false, &|| address.to_string());
        }
        match service.reach.by_address {
            ByAddress::Nothing => {}
            ByAddress::Any => {
                let holder = *self.any.get_or_insert(position);
                claim(holder, false, &|| "every address".into());
            }
            ByAddress::Resolved => {
                for address in service.resolved_addresses() {
                    let holder = self.add_resolved(address, newcomer);
                    claim(holder, false, &|| address.to_string());
                }
            }
            by @ (ByAddress::Listed | ByAddress::ListedWithSni | ByAddress::AsHost) => {
                for prefix in service.addresses.iter() {
                    let holder = match prefix::is_single(prefix) {
                        true => self.add_single(prefix.addr(), by, newcomer),
                        false => self.add_prefix(prefix, by, newcomer),
                    };
                    claim(holder, false, &|| prefix::display(prefix));
                }
            }
        }
        if let Some(source) = service.reach.by_name {
            let hosts = match source {
                NameSource::Host => &mut self.hosts,
                NameSource::Sni => &mut self.server_names,
            };
            let holder = hosts.add(&service.host, position);
            claim(holder, true, &|| service.host.to_string());
        }
        if service.protocol == Protocol::Auto && service.reach.by_name.is_none() {
            self.beside_hosts.push((service.host.clone(), position));
        }
        self.is_opaque |= service.protocol == Protocol::Opaque && service.addresses.is_empty();
        self.is_any_opaque |= self.any == Some(position) && service.protocol == Protocol::Opaque;
        self.declares_names |= service.reach.reads_names();
        taken
    }

    fn add_single(&mut self, address: IpAddr, by: ByAddress, newcomer: &Newcomer<'_>) -> usize {
        let position = newcomer.position;
        match by {
            ByAddress::AsHost => *self.host_addresses.entry(address).or_insert(position),
            ByAddress::ListedWithSni => {
                self.addresses.entry(address).or_default().add_tls(newcomer)
            }
            _ => *self.addresses.entry(address).or_default().any.get_or_insert(position),
        }
    }

    fn add_prefix(
        &mut self,
        prefix: &ipnet::IpNet,
        by: ByAddress,
        newcomer: &Newcomer<'_>,
    ) -> usize {
        let position = newcomer.position;
        match by {
            // A prefix says nothing about a Host.
            ByAddress::AsHost => position,
            ByAddress::ListedWithSni => {
                let names = self.prefixes.entry(*prefix).by_sni.get_or_insert_default();
                names.add(&newcomer.service.host, position)
            }
            _ => *self.prefixes.entry(*prefix).any.get_or_insert(position),
        }
    }

    fn add_resolved(&mut self, address: IpAddr, newcomer: &Newcomer<'_>) -> usize {
        let position = newcomer.position;
        let fresh = || Resolved { not_http: position, any: None };
        let resolved = self.resolved.entry(address).or_insert_with(fresh);
        match newcomer.service.reach.by_name {
            Some(_) => resolved.not_http,
            None => *resolved.any.get_or_insert(position),
        }
    }
}

impl Place {
    /// The service, and whether the SNI has chosen it.
    fn find(&self, shown: Shown<'_>) -> Option<(usize, bool)> {
        if let (Some(hosts), Shown::Tls(Some(name))) = (&self.by_sni, shown)
            && let Some((service, _)) = hosts.find(name)
        {
            return Some((service, true));
        }
        self.any.map(|service| (service, false))
    }

    /// Adds a service that needs no name at this single address, unless others are here, too.
    fn add_tls(&mut self, newcomer: &Newcomer<'_>) -> usize {
        let Newcomer { position, service, earlier } = *newcomer;
        let first = *self.any.get_or_insert(position);
        // Nobody else is here; an entry may list an address twice.
        if first == position {
            return position;
        }
        let by_sni = self.by_sni.get_or_insert_with(|| {
            let mut hosts = HostIndex::default();
            if earlier[first].reach.at_allocated() == ByAddress::ListedWithSni {
                hosts.add(&earlier[first].host, first);
            }
            Box::new(hosts)
        });
        by_sni.add(&service.host, position)
    }
}

impl Resolved {
    fn find(&self, is_http: bool) -> Option<usize> {
        if is_http { self.any } else { Some(self.not_http) }
    }
}

/// A service that is added.
struct Newcomer<'a> {
    position: usize,
    service: &'a Service,
    earlier: &'a [Arc<Service>],
}
