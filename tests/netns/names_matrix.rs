//! Istio's reference matrix (`tests/integration/telemetry/policy` in its repository): HTTP, HTTPS
//! and TCP on ports that service entries declare and on others, under both policies; with one
//! difference: here the 502 comes on every port, there only where HTTP is declared.

use std::net::SocketAddr;

use crate::lab::{Family, Lab, outside, web};
use crate::metrics::promtool_accepts;
use crate::options::{Capture, Options, Policy, named_entry};
use crate::programs::{Nginx, fetch, python, python_server};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, OPENED, REQUESTS};

/// What the workload speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http,
    Https,
    Tcp,
}

use Spoken::{Http, Https, Tcp};

/// What is spoken to which port. The entries declare 80, 9443 and 9091 as HTTP, 8443 as HTTPS.
const ROWS: [(&str, Spoken, u16); 9] = [
    ("HTTP where HTTP is declared", Http, 80),
    ("HTTP where nothing is declared", Http, 8081),
    ("HTTP where HTTPS is declared", Http, 8444),
    ("HTTPS where nothing is declared", Https, 443),
    ("HTTPS where HTTPS is declared", Https, 8443),
    ("HTTPS where HTTP is declared", Https, 9443),
    ("TCP where nothing is declared", Tcp, 9090),
    ("TCP where HTTP is declared", Tcp, 9091),
    ("TCP where HTTPS is declared", Tcp, 9092),
];

/// Sends everything back.
const ECHO_SERVER: &str = r#"
import selectors, socket, sys
pool = selectors.DefaultSelector()
for at in sys.argv[1:]:
    host, port = at.rsplit(":", 1)
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    listener = socket.create_server((host.strip("[]"), int(port)), family=family)
    pool.register(listener, selectors.EVENT_READ, "listener")
while True:
    for key, _ in pool.select():
        if key.data == "listener":
            pool.register(key.fileobj.accept()[0], selectors.EVENT_READ)
            continue
        data = key.fileobj.recv(65536)
        if data:
            key.fileobj.sendall(data)
        else:
            pool.unregister(key.fileobj)
            key.fileobj.close()
"#;

/// Says something that is no HTTP and no TLS, and prints what comes back: the same, or nothing.
const TCP_CLIENT: &str = r#"
import socket, sys
host, port = sys.argv[1].rsplit(":", 1)
peer = socket.create_connection((host.strip("[]"), int(port)), 20)
peer.sendall(b"\0ping")
print(peer.recv(100))
"#;

fn registry() -> String {
    let http = |port| named_entry("known.test", "HTTP", port, None);
    let https = |port| named_entry("known.test", "HTTPS", port, None);
    [http(80), http(9443), http(9091), https(8443), https(8444), https(9092)].concat()
}

struct Servers {
    nginx: Nginx,
    _echo: crate::programs::Program,
}

fn serve(lab: &Lab, family: Family) -> Servers {
    let at = |spoken| -> Vec<SocketAddr> {
        let ports = ROWS.iter().filter(|row| row.1 == spoken).map(|row| row.2);
        ports.map(|port| outside(10, family, port)).collect()
    };
    Servers {
        nginx: Nginx::start(lab, &at(Http), &at(Https)),
        _echo: python_server(lab, &at(Tcp), ECHO_SERVER),
    }
}

/// The name that a row's workload uses: one for each row, so that each has series of its own.
fn host(port: u16) -> String {
    format!("row-{port}.unknown.test")
}

/// What nginx says at `/`.
fn page(at: SocketAddr) -> String {
    format!("site {}:{}", at.ip(), at.port())
}

fn registry_only(capture: Capture, family: Family) {
    let lab = Lab::new();
    let policy = Policy::RegistryOnly;
    let options = Options { capture, policy, registry: registry(), ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let servers = serve(&lab, family);
    let mut closed = 0;
    for (what, spoken, port) in ROWS {
        let (to, host) = (outside(10, family, port), host(port));
        let blocked =
            [("destination_service_name", "BlackHoleCluster"), ("destination_service", &host)];
        match spoken {
            Http => {
                let seen = fetch(&lab, to, &format!("http://{host}:{port}/"));
                assert_eq!(seen, (502, 0, String::new()), "{what}");
                let labels = [&blocked[..], &[("response_code", "502")]].concat();
                proxy.wait_for_metric(REQUESTS, &labels, 1);
            }
            Https => {
                let (status, code, _) = fetch(&lab, to, &format!("https://{host}:{port}/"));
                // 35: the handshake has failed.
                assert_eq!((status, code), (0, 35), "{what}");
                closed += 1;
                let labels = [&blocked[..], &[("response_flags", "UH")]].concat();
                proxy.wait_for_metric(CLOSED, &labels, 1);
            }
            Tcp => {
                assert_eq!(python(&lab, TCP_CLIENT, &[&to.to_string()]), "b''\n", "{what}");
                closed += 1;
                let labels = [blocked[0], ("destination_service", "unknown")];
                proxy.wait_for_metric(CLOSED, &labels, closed - 3);
            }
        }
    }
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum(OPENED, &[]), closed, "as many were opened");
    assert_eq!(scrape.sum(CLOSED, &[]), closed, "requests are not counted as connections");
    assert_eq!(scrape.sum(REQUESTS, &[]), 3);
    assert_eq!(servers.nginx.log(), "", "nothing reached the servers");
    promtool_accepts(&scrape.text);
    proxy.finish();
}

