//! HTTP/1 request by request: curl and python3 against nginx, through a port where names decide.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use crate::lab::{Lab, PATIENCE, Part, web};
use crate::options::{Options, Policy, named_entry};
use crate::pattern::Pattern;
use crate::programs::{Nginx, curl, python, python_server, run_with_input};
use crate::proxy::Proxy;
use crate::scrape::{GENERATION, REQUESTS, SPLICED, SWITCHES};

const MIB: usize = 1 << 20;
/// Every body that is to go the bulk way.
const LARGE: usize = 8 * MIB;

/// Only `allowed.test`, and the two that have servers of their own.
fn options() -> Options {
    let registry = [
        named_entry("allowed.test", "HTTP", 80, None),
        named_entry("one.test", "HTTP", 80, Some(web(12, 8080))),
        named_entry("two.test", "HTTP", 80, Some(web(13, 8080))),
    ];
    Options { policy: Policy::RegistryOnly, registry: registry.concat(), ..Options::default() }
}

fn start_nginx(lab: &Lab) -> Nginx {
    Nginx::start(lab, &[web(10, 80), web(12, 8080), web(13, 8080)], &[])
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    Pattern::new(seed).fill(&mut bytes);
    bytes
}

/// What curl is to ask for: the Host and the path; to this address, over one connection for as
/// long as that lives. It prints the status and the number of connections that it had to make.
fn ask_in_turn(lab: &Lab, asked: &[(&str, &str)], more: &[&str]) -> Vec<(u16, u32)> {
    let mut arguments: Vec<String> = Vec::new();
    for (n, (host, path)) in asked.iter().enumerate() {
        if n > 0 {
            arguments.push("--next".into());
        }
        arguments.extend(["--silent", "--show-error", "--max-time", "25"].map(Into::into));
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        arguments.extend(["--header".into(), format!("Host: {host}")]);
        arguments.extend(["--output", "/dev/null"].map(Into::into));
        arguments.extend(["--write-out", "%{http_code} %{num_connects}\\n"].map(Into::into));
        arguments.push(format!("http://{}{path}", web(10, 80)));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let text = curl(lab, &arguments).text();
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u32>().ok());
    let line = |line: &str| {
        let mut words = line.split(' ');
        let status = number(words.next()).and_then(|status| u16::try_from(status).ok());
        status.zip(number(words.next())).unwrap_or_else(|| panic!("curl wrote: {text}"))
    };
    text.lines().map(line).collect()
}

#[test]
fn a_blocked_request_ends_a_connection_on_which_others_were_allowed() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &options());
    let nginx = start_nginx(&lab);
    let asked = [
        ("allowed.test", "/"),
        ("allowed.test", "/empty"),
        ("blocked.test", "/files/secret"),
        ("allowed.test", "/"),
    ];
    // The blocked request comes on the same connection; after its answer there is a new one.
    assert_eq!(ask_in_turn(&lab, &asked, &[]), [(200, 1), (204, 0), (502, 0), (200, 1)]);
    assert!(!nginx.log().contains("blocked.test"), "it reached the server");
    assert!(!nginx.log().contains("secret"), "it reached the server");
    for (name, host, code, count) in [
        ("allowed.test", "allowed.test", "200", 2),
        ("allowed.test", "allowed.test", "204", 1),
        ("BlackHoleCluster", "blocked.test", "502", 1),
    ] {
        let labels = [
            ("destination_service_name", name),
            ("destination_service", host),
            ("response_code", code),
        ];
        proxy.wait_for_metric(REQUESTS, &labels, count);
    }
    assert_eq!(proxy.metric(REQUESTS, &[]), 4);
    proxy.finish();
}

