//! HTTP/1 where a name decides: every request by its own Host.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use nix::errno::Errno;

use egret::config::Mode;

use super::{destination, entry, read_all, read_exactly, registry_only};
use crate::support::peer::expect_end;
use crate::support::web::ok;
use crate::support::{Pattern, Proxy, Setup, Web, eventually, nobody};

const ALLOWED: &str = "GET /1 HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n";
const BLOCKED: &str = "GET /secret HTTP/1.1\r\nHost: blocked.example.com\r\n\r\n";
const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\n";

fn path_of(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

fn echo_path(head: &str, _: &[u8]) -> Vec<u8> {
    ok(path_of(head).as_bytes())
}

fn allowed(web: &Web) -> Vec<String> {
    vec![entry("allowed.example.com", "HTTP", web.address)]
}

#[test]
fn allowed_then_blocked_in_few_pieces() {
    let web = Web::start(echo_path);
    let proxy = registry_only(&allowed(&web), "");
    let both = format!("{ALLOWED}{BLOCKED}");
    let first = String::from_utf8(ok(b"/1")).unwrap();
    // `src/gate/tests/http1.rs` cuts at every byte.
    let pieces = [both.len(), ALLOWED.len(), ALLOWED.len() + 1, 10, 1];
    for size in pieces {
        let mut client = proxy.connect(destination());
        for piece in both.as_bytes().chunks(size) {
            client.write_all(piece).unwrap();
        }
        let answers = read_all(&mut client);
        let (one, two) = answers.split_at(first.len());
        assert_eq!(one, first, "in pieces of {size}");
        assert!(two.starts_with(BAD_GATEWAY), "in pieces of {size}: {two}");
    }
    proxy.is_quiet();
    assert_eq!(web.text(), ALLOWED.repeat(pieces.len()), "and nothing of the blocked one");
    let count = f64::from(u32::try_from(pieces.len()).unwrap());
    let blocked = [
        ("destination_service_name", "BlackHoleCluster"),
        ("destination_service", "blocked.example.com"),
        ("response_code", "502"),
    ];
    assert_eq!(proxy.sum("istio_requests_total", &blocked), count);
    assert_eq!(proxy.sum("istio_requests_total", &blocked[..2]), count, "counted once");
    let passed = [("destination_service_name", "allowed.example.com"), ("response_code", "200")];
    assert_eq!(proxy.sum("istio_requests_total", &passed), count);
    assert_eq!(proxy.sum("istio_response_bytes_sum", &passed), count * first.len() as f64);
    assert_eq!(proxy.sum("istio_request_bytes_sum", &passed), count * ALLOWED.len() as f64);
    assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &[]), 0.0, "no TCP metrics");
    let reason = [("reason", "blackhole")];
    assert_eq!(proxy.sum("egret_connections_closed_total", &reason), count);
}

