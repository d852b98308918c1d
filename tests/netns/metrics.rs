//! What Prometheus sees.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::lab::{FAMILIES, Lab, Part, outside, web};
use crate::options::{Options, static_entry};
use crate::peer::{End, echo};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, OPENED, RECEIVED, SENT};

#[test]
fn a_scrape_passes_promtool_and_its_sums_equal_the_peers_bytes() {
    let lab = Lab::new();
    let registry = static_entry("orders.example.com", "203.0.113.11", "203.0.113.12");
    let proxy = Proxy::start(&lab, &Options { registry, ..Options::default() });
    let server = lab.serve(web(12, 8080), echo);
    let others = FAMILIES.map(|family| lab.serve(outside(10, family, 8000), echo));
    let destinations =
        [web(11, 80), outside(10, FAMILIES[0], 8000), outside(10, FAMILIES[1], 8000)];
    for (n, to) in (1..).zip(destinations) {
        let mut peer = lab.connect(to);
        peer.send(n * 1000);
        peer.recv(n * 1000);
        peer.shutdown();
        peer.expect_eof();
    }
    assert_eq!(lab.cut_off(Part::Pod, web(10, 9)), (0, End::Reset));
    proxy.wait_for_metric(CLOSED, &[], 4);

    let scrape = proxy.scrape();
    for (n, service, ip) in [
        (1, "orders.example.com", "203.0.113.11"),
        (2, "PassthroughCluster", "203.0.113.10"),
        (3, "PassthroughCluster", "fd77:2::10"),
    ] {
        let labels = [
            ("reporter", "source"),
            ("destination_service_name", service),
            ("destination_ip", ip),
            ("response_flags", "-"),
        ];
        for metric in [SENT, RECEIVED] {
            assert_eq!(scrape.sum(metric, &labels), n * 1000, "{metric} {service} {ip}");
            assert_eq!(scrape.series(metric, &labels), 1);
        }
        for metric in [OPENED, CLOSED] {
            assert_eq!(scrape.sum(metric, &labels), 1, "{metric} {service} {ip}");
        }
    }
    promtool_accepts(&scrape.text);
    assert_eq!(server.finish(), 1);
    assert_eq!(others.map(crate::peer::Server::finish), [1, 1]);
    proxy.finish();
}

/// What promtool has against Istio's name of a metric, which dashboards ask for.
const ISTIOS_UNIT: &str =
    "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"";

/// The scrape keeps the rules of the format, and of names.
pub(crate) fn promtool_accepts(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian: prometheus)");
    let mut input = promtool.stdin.take().expect("it was piped");
    input.write_all(text.as_bytes()).expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool is our child");
    let said = String::from_utf8_lossy(&output.stderr);
    let others = said.lines().filter(|line| !line.is_empty() && *line != ISTIOS_UNIT).count();
    // 3: it can be read, and something in it is not as it should be.
    let agrees = matches!(output.status.code(), Some(0 | 3)) && others == 0;
    assert!(agrees, "promtool: {said}\n{text}");
}
