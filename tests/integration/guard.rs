//! Where Egret does not connect, whatever leads there.

use std::io::{Read, Write};
use std::net::TcpListener;

use egret::config::Mode;

use crate::names::{destination, entry};
use crate::support::dns::DnsServer;
use crate::support::peer::read_to_reset;
use crate::support::{Proxy, Setup, eventually};

/// A server that nobody may reach: at the end no connection has come to it.
fn secret() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn nobody_came(listener: &TcpListener) {
    let error = listener.accept().map(|(_, peer)| peer).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

fn refused(proxy: &Proxy, why: &str) -> f64 {
    proxy.sum("egret_refused_upstreams_total", &[("why", why)])
}

/// An entry that is found by [`destination`], with these further fields.
fn by_address(more: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: db, namespace: shop }}\n\
         spec: {{ hosts: [db.example.com], addresses: [{}], {more},\n  \
         ports: [{{ number: {}, name: tcp, protocol: TCP }}] }}\n",
        destination().ip(),
        destination().port(),
    )
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";

fn status(proxy: &Proxy) -> String {
    let mut client = proxy.connect(destination());
    client.write_all(GET.as_bytes()).unwrap();
    let mut response = [0; 12];
    client.read_exact(&mut response).unwrap();
    String::from_utf8_lossy(&response[9..]).into_owned()
}

#[test]
fn no_workload_entry_or_answer_leads_to_this_host() {
    let secret = secret();
    let at = secret.local_addr().unwrap();
    let dns = DnsServer::start();
    dns.say_addresses("db.example.com", &["127.0.0.1"]);
    let to_endpoint = format!(
        "resolution: STATIC, endpoints: [{{ address: 127.0.0.1, ports: {{ tcp: {} }} }}]",
        at.port()
    );
    let mapped = to_endpoint.replace("127.0.0.1", "'::ffff:127.0.0.1'");
    let this = to_endpoint.replace("127.0.0.1", "0.0.0.0");
    for (led_by, registry, connect_to, why) in [
        ("the workload", String::new(), at, "loopback"),
        ("an endpoint", by_address(&to_endpoint), destination(), "loopback"),
        ("a mapped endpoint", by_address(&mapped), destination(), "loopback"),
        ("this host's other name", by_address(&this), destination(), "unspecified"),
        ("DNS", by_address("resolution: DNS"), destination(), "loopback"),
    ] {
        let setup = Setup { registry, dns_servers: vec![dns.address], ..not_allowed() };
        let proxy = Proxy::start(setup);
        assert_eq!(read_to_reset(&mut proxy.connect(connect_to)), (true, 0), "{led_by}");
        eventually(led_by, || refused(&proxy, why) == 1.0);
        let reason = [("reason", "refused_upstream")];
        assert_eq!(proxy.sum("egret_connections_closed_total", &reason), 1.0, "{led_by}");
        let flags = [("response_flags", "UH")];
        assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &flags), 1.0, "{led_by}");
        proxy.is_quiet();
        nobody_came(&secret);
    }
}

fn not_allowed() -> Setup {
    Setup { upstream_allow: "", ..Setup::default() }
}

#[test]
fn http_is_told_and_a_listed_address_serves_from_the_next_generation_on() {
    let server =
        crate::support::Web::start(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec());
    let registry = entry("a.example.com", "HTTP", server.address);
    let setup = Setup { registry, mode: Mode::RegistryOnly, ..not_allowed() };
    let proxy = Proxy::start(setup.clone());
    assert_eq!(status(&proxy), "503");
    let flags = [("response_flags", "UH"), ("response_code", "503")];
    eventually("it is counted", || proxy.sum("istio_requests_total", &flags) == 1.0);
    assert_eq!(server.text(), "");

    proxy.reload(&Setup { upstream_allow: "127.0.0.1", ..setup.clone() });
    assert_eq!(status(&proxy), "200");
    proxy.reload(&setup);
    assert_eq!(status(&proxy), "503");
    assert_eq!(refused(&proxy, "loopback"), 2.0);
    proxy.is_quiet();
}

#[test]
fn the_next_endpoint_is_tried() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let endpoint = |ip: &str| format!("{{ address: {ip}, ports: {{ tcp: {port} }} }}");
    let both = format!("{}, {}", endpoint("127.0.0.2"), endpoint("127.0.0.1"));
    let registry = by_address(&format!("resolution: STATIC, endpoints: [{both}]"));
    let proxy = Proxy::start(Setup { registry, upstream_allow: "127.0.0.1", ..Setup::default() });
    for _ in 0..2 {
        let client = proxy.connect(destination());
        let (upstream, _) = server.accept().unwrap();
        drop((client, upstream));
    }
    proxy.is_quiet();
    assert_eq!(refused(&proxy, "loopback"), 1.0, "every second connection begins with it");
}

#[test]
fn no_entry_leads_to_egrets_own_ports_whatever_is_listed() {
    let proxy = Proxy::start(Setup::default());
    let control = &proxy.app().addresses.control;
    for (calls, own) in (1..).zip([control.admin, control.metrics, control.health, proxy.address()])
    {
        let endpoint = format!("{{ address: 127.0.0.1, ports: {{ tcp: {} }} }}", own.port());
        let registry = by_address(&format!("resolution: STATIC, endpoints: [{endpoint}]"));
        proxy.reload(&Setup { registry, ..Setup::default() });
        assert_eq!(read_to_reset(&mut proxy.connect(destination())), (true, 0), "{own}");
        eventually("it is counted", || refused(&proxy, "own_port") == f64::from(calls));
    }
}

#[test]
fn private_answers_are_counted_or_refused() {
    let dns = DnsServer::start();
    dns.say_addresses("db.example.com", &["10.255.255.254"]);
    let registry = by_address("resolution: DNS");
    let setup = Setup {
        registry,
        dns_servers: vec![dns.address],
        connect: std::time::Duration::from_millis(50),
        ..Setup::default()
    };
    let proxy = Proxy::start(setup.clone());
    read_to_reset(&mut proxy.connect(destination()));
    eventually("it is counted", || proxy.sum("egret_private_upstreams_total", &[]) == 1.0);
    assert_eq!(refused(&proxy, "private"), 0.0);
    proxy.reload(&Setup { upstream_more: "privateAddresses: block", ..setup });
    read_to_reset(&mut proxy.connect(destination()));
    eventually("it is refused", || refused(&proxy, "private") == 1.0);
    assert_eq!(proxy.sum("egret_private_upstreams_total", &[]), 1.0);
}