fn allow_any(capture: Capture, family: Family) {
    let lab = Lab::new();
    let options = Options { capture, registry: registry(), ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let _servers = serve(&lab, family);
    let mut nameless = 0;
    for (what, spoken, port) in ROWS {
        let (to, host) = (outside(10, family, port), host(port));
        let passed = [
            ("destination_service_name", "PassthroughCluster"),
            ("destination_service", &host),
            ("response_flags", "-"),
        ];
        match spoken {
            Http => {
                let seen = fetch(&lab, to, &format!("http://{host}:{port}/"));
                assert_eq!(seen, (200, 0, page(to)), "{what}");
                let labels = [&passed[..], &[("response_code", "200")]].concat();
                proxy.wait_for_metric(REQUESTS, &labels, 1);
            }
            Https => {
                let seen = fetch(&lab, to, &format!("https://{host}:{port}/"));
                assert_eq!(seen, (200, 0, page(to)), "{what}");
                proxy.wait_for_metric(OPENED, &passed, 1);
                proxy.wait_for_metric(CLOSED, &passed, 1);
            }
            Tcp => {
                let seen = python(&lab, TCP_CLIENT, &[&to.to_string()]);
                assert_eq!(seen, "b'\\x00ping'\n", "{what}");
                nameless += 1;
                let labels = [passed[0], ("destination_service", "unknown")];
                proxy.wait_for_metric(OPENED, &labels, nameless);
                proxy.wait_for_metric(CLOSED, &labels, nameless);
            }
        }
    }
    assert_eq!(proxy.metric(REQUESTS, &[]), 3);
    proxy.finish();
}

#[test]
fn redirect_v4_registry_only_blocks_what_is_unknown_and_counts_it_by_its_name() {
    registry_only(Capture::Redirect, Family::V4);
}

#[test]
fn tproxy_v6_registry_only_blocks_what_is_unknown_and_counts_it_by_its_name() {
    registry_only(Capture::Tproxy, Family::V6);
}

#[test]
fn redirect_v4_allow_any_passes_what_is_unknown_and_counts_it_by_its_name() {
    allow_any(Capture::Redirect, Family::V4);
}

#[test]
fn tproxy_v6_allow_any_passes_what_is_unknown_and_counts_it_by_its_name() {
    allow_any(Capture::Tproxy, Family::V6);
}

#[test]
fn what_is_declared_passes_by_its_name_under_both_policies() {
    for policy in [Policy::AllowAny, Policy::RegistryOnly] {
        let lab = Lab::new();
        let proxy =
            Proxy::start(&lab, &Options { policy, registry: registry(), ..Options::default() });
        let servers = serve(&lab, Family::V4);
        let known = [
            ("destination_service_name", "known.test"),
            ("destination_service", "known.test"),
            ("response_flags", "-"),
        ];
        // Host in another case, and with a port and a dot, is the same name.
        for (n, host) in ["known.test", "KNOWN.test.:80"].into_iter().enumerate() {
            let seen = fetch(&lab, web(10, 80), &format!("http://{host}/"));
            assert_eq!(seen, (200, 0, page(web(10, 80))));
            let labels = [&known[..], &[("response_code", "200")]].concat();
            proxy.wait_for_metric(REQUESTS, &labels, n as u64 + 1);
        }
        let seen = fetch(&lab, web(10, 8443), "https://known.test/");
        assert_eq!(seen, (200, 0, page(web(10, 8443))));
        proxy.wait_for_metric(OPENED, &known, 1);
        proxy.wait_for_metric(CLOSED, &known, 1);
        assert!(servers.nginx.log().contains("known.test GET / 200"));
        proxy.finish();
    }
}