#[test]
fn blocked_at_once_and_never_connected() {
    let web = Web::start(echo_path);
    let proxy = registry_only(&allowed(&web), "");
    for host in ["blocked.example.com", "192.0.2.1", "allowed.example.com.evil.example"] {
        let mut client = proxy.connect(destination());
        write!(client, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        assert!(read_all(&mut client).starts_with(BAD_GATEWAY), "{host}");
    }
    proxy.is_quiet();
    assert!(web.received().is_empty());
    assert_eq!(proxy.sum("istio_requests_total", &[]), 3.0, "each is counted once");
}

#[test]
fn each_request_goes_to_its_own_upstream_and_answers_come_in_order() {
    fn from_a(head: &str, _: &[u8]) -> Vec<u8> {
        ok(format!("a{}", path_of(head)).as_bytes())
    }
    fn from_b(head: &str, _: &[u8]) -> Vec<u8> {
        ok(format!("b{}", path_of(head)).as_bytes())
    }
    let (a, b) = (Web::start(from_a), Web::start(from_b));
    let entries =
        [entry("a.example.com", "HTTP", a.address), entry("*.b.example.com", "HTTP", b.address)];
    let proxy = registry_only(&entries, "");
    let hosts = ["a.example.com", "A.example.com.", "x.b.example.com:8080", "a.example.com"];
    let requests: String = hosts
        .iter()
        .enumerate()
        .map(|(n, host)| format!("GET /{n} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        .collect();
    for piece in [requests.len(), 40, 7, 1] {
        let mut client = proxy.connect(destination());
        for piece in requests.as_bytes().chunks(piece) {
            client.write_all(piece).unwrap();
        }
        for answer in [&b"a/0"[..], b"a/1", b"b/2", b"a/3"] {
            read_exactly(&mut client, &ok(answer));
        }
    }
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_http_upstream_switches_total", &[]), 8.0);
    assert_eq!(a.received().len(), 8, "an upstream that gave way is not used again");
    assert_eq!(b.received().len(), 4);
    let wildcard = [
        ("destination_service_name", "*.b.example.com"),
        ("destination_service", "x.b.example.com"),
    ];
    assert_eq!(proxy.sum("istio_requests_total", &wildcard), 4.0);
}

#[test]
fn large_bodies_are_spliced_between_heads() {
    const SIZE: usize = 6_000_000;
    fn large(_: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        Pattern::new(7).fill(&mut bytes);
        // The answer to an upload says whether it came whole.
        let mut sent = vec![0; body.len()];
        Pattern::new(8).fill(&mut sent);
        if body.is_empty() { ok(&bytes) } else { ok(if body == sent { b"same" } else { b"else" }) }
    }
    let web = Web::start(large);
    let proxy = registry_only(&allowed(&web), "");
    let mut client = proxy.connect(destination());
    for _ in 0..2 {
        client.write_all(ALLOWED.as_bytes()).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
        read_exactly(&mut client, head.as_bytes());
        Pattern::new(7).expect(&mut client, SIZE);
        write!(
            client,
            "PUT / HTTP/1.1\r\nHost: allowed.example.com\r\ncontent-length: {SIZE}\r\n\r\n"
        )
        .unwrap();
        Pattern::new(8).send(&mut client, SIZE, 1 << 20);
        read_exactly(&mut client, &ok(b"same"));
    }
    client.write_all(BLOCKED.as_bytes()).unwrap();
    assert!(read_all(&mut client).starts_with(BAD_GATEWAY));
    proxy.is_quiet();
    assert!(proxy.sum("egret_spliced_bytes_total", &[]) > 4_000_000.0);
    assert!(!web.text().contains("secret"));
    assert_eq!(proxy.sum("istio_requests_total", &[("response_code", "200")]), 4.0);
}

#[test]
fn every_framing_passes_byte_for_byte() {
    fn framed(head: &str, body: &[u8]) -> Vec<u8> {
        let text = match path_of(head) {
            "/chunked" => {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                           5;x=y\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n"
            }
            "/none" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/same" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n",
            "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
            "/interim" => {
                "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
                           HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            }
            _ => return ok(body),
        };
        text.as_bytes().to_vec()
    }
    let web = Web::start(framed);
    let proxy = registry_only(&allowed(&web), "");
    let mut client = proxy.connect(destination());
    let requests = [
        ("GET /chunked", "", ""),
        ("GET /none", "", ""),
        ("GET /same", "", ""),
        ("HEAD /head", "", ""),
        ("GET /interim", "", ""),
        ("POST /up", "transfer-encoding: chunked\r\n", "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"),
        ("POST /length", "content-length: 3\r\n", "abc"),
    ];
    let mut sent = String::new();
    for (line, fields, body) in requests {
        let request = format!("{line} HTTP/1.1\r\nHost: allowed.example.com\r\n{fields}\r\n{body}");
        client.write_all(request.as_bytes()).unwrap();
        sent += &request;
        let answer = framed(&request, body.as_bytes());
        read_exactly(&mut client, &answer);
    }
    client.write_all(BLOCKED.as_bytes()).unwrap();
    assert!(read_all(&mut client).starts_with(BAD_GATEWAY), "the framing was followed to the end");
    proxy.is_quiet();
    assert_eq!(web.text(), sent);
    let codes = [("200", 5.0), ("204", 1.0), ("304", 1.0), ("502", 1.0)];
    for (code, count) in codes {
        assert_eq!(proxy.sum("istio_requests_total", &[("response_code", code)]), count, "{code}");
    }
}

#[test]
fn expect_and_upgrade_and_until_close() {
    fn answers(head: &str, body: &[u8]) -> Vec<u8> {
        match path_of(head) {
            "/switch" => b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\n\r\n".to_vec(),
            "/close" => b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec(),
            _ => ok(body),
        }
    }
    let web = Web::start(answers);
    let proxy = registry_only(&allowed(&web), "");
    let host = "Host: allowed.example.com\r\n";
    let mut client = proxy.connect(destination());
    write!(client, "PUT /x HTTP/1.1\r\n{host}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .unwrap();
    read_exactly(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"body").unwrap();
    read_exactly(&mut client, &ok(b"body"));
    // After a 101 nothing is a request any more, whatever it looks like.
    write!(
        client,
        "GET /switch HTTP/1.1\r\n{host}connection: upgrade\r\nupgrade: echo\r\n\r\n{BLOCKED}"
    )
    .unwrap();
    read_exactly(&mut client, &answers("GET /switch", b""));
    read_exactly(&mut client, BLOCKED.as_bytes());
    client.write_all(b"more").unwrap();
    read_exactly(&mut client, b"more");
    drop(client);
    let mut client = proxy.connect(destination());
    write!(client, "GET /close HTTP/1.1\r\n{host}x-end: 1\r\n\r\n").unwrap();
    assert_eq!(read_all(&mut client), "HTTP/1.1 200 OK\r\n\r\nuntil the end");
    drop(client);
    proxy.is_quiet();
    assert_eq!(proxy.sum("istio_requests_total", &[("response_code", "101")]), 1.0);
    assert_eq!(proxy.sum("istio_requests_total", &[("response_code", "200")]), 2.0);
}

#[test]
fn malformed_requests_are_refused_after_the_earlier_answers() {
    let web = Web::start(echo_path);
    let proxy = registry_only(&allowed(&web), "");
    let bad = [
        ("GET / HTTP/1.1\r\nHost: allowed.example.com\r\nHost: x\r\n\r\n", "several_hosts"),
        ("GET / HTTP/1.1\r\n\r\n", "no_host"),
        ("GET / HTTP/1.1\nHost: allowed.example.com\n\n", "bare_line_end"),
        (
            "POST / HTTP/1.1\r\nHost: allowed.example.com\r\nContent-Length: 3\r\n\
             Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "length_with_coding",
        ),
        ("GET / HTTP/1.1\r\nHost: allowed.example.com\r\nx: a\r\n b\r\n\r\n", "folded_field"),
        (
            "CONNECT allowed.example.com:443 HTTP/1.1\r\nHost: allowed.example.com:443\r\n\r\n",
            "connect",
        ),
        (
            "GET http://blocked.example.com/ HTTP/1.1\r\nHost: allowed.example.com\r\n\r\n",
            "host_mismatch",
        ),
    ];
    for (request, reason) in bad {
        let mut client = proxy.connect(destination());
        client.write_all(format!("{ALLOWED}{request}").as_bytes()).unwrap();
        read_exactly(&mut client, &ok(b"/1"));
        let answer = read_all(&mut client);
        let expected = match reason {
            "connect" => BAD_GATEWAY,
            _ => "HTTP/1.1 400 Bad Request\r\n",
        };
        assert!(answer.starts_with(expected), "{reason}: {answer}");
        let count = proxy.sum("egret_http_refused_requests_total", &[("reason", reason)]);
        assert_eq!(count, 1.0, "{reason}");
    }
    proxy.is_quiet();
    assert_eq!(web.text(), ALLOWED.repeat(bad.len()));
    assert_eq!(proxy.sum("istio_requests_total", &[("response_flags", "DPE")]), bad.len() as f64);
    assert_eq!(proxy.sum("egret_name_conflicts_total", &[]), 1.0);
}

#[test]
fn an_upstream_that_cannot_be_reached_is_a_503() {
    let web = Web::start(echo_path);
    let mut entries = allowed(&web);
    entries.push(entry("down.example.com", "HTTP", nobody()));
    let proxy = registry_only(&entries, "");
    let mut client = proxy.connect(destination());
    write!(client, "{ALLOWED}GET / HTTP/1.1\r\nHost: down.example.com\r\n\r\n").unwrap();
    read_exactly(&mut client, &ok(b"/1"));
    assert!(read_all(&mut client).starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    proxy.is_quiet();
    let labels = [("response_code", "503"), ("response_flags", "UF,URX")];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 1.0);
}

#[test]
fn a_client_that_ends_its_half_still_gets_its_answers() {
    let web = Web::start(echo_path);
    let proxy = registry_only(&allowed(&web), "");
    let mut client = proxy.connect(destination());
    client.write_all(ALLOWED.repeat(3).as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let one = String::from_utf8(ok(b"/1")).unwrap();
    assert_eq!(read_all(&mut client), one.repeat(3));
    proxy.is_quiet();
    assert_eq!(proxy.sum("istio_requests_total", &[("response_code", "200")]), 3.0);
}

#[test]
fn a_server_that_closes_an_idle_connection_is_no_error_for_the_next_host() {
    let (a, b) = (Web::start(echo_path), Web::start(echo_path));
    let entries =
        [entry("a.example.com", "HTTP", a.address), entry("b.example.com", "HTTP", b.address)];
    let proxy = registry_only(&entries, "");
    let mut client = proxy.connect(destination());
    // The second request waits for the first one's answer, behind which the server closes.
    client
        .write_all(
            b"GET /1 HTTP/1.1\r\nHost: a.example.com\r\nx-end: 1\r\n\r\n\
              GET /2 HTTP/1.1\r\nHost: b.example.com\r\n\r\n",
        )
        .unwrap();
    read_exactly(&mut client, &ok(b"/1"));
    read_exactly(&mut client, &ok(b"/2"));
    drop(client);
    proxy.is_quiet();
}

#[test]
fn requests_are_gated_the_same_under_faults() {
    let web = Web::start(echo_path);
    let proxy = registry_only(&allowed(&web), "");
    proxy.faults.fail_one_in(3, &[Errno::EAGAIN, Errno::EINTR, Errno::ENOBUFS]);
    let both = format!("{}{BLOCKED}", ALLOWED.repeat(5));
    for piece in [1, 3, 17, 64, 1000] {
        let mut client = proxy.connect(destination());
        for piece in both.as_bytes().chunks(piece) {
            client.write_all(piece).unwrap();
        }
        for _ in 0..5 {
            read_exactly(&mut client, &ok(b"/1"));
        }
        assert!(read_all(&mut client).starts_with(BAD_GATEWAY));
    }
    proxy.is_quiet();
    assert!(!web.text().contains("secret"));
}

#[test]
fn a_client_that_goes_away_while_its_request_waits_is_forgotten() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let web = Web::start(echo_path);
    let mut entries = allowed(&web);
    entries.push(entry("silent.example.com", "HTTP", silent.local_addr().unwrap()));
    let proxy = registry_only(&entries, "");
    let mut client = proxy.connect(destination());
    write!(client, "GET / HTTP/1.1\r\nHost: silent.example.com\r\n\r\n{ALLOWED}").unwrap();
    let (mut server, _) = silent.accept().unwrap();
    let mut head = [0; 10];
    server.read_exact(&mut head).unwrap();
    crate::support::reset(client);
    eventually("its loss is found", || proxy.sum("egret_connections_active", &[]) == 0.0);
    drop(server);
    proxy.is_quiet();
    assert!(web.received().is_empty());
    // The one that was asked. The one behind it was never read: there is one request at a time.
    let labels = [("response_flags", "DC"), ("response_code", "0")];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 1.0);
}

#[test]
fn an_answer_without_an_end_does_not_hold_the_next_request_for_ever() {
    fn lost(_: &str, _: &[u8]) -> Vec<u8> {
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: x\r\n\r\nok".to_vec()
    }
    let web = Web::start(lost);
    let proxy = Proxy::start(Setup {
        mode: Mode::RegistryOnly,
        registry: allowed(&web).concat(),
        half_close: Duration::from_millis(500),
        ..Setup::default()
    });
    let mut client = proxy.connect(destination());
    client.write_all(ALLOWED.as_bytes()).unwrap();
    read_exactly(&mut client, &lost("", b""));
    // Only the upstream knows where its answer ends; when it is still for long, all ends.
    client.write_all(BLOCKED.as_bytes()).unwrap();
    crate::support::peer::read_to_reset(&mut client);
    drop(client);
    proxy.is_quiet();
    assert_eq!(web.text(), ALLOWED);
    let reason = [("reason", "length_with_coding")];
    assert_eq!(proxy.sum("egret_http_unframed_answers_total", &reason), 1.0);
}

#[test]
fn an_answer_without_an_end_from_a_server_that_goes_on_passes_until_it_is_still() {
    const LOST: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: x\r\n\r\nok";
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(Setup {
        mode: Mode::RegistryOnly,
        registry: entry("allowed.example.com", "HTTP", server.local_addr().unwrap()),
        half_close: Duration::from_millis(500),
        ..Setup::default()
    });
    let mut client = proxy.connect(destination());
    client.write_all(ALLOWED.as_bytes()).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    read_exactly(&mut upstream, ALLOWED.as_bytes());
    upstream.write_all(LOST).unwrap();
    read_exactly(&mut client, LOST);
    // It waits, for nobody knows whether its answer would stand within the last one.
    client.write_all(ALLOWED.as_bytes()).unwrap();
    // The upstream is told nothing: some take a FIN for a client that has gone.
    for _ in 0..100 {
        upstream.write_all(b"more").unwrap();
        read_exactly(&mut client, b"more");
    }
    // The server keeps its end open. That the answer may be cut off shows.
    assert_eq!(crate::support::peer::read_to_reset(&mut client), (true, 0));
    drop((client, upstream));
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_connections_closed_total", &[("reason", "half_close")]), 1.0);
    // The second one was never read.
    assert_eq!(proxy.sum("istio_requests_total", &[]), 1.0);
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "nothing was sent twice");
}

#[test]
fn no_request_is_served_once_the_client_was_told_the_end() {
    let (a, b) = (Web::start(echo_path), Web::start(echo_path));
    let entries =
        [entry("a.example.com", "HTTP", a.address), entry("b.example.com", "HTTP", b.address)];
    let proxy = registry_only(&entries, "");
    let mut client = proxy.connect(destination());
    client.write_all(b"GET /1 HTTP/1.1\r\nHost: a.example.com\r\nx-end: 1\r\n\r\n").unwrap();
    read_exactly(&mut client, &ok(b"/1"));
    expect_end(&mut client);
    // Its answer could not be told.
    client.write_all(b"GET /2 HTTP/1.1\r\nHost: b.example.com\r\n\r\n").unwrap();
    drop(client);
    proxy.is_quiet();
    assert!(b.received().is_empty());
}

#[test]
fn behind_a_change_to_http2_nothing_else_passes() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let proxy = registry_only(&[entry("allowed.example.com", "HTTP", address)], "");
    let mut client = proxy.connect(destination());
    let offer = "GET /1 HTTP/1.1\r\nHost: allowed.example.com\r\n\
                 Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    client.write_all(format!("{offer}{BLOCKED}").as_bytes()).unwrap();
    let (mut upstream, _) = server.accept().unwrap();
    read_exactly(&mut upstream, offer.as_bytes());
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                    Upgrade: h2c\r\n\r\n";
    upstream.write_all(switched.as_bytes()).unwrap();
    assert!(crate::support::peer::read_to_reset(&mut client).0);
    let mut got = Vec::new();
    let _ = upstream.read_to_end(&mut got);
    assert!(got.is_empty(), "{:?}", String::from_utf8_lossy(&got));
    drop((client, upstream));
    proxy.is_quiet();
}

#[test]
fn a_name_without_an_address_is_a_503() {
    let unresolved = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                      metadata: { name: none, namespace: shop }\nspec:\n  \
                      hosts: [none.invalid]\n  \
                      ports: [{ number: 8080, name: main, protocol: HTTP }]\n  resolution: DNS\n";
    let proxy = registry_only(&[unresolved.to_owned()], "");
    let mut client = proxy.connect(destination());
    write!(client, "GET / HTTP/1.1\r\nHost: none.invalid\r\n\r\n").unwrap();
    assert!(read_all(&mut client).starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    drop(client);
    proxy.is_quiet();
    let labels = [("response_code", "503"), ("response_flags", "UH")];
    assert_eq!(proxy.sum("istio_requests_total", &labels), 1.0);
}
