//! Istio's ServiceEntry: the registry's language.
//!
//! What a registry file means, as values; the snapshot is built from them. The documents are
//! decoded in `documents` and judged in `rules`; here are the types and the one decision on them:
//! what a port can be found by. The rules are Istio's (`pkg/config/validation`); where Egret acts
//! on less than Istio does, a warning says so.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::Serialize;

use crate::diagnostics::Diagnostic;
use crate::sniff::Name;

mod documents;
mod host;
mod rules;

pub use host::HostPattern;

/// One ServiceEntry document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.namespace`; `default` when the document names none.
    pub namespace: Box<str>,
    /// `metadata.creationTimestamp`; a document without one counts as newer than any with one.
    pub created: Option<SystemTime>,
    /// Names and wildcards. Never empty.
    pub hosts: Vec<HostPattern>,
    /// Canonical prefixes; single addresses are /32 and /128.
    pub addresses: Arc<[IpNet]>,
    /// In the order of the document; numbers and names are unique.
    pub ports: Vec<Port>,
    /// How the upstream address is found.
    pub resolution: Resolution,
    /// For [`Resolution::Static`] and [`Resolution::Dns`]: where connections go.
    pub endpoints: Vec<Endpoint>,
    /// Where the document stands.
    pub origin: Origin,
}

/// Where a document stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// The file, as the configuration names it.
    pub file: Arc<Path>,
    /// The document's first line.
    pub line: usize,
}

/// One port of a service entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The port that workloads connect to.
    pub number: u16,
    /// By which endpoints refer to it.
    pub name: Box<str>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The port that the upstream listens on, if it is another.
    pub target_port: Option<u16>,
}

/// What is spoken on a port, as far as it matters for finding the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP in all its forms (HTTP, HTTP2, GRPC, GRPC-WEB, HTTP-PROXY): Host names the host.
    Http,
    /// TLS, HTTPS: the SNI names the host.
    Tls,
    /// Opaque bytes (TCP, MONGO, REDIS, MYSQL): no name in them.
    Opaque,
    /// Unset or unknown. Istio detects it: HTTP is found by Host, all else is opaque.
    Auto,
    /// Not TCP at all.
    Udp,
}

/// Which of a connection's bytes spell its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameSource {
    /// Host in HTTP/1, `:authority` in HTTP/2.
    Host,
    /// The server name in a TLS ClientHello.
    Sni,
}

/// How the upstream address is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It is the original destination.
    None,
    /// It is one of the endpoints.
    Static,
    /// It is one that the endpoints' names resolve to, or, without endpoints, the hosts (DNS,
    /// DNS_ROUND_ROBIN).
    Dns,
    /// It is what the connection's own name resolves to in Istio; in Egret the original
    /// destination (DYNAMIC_DNS).
    DynamicDns,
}

/// One endpoint of a STATIC or DNS service entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// Its own ports, by the entry's port names.
    pub ports: Vec<(Box<str>, u16)>,
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointAddress {
    /// At this address.
    Ip(IpAddr),
    /// At every address that this name resolves to; with resolution DNS only.
    Name(Name),
}

/// What a port of an entry can be found by; by at least one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// By the address that a connection goes to.
    pub by_address: ByAddress,
    /// By the name that a connection carries, which must match one of the entry's hosts.
    pub by_name: Option<NameSource>,
}

/// By which destination addresses a port can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByAddress {
    /// Those that the entry lists.
    Listed,
    /// Those that its hosts and endpoints resolve to.
    Resolved,
    /// Every one: the port alone decides.
    Any,
    /// None.
    Nothing,
}

/// Why a port cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// It is not TCP.
    Udp,
    /// STATIC, and no endpoint that can be connected to.
    NoEndpoint,
    /// DYNAMIC_DNS, and its protocol does not say where the name stands.
    NoName,
}

/// The service entries in `text`, which was read from `file`, and the warnings about them. A file
/// may hold several documents and lists of them.
///
/// # Errors
/// Every diagnostic found, when at least one of them is an error.
pub fn parse(
    text: &str,
    file: &Path,
) -> Result<(Vec<ServiceEntry>, Vec<Diagnostic>), Vec<Diagnostic>> {
    documents::parse(text, file)
}

