//! Connections and requests that are decided by their names.

mod detection;
mod http1;
mod http2;
mod resolved;
mod watched;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use crate::support::{Proxy, Setup};
use egret::config::Mode;

/// Where the clients mean to go: nobody listens there.
pub(crate) fn destination() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 80], 8080))
}

/// An entry for `host` on the port of [`destination`], which leads to `endpoint`.
pub(crate) fn entry(host: &str, protocol: &str, endpoint: SocketAddr) -> String {
    let name = host.replace(['*', '.'], "x");
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: {name}, namespace: shop }}\nspec:\n  hosts: [\"{host}\"]\n  \
         ports: [{{ number: 8080, name: main, protocol: {protocol} }}]\n  resolution: STATIC\n  \
         endpoints: [{{ address: {}, ports: {{ main: {} }} }}]\n",
        endpoint.ip(),
        endpoint.port(),
    )
}

/// A proxy that allows `entries` only.
fn registry_only(entries: &[String], names: &str) -> Proxy {
    Proxy::start(Setup {
        mode: Mode::RegistryOnly,
        registry: entries.concat(),
        names: names.to_owned(),
        ..Setup::default()
    })
}

/// Everything until FIN, as text.
fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("FIN, not a reset");
    String::from_utf8(bytes).unwrap()
}

fn read_exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == expected, "{:?}", String::from_utf8_lossy(&got[..got.len().min(500)]));
}
