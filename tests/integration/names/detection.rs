//! First bytes where a name decides: TLS by its SNI, everything else by the address.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::{Duration, Instant};

use egret::config::{Action, Mode};

use super::{destination, entry, read_all, read_exactly, registry_only};
use crate::support::peer::read_to_reset;
use crate::support::{Proxy, Setup, eventually};

/// A real ClientHello, for `www.example.com`.
fn hello(name: &str) -> Vec<u8> {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/client_hello/");
    std::fs::read(format!("{corpus}{name}")).unwrap()
}

/// The name that a ClientHello shows.
fn sni(hello: &[u8]) -> String {
    let mut sniffer = egret::internals::sniff::Sniffer::default();
    match sniffer.feed(hello) {
        egret::internals::sniff::Sniff::Tls(hello) => match &hello.sni {
            egret::internals::sniff::Sni::Name(name) => name.as_str().to_owned(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_hello_in_few_pieces_is_decided_alike_and_passes_unchanged() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    for name in ["openssl_default", "curl_h2", "records_of_1", "records_of_100"] {
        let hello = hello(name);
        let allowed = entry(&sni(&hello), "TLS", server.local_addr().unwrap());
        let proxy = registry_only(&[allowed], "");
        // `src/gate/tests/detect.rs` cuts at every byte.
        let sizes = [hello.len(), hello.len() - 1, 100, 5, 1];
        for size in sizes {
            let mut client = proxy.connect(destination());
            for piece in hello.chunks(size) {
                client.write_all(piece).unwrap();
            }
            let (mut upstream, _) = server.accept().unwrap();
            read_exactly(&mut upstream, &hello);
            upstream.write_all(b"server hello").unwrap();
            read_exactly(&mut client, b"server hello");
            let record = b"\x17\x03\x03\0\x04then";
            client.write_all(record).unwrap();
            read_exactly(&mut upstream, record);
        }
        proxy.is_quiet();
        let labels = [("destination_service", sni(&hello))];
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        let count = sizes.len() as f64;
        assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &labels), count, "{name}");
        assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &labels), count, "{name}");
    }
}

#[test]
fn a_blocked_name_is_counted_and_its_connection_closed() {
    let hello = hello("openssl_default");
    let proxy = registry_only(&[entry("else.example.org", "TLS", destination())], "");
    let mut client = proxy.connect(destination());
    client.write_all(&hello).unwrap();
    assert_eq!(read_all(&mut client), "");
    drop(client);
    proxy.is_quiet();
    let name = sni(&hello);
    let labels = [
        ("destination_service_name", "BlackHoleCluster"),
        ("destination_service", name.as_str()),
        ("response_flags", "UH"),
    ];
    assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &labels), 1.0);
    assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &[]), 1.0);
}

#[test]
fn the_alert_says_access_denied_and_leaves_no_detection() {
    let mode = Mode::RegistryOnly;
    let proxy = Proxy::start(Setup { mode, tls_alert: true, ..Setup::default() });
    let mut client = proxy.connect(destination());
    client.write_all(&hello("openssl_default")).unwrap();
    let mut alert = Vec::new();
    client.read_to_end(&mut alert).unwrap();
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 49]);
    drop(client);
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_recognising_connections", &[]), 0.0);
}

/// `ALLOW_ANY`, with an entry by name that makes every connection to its port wait.
fn waiting(deadline_ms: u32) -> (Proxy, TcpListener) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let registry = entry("api.example.com", "HTTP", server.local_addr().unwrap())
        .replace("number: 8080", &format!("number: {port}"));
    let names = format!("deadline: {deadline_ms}ms");
    (Proxy::start(Setup { registry, names, ..Setup::default() }), server)
}