/// The names whose addresses `entries` need.
#[must_use]
pub fn names_to_resolve(entries: &[ServiceEntry]) -> BTreeSet<Name> {
    entries.iter().flat_map(ServiceEntry::names_to_resolve).cloned().collect()
}

impl ServiceEntry {
    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// How many combinations of a port with a host or an address this entry claims: what it costs
    /// in a snapshot.
    #[must_use]
    pub fn claims(&self) -> usize {
        self.ports.len() * (self.hosts.len() + self.addresses.len())
    }

    /// What `port` of this entry can be found by.
    ///
    /// # Errors
    /// Why it cannot be found at all.
    pub fn reach(&self, port: &Port) -> Result<Reach, Unreachable> {
        let by_name = port.protocol.name_source();
        let is_opaque = match port.protocol {
            Protocol::Udp => return Err(Unreachable::Udp),
            Protocol::Opaque | Protocol::Auto => true,
            Protocol::Http | Protocol::Tls => false,
        };
        let by_address = match self.resolution {
            Resolution::Static if self.endpoints.is_empty() => return Err(Unreachable::NoEndpoint),
            Resolution::DynamicDns if is_opaque => return Err(Unreachable::NoName),
            Resolution::DynamicDns => ByAddress::Nothing,
            _ if !self.addresses.is_empty() => ByAddress::Listed,
            _ if !is_opaque => ByAddress::Nothing,
            Resolution::Dns => ByAddress::Resolved,
            Resolution::None | Resolution::Static => ByAddress::Any,
        };
        Ok(Reach { by_address, by_name })
    }

    /// Its ports that can be found, and by what.
    pub fn reachable_ports(&self) -> impl Iterator<Item = (&Port, Reach)> {
        self.ports.iter().filter_map(|port| Some((port, self.reach(port).ok()?)))
    }

    /// The endpoints' addresses that the entry itself lists.
    pub fn listed_endpoints(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.endpoints.iter().filter_map(|endpoint| match &endpoint.address {
            EndpointAddress::Ip(ip) => Some(*ip),
            EndpointAddress::Name(_) => None,
        })
    }

    /// The names whose addresses this entry needs: those of its endpoints, and its hosts where they
    /// are what connections go to or are found by.
    pub fn names_to_resolve(&self) -> impl Iterator<Item = &Name> {
        let is_resolved = self.resolution == Resolution::Dns;
        let found_by = |port| self.reach(port).is_ok_and(|r| r.by_address == ByAddress::Resolved);
        let hosts_too = self.endpoints.is_empty() || self.ports.iter().any(found_by);
        let hosts = self.hosts.iter().filter_map(HostPattern::exact).filter(move |_| hosts_too);
        let endpoints = self.endpoints.iter().filter_map(|endpoint| match &endpoint.address {
            EndpointAddress::Name(name) => Some(name),
            EndpointAddress::Ip(_) => None,
        });
        hosts.chain(endpoints).filter(move |_| is_resolved)
    }

    /// The port of `endpoint` that connections to `port` go to.
    #[must_use]
    pub fn endpoint_port(port: &Port, endpoint: &Endpoint) -> u16 {
        let own = endpoint.ports.iter().find(|(name, _)| *name == port.name);
        own.map_or(port.target_port.unwrap_or(port.number), |(_, number)| *number)
    }
}

impl Protocol {
    /// Where the name stands in what is spoken, if anywhere.
    #[must_use]
    pub fn name_source(self) -> Option<NameSource> {
        match self {
            Self::Http | Self::Auto => Some(NameSource::Host),
            Self::Tls => Some(NameSource::Sni),
            Self::Opaque | Self::Udp => None,
        }
    }
}

impl Resolution {
    /// As Istio writes it; DNS_ROUND_ROBIN is DNS here.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Static => "STATIC",
            Self::Dns => "DNS",
            Self::DynamicDns => "DYNAMIC_DNS",
        }
    }
}

impl NameSource {
    /// As it stands in the access log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Sni => "sni",
        }
    }
}

#[cfg(test)]
mod tests;
