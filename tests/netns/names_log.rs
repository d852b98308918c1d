//! The access log: a line for every connection and every request, with its name and what decided.

use std::path::Path;

use nix::sys::signal::Signal;
use regex::Regex;
use serde_json::{Value, json};

use crate::lab::{Lab, wait_for, web};
use crate::options::{Options, Policy, named_entry};
use crate::peer::echo;
use crate::programs::{Nginx, curl, fetch, handshake};
use crate::proxy::Proxy;

fn options(format: &str, file: &Path) -> Options {
    let registry = [
        named_entry("allowed.test", "HTTP", 80, None),
        named_entry("plain.test", "TCP", 9000, None)
            .replace("  ports:", "  addresses: [203.0.113.11]\n  ports:"),
    ];
    Options {
        policy: Policy::RegistryOnly,
        access_log: format!("format: {format}, path: {}", file.display()),
        registry: registry.concat(),
        ..Options::default()
    }
}

/// Waits until the file has that many lines; returns them.
fn lines(file: &Path, count: usize) -> Vec<String> {
    wait_for(&format!("{count} lines in {}", file.display()), || {
        let text = std::fs::read_to_string(file).ok()?;
        assert!(text.lines().count() <= count, "more than {count} lines:\n{text}");
        let whole = text.ends_with('\n') && text.lines().count() == count;
        whole.then(|| text.lines().map(str::to_owned).collect())
    })
}

/// Makes the four kinds of line, one after the other.
fn four_kinds(lab: &Lab, file: &Path) -> Vec<String> {
    let url = format!("http://{}/files/page?x=1", web(10, 80));
    let asked = ["--user-agent", "a \"client\"", "--header", "Host: Allowed.test:80", &url];
    assert_eq!(curl(lab, &asked).text(), "contents");
    lines(file, 1);
    assert_eq!(fetch(lab, web(10, 80), "http://blocked.test/secret").0, 502);
    lines(file, 2);
    assert_ne!(handshake(lab, web(10, 443), Some("Blocked.test")).code, 0);
    lines(file, 3);
    let mut peer = lab.connect(web(11, 9000));
    peer.send(1000);
    peer.recv(1000);
    peer.shutdown();
    peer.expect_eof();
    lines(file, 4)
}

fn start_servers(lab: &Lab) -> (Nginx, crate::peer::Server) {
    let nginx = Nginx::start(lab, &[web(10, 80)], &[]);
    std::fs::write(nginx.file(web(10, 80), "page"), "contents").expect("it is ours");
    (nginx, lab.serve(web(11, 9000), echo))
}

/// What the four lines say, as far as a test can know it.
fn expected() -> [Value; 4] {
    let policy = "outboundTrafficPolicy.mode REGISTRY_ONLY";
    [
        json!({
            "method": "GET", "path": "/files/page?x=1", "protocol": "HTTP/1.1",
            "response_code": 200, "response_flags": "-", "response_code_details": "via_upstream",
            "user_agent": "a \"client\"", "authority": "Allowed.test:80",
            "name": "allowed.test", "name_source": "host", "recognised_protocol": "http1",
            "verdict": "service", "upstream_host": "203.0.113.10:80",
            "upstream_cluster": "outbound|80||allowed.test", "route_name": "default",
            "original_destination": "203.0.113.10:80",
        }),
        json!({
            "method": "GET", "path": "/secret", "response_code": 502,
            "response_code_details": "direct_response", "route_name": "block_all",
            "name": "blocked.test", "name_source": "host", "recognised_protocol": "http1",
            "verdict": "blackhole", "decided_by": policy, "upstream_host": null,
        }),
        json!({
            "method": null, "response_flags": "UH", "requested_server_name": "blocked.test",
            "name": "blocked.test", "name_source": "sni", "recognised_protocol": "tls",
            "verdict": "blackhole", "decided_by": policy, "upstream_host": null,
            "upstream_cluster": "BlackHoleCluster", "close_reason": "blackhole",
            "original_destination": "203.0.113.10:443", "bytes_sent": 0,
        }),
        json!({
            "method": null, "name": "plain.test", "name_source": "none",
            "recognised_protocol": "tcp", "verdict": "service", "close_reason": "finished",
            "bytes_received": 1000, "bytes_sent": 1000,
            "upstream_cluster": "outbound|9000||plain.test",
        }),
    ]
}

