//! A panic while a connection's bytes are inspected ends that connection alone.

use std::io::{Read, Write};

use egret::config::Mode;
use egret::internals::gate::planted;

use crate::names::{destination, entry};
use crate::support::peer::read_to_reset;
use crate::support::web::ok;
use crate::support::{Proxy, Setup, Web};

/// In no other test's bytes: the panic is planted for the whole process.
const MARK: &str = "/a-path-that-panics";

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n")
}

#[test]
fn a_panic_in_the_gate_ends_one_connection_and_is_counted() {
    planted::plant(MARK.as_bytes());
    let web = Web::start(|_, _| ok(b"fine"));
    for mode in [Mode::RegistryOnly, Mode::AllowAny] {
        let registry = entry("allowed.example.com", "HTTP", web.address);
        let proxy = Proxy::start(Setup { mode, registry, ..Setup::default() });
        let mut kept = proxy.connect(destination());
        let asks = |client: &mut std::net::TcpStream| {
            client.write_all(request("/").as_bytes()).unwrap();
            let mut answer = vec![0; ok(b"fine").len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, ok(b"fine"));
        };
        asks(&mut kept);
        // As its first bytes, behind a request, and often.
        for _ in 0..20 {
            let mut first = proxy.connect(destination());
            first.write_all(request(MARK).as_bytes()).unwrap();
            assert_eq!(read_to_reset(&mut first), (true, 0));
            let mut later = proxy.connect(destination());
            asks(&mut later);
            later.write_all(request(MARK).as_bytes()).unwrap();
            assert_eq!(read_to_reset(&mut later), (true, 0));
        }
        asks(&mut kept);
        drop(kept);
        proxy.is_quiet();
        assert_eq!(
            proxy.sum("egret_connections_closed_total", &[("reason", "internal_error")]),
            40.0
        );
        assert_eq!(proxy.sum("egret_recognising_connections", &[]), 0.0);
        assert_eq!(proxy.sum("egret_recognising_bytes", &[]), 0.0);
    }
    assert!(!web.text().contains(MARK), "nothing of such a request passes");
}