#[test]
fn one_connection_reaches_the_servers_of_two_entries_in_turn() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &options());
    let nginx = start_nginx(&lab);
    let hosts = ["one.test", "two.test", "two.test", "one.test", "two.test"];
    let contents = [(12, 1), (13, 2)].map(|(n, seed)| {
        let contents = bytes(seed, MIB);
        std::fs::write(nginx.file(web(n, 8080), "page"), &contents).expect("it is ours");
        contents
    });
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let saved = |n: usize| directory.path().join(n.to_string());
    let url = format!("http://{}/files/page", web(10, 80));
    let mut arguments: Vec<String> = Vec::new();
    for (n, host) in hosts.iter().enumerate() {
        if n > 0 {
            arguments.push("--next".into());
        }
        let file = saved(n).to_str().expect("it is text").to_owned();
        arguments.extend(["--silent".into(), "--fail".into(), "--output".into(), file]);
        arguments.extend(["--write-out", "%{num_connects}", "--header"].map(Into::into));
        arguments.extend([format!("Host: {host}"), url.clone()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ran = curl(&lab, &arguments);
    assert_eq!((ran.code, ran.text().as_str()), (0, "10000"), "one connection: {ran:?}");
    for (n, host) in hosts.iter().enumerate() {
        let expected = &contents[usize::from(*host == "two.test")];
        let got = std::fs::read(saved(n)).expect("curl has saved it");
        assert!(got == *expected, "answer {n} is not the page of {host}");
    }
    assert_eq!(proxy.metric(SWITCHES, &[]), 3);
    for (host, count) in [("one.test", 2), ("two.test", 3)] {
        let labels = [("destination_service_name", host), ("response_code", "200")];
        proxy.wait_for_metric(REQUESTS, &labels, count);
    }
    proxy.finish();
}

/// `PUT`s a file by curl, with these options besides; what has arrived must be the same.
fn upload(lab: &Lab, nginx: &Nginx, name: &str, contents: &[u8], options: &[&str]) {
    let url = format!("http://{}/files/{name}", web(10, 80));
    let common = [
        "--silent",
        "--show-error",
        "--max-time",
        "25",
        "--upload-file",
        "-",
        "--header",
        "Host: allowed.test",
        "--write-out",
        "%{http_code}",
    ];
    let ran = run_with_input(lab, "curl", &[&common, options, &[&url]].concat(), contents);
    assert_eq!((ran.code, ran.text().as_str()), (0, "201"), "{name}: {ran:?}");
    let arrived = std::fs::read(nginx.file(web(10, 80), name)).expect("nginx has taken it");
    assert!(arrived == contents, "{name}: not what was sent");
}

fn from_file(directory: &Path, contents: &[u8]) -> String {
    let file = directory.join("upload");
    std::fs::write(&file, contents).expect("it is ours");
    file.to_str().expect("it is text").to_owned()
}

#[test]
fn large_bodies_are_spliced_both_ways_and_arrive_whole() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &options());
    let nginx = start_nginx(&lab);
    let contents = bytes(3, LARGE);
    std::fs::write(nginx.file(web(10, 80), "large"), &contents).expect("it is ours");
    let url = format!("http://{}/files/large", web(10, 80));
    let ran = curl(&lab, &["--fail", "--header", "Host: allowed.test", &url]);
    assert!(ran.output == contents, "{} of {LARGE} bytes: {}", ran.output.len(), ran.errors);
    let down = proxy.metric(SPLICED, &[]);
    assert!(down > LARGE as u64 / 2, "{down} bytes were spliced of {LARGE} that came down");

    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let file = from_file(directory.path(), &contents);
    let url = format!("http://{}/files/up", web(10, 80));
    // From a file, so that curl knows the length; above 1 MiB it asks with Expect: 100-continue.
    let ran = curl(
        &lab,
        &[
            "--verbose",
            "--header",
            "Host: allowed.test",
            "--write-out",
            "%{http_code}",
            "--upload-file",
            &file,
            &url,
        ],
    );
    assert_eq!((ran.code, ran.text().as_str()), (0, "201"), "{ran:?}");
    assert!(ran.errors.contains("> Expect: 100-continue"), "{}", ran.errors);
    assert!(ran.errors.contains("< HTTP/1.1 100 Continue"), "{}", ran.errors);
    let arrived = std::fs::read(nginx.file(web(10, 80), "up")).expect("nginx has taken it");
    assert!(arrived == contents, "not what was sent");
    let up = proxy.metric(SPLICED, &[]) - down;
    assert!(up > LARGE as u64 / 2, "{up} bytes were spliced of {LARGE} that went up");
    let labels = [("destination_service_name", "allowed.test")];
    proxy.wait_for_metric(REQUESTS, &labels, 2);
    let scrape = proxy.scrape();
    let range = LARGE as u64..LARGE as u64 + 4096;
    for metric in ["istio_request_bytes_sum", "istio_response_bytes_sum"] {
        let counted = scrape.sum(metric, &labels);
        assert!(range.contains(&counted), "{metric} is {counted}");
    }
    proxy.finish();
}

#[test]
fn chunked_uploads_arrive_whole() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &options());
    let nginx = start_nginx(&lab);
    // From a pipe curl does not know the length.
    for size in [0, 1, 1000, 100_000, 3 * MIB] {
        upload(&lab, &nginx, &format!("size-{size}"), &bytes(4, size), &[]);
    }
    upload(&lab, &nginx, "no-expect", &bytes(5, 3 * MIB), &["--header", "Expect:"]);
    proxy.wait_for_metric(REQUESTS, &[("response_code", "201")], 6);
    assert_eq!(proxy.metric(REQUESTS, &[]), 6);
    proxy.finish();
}