#[test]
fn a_client_that_stops_after_one_byte_is_decided_at_the_deadline() {
    let (proxy, server) = waiting(300);
    let began = Instant::now();
    let mut client = proxy.connect(server.local_addr().unwrap());
    client.write_all(b"G").unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    client.write_all(b"ET").unwrap();
    read_exactly(&mut upstream, b"GET");
    upstream.write_all(b"back").unwrap();
    read_exactly(&mut client, b"back");
    drop((client, upstream));
    proxy.is_quiet();
    let late = [("result", "deadline")];
    assert_eq!(proxy.sum("egret_recognised_connections_total", &late), 1.0);
    assert_eq!(proxy.sum("egret_recognising_connections", &[]), 0.0);
    assert_eq!(proxy.sum("egret_recognising_bytes", &[]), 0.0);
    let labels = [("destination_service_name", "PassthroughCluster")];
    assert_eq!(proxy.sum("istio_tcp_received_bytes_total", &labels), 3.0);
    assert_eq!(proxy.sum("istio_tcp_sent_bytes_total", &labels), 4.0);
}

#[test]
fn the_deadline_meets_bytes_that_are_just_coming() {
    // Each client sends its second byte when the deadline passes, or nearly.
    let (proxy, server) = waiting(50);
    for wait_us in (30_000..70_000).step_by(1_000) {
        let mut client = proxy.connect(server.local_addr().unwrap());
        client.write_all(b"G").unwrap();
        std::thread::sleep(Duration::from_micros(wait_us));
        client.write_all(b"E").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (mut upstream, _) = server.accept().unwrap();
        assert_eq!(read_all(&mut upstream), "GE");
        drop(upstream);
        assert_eq!(read_all(&mut client), "");
    }
    proxy.is_quiet();
}

#[test]
fn opaque_bytes_and_ends_are_decided_by_the_address() {
    let (proxy, server) = waiting(5_000);
    for first in [&b"SSH-2.0-x\r\n"[..], b"\x16\x03\x01\x00\x05junk!", b"", b"GE"] {
        let mut client = proxy.connect(server.local_addr().unwrap());
        client.write_all(first).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (mut upstream, _) = server.accept().unwrap();
        let mut got = Vec::new();
        upstream.read_to_end(&mut got).unwrap();
        assert_eq!(got, first);
    }
    proxy.is_quiet();
    let count = |result| proxy.sum("egret_recognised_connections_total", &[("result", result)]);
    assert_eq!((count("not_recognised"), count("bad_tls"), count("ended")), (1.0, 1.0, 2.0));
}

#[test]
fn a_reset_while_it_waits_is_counted_once() {
    let (proxy, server) = waiting(60_000);
    let mut client = proxy.connect(server.local_addr().unwrap());
    client.write_all(b"G").unwrap();
    let waits = || proxy.sum("egret_recognising_bytes", &[]) == 1.0;
    eventually("the byte has come", waits);
    crate::support::reset(client);
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_recognising_connections", &[]), 0.0);
    assert_eq!(proxy.sum("egret_recognising_bytes", &[]), 0.0);
    let labels = [("response_flags", "DC")];
    assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &labels), 1.0);
}

#[test]
fn what_has_no_name_is_blocked_by_the_address() {
    let proxy = Proxy::start(Setup {
        mode: Mode::RegistryOnly,
        action: Action::Reset,
        names: "deadline: 100ms".to_owned(),
        ..Setup::default()
    });
    let mut client = proxy.connect(destination());
    client.write_all(b"SSH-2.0-x\r\n").unwrap();
    assert_eq!(read_to_reset(&mut client), (true, 0));
    let mut slow = proxy.connect(destination());
    slow.write_all(b"\x16\x03").unwrap();
    assert_eq!(read_to_reset(&mut slow), (true, 0));
    // No name would let it pass.
    assert_eq!(read_to_reset(&mut proxy.connect(destination())), (true, 0));
    proxy.is_quiet();
    let labels = [("destination_service_name", "BlackHoleCluster"), ("response_flags", "UH")];
    assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &labels), 3.0);
}

