//! Istio's ServiceEntry: the registry's language.
//!
//! What a registry file means, as values; the snapshot is built from them. The documents are
//! found in `documents`, decoded in `entry` and judged in `rules`; here are the types and the one
//! decision on them, what a port can be found by. The rules are Istio's
//! (`pkg/config/validation`); where Egret acts on less than Istio does, a warning says so.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::Serialize;

use crate::diagnostics::Diagnostic;
use crate::prefix;
use crate::sniff::Name;

mod documents;
mod endpoints;
mod entry;
mod host;
mod rules;
mod syntax;

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
    /// Whether any workload sees it (`exportTo`).
    pub is_visible: bool,
    /// Names and wildcards. Never empty.
    pub hosts: Vec<HostPattern>,
    /// Canonical prefixes; single addresses are /32 and /128.
    pub addresses: Arc<[IpNet]>,
    /// Addresses that Istio has allocated for it (`status.addresses`), and for which of its hosts;
    /// empty where the document lists its own.
    pub allocated: Vec<Allocated>,
    /// In the order of the document; numbers and names are unique.
    pub ports: Vec<Port>,
    /// How the upstream address is found.
    pub resolution: Resolution,
    /// For [`Resolution::Static`] and [`Resolution::Dns`]: where connections go.
    pub endpoints: Vec<Endpoint>,
    /// Where the document stands.
    pub origin: Origin,
    /// Its document is refused as it is now: this is the version that was good.
    pub is_stale: bool,
}

/// An address that Istio's DNS proxy tells workloads in place of a host's real ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocated {
    /// The address.
    pub address: IpAddr,
    /// The host that it stands for; `None`: any of the entry.
    pub host: Option<Box<str>>,
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
    /// HTTP in all its forms (HTTP, HTTP2, GRPC, GRPC-WEB, HTTP_PROXY): Host names the host.
    Http,
    /// TLS, HTTPS: the SNI names the host.
    Tls,
    /// Opaque bytes (TCP, MONGO, REDIS, MYSQL): no name in them.
    Opaque,
    /// Unset. Istio detects it: HTTP is found by Host, all else is opaque.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// It is the original destination.
    None,
    /// It is one of the endpoints.
    Static,
    /// It is one that the endpoints' names resolve to, or, without endpoints, the hosts (DNS,
    /// DNS_ROUND_ROBIN).
    Dns,
    /// It is one that the name resolves to which the connection shows (DYNAMIC_DNS).
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

/// What a port of an entry is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// By the address that a connection goes to.
    pub by_address: ByAddress,
    /// By the name that a connection carries, wherever it goes. It must match one of the hosts.
    pub by_name: Option<NameSource>,
}

/// By which destination addresses a port is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByAddress {
    /// Those that the entry lists, and those in a prefix of it, whatever is spoken.
    Listed,
    /// Those that it lists, whatever is spoken; those in a prefix of it together with the SNI.
    ListedWithSni,
    /// None, but a Host that spells an address which it lists is as good as a name.
    AsHost,
    /// Those that its hosts and endpoints resolve to.
    Resolved,
    /// Every one: the port alone decides.
    Any,
    /// None.
    Nothing,
}

/// The `kind` of the documents that are taken.
const KIND: &str = "ServiceEntry";

/// What a document is. Two versions of one document have the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DocumentId {
    /// `kind`; that of a refused document as it was meant.
    pub kind: &'static str,
    /// `metadata.namespace`; `default` when the document names none.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
}

impl DocumentId {
    /// The service entry of this namespace and name.
    fn new(namespace: Box<str>, name: Box<str>) -> Self {
        Self { kind: KIND, namespace, name }
    }
}

/// A document that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedDocument {
    /// What it is; `None` if that cannot be read.
    pub id: Option<DocumentId>,
    /// Its first line.
    pub line: Option<usize>,
}

/// What a registry file holds: several documents, and lists of them.
#[derive(Debug)]
pub struct Contents {
    /// The documents that are good.
    pub entries: Vec<ServiceEntry>,
    /// Those that are not.
    pub refused: Vec<RefusedDocument>,
    /// Whether all that the file holds is known: it is YAML, and each document says what it is.
    pub is_whole: bool,
    /// Errors, each a reason for a refusal, and warnings; in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Contents {
    /// What `text` holds, which was read from `file`.
    #[must_use]
    pub fn parse(text: &str, file: &Path) -> Self {
        documents::parse(text, file)
    }