#[test]
fn answers_without_a_body_leave_the_connection_to_the_next_request() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &options());
    let nginx = start_nginx(&lab);
    std::fs::write(nginx.file(web(10, 80), "page"), bytes(6, 10_000)).expect("it is ours");
    let host = "allowed.test";
    // HEAD, whose answer tells the length of a body that does not come.
    let asked = [(host, "/files/page"), (host, "/"), (host, "/files/none")];
    assert_eq!(ask_in_turn(&lab, &asked, &["--head"]), [(200, 1), (200, 0), (404, 0)]);
    // 304, because nothing has changed since tomorrow.
    let asked = [(host, "/files/page"), (host, "/files/page"), (host, "/empty")];
    let since = ["--header", "If-None-Match: *", "--time-cond", "tomorrow"];
    assert_eq!(ask_in_turn(&lab, &asked, &since), [(304, 1), (304, 0), (204, 0)]);
    // HTTP/1.0, whose answers end with the connection or with their length.
    let asked = [(host, "/"), (host, "/files/page")];
    assert_eq!(ask_in_turn(&lab, &asked, &["--http1.0"]), [(200, 1), (200, 1)]);
    for (code, count) in [("200", 4), ("404", 1), ("304", 2), ("204", 1)] {
        proxy.wait_for_metric(REQUESTS, &[("response_code", code)], count);
    }
    proxy.finish();
}

/// Answers 101 to who wants an upgrade, then sends every byte back, turned round by one.
const UPGRADE_SERVER: &str = r#"
import socket, sys
host, port = sys.argv[1].rsplit(":", 1)
listener = socket.create_server((host, int(port)))
while True:
    peer, _ = listener.accept()
    head = b""
    while b"\r\n\r\n" not in head:
        data = peer.recv(65536)
        if not data:
            break
        head += data
    else:
        head, rest = head.split(b"\r\n\r\n", 1)
        peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
                     b"Upgrade: websocket\r\n\r\n")
        while True:
            peer.sendall(bytes((byte + 1) % 256 for byte in rest))
            rest = peer.recv(65536)
            if not rest:
                break
    peer.close()
"#;

/// Asks for an upgrade, then says what would be a blocked request if it still were HTTP.
const UPGRADE_CLIENT: &str = r#"
import socket, sys, threading
host, port = sys.argv[1].rsplit(":", 1)
peer = socket.create_connection((host, int(port)), 20)
peer.sendall(b"GET /chat HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade\r\n"
             b"Upgrade: websocket\r\n\r\n")
head = b""
while not head.endswith(b"\r\n\r\n"):
    head += peer.recv(1)
assert head.startswith(b"HTTP/1.1 101 "), head
sent = b"GET / HTTP/1.1\r\nHost: blocked.test\r\n\r\n" + bytes(range(256)) * 2000
threading.Thread(target=lambda: (peer.sendall(sent), peer.shutdown(socket.SHUT_WR))).start()
got = b""
while True:
    data = peer.recv(65536)
    if not data:
        break
    got += data
print(got == bytes((byte + 1) % 256 for byte in sent))
"#;

#[test]
fn after_an_upgrade_both_directions_are_opaque() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &options());
    let _server = python_server(&lab, &[web(10, 80)], UPGRADE_SERVER);
    let to = web(10, 80).to_string();
    assert_eq!(python(&lab, UPGRADE_CLIENT, &[&to]), "True\n");
    proxy.wait_for_metric(REQUESTS, &[("response_code", "101")], 1);
    assert_eq!(proxy.metric(REQUESTS, &[]), 1, "what follows is no request");
    proxy.finish();
}

#[test]
fn a_reload_decides_on_the_next_request_of_an_open_connection() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &options());
    let nginx = start_nginx(&lab);
    let stream = lab.inside(Part::Pod, || TcpStream::connect(web(10, 80)));
    let mut stream = stream.expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    let mut status = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: allowed.test\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the connection is open");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.extend(byte);
        }
        String::from_utf8_lossy(&head[..12]).into_owned()
    };
    assert_eq!(status("/empty"), "HTTP/1.1 204");
    let generation = proxy.metric(GENERATION, &[]);
    proxy.replace_file("registry.d/test.yaml", named_entry("one.test", "HTTP", 80, None));
    proxy.wait_for_metric(GENERATION, &[], generation + 1);
    assert_eq!(status("/late"), "HTTP/1.1 502");
    drop(stream);
    assert!(!nginx.log().contains("/late"), "it reached the server");
    proxy.finish();
}
