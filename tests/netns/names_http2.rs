//! HTTP/2 without TLS, by curl and nginx, who know beforehand that it is spoken.

use crate::lab::{Lab, web};
use crate::options::{Options, Policy, named_entry};
use crate::programs::{Nginx, curl};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, OPENED, RECOGNISED, REQUESTS};

/// Asks for `/` with each of these authorities in turn, over one connection while that lives.
/// Status, and the number of connections that curl had to make.
fn ask_in_turn(lab: &Lab, authorities: &[&str]) -> String {
    let url = format!("http://{}/", web(10, 80));
    let hosts: Vec<String> = authorities.iter().map(|name| format!("Host: {name}")).collect();
    let mut arguments = Vec::new();
    for host in &hosts {
        if !arguments.is_empty() {
            arguments.push("--next");
        }
        arguments.extend(["--silent", "--max-time", "20", "--http2-prior-knowledge"]);
        // curl makes the pseudo-header of it.
        arguments.extend(["--header", host, "--output", "/dev/null"]);
        arguments.extend(["--write-out", "%{http_code} %{num_connects}\n", &url]);
    }
    curl(lab, &arguments).text()
}

#[test]
fn where_everything_is_allowed_a_connection_is_counted_by_its_first_authority() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let _nginx = Nginx::start_http2(&lab, web(10, 80));
    assert_eq!(ask_in_turn(&lab, &["one.test", "two.test"]), "200 1\n200 0\n");
    let labels = [
        ("destination_service_name", "PassthroughCluster"),
        ("destination_service", "one.test"),
        ("response_flags", "-"),
    ];
    proxy.wait_for_metric(OPENED, &labels, 1);
    proxy.wait_for_metric(CLOSED, &labels, 1);
    assert_eq!(proxy.metric(RECOGNISED, &[("result", "http2")]), 1);
    proxy.finish();
}

#[test]
fn a_blocked_authority_is_answered_and_never_reaches_the_server() {
    let lab = Lab::new();
    let registry = named_entry("allowed.test", "HTTP2", 80, None);
    let options = Options { policy: Policy::RegistryOnly, registry, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let nginx = Nginx::start_http2(&lab, web(10, 80));
    assert_eq!(ask_in_turn(&lab, &["blocked.test"]), "502 1\n");
    let blocked = [
        ("destination_service_name", "BlackHoleCluster"),
        ("destination_service", "blocked.test"),
        ("response_code", "502"),
    ];
    proxy.wait_for_metric(REQUESTS, &blocked, 1);
    assert_eq!(proxy.metric(OPENED, &[]), 0);

    // Behind allowed ones, on their connection; who is allowed goes on with a new one.
    let asked = ["allowed.test", "allowed.test", "blocked.test", "allowed.test"];
    assert_eq!(ask_in_turn(&lab, &asked), "200 1\n200 0\n502 0\n200 1\n");
    proxy.wait_for_metric(REQUESTS, &blocked, 2);
    assert_eq!(proxy.metric("egret_http2_blocked_streams_total", &[]), 1);
    proxy.wait_for_metric(OPENED, &[("destination_service_name", "allowed.test")], 2);
    assert!(!nginx.log().contains("blocked.test"), "it reached the server");
    proxy.finish();
}
