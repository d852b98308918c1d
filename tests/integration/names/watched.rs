//! Connections that the address has decided: they pass at once, and are accounted by name.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::read_exactly;
use crate::support::web::ok;
use crate::support::{Pattern, Proxy, Setup, Web};

#[test]
fn http_is_counted_by_host_and_passes_whatever_it_is() {
    let web = Web::start(|_, body| ok(body));
    let proxy = Proxy::start(Setup::default());
    let mut client = proxy.connect(web.address);
    let mut sent = String::new();
    for host in ["a.example.com", "b.example.com", "A.example.com:80"] {
        let request = format!("POST / HTTP/1.1\r\nHost: {host}\r\ncontent-length: 2\r\n\r\nhi");
        // In pieces: an unfinished head passes at once.
        for piece in request.as_bytes().chunks(11) {
            client.write_all(piece).unwrap();
        }
        sent += &request;
        read_exactly(&mut client, &ok(b"hi"));
    }
    drop(client);
    proxy.is_quiet();
    assert_eq!(web.text(), sent);
    let passthrough = ("destination_service_name", "PassthroughCluster");
    for (host, count) in [("a.example.com", 2.0), ("b.example.com", 1.0)] {
        let labels = [passthrough, ("destination_service", host), ("response_code", "200")];
        assert_eq!(proxy.sum("istio_requests_total", &labels), count, "{host}");
    }
    assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &[]), 0.0);
}

#[test]
fn an_unfinished_head_passes_at_once() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(Setup::default());
    let mut client = proxy.connect(server.local_addr().unwrap());
    let (mut upstream, _) = server.accept().unwrap();
    for piece in [&b"GE"[..], b"T / HTTP/1.1\r\nHo", b"st: x"] {
        client.write_all(piece).unwrap();
        read_exactly(&mut upstream, piece);
    }
}

#[test]
fn what_cannot_be_followed_passes_and_is_accounted_as_tcp() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(Setup::default());
    let mut client = proxy.connect(server.local_addr().unwrap());
    let (mut upstream, _) = server.accept().unwrap();
    let odd = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nwhatever";
    client.write_all(odd).unwrap();
    read_exactly(&mut upstream, odd);
    Pattern::new(1).send(&mut upstream, 1_000_000, 100_000);
    Pattern::new(1).expect(&mut client, 1_000_000);
    drop((client, upstream));
    proxy.is_quiet();
    let reason = [("reason", "several_hosts")];
    assert_eq!(proxy.sum("egret_http_refused_requests_total", &reason), 1.0);
    assert_eq!(proxy.sum("istio_tcp_sent_bytes_total", &[]), 1_000_000.0);
    assert_eq!(proxy.sum("istio_tcp_received_bytes_total", &[]), odd.len() as f64);
    assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &[]), 1.0);
}

#[test]
fn tls_is_accounted_by_its_sni_with_every_byte() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/client_hello/curl_h2");
    let hello = std::fs::read(corpus).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(Setup::default());
    for piece in [hello.len(), 100] {
        let mut client = proxy.connect(server.local_addr().unwrap());
        let (mut upstream, _) = server.accept().unwrap();
        for piece in hello.chunks(piece) {
            client.write_all(piece).unwrap();
            read_exactly(&mut upstream, piece);
        }
        upstream.write_all(b"hello yourself").unwrap();
        read_exactly(&mut client, b"hello yourself");
    }
    proxy.is_quiet();
    let mut sniffer = egret::internals::sniff::Sniffer::default();
    let egret::internals::sniff::Sniff::Tls(seen) = sniffer.feed(&hello) else { panic!() };
    let egret::internals::sniff::Sni::Name(name) = &seen.sni else { panic!() };
    let labels = [
        ("destination_service", name.as_str()),
        ("destination_service_name", "PassthroughCluster"),
    ];
    for (metric, value) in [
        ("istio_tcp_connections_opened_total", 2.0),
        ("istio_tcp_connections_closed_total", 2.0),
        ("istio_tcp_received_bytes_total", 2.0 * hello.len() as f64),
        ("istio_tcp_sent_bytes_total", 28.0),
    ] {
        assert_eq!(proxy.sum(metric, &labels), value, "{metric}");
    }
}

#[test]
fn a_server_that_speaks_first_is_relayed_at_once() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(Setup::default());
    let mut client = proxy.connect(server.local_addr().unwrap());
    let (mut upstream, _) = server.accept().unwrap();
    upstream.write_all(b"220 ready\r\n").unwrap();
    read_exactly(&mut client, b"220 ready\r\n");
    client.write_all(b"EHLO x\r\n").unwrap();
    read_exactly(&mut upstream, b"EHLO x\r\n");
    let first = [("result", "server_first")];
    assert_eq!(proxy.sum("egret_recognised_connections_total", &first), 1.0);
    assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &[]), 1.0, "settled");
}

#[test]
fn large_answers_are_spliced_and_followed() {
    const SIZE: usize = 8_000_000;
    let web = Web::start(|_, _| {
        let mut bytes = vec![0; SIZE];
        Pattern::new(3).fill(&mut bytes);
        ok(&bytes)
    });
    let proxy = Proxy::start(Setup::default());
    let mut client = proxy.connect(web.address);
    for _ in 0..2 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: big.example.com\r\n\r\n").unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
        read_exactly(&mut client, head.as_bytes());
        Pattern::new(3).expect(&mut client, SIZE);
    }
    drop(client);
    proxy.is_quiet();
    assert!(proxy.sum("egret_spliced_bytes_total", &[]) > 1_000_000.0);
    let labels = [("destination_service", "big.example.com"), ("response_code", "200")];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 2.0);
    assert!(proxy.sum("istio_response_bytes_sum", &labels) > 2.0 * SIZE as f64);
}

#[test]
fn names_switched_off_leave_everything_to_tcp() {
    let web = Web::start(|_, body| ok(body));
    let names = "enabled: false".to_owned();
    let proxy = Proxy::start(Setup { names, ..Setup::default() });
    let mut client = proxy.connect(web.address);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").unwrap();
    let mut answer = [0; 15];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    assert_eq!(proxy.sum("istio_requests_total", &[]), 0.0);
    assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &[]), 1.0);
}