    /// What a file holds that cannot be read.
    #[must_use]
    pub fn unreadable(error: Diagnostic) -> Self {
        let (entries, refused) = Default::default();
        Self { entries, refused, is_whole: false, diagnostics: vec![error] }
    }
}

/// The service entries in `text`, all of which are good, and the warnings about them: for tests.
///
/// # Errors
/// Every diagnostic found, when at least one of them is an error.
#[cfg(any(test, feature = "internals"))]
pub fn parse(
    text: &str,
    file: &Path,
) -> Result<(Vec<ServiceEntry>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let Contents { entries, refused, is_whole, diagnostics } = Contents::parse(text, file);
    if is_whole && refused.is_empty() { Ok((entries, diagnostics)) } else { Err(diagnostics) }
}

/// The names whose addresses `entries` need.
#[must_use]
pub fn names_to_resolve(entries: &[ServiceEntry]) -> BTreeSet<Name> {
    entries.iter().flat_map(ServiceEntry::names_to_resolve).cloned().collect()
}

impl ServiceEntry {
    /// What the document is.
    #[must_use]
    pub fn id(&self) -> DocumentId {
        DocumentId::new(self.namespace.clone(), self.name.clone())
    }

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

    /// What `port` of this entry is found by; `None`: by nothing, because it is not TCP.
    #[must_use]
    pub fn reach(&self, port: &Port) -> Option<Reach> {
        let is_listed = !self.addresses.is_empty();
        let has_prefix = self.addresses.iter().any(|prefix| !prefix::is_single(prefix));
        let (by_address, by_name) = match port.protocol {
            Protocol::Http => (ByAddress::AsHost, Some(NameSource::Host)),
            Protocol::Tls if is_listed => (ByAddress::ListedWithSni, None),
            Protocol::Tls => (ByAddress::Nothing, Some(NameSource::Sni)),
            Protocol::Opaque if is_listed => (ByAddress::Listed, None),
            Protocol::Opaque => (self.unlisted(), None),
            Protocol::Auto if is_listed => {
                (ByAddress::Listed, has_prefix.then_some(NameSource::Host))
            }
            Protocol::Auto => (self.unlisted(), Some(NameSource::Host)),
            Protocol::Udp => return None,
        };
        Some(Reach { by_address, by_name })
    }

    /// Where a port without names is found if the entry lists no address.
    fn unlisted(&self) -> ByAddress {
        match self.resolution {
            Resolution::Dns => ByAddress::Resolved,
            // Istio's DNS proxy has told the workloads another address.
            Resolution::Static if !self.allocated.is_empty() => ByAddress::Nothing,
            Resolution::None | Resolution::Static => ByAddress::Any,
            Resolution::DynamicDns => ByAddress::Nothing,
        }
    }

    /// Its ports that are found, and by what.
    pub fn reachable_ports(&self) -> impl Iterator<Item = (&Port, Reach)> {
        let visible = self.ports.iter().filter(|_| self.is_visible);
        visible.filter_map(|port| Some((port, self.reach(port)?)))
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
        let found_by = |(_, reach): (_, Reach)| reach.by_address == ByAddress::Resolved;
        let hosts_too = self.endpoints.is_empty() || self.reachable_ports().any(found_by);
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

impl Reach {
    /// By which addresses it is found that Istio has allocated for its host: single ones.
    #[must_use]
    pub fn at_allocated(self) -> ByAddress {
        match (self.by_address, self.by_name) {
            (ByAddress::AsHost, _) => ByAddress::AsHost,
            (ByAddress::ListedWithSni, _) | (_, Some(NameSource::Sni)) => ByAddress::ListedWithSni,
            _ => ByAddress::Listed,
        }
    }

    /// Whether it finds anything.
    #[must_use]
    pub fn finds(self) -> bool {
        self.by_address != ByAddress::Nothing || self.by_name.is_some()
    }

    /// Whether a name has a say anywhere.
    #[must_use]
    pub fn reads_names(self) -> bool {
        self.by_name.is_some() || self.by_address == ByAddress::ListedWithSni
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
