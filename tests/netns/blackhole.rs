//! What the policy does not allow: cut off at once, counted, and nothing leaves the node.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::lab::{FAMILIES, Lab, Part, outside, web};
use crate::options::{Capture, Options, Policy, static_entry};
use crate::peer::{End, echo};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, ENDED, OPENED, RECEIVED, SENT};

const BLACK_HOLE: (&str, &str) = ("destination_service_name", "BlackHoleCluster");

/// Counts the connection requests that reach the world outside.
fn count_requests(lab: &Lab) {
    lab.nft(
        Part::Outside,
        "table inet observer { counter requests { }; chain input { \
         type filter hook prerouting priority -300; iifname eth0 tcp flags & (syn | ack) == syn \
         counter name requests; }; }",
    );
}

fn requests(lab: &Lab) -> u64 {
    let text = lab.run(Part::Outside, "nft", &["list", "counter", "inet", "observer", "requests"]);
    let number = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no counter: {text}"))
}

fn blocks(capture: Capture, black_hole: &'static str, end: End) {
    let lab = Lab::new();
    let options = Options {
        capture,
        black_hole,
        policy: Policy::RegistryOnly,
        // No name is waited for: the address alone decides, at once.
        names: "enabled: false",
        registry: static_entry("orders.example.com", "203.0.113.11", "203.0.113.12"),
        ..Options::default()
    };
    let proxy = Proxy::start(&lab, &options);
    count_requests(&lab);
    let forbidden = FAMILIES.map(|family| lab.serve(outside(10, family, 80), echo));
    let allowed = lab.serve(web(12, 8080), echo);

    for to in FAMILIES.map(|family| outside(10, family, 80)) {
        for _ in 0..10 {
            let start = Instant::now();
            assert_eq!(lab.cut_off(Part::Pod, to), (0, end));
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        }
        let ip = to.ip().to_string();
        let labels = [BLACK_HOLE, ("response_flags", "UH"), ("destination_ip", ip.as_str())];
        proxy.wait_for_metric(CLOSED, &labels, 10);
    }
    assert_eq!(requests(&lab), 0, "connection requests left the node");
    let scrape = proxy.scrape();
    for metric in [OPENED, CLOSED] {
        assert_eq!(scrape.sum(metric, &[("response_flags", "UH")]), 20);
        assert_eq!(scrape.sum(metric, &[]), 20);
    }
    assert_eq!(scrape.series(SENT, &[BLACK_HOLE]), 0);
    assert_eq!(scrape.series(RECEIVED, &[BLACK_HOLE]), 0);
    assert_eq!(scrape.sum(ENDED, &[("reason", "blackhole")]), 20);

    // What is registered passes, and the observer does see requests.
    lab.connect(web(11, 80)).ping();
    assert_eq!(requests(&lab), 1);
    assert_eq!(allowed.finish(), 1);
    assert_eq!(forbidden.map(crate::peer::Server::finish), [0, 0]);
    proxy.finish();
}

#[test]
fn redirect_close_sends_an_end_and_nothing_leaves() {
    blocks(Capture::Redirect, "close", End::Eof);
}

#[test]
fn redirect_reset_sends_a_reset_and_nothing_leaves() {
    blocks(Capture::Redirect, "reset", End::Reset);
}

#[test]
fn tproxy_close_sends_an_end_and_nothing_leaves() {
    blocks(Capture::Tproxy, "close", End::Eof);
}

#[test]
fn tproxy_reset_sends_a_reset_and_nothing_leaves() {
    blocks(Capture::Tproxy, "reset", End::Reset);
}

#[test]
fn a_blocked_downstream_that_talks_and_stays_is_let_go() {
    let lab = Lab::new();
    let options = Options { policy: Policy::RegistryOnly, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let to: SocketAddr = web(10, 80);
    let peers: Vec<_> = (0..50)
        .map(|_| {
            let mut peer = lab.connect(to);
            // It may be cut off while it sends.
            let _ = peer.sender.try_send(1 << 20);
            peer
        })
        .collect();
    proxy.wait_for_metric(CLOSED, &[BLACK_HOLE], 50);
    // The peers keep their sockets open: the proxy must not wait for them.
    proxy.check_baseline();
    drop(peers);
    proxy.finish();
}
