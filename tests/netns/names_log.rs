//! The access log: a line for every connection and every request, with its name and what decided.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

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

/// The values of these keys.
fn values(line: &Value, expected: &[(&str, Value)]) {
    for (key, value) in expected {
        assert_eq!(&line[key], value, "{key} of {line:#}");
    }
}

#[test]
fn json_lines_say_who_asked_for_what_and_what_decided() {
    let lab = Lab::new();
    // Not beside the configuration, which is watched.
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let file = directory.path().join("access.log");
    let proxy = Proxy::start(&lab, &options("json", &file));
    let _servers = start_servers(&lab);
    let parsed: Vec<Value> = four_kinds(&lab, &file)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let text = |text: &str| Value::from(text);
    values(
        &parsed[0],
        &[
            ("method", text("GET")),
            ("path", text("/files/page?x=1")),
            ("protocol", text("HTTP/1.1")),
            ("response_code", 200.into()),
            ("response_flags", text("-")),
            ("response_code_details", text("via_upstream")),
            ("user_agent", text("a \"client\"")),
            ("authority", text("Allowed.test:80")),
            ("name", text("allowed.test")),
            ("name_source", text("host")),
            ("recognised_protocol", text("http1")),
            ("verdict", text("service")),
            ("upstream_host", text("203.0.113.10:80")),
            ("upstream_cluster", text("outbound|80||allowed.test")),
            ("original_destination", text("203.0.113.10:80")),
        ],
    );
    let decided = parsed[0]["decided_by"].as_str().expect("it is text");
    assert!(decided.starts_with("test/allowed-test-80 ("), "{decided}");
    let remote = parsed[0]["downstream_remote_address"].as_str().expect("it is text");
    assert!(remote.starts_with("10.77.1.2:"), "{remote}");
    let blocked = [
        ("verdict", text("blackhole")),
        ("upstream_host", Value::Null),
        ("name", text("blocked.test")),
        ("decided_by", text("outboundTrafficPolicy.mode REGISTRY_ONLY")),
    ];
    values(&parsed[1], &blocked);
    values(
        &parsed[1],
        &[
            ("path", text("/secret")),
            ("response_code", 502.into()),
            ("response_code_details", text("direct_response")),
            ("route_name", text("block_all")),
            ("name_source", text("host")),
        ],
    );
    values(&parsed[2], &blocked);
    values(
        &parsed[2],
        &[
            ("method", Value::Null),
            ("response_flags", text("UH")),
            ("requested_server_name", text("blocked.test")),
            ("name_source", text("sni")),
            ("recognised_protocol", text("tls")),
            ("upstream_cluster", text("BlackHoleCluster")),
            ("close_reason", text("blackhole")),
            ("original_destination", text("203.0.113.10:443")),
            ("bytes_sent", 0.into()),
        ],
    );
    values(
        &parsed[3],
        &[
            ("method", Value::Null),
            ("name", text("plain.test")),
            ("recognised_protocol", text("tcp")),
            ("verdict", text("service")),
            ("bytes_received", 1000.into()),
            ("bytes_sent", 1000.into()),
            ("close_reason", text("finished")),
            ("upstream_cluster", text("outbound|9000||plain.test")),
        ],
    );
    proxy.wait_for_metric("egret_access_log_lines_total", &[], 4);
    proxy.finish();
}

#[test]
fn text_lines_are_those_of_envoy() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let file = directory.path().join("access.log");
    let proxy = Proxy::start(&lab, &options("text", &file));
    let _servers = start_servers(&lab);
    let written = four_kinds(&lab, &file);
    // Istio's default format, as log collectors read it.
    let quoted = r#""[^"]*""#;
    let pattern = format!(
        r#"^\[(?<time>[^]]+)\] "(?<request>[^"]*)" (?<code>\d+) (?<flags>\S+) (?<details>\S+) \S+ {quoted} (?<received>\d+) (?<sent>\d+) (?<duration>\d+) \S+ {quoted} (?<agent>{quoted}) {quoted} "(?<authority>[^"]*)" "(?<upstream>[^"]*)" (?<cluster>\S+) \S+ (?<local>\S+) (?<remote>\S+) (?<sni>\S+) (?<route>\S+)$"#
    );
    let pattern = regex::Regex::new(&pattern).expect("it is a pattern");
    let expected = [
        "GET /files/page?x=1 HTTP/1.1|200|-|via_upstream|Allowed.test:80|203.0.113.10:80|\
         outbound|80||allowed.test|203.0.113.10:80|-|default",
        "GET /secret HTTP/1.1|502|-|direct_response|blocked.test|-|-|203.0.113.10:80|-|block_all",
        "- - -|0|UH|-|-|-|BlackHoleCluster|203.0.113.10:443|blocked.test|-",
        "- - -|0|-|-|-|203.0.113.11:9000|outbound|9000||plain.test|203.0.113.11:9000|-|-",
    ];
    for (line, expected) in written.iter().zip(expected) {
        let found = pattern.captures(line).unwrap_or_else(|| panic!("no such line: {line}"));
        let names = [
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
        assert_eq!(names.map(|name| &found[name]).join("|"), expected, "{line}");
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
