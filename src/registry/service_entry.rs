//! Istio's ServiceEntry: the registry's language.
//!
//! What a registry file means, as values; the snapshot is built from them. The documents are
//! decoded in `documents` and judged in `rules`; here are the types and the one decision on them:
//! what a port can be found by. The rules are Istio's (`pkg/config/validation`); where Egret acts
//! on less than Istio does, a warning says so.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::Serialize;

use crate::problem::Problem;

mod documents;
mod rules;

/// One ServiceEntry document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntry {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.namespace`; `default` when the document names none.
    pub namespace: Box<str>,
    /// `metadata.creationTimestamp`; a document without one counts as newer than any with one.
    pub created: Option<SystemTime>,
    /// Exact names and `*.suffix` wildcards, in lower case. Never empty.
    pub hosts: Vec<Box<str>>,
    /// Canonical prefixes; single addresses are /32 and /128.
    pub addresses: Arc<[IpNet]>,
    /// In the order of the document; numbers and names are unique.
    pub ports: Vec<Port>,
    /// How the upstream address is found.
    pub resolution: Resolution,
    /// For [`Resolution::Static`]: where connections go.
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
    /// Opaque bytes (TCP, MONGO, REDIS, MYSQL), unset or unknown: no name in them.
    Opaque,
    /// The connection names the host: HTTP in all its forms, TLS, HTTPS.
    Named,
    /// Not TCP at all.
    Udp,
}

/// How the upstream address is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It is the original destination.
    None,
    /// It is one of the endpoints.
    Static,
    /// By name: DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS.
    ByName,
}

/// One endpoint of a STATIC service entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// Its own ports, by the entry's port names.
    pub ports: Vec<(Box<str>, u16)>,
}

/// What a port of an entry can be found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By the entry's addresses with the port.
    Addresses,
    /// By the port alone, whatever the address.
    BarePort,
    /// Not at all.
    Nothing(Unreachable),
}

/// Why a port cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Its resolution goes by name.
    ResolvesByName,
    /// Without addresses an HTTP or TLS port is found by name only.
    NeedsName,
    /// STATIC, and no endpoint that can be connected to.
    NoEndpoint,
    /// It is not TCP.
    Udp,
}

/// The service entries in `text`, which was read from `file`, and the warnings about them. A file
/// may hold several documents and lists of them.
///
/// # Errors
/// Every problem found, when at least one of them is an error.
pub fn parse(text: &str, file: &Path) -> Result<(Vec<ServiceEntry>, Vec<Problem>), Vec<Problem>> {
    documents::parse(text, file)
}

impl ServiceEntry {
    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What `port` of this entry can be found by.
    #[must_use]
    pub fn reach(&self, port: &Port) -> Reach {
        let no_endpoint = self.resolution == Resolution::Static && self.endpoints.is_empty();
        match (self.resolution, port.protocol) {
            (Resolution::ByName, _) => Reach::Nothing(Unreachable::ResolvesByName),
            (_, Protocol::Udp) => Reach::Nothing(Unreachable::Udp),
            _ if no_endpoint => Reach::Nothing(Unreachable::NoEndpoint),
            _ if !self.addresses.is_empty() => Reach::Addresses,
            (_, Protocol::Opaque) => Reach::BarePort,
            (_, Protocol::Named) => Reach::Nothing(Unreachable::NeedsName),
        }
    }

    /// The port of `endpoint` that connections to `port` go to.
    #[must_use]
    pub fn endpoint_port(port: &Port, endpoint: &Endpoint) -> u16 {
        let own = endpoint.ports.iter().find(|(name, _)| *name == port.name);
        own.map_or(port.target_port.unwrap_or(port.number), |(_, number)| *number)
    }
}

#[cfg(test)]
mod tests;
