//! The registry of all scenarios: where each name and address leads.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use egret::config::{Config, Mode};
use egret::internals::registry::Snapshot;
use egret::internals::registry::service_entry::{self, ServiceEntry};
use egret::internals::registry::snapshot::Answers;
use egret::internals::workload::Workloads;

use crate::plan::{Client, Place, Speech};

/// The server of `a.example`.
pub(crate) const A: ([u8; 4], u16) = ([10, 1, 0, 1], 8080);
/// The server of `b.example`.
pub(crate) const B: ([u8; 4], u16) = ([10, 1, 0, 2], 8080);

/// `timeouts.idle`: not an hour, through which a clock would have to tick.
pub(crate) const IDLE_S: u64 = 120;

/// Where both serve TLS.
pub(crate) const TLS_PORT: u16 = 8443;

const NAMED_PORT: u16 = 80;

fn named(letter: &str, (address, port): ([u8; 4], u16)) -> String {
    let address = IpAddr::from(address);
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: {letter}, namespace: shop }}\nspec:\n  hosts: [{letter}.example]\n  \
         ports:\n  - {{ number: {NAMED_PORT}, name: http, protocol: HTTP }}\n  \
         - {{ number: 443, name: tls, protocol: TLS }}\n  \
         resolution: STATIC\n  endpoints:\n  \
         - {{ address: {address}, ports: {{ http: {port}, tls: {TLS_PORT} }} }}\n"
    )
}

const REGISTERED: &str = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
    metadata: { name: registered, namespace: shop }\nspec:\n  hosts: [registered.example]\n  \
    addresses: [10.8.0.0/16]\n  ports: [{ number: 81, name: tcp, protocol: TCP }]\n  \
    resolution: NONE\n";

/// The entries, parsed once.
#[derive(Debug)]
pub(crate) struct Entries {
    with_b: Vec<ServiceEntry>,
    without_b: Vec<ServiceEntry>,
}

impl Entries {
    pub(crate) fn new() -> Self {
        let parse = |text: &str| {
            service_entry::parse(text, Path::new("registry.yaml")).expect("it is valid").0
        };
        let (a, b) = (named("a", A), named("b", B));
        Self {
            with_b: parse(&format!("{REGISTERED}{a}{b}")),
            without_b: parse(&format!("{REGISTERED}{a}")),
        }
    }

    pub(crate) fn snapshot(&self, generation: u64, mode: Mode, with_b: bool) -> Snapshot {
        let mut config = Config::default();
        config.upstream.mark = None;
        config.timeouts.idle = Duration::from_secs(IDLE_S);
        config.outbound_traffic_policy.mode = mode;
        let entries = if with_b { &self.with_b } else { &self.without_b };
        let workloads = Arc::new(Workloads::default());
        Snapshot::build(generation, Arc::new(config), entries, workloads, &Answers::default()).0
    }
}

/// Where a client means to go: an address of its own, so that a server there knows whose
/// connection it has.
pub(crate) fn destination(client: &Client) -> SocketAddr {
    let number = u8::try_from(client.number + 1).expect("few clients");
    let is_tls = matches!(client.speech, Speech::Tls(..));
    match client.place {
        Place::Named if is_tls => SocketAddr::from(([10, 9, number, 1], 443)),
        Place::Named => SocketAddr::from(([10, 9, number, 1], NAMED_PORT)),
        Place::Registered => SocketAddr::from(([10, 8, number, 1], 81)),
        Place::Unknown => SocketAddr::from(([10, 7, number, 1], 82)),
    }
}