#[test]
fn json_lines_say_who_asked_for_what_and_what_decided() {
    let lab = Lab::new();
    // Not beside the configuration, which is watched.
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let file = directory.path().join("access.log");
    let proxy = Proxy::start(&lab, &options("json", &file));
    let _servers = start_servers(&lab);
    let lines = four_kinds(&lab, &file);
    for (line, expected) in lines.iter().zip(expected()) {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for (key, value) in expected.as_object().expect("it is one") {
            assert_eq!(line[key], *value, "{key} of {line:#}");
        }
        // Measured where a server has responded, and nowhere else.
        let waited = line["upstream_service_time"].as_str().map(str::parse::<u64>);
        assert_eq!(matches!(waited, Some(Ok(_))), line["response_code"] == 200, "{line:#}");
        let remote = line["downstream_remote_address"].as_str().expect("it is text");
        assert!(remote.starts_with("10.77.1.2:"), "{remote}");
    }
    for (line, entry) in [(0, "allowed-test-80"), (3, "plain-test-9000")] {
        let decided = format!("\"decided_by\":\"test/{entry} (");
        assert!(lines[line].contains(&decided), "{}", lines[line]);
    }
    proxy.wait_for_metric("egret_access_log_lines_total", &[], 4);
    proxy.finish();
}

/// What is compared of a line, in its order.
const WORDS: [&str; 10] = [
    "request",
    "code",
    "flags",
    "details",
    "authority",
    "upstream",
    "cluster",
    "local",
    "sni",
    "route",
];

/// Istio's default format, as log collectors read it.
fn envoy_line() -> Regex {
    let words = [
        r#"\[(?<time>[^]]+)\]"#,
        r#""(?<request>[^"]*)""#,
        r#"(?<code>\d+)"#,
        r#"(?<flags>\S+)"#,
        r#"(?<details>\S+)"#,
        r#"(?<termination>\S+)"#,
        r#""(?<failure>[^"]*)""#,
        r#"(?<received>\d+)"#,
        r#"(?<sent>\d+)"#,
        r#"(?<duration>\d+)"#,
        r#"(?<service_time>\S+)"#,
        r#""(?<forwarded_for>[^"]*)""#,
        r#""(?<agent>[^"]*)""#,
        r#""(?<id>[^"]*)""#,
        r#""(?<authority>[^"]*)""#,
        r#""(?<upstream>[^"]*)""#,
        r#"(?<cluster>\S+)"#,
        r#"(?<upstream_local>\S+)"#,
        r#"(?<local>\S+)"#,
        r#"(?<remote>\S+)"#,
        r#"(?<sni>\S+)"#,
        r#"(?<route>\S+)"#,
    ];
    Regex::new(&format!("^{}$", words.join(" "))).expect("it is a pattern")
}

#[test]
fn text_lines_are_those_of_envoy() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let file = directory.path().join("access.log");
    let proxy = Proxy::start(&lab, &options("text", &file));
    let _servers = start_servers(&lab);
    let written = four_kinds(&lab, &file);
    let pattern = envoy_line();
    let expected = [
        "GET /files/page?x=1 HTTP/1.1|200|-|via_upstream|Allowed.test:80|203.0.113.10:80|\
         outbound|80||allowed.test|203.0.113.10:80|-|default",
        "GET /secret HTTP/1.1|502|-|direct_response|blocked.test|-|-|203.0.113.10:80|-|block_all",
        "- - -|0|UH|-|-|-|BlackHoleCluster|203.0.113.10:443|blocked.test|-",
        "- - -|0|-|-|-|203.0.113.11:9000|outbound|9000||plain.test|203.0.113.11:9000|-|-",
    ];
    for (line, expected) in written.iter().zip(expected) {
        let found = pattern.captures(line).unwrap_or_else(|| panic!("no such line: {line}"));
        assert_eq!(WORDS.map(|name| &found[name]).join("|"), expected, "{line}");
    }
    let sent = &pattern.captures(&written[3]).expect("it has matched")["sent"];
    assert_eq!(sent, "1000");
    proxy.finish();
}

#[test]
fn after_a_rename_and_a_hangup_signal_lines_go_to_a_new_file() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let [file, old] = ["access.log", "access.log.1"].map(|name| directory.path().join(name));
    let proxy = Proxy::start(&lab, &options("json", &file));
    let _servers = start_servers(&lab);
    let request = |path: &str| {
        assert_eq!(fetch(&lab, web(10, 80), &format!("http://allowed.test/{path}")).0, 404);
    };
    request("first");
    lines(&file, 1);
    std::fs::rename(&file, &old).expect("it is ours");
    request("second");
    lines(&old, 2);
    assert!(!file.exists(), "it is reopened by the signal only");
    proxy.signal(Signal::SIGHUP);
    wait_for("the new file", || file.exists().then_some(()));
    request("third");
    let new = lines(&file, 1);
    assert!(new[0].contains("/third"), "{new:?}");
    let before = lines(&old, 2);
    assert!(before[0].contains("/first") && before[1].contains("/second"), "{before:?}");
    proxy.finish();
}
