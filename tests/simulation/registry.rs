//! The registry of all scenarios: where each name and address leads.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use egret::config::{AccessLogFormat, Config};
use egret::internals::registry::Snapshot;
use egret::internals::registry::service_entry::{self, ServiceEntry};
use egret::internals::registry::snapshot::Answers;
use egret::internals::workload::Workloads;

use crate::plan::{Client, Entry, HALF_CLOSE_US, IDLE_US, Place, Plan, Ruling, Speech};

/// The servers of `a.example`.
pub(crate) const A: [[u8; 4]; 2] = [[10, 1, 0, 1], [10, 1, 0, 3]];
/// The server of `b.example`, and where it moves to.
pub(crate) const B: [[u8; 4]; 2] = [[10, 1, 0, 2], [10, 1, 0, 4]];

/// Where all of them serve the web, and TLS.
pub(crate) const WEB_PORT: u16 = 8080;
pub(crate) const TLS_PORT: u16 = 8443;

const NAMED_PORT: u16 = 80;

/// One of `names.opaquePorts`.
const OPAQUE_PORT: u16 = 3306;

fn named(letter: &str, endpoints: &[[u8; 4]]) -> String {
    let endpoint = |address: &[u8; 4]| {
        let address = IpAddr::from(*address);
        format!("{{ address: {address}, ports: {{ http: {WEB_PORT}, tls: {TLS_PORT} }} }}")
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: {letter}, namespace: shop }}\nspec:\n  hosts: [{letter}.example]\n  \
         ports:\n  - {{ number: {NAMED_PORT}, name: http, protocol: HTTP }}\n  \
         - {{ number: 443, name: tls, protocol: TLS }}\n  \
         resolution: STATIC\n  endpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// The endpoints of an entry that is found by address.
pub(crate) const POOL: [[u8; 4]; 2] = [[10, 1, 1, 1], [10, 1, 1, 2]];

const POOLED: &str = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
    metadata: { name: pool, namespace: shop }\nspec:\n  hosts: [pool.example]\n  \
    addresses: [10.5.0.0/16]\n  ports:\n  - { number: 83, name: web, protocol: TCP }\n  \
    - { number: 84, name: raw, protocol: TCP }\n  resolution: STATIC\n  endpoints:\n  \
    - { address: 10.1.1.1, ports: { web: 8080, raw: 8443 } }\n  \
    - { address: 10.1.1.2, ports: { web: 8080, raw: 8443 } }\n";

const REGISTERED: &str = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
    metadata: { name: registered, namespace: shop }\nspec:\n  hosts: [registered.example]\n  \
    addresses: [10.8.0.0/16]\n  ports: [{ number: 81, name: tcp, protocol: TCP }]\n  \
    resolution: NONE\n";

/// The entries, parsed once.
#[derive(Debug)]
pub(crate) struct Entries {
    gone: Vec<ServiceEntry>,
    here: Vec<ServiceEntry>,
    moved: Vec<ServiceEntry>,
}

impl Entries {
    pub(crate) fn new() -> Self {
        let parse = |text: &str| {
            service_entry::parse(text, Path::new("registry.yaml")).expect("it is valid").0
        };
        let always = format!("{REGISTERED}{POOLED}{}", named("a", &A));
        let [here, moved] =
            B.map(|endpoint| parse(&format!("{always}{}", named("b", &[endpoint]))));
        Self { gone: parse(&always), here, moved }
    }

    pub(crate) fn snapshot(&self, generation: u64, plan: &Plan, ruling: Ruling) -> Snapshot {
        let entries = match ruling.b {
            Entry::Gone => &self.gone,
            Entry::Here => &self.here,
            Entry::Moved => &self.moved,
        };
        let workloads = Arc::new(Workloads::default());
        let config = Arc::new(config(plan, ruling));
        Snapshot::build(generation, config, entries, workloads, &Answers::default()).0
    }
}

fn config(plan: &Plan, ruling: Ruling) -> Config {
    let mut config = Config::default();
    config.upstream.mark = None;
    config.timeouts.idle = Duration::from_micros(IDLE_US);
    config.timeouts.half_close = Duration::from_micros(HALF_CLOSE_US);
    config.limits.held_bytes = plan.held_bytes;
    (config.black_hole.action, config.black_hole.tls_alert) = plan.black_hole;
    config.outbound_traffic_policy.mode = ruling.mode;
    if plan.logs {
        config.access_log.format = AccessLogFormat::Text;
    }
    config
}

/// Its servers are those of the web.
pub(crate) fn speaks_web(client: &Client) -> bool {
    matches!(client.speech, Speech::Http1(..) | Speech::Http2(_))
}

/// Where a client means to go: an address of its own, so that a server there knows whose
/// connection it has.
pub(crate) fn destination(client: &Client) -> SocketAddr {
    let number = u8::try_from(client.number + 1).expect("few clients");
    let is_tls = matches!(client.speech, Speech::Tls(_));
    match client.place {
        Place::Named if is_tls => SocketAddr::from(([10, 9, number, 1], 443)),
        Place::Named => SocketAddr::from(([10, 9, number, 1], NAMED_PORT)),
        Place::Registered => SocketAddr::from(([10, 8, number, 1], 81)),
        Place::Unknown => SocketAddr::from(([10, 7, number, 1], 82)),
        Place::Pooled if speaks_web(client) => SocketAddr::from(([10, 5, number, 1], 83)),
        Place::Pooled => SocketAddr::from(([10, 5, number, 1], 84)),
        Place::OpaquePort => SocketAddr::from(([10, 6, number, 1], OPAQUE_PORT)),
    }
}
