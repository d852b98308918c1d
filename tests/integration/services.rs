//! Connections that reach a registered service.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use egret::config::Mode;

use crate::support::dns::{DnsServer, Say};
use crate::support::peer::read_to_reset;
use crate::support::{Proxy, Setup, eventually, nobody};

fn entry(ports: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: String = endpoints
        .iter()
        .map(|endpoint| {
            let (ip, port) = (endpoint.ip(), endpoint.port());
            format!("  - address: {ip}\n    ports: {{ tcp-db: {port} }}\n")
        })
        .collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: db, namespace: shop }}\nspec:\n  hosts: [db.example.com]\n  \
         addresses: [192.0.2.10]\n  ports: [{ports}]\n  resolution: STATIC\n  \
         endpoints:\n{endpoints}"
    )
}

const PORT: &str = "{ number: 5432, name: tcp-db, protocol: TCP }";

fn listeners(count: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let bind = |_| TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners: Vec<_> = (0..count).map(bind).collect();
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    (listeners, addresses)
}

fn database() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 10], 5432))
}

#[test]
fn static_endpoints_are_used_in_turn_and_accounted_to_the_host() {
    let (listeners, addresses) = listeners(3);
    let registry = entry(PORT, &addresses);
    let mode = Mode::RegistryOnly;
    let proxy = Proxy::start(Setup { registry, mode, ..Setup::default() });
    for round in 0..6_u8 {
        let mut client = proxy.connect(database());
        let (mut server, _) = listeners[usize::from(round) % 3].accept().unwrap();
        client.write_all(&[round]).unwrap();
        let mut got = [0];
        server.read_exact(&mut got).unwrap();
        assert_eq!(got, [round]);
    }
    proxy.is_quiet();
    let labels = [
        ("destination_service_name", "db.example.com"),
        ("destination_service", "db.example.com"),
        ("destination_service_namespace", "shop"),
        ("destination_workload", "db"),
        ("destination_workload_namespace", "shop"),
        ("source_cluster", "Kubernetes"),
        ("response_flags", "-"),
    ];
    assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &labels), 6.0);
    assert_eq!(proxy.sum("istio_tcp_received_bytes_total", &labels), 6.0);
}

#[test]
fn an_endpoint_that_refuses_is_passed_over() {
    let (listeners, mut addresses) = listeners(1);
    addresses.insert(0, nobody());
    let registry = entry(PORT, &addresses);
    let proxy = Proxy::start(Setup { registry, ..Setup::default() });
    for _ in 0..4 {
        let client = proxy.connect(database());
        let (server, _) = listeners[0].accept().unwrap();
        drop((client, server));
    }
    proxy.is_quiet();
    let refused = [("reason", "connect_refused")];
    assert_eq!(proxy.sum("egret_connections_closed_total", &refused), 0.0);
}

#[test]
fn when_every_endpoint_refuses_the_downstream_is_reset_once() {
    let registry = entry(PORT, &[nobody(), nobody()]);
    let proxy = Proxy::start(Setup { registry, ..Setup::default() });
    assert_eq!(read_to_reset(&mut proxy.connect(database())), (true, 0));
    let labels = [("response_flags", "UF,URX"), ("destination_service_name", "db.example.com")];
    eventually("it is counted", || proxy.sum("istio_tcp_connections_closed_total", &labels) == 1.0);
    proxy.is_quiet();
}

/// An entry with resolution DNS; `more` are further fields of its spec.
fn resolved_entry(port: u16, more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: db, namespace: shop }}\n\
         spec: {{ hosts: [db.example.com], resolution: DNS, {more}\n  \
         ports: [{{ number: {port}, name: tcp-db, protocol: TCP }}] }}\n"
    )
}

/// A proxy that lets through what is in `registry`, whose names `server` resolves.
fn resolving(registry: String, server: &DnsServer) -> Proxy {
    let (mode, dns_servers) = (Mode::RegistryOnly, vec![server.address]);
    Proxy::start(Setup { registry, mode, dns_servers, ..Setup::default() })
}

#[test]
fn the_first_connection_finds_a_service_by_the_address_that_its_name_resolves_to() {
    let (listeners, addresses) = listeners(1);
    let server = DnsServer::start();
    server.say_addresses("db.example.com", &["127.0.0.1"]);
    let proxy = resolving(resolved_entry(addresses[0].port(), ""), &server);
    let _client = proxy.connect(addresses[0]);
    let (_server, _) = listeners[0].accept().unwrap();
    let labels = [("destination_service_name", "db.example.com")];
    eventually("it is accounted to the host", || {
        proxy.sum("istio_tcp_connections_opened_total", &labels) == 1.0
    });
}

#[test]
fn connections_follow_a_name_that_moves() {
    let (listeners, addresses) = listeners(1);
    let port = addresses[0].port();
    let Ok(moved) = TcpListener::bind(("127.0.0.2", port)) else {
        panic!("127.0.0.2:{port} is taken")
    };
    let server = DnsServer::start();
    server.say_addresses("db.example.com", &["127.0.0.1"]);
    let proxy = resolving(resolved_entry(port, "addresses: [192.0.2.10],"), &server);
    let listed = SocketAddr::from(([192, 0, 2, 10], port));
    let _client = proxy.connect(listed);
    listeners[0].accept().unwrap();

    server.say_addresses("db.example.com", &["127.0.0.2"]);
    eventually("the next generation is in use", || {
        proxy.sum("egret_config_generation", &[]) == 3.0
    });
    let _client = proxy.connect(listed);
    moved.accept().unwrap();
    assert_eq!(proxy.sum("egret_config_reloads_total", &[]), 0.0);
    assert_eq!(proxy.sum("egret_dns_names", &[]), 1.0);
}

#[test]
fn a_server_that_never_answers_delays_the_start_by_a_second_at_most() {
    let (listeners, addresses) = listeners(1);
    let server = DnsServer::start();
    server.say("db.example.com", Say::Nothing);
    let begun = Instant::now();
    let other = entry(PORT, &addresses).replace("db.example.com", "other.example.com");
    let registry = format!("{}---\n{other}", resolved_entry(1, ""));
    let proxy = resolving(registry, &server);
    let _client = proxy.connect(database());
    listeners[0].accept().unwrap();
    // A second, and what starting takes on a busy machine.
    assert!(begun.elapsed() < Duration::from_millis(2_400), "{:?}", begun.elapsed());
}