#[test]
fn a_silent_client_that_a_name_could_let_pass_is_not_late() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = destination().port();
    let proxy = Proxy::start(Setup {
        mode: Mode::RegistryOnly,
        registry: entry("known.test", "HTTP", server.local_addr().unwrap())
            .replace("number: 8080", &format!("number: {port}")),
        names: "deadline: 100ms".to_owned(),
        ..Setup::default()
    });
    let mut client = proxy.connect(destination());
    let mut slow = proxy.connect(destination());
    slow.write_all(b"\x16\x03").unwrap();
    assert_eq!(read_all(&mut slow), "", "it is late");
    let request = b"GET / HTTP/1.1\r\nHost: known.test\r\n\r\n";
    client.write_all(request).unwrap();
    let mut got = vec![0; request.len()];
    server.accept().unwrap().0.read_exact(&mut got).unwrap();
    assert_eq!(got, request);
    drop(client);
    proxy.is_quiet();
}

#[test]
fn a_silent_client_is_connected_at_the_deadline_and_its_name_still_decides() {
    let [elsewhere, server] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = server.local_addr().unwrap().port();
    let registry = entry("known.test", "HTTP", elsewhere.local_addr().unwrap())
        .replace("number: 8080", &format!("number: {port}"));
    let names = "deadline: 100ms".to_owned();
    let proxy = Proxy::start(Setup { registry, names, ..Setup::default() });
    for is_server_first in [false, true] {
        let mut client = proxy.connect(server.local_addr().unwrap());
        let (mut upstream, _) = server.accept().unwrap();
        if is_server_first {
            upstream.write_all(b"220 ready").unwrap();
            client.read_exact(&mut [0; 9]).unwrap();
        }
        let request = b"GET / HTTP/1.1\r\nHost: known.test\r\n\r\n";
        client.write_all(request).unwrap();
        if !is_server_first {
            assert_eq!(read_all(&mut upstream), "", "nothing has passed");
            upstream = elsewhere.accept().unwrap().0;
        }
        let mut got = vec![0; request.len()];
        upstream.read_exact(&mut got).unwrap();
        assert_eq!(got, request);
    }
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_recognising_bytes", &[]), 0.0);
}

#[test]
fn unverified_names_are_counted_and_blocked_if_so_configured() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    // Resolution NONE, no addresses: nothing but the workload's word.
    let registry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: any }}\nspec:\n  \
         hosts: [\"*.example.com\"]\n  ports: [{{ number: {port}, name: tls, protocol: TLS }}]\n"
    );
    let hello = hello("openssl_default");
    assert!(sni(&hello).ends_with(".example.com"), "{}", sni(&hello));
    for (unverified, opened) in [("allow", 1.0), ("block", 0.0)] {
        let proxy =
            registry_only(std::slice::from_ref(&registry), &format!("unverified: {unverified}"));
        let mut client = proxy.connect(server.local_addr().unwrap());
        client.write_all(&hello).unwrap();
        if opened == 1.0 {
            read_exactly(&mut server.accept().unwrap().0, &hello);
        }
        assert_eq!(read_all(&mut client), "");
        drop(client);
        proxy.is_quiet();
        let passed = [("response_flags", "-")];
        assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &passed), opened);
        assert_eq!(proxy.sum("egret_unverified_names_total", &[]), 1.0);
    }
}

#[test]
fn an_end_within_a_head_is_decided_by_the_address() {
    let (proxy, server) = waiting(200);
    let mut client = proxy.connect(server.local_addr().unwrap());
    client.write_all(b"GET / HTTP/1.1\r\nHos").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    upstream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut got = Vec::new();
    let result = upstream.read_to_end(&mut got);
    assert!(result.is_ok() && got == b"GET / HTTP/1.1\r\nHos", "{result:?} {got:?}");
    drop((client, upstream));
    proxy.is_quiet();
}
