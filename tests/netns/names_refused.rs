//! Requests whose framing can be read in two ways are refused with 400, and CONNECT with 502, and
//! nothing of them reaches a server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use crate::lab::{Lab, PATIENCE, Part, web};
use crate::options::{Options, Policy, named_entry};
use crate::proxy::Proxy;
use crate::scrape::{REFUSED, REQUESTS};

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: allowed.test\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What is refused, and why; the same is found in front of a connection and behind a good request.
const TABLE: [(&str, &str); 11] = [
    (
        "POST / HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 5\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "length_with_coding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "bad_coding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "several_lengths",
    ),
    ("POST / HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: +5\r\n\r\n", "bad_length"),
    ("GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: other.test\r\n\r\n", "several_hosts"),
    ("GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", "no_host"),
    ("GET / HTTP/1.1\r\nHost: allowed.test\r\nX: a\r\n b\r\n\r\n", "folded_field"),
    ("GET / HTTP/1.1\nHost: allowed.test\n\n", "bare_line_end"),
    ("GET / HTTP/1.1\r\nHost: allowed.test\nX: y\r\n\r\n", "bare_line_end"),
    ("CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n\r\n", "connect"),
    ("GET http://other.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "host_mismatch"),
];

/// All bytes that have reached the server, whichever the connection.
type Record = Arc<Mutex<Vec<u8>>>;

/// A server that writes down what it gets, and answers each GET.
fn serve(lab: &Lab) -> (Record, std::thread::JoinHandle<()>) {
    let record = Record::default();
    let kept = record.clone();
    let listener = lab.inside(Part::Outside, || {
        std::net::TcpListener::bind(web(10, 80)).expect("the address is free")
    });
    let serving = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if &buffer[..n] == b"stop" {
                    return;
                }
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..n]);
                stream.write_all(ANSWER).expect("the other end lives");
            }
        }
    });
    (record, serving)
}

/// Sends all of it; returns all that comes until the end of the connection.
fn exchange(lab: &Lab, text: &str) -> String {
    let stream = lab.inside(Part::Pod, || TcpStream::connect(web(10, 80)));
    let mut stream = stream.expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    stream.write_all(text.as_bytes()).expect("the proxy lives");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an orderly end");
    answer
}

/// CONNECT asks for a way that is not given, rather than being malformed.
fn code_of(reason: &str) -> &'static str {
    if reason == "connect" { "502" } else { "400" }
}

/// Each refused request has a line: what it asked for, and what of it was wrong.
fn has_a_line_for_each(log: &str) {
    let read = |line| serde_json::from_str::<serde_json::Value>(line).expect("it is JSON");
    let mut refused = log.lines().map(read).filter(|line| line["verdict"] == "refused");
    for (bad, reason) in TABLE {
        let mut words = bad.split(['\r', '\n', ' ']);
        for place in ["alone", "behind another"] {
            let line = refused.next().unwrap_or_else(|| panic!("{reason} {place} has no line"));
            assert_eq!(line["response_flags"], "DPE", "{reason}: {line:#}");
            assert_eq!(line["response_code"].to_string(), code_of(reason), "{line:#}");
            assert_eq!(line["decided_by"], "malformed request", "{line:#}");
            let details = line["response_code_details"].as_str().unwrap_or_default();
            let known = ["http1.", "missing_host_header", "upgrade_failed"];
            assert!(known.iter().any(|word| details.starts_with(word)), "{reason}: {line:#}");
            assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&0.into(), &0.into()));
            if place == "alone" {
                let (method, path) = (words.next(), words.next());
                assert_eq!((line["method"].as_str(), line["path"].as_str()), (method, path));
            }
        }
    }
    assert!(refused.next().is_none());
}

#[test]
fn requests_with_bad_framing_are_refused_and_never_reach_the_server() {
    let lab = Lab::new();
    lab.tally.expect_strangers();
    let registry = named_entry("allowed.test", "HTTP", 80, None);
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let log = directory.path().join("access.log");
    let options = Options {
        policy: Policy::RegistryOnly,
        registry,
        access_log: format!("format: json, path: {}", log.display()),
        ..Options::default()
    };
    let proxy = Proxy::start(&lab, &options);
    let (record, serving) = serve(&lab);
    let reached = || {
        let bytes = record.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut good = String::new();
    let mut refused = std::collections::BTreeMap::new();
    for (bad, reason) in TABLE {
        let count = refused.entry(reason).or_insert(0);
        let code = code_of(reason);
        let answer = exchange(&lab, bad);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{reason}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{reason}: {answer}");
        assert_eq!(reached(), good, "{reason}: it reached the server");

        // Behind a good one, in one segment.
        good.push_str(GOOD);
        let answer = exchange(&lab, &format!("{GOOD}{bad}{GOOD}"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{reason}: {answer}");
        assert!(answer.contains(&format!("okHTTP/1.1 {code} ")), "{reason}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 2, "{reason}: {answer}");
        assert_eq!(reached(), good, "{reason}: more than the good one reached the server");
        *count += 2;
        proxy.wait_for_metric(REFUSED, &[("reason", reason)], *count);
    }
    let rows = TABLE.len() as u64;
    assert_eq!(proxy.metric(REFUSED, &[]), 2 * rows);
    let count = |code| TABLE.iter().filter(|(_, reason)| code_of(reason) == code).count() as u64;
    let bad = [("response_code", "400"), ("response_flags", "DPE")];
    proxy.wait_for_metric(REQUESTS, &bad, 2 * count("400"));
    proxy.wait_for_metric(REQUESTS, &[("response_code", "502")], 2 * count("502"));
    proxy.wait_for_metric(REQUESTS, &[("response_code", "200")], rows);
    proxy.wait_for_metric("egret_access_log_lines_total", &[], 3 * rows);
    has_a_line_for_each(&std::fs::read_to_string(&log).expect("it was written"));
    let stop = lab.inside(Part::Node, || TcpStream::connect(web(10, 80)));
    let mut stop = stop.expect("the server lives");
    stop.write_all(b"stop").expect("the server lives");
    stop.shutdown(Shutdown::Write).expect("the server lives");
    serving.join().expect("the server did not panic");
    proxy.finish();
}
