//! HTTP/2 without TLS, by curl, python3 and nginx, who know beforehand that it is spoken.

use crate::lab::{Lab, wait_for, web};
use crate::options::{Options, Policy, named_entry};
use crate::programs::{Nginx, curl, python};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, OPENED, RECOGNISED, REQUESTS};

/// curl asks for `/` of this authority. Its status.
fn ask(lab: &Lab, authority: &str) -> String {
    // curl 7.88 cannot use such a connection twice, so that is left to `STREAMS`.
    let host = format!("Host: {authority}");
    let url = format!("http://{}/", web(10, 80));
    let more = ["--http2-prior-knowledge", "--header", &host, "--output", "/dev/null"];
    curl(lab, &[&more[..], &["--write-out", "%{http_code}", &url]].concat()).text()
}

/// Asks for `/` of each authority in turn, on one connection, until that ends. Prints the statuses,
/// and how it ended. All header fields are written as literals (RFC 7541 6.2.2); of the answers it
/// knows the two ways to write `:status` that occur: indexed (8 is 200), and as a literal.
const STREAMS: &str = r#"
import socket, struct, sys
host, port = sys.argv[1].rsplit(":", 1)
peer = socket.create_connection((host, int(port)), 20)
def frame(kind, flags, stream, payload=b""):
    head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream)
    return head + payload
def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
def exactly(count):
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
try:
    for number, authority in enumerate(sys.argv[2:]):
        stream = 2 * number + 1
        fields = {b":method": b"GET", b":scheme": b"http", b":path": b"/",
                  b":authority": authority.encode()}
        block = b"".join(literal(*field) for field in fields.items())
        peer.sendall(frame(1, 0x5, stream, block))
        over = False
        while not over:
            head = exactly(9)
            kind, flags, of = head[3], head[4], struct.unpack(">I", head[5:])[0]
            payload = exactly(int.from_bytes(head[:3], "big"))
            if kind == 1:
                assert of == stream, (of, stream)
                print("200" if payload[0] == 0x88 else "502" if b"502" in payload else payload)
            if kind == 4 and not flags & 1:
                peer.sendall(frame(4, 1, 0))
            if kind == 7:
                print("goaway", *struct.unpack(">II", payload[:8]))
            over = kind in (0, 1) and flags & 1 and of == stream
    peer.shutdown(socket.SHUT_WR)
    while True:
        head = exactly(9)
        payload = exactly(int.from_bytes(head[:3], "big"))
        if head[3] == 7:
            print("goaway", *struct.unpack(">II", payload[:8]))
except EOFError:
    print("end")
"#;

fn ask_in_turn(lab: &Lab, authorities: &[&str]) -> Vec<String> {
    let to = web(10, 80).to_string();
    let text = python(lab, STREAMS, &[&[to.as_str()], authorities].concat());
    text.lines().map(str::to_owned).collect()
}

#[test]
fn where_everything_is_allowed_a_connection_is_counted_by_its_first_authority() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let _nginx = Nginx::start_http2(&lab, web(10, 80));
    assert_eq!(ask(&lab, "one.test"), "200");
    assert_eq!(ask_in_turn(&lab, &["one.test", "two.test"]), ["200", "200", "end"]);
    let labels = [
        ("destination_service_name", "PassthroughCluster"),
        ("destination_service", "one.test"),
        ("response_flags", "-"),
    ];
    proxy.wait_for_metric(OPENED, &labels, 2);
    proxy.wait_for_metric(CLOSED, &labels, 2);
    assert_eq!(proxy.metric(RECOGNISED, &[("result", "http2")]), 2);
    proxy.finish();
}

#[test]
fn a_blocked_authority_is_answered_and_never_reaches_the_server() {
    let lab = Lab::new();
    let registry = named_entry("allowed.test", "HTTP2", 80, None);
    let options = Options { policy: Policy::RegistryOnly, registry, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let nginx = Nginx::start_http2(&lab, web(10, 80));
    assert_eq!(ask(&lab, "blocked.test"), "502");
    let blocked = [
        ("destination_service_name", "BlackHoleCluster"),
        ("destination_service", "blocked.test"),
        ("response_code", "502"),
    ];
    proxy.wait_for_metric(REQUESTS, &blocked, 1);
    assert_eq!(proxy.metric(OPENED, &[]), 0);

    // Behind allowed ones, on their connection, which ends with it.
    assert_eq!(ask(&lab, "allowed.test"), "200");
    let asked = ["allowed.test", "allowed.test", "blocked.test", "allowed.test"];
    let seen = ["200", "200", "502", "goaway 5 0", "end"];
    assert_eq!(ask_in_turn(&lab, &asked), seen);
    proxy.wait_for_metric(REQUESTS, &blocked, 2);
    assert_eq!(proxy.metric("egret_http2_blocked_streams_total", &[]), 1);
    proxy.wait_for_metric(OPENED, &[("destination_service_name", "allowed.test")], 2);
    assert!(!nginx.log().contains("blocked.test"), "it reached the server");
    proxy.finish();
}

#[test]
fn a_request_whose_upstream_refuses_is_answered_503_and_logged() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let log = directory.path().join("access.log");
    let options = Options {
        // Nobody listens there.
        registry: named_entry("dead.test", "HTTP2", 80, Some(web(13, 8080))),
        access_log: format!("format: json, path: {}", log.display()),
        ..Options::default()
    };
    let proxy = Proxy::start(&lab, &options);
    assert_eq!(ask(&lab, "dead.test"), "503");
    let failed = [
        ("destination_service_name", "dead.test"),
        ("response_code", "503"),
        ("response_flags", "UF,URX"),
    ];
    proxy.wait_for_metric(REQUESTS, &failed, 1);
    assert_eq!((proxy.metric(OPENED, &[]), proxy.metric(CLOSED, &[])), (0, 0));
    let line: serde_json::Value = wait_for("the line", || {
        serde_json::from_str(std::fs::read_to_string(&log).ok()?.trim_end()).ok()
    });
    let fields = ["response_code", "response_flags", "name", "upstream_host", "protocol"];
    let expected = serde_json::json!([503, "UF,URX", "dead.test", "203.0.113.13:8080", "HTTP/2"]);
    assert_eq!(serde_json::json!(fields.map(|field| &line[field])), expected, "{line:#}");
    proxy.finish();
}
