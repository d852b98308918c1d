//! One hostile source for each thing that all share: an innocent one stays whole beside it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use egret::config::Mode;

use crate::names::{destination, entry};
use crate::support::web::ok;
use crate::support::{Proxy, Setup, Web, eventually, uninterrupted};

const HOSTILE: [u8; 4] = [127, 0, 0, 66];
const INNOCENT: [u8; 4] = [127, 0, 0, 7];

/// A proxy that allows one name only, and its server.
fn start(setup: Setup) -> (Proxy, Web) {
    let web = Web::start(|_, _| ok(b"fine"));
    let registry = entry("allowed.example.com", "HTTP", web.address);
    let mode = Mode::RegistryOnly;
    (Proxy::start(Setup { mode, registry, per_source: None, ..setup }), web)
}

fn connect(proxy: &Proxy, source: [u8; 4]) -> TcpStream {
    proxy.connector().connect_from(source, destination()).expect("the proxy listens")
}

/// An innocent source's request; the connection stays open.
fn is_served(proxy: &Proxy) -> TcpStream {
    let mut client = connect(proxy, INNOCENT);
    ask(&mut client);
    client
}

fn ask(client: &mut TcpStream) {
    client.write_all(b"GET / HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n").unwrap();
    let mut answer = vec![0; ok(b"fine").len()];
    client.read_exact(&mut answer).expect("an innocent source is served");
    assert_eq!(answer, ok(b"fine"));
}

fn shed(proxy: &Proxy, what: &str) -> f64 {
    proxy.sum("egret_shed_total", &[("what", what)])
}

/// Whether it was reset, or closed; it has sent all that it sends.
fn has_ended(client: &mut TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let read = uninterrupted(|| client.peek(&mut [0]));
    !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn one_source_cannot_take_all_connections() {
    // Silent, half-said, and served ones that are kept.
    for says in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n"] {
        let (proxy, _web) = start(Setup { connections: 80, ..Setup::default() });
        let mut hostile: Vec<_> = (0..120)
            .map(|_| {
                let mut client = connect(&proxy, HOSTILE);
                // It may be reset by now.
                let _ = client.write_all(says.as_bytes());
                client
            })
            .collect();
        let innocent: Vec<_> = (0..14).map(|_| is_served(&proxy)).collect();
        assert_eq!(shed(&proxy, "connections"), 60.0, "three quarters are its own: {says}");
        let reason = [("reason", "source_limit")];
        assert_eq!(proxy.sum("egret_connections_closed_total", &reason), 60.0);
        let flags = [("response_flags", "UO")];
        assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &flags), 60.0);
        eventually("those beyond its share have ended", || {
            hostile.iter_mut().filter_map(|client| has_ended(client).then_some(())).count() >= 60
        });
        drop((hostile, innocent));
        proxy.is_quiet();
        drop(is_served(&proxy));
    }
}

#[test]
fn silent_connections_of_whoever_has_more_give_way_when_few_are_left() {
    let (proxy, _web) = start(Setup { connections: 64, ..Setup::default() });
    // Together they would leave none: 48, and then 16 below their share.
    let first: Vec<_> = (0..60).map(|_| connect(&proxy, HOSTILE)).collect();
    eventually("the first has its part", || proxy.sum("egret_connections_active", &[]) == 48.0);
    let second: Vec<_> = (0..16).map(|_| connect(&proxy, [127, 0, 0, 67])).collect();
    eventually("some of the first have given way", || {
        shed(&proxy, "waiting") >= 4.0 && proxy.sum("egret_connections_active", &[]) <= 61.0
    });
    let innocent: Vec<_> = (0..14).map(|_| is_served(&proxy)).collect();
    assert!(shed(&proxy, "waiting") >= 14.0, "{}", shed(&proxy, "waiting"));
    drop((first, second, innocent));
    proxy.is_quiet();
}

#[test]
fn who_holds_most_bytes_is_reset_and_nobody_else() {
    const BUDGET: u64 = 2 << 20;
    let (proxy, _web) = start(Setup { held_bytes: BUDGET, ..Setup::default() });
    // Half a head each: one of an innocent, and many large ones.
    let mut kept = connect(&proxy, INNOCENT);
    let head = "GET / HTTP/1.1\r\nHost: allowed.example.com\r\nX-Large: ";
    kept.write_all(head.as_bytes()).unwrap();
    let large = [head.as_bytes(), &[b'a'; 30_000]].concat();
    let mut hostile = Vec::new();
    for _ in 0..200 {
        let mut client = connect(&proxy, HOSTILE);
        client.write_all(&large).unwrap();
        hostile.push(client);
        drop(is_served(&proxy));
        assert!(proxy.sum("egret_held_bytes", &[]) <= (BUDGET + 65_536) as f64);
    }
    eventually("most are reset", || shed(&proxy, "held_bytes") >= 130.0);
    kept.write_all(b"\r\n\r\n").unwrap();
    let mut answer = vec![0; ok(b"fine").len()];
    kept.read_exact(&mut answer).expect("it holds little, and is not the one to go");
    let reason = [("reason", "held_bytes")];
    let closed = proxy.sum("egret_connections_closed_total", &reason);
    assert_eq!(closed, shed(&proxy, "held_bytes"));
    drop((kept, hostile));
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_held_bytes", &[]), 0.0);
}

#[test]
fn readers_that_do_not_read_keep_no_buffer_from_others() {
    let proxy = Proxy::start(Setup { buffers: Some(32), ..Setup::default() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    // More than there are pipes: the rest keeps buffers.
    let stuck: Vec<_> = (0..120)
        .map(|_| {
            let client = proxy.connector().connect_from(HOSTILE, at).expect("the proxy listens");
            let mut server = listener.accept().unwrap().0;
            server.set_nonblocking(true).unwrap();
            while uninterrupted(|| server.write(&[0; 65_536])).is_ok() {}
            (client, server)
        })
        .collect();
    for _ in 0..5 {
        let mut client = proxy.connector().connect_from(INNOCENT, at).expect("the proxy listens");
        let mut server = listener.accept().unwrap().0;
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut [0; 4]).expect("there is a buffer for it");
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut [0; 4]).expect("and for the answer");
    }
    drop(stuck);
    proxy.is_quiet();
}

#[test]
fn one_source_cannot_take_all_label_sets() {
    let (proxy, _web) = start(Setup { series_max: 40, ..Setup::default() });
    for n in 0..200 {
        let mut client = connect(&proxy, HOSTILE);
        write!(client, "GET / HTTP/1.1\r\nHost: junk-{n}.example\r\n\r\n").unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
    }
    drop(is_served(&proxy));
    let own = [("destination_service", "allowed.example.com"), ("response_code", "200")];
    eventually("the request is counted", || proxy.sum("istio_requests_total", &own) == 1.0);
    assert_eq!(shed(&proxy, "series"), 170.0);
    assert_eq!(proxy.sum("istio_requests_total", &[]), 201.0, "none is lost");
    let other = [("destination_service", "other")];
    assert_eq!(proxy.sum("istio_requests_total", &other), 170.0);
    proxy.is_quiet();
}
