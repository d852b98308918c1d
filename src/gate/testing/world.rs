//! Whose rules the gate decides by: four snapshots.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::{Config, Mode};
use crate::gate::HeldSnapshot;
use crate::registry::snapshot::Answers;
use crate::registry::{Snapshot, service_entry};
use crate::sniff::Name;
use crate::workload::Workloads;

/// Where the client meant to go.
pub(in crate::gate) const DESTINATION: SocketAddr = address(80, 8080);
/// Where `a.example` leads.
pub(in crate::gate) const A: SocketAddr = address(1, 1);
/// Where `b.example`, and what is below it, leads.
pub(in crate::gate) const B: SocketAddr = address(2, 2);
/// Where the names in the ClientHellos of the corpus lead.
pub(in crate::gate) const TLS: SocketAddr = address(3, 3);
/// What `x.c.example` resolves to.
pub(in crate::gate) const X: SocketAddr = address(4, 8080);
/// What all other names below `c.example` resolve to.
pub(in crate::gate) const C: SocketAddr = address(5, 8080);

const fn address(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), port)
}

/// Who decides, and about what is not registered.
#[derive(Debug, Clone, Copy)]
pub(in crate::gate) enum World {
    /// The name decides.
    Gated(Mode),
    /// The address has decided.
    Observed(Mode),
}

pub(in crate::gate) const WORLDS: [World; 4] = [
    World::Gated(Mode::RegistryOnly),
    World::Gated(Mode::AllowAny),
    World::Observed(Mode::RegistryOnly),
    World::Observed(Mode::AllowAny),
];

/// What Egret finds for a name that an entry leaves to it.
pub(in crate::gate) fn resolved(name: &Name) -> SocketAddr {
    assert!(name.as_str().ends_with(".c.example"), "{name} is not resolved");
    if name.as_str() == "x.c.example" { X } else { C }
}

/// The snapshot of a world.
pub(in crate::gate) fn snapshot(world: World) -> HeldSnapshot {
    let (text, mode) = match world {
        World::Gated(mode) => {
            let names = entry("a.example", "HTTP", Some(A))
                + &entry("b.example", "HTTP", Some(B))
                + &entry("*.b.example", "HTTP", Some(B))
                + &entry("*.example.com", "TLS", Some(TLS))
                + &entry("none.example", "HTTP", None)
                + &entry("*.c.example", "HTTP", None).replace("DNS", "DYNAMIC_DNS");
            (names, mode)
        }
        World::Observed(mode) => (by_address(), mode),
    };
    let entries = service_entry::parse(&text, Path::new("registry.yaml"));
    let (entries, _) = entries.expect("the registry is well formed");
    let mut config = Config::default();
    config.outbound_traffic_policy.mode = mode;
    let (config, workloads) = (Arc::new(config), Arc::new(Workloads::default()));
    let (snapshot, diagnostics) =
        Snapshot::build(1, config, &entries, workloads, &Answers::default());
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    Rc::new(Arc::new(snapshot))
}

/// An entry for `host`, which leads to `endpoint`, or to an address that is not known.
fn entry(host: &str, protocol: &str, endpoint: Option<SocketAddr>) -> String {
    let name = host.replace(['*', '.'], "x");
    let resolution = match endpoint {
        Some(endpoint) => format!(
            "STATIC\n  endpoints: [{{ address: {}, ports: {{ main: {} }} }}]",
            endpoint.ip(),
            endpoint.port()
        ),
        None => "DNS".to_owned(),
    };
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: {name}, namespace: shop }}\nspec:\n  hosts: [\"{host}\"]\n  \
         ports: [{{ number: {}, name: main, protocol: {protocol} }}]\n  \
         resolution: {resolution}\n",
        DESTINATION.port()
    )
}

/// An entry that has the destination's address.
fn by_address() -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: own, namespace: shop }}\nspec:\n  hosts: [own.example]\n  \
         addresses: [{}]\n  ports: [{{ number: {}, name: main, protocol: TCP }}]\n  \
         resolution: NONE\n",
        DESTINATION.ip(),
        DESTINATION.port()
    )
}
