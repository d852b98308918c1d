//! Connections to the proxy itself are refused, and a redirect that does not leave the proxy's own
//! connections alone does not become a loop.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::lab::{FAMILIES, Lab, Part, outside, web};
use crate::options::{ADMIN_PORT, Capture, HEALTH_PORT, METRICS_PORT, Options, PORT, Rules};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, OPENED, SELF_CALLS};

/// Addresses of the node, as the pod sees them.
const NODE_FOR_POD: [&str; 4] = ["10.77.1.1", "203.0.113.1", "fd77:1::1", "fd77:2::1"];
/// And as the node itself sees them.
const NODE_FOR_ITSELF: [&str; 7] =
    ["127.0.0.1", "127.0.0.2", "::1", "10.77.1.1", "203.0.113.1", "fd77:1::1", "fd77:2::1"];

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("it is an address"), port)
}

/// It is cut off without a byte, in an orderly way or not.
fn is_refused(lab: &Lab, from: Part, to: SocketAddr) {
    assert_eq!(lab.cut_off(from, to).0, 0, "{to}");
}

fn direct_calls_are_refused(capture: Capture) {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options { capture, ..Options::default() });
    let mut calls = 0;
    for (from, addresses) in [(Part::Pod, &NODE_FOR_POD[..]), (Part::Node, &NODE_FOR_ITSELF[..])] {
        for ip in addresses {
            is_refused(&lab, from, address(ip, PORT));
            calls += 1;
            proxy.wait_for_metric(SELF_CALLS, &[], calls);
        }
    }
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum(OPENED, &[]), 0);
    assert_eq!(scrape.sum(CLOSED, &[]), 0, "a self-call belongs to no cluster");
    proxy.finish();
}

#[test]
fn direct_calls_are_refused_in_redirect_mode() {
    direct_calls_are_refused(Capture::Redirect);
}

#[test]
fn direct_calls_are_refused_in_tproxy_mode() {
    direct_calls_are_refused(Capture::Tproxy);
}

#[test]
fn a_connection_that_was_reset_before_it_was_accepted_is_no_self_call() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    proxy.signal(Signal::SIGSTOP);
    // The kernel answers for the listener: these wait to be accepted.
    for _ in 0..10 {
        lab.connect(web(10, 80)).reset();
    }
    proxy.signal(Signal::SIGCONT);
    // Elsewhere, because one whose reset was late may still be connected.
    let listening = lab.listen(web(11, 80));
    let mut peer = lab.connect(web(11, 80));
    let mut upstream = listening.accept();
    peer.send(1);
    upstream.recv(1);
    assert_eq!(proxy.metric(SELF_CALLS, &[]), 0, "they were redirected");
    drop((peer, upstream));
    proxy.finish();
}

#[test]
fn redirected_calls_to_its_own_ports_are_refused() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options { rules: Rules::None, ..Options::default() });
    // Everything, the node's own addresses too.
    lab.nft(
        Part::Node,
        "table inet everything { chain prerouting { type nat hook prerouting priority dstnat; \
         iifname pod0 meta l4proto tcp redirect to :15001; }; }",
    );
    let mut calls = 0;
    for ip in NODE_FOR_POD {
        for port in [PORT, ADMIN_PORT, METRICS_PORT, HEALTH_PORT] {
            is_refused(&lab, Part::Pod, address(ip, port));
            calls += 1;
            proxy.wait_for_metric(SELF_CALLS, &[], calls);
        }
    }
    assert_eq!(proxy.metric(OPENED, &[]), 0);
    proxy.finish();
}

fn a_loop_ends(loop_rules: &str) {
    let lab = Lab::new();
    let options = Options { rules: Rules::None, mark: "null", ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    lab.redirect(&["up", "--interface", "pod0"]);
    lab.nft(Part::Node, loop_rules);
    for family in FAMILIES {
        for _ in 0..20 {
            is_refused(&lab, Part::Pod, outside(10, family, 80));
        }
    }
    // Each came back once, and no further.
    proxy.wait_for_metric(SELF_CALLS, &[], 40);
    proxy.check_baseline();
    assert_eq!(proxy.metric(SELF_CALLS, &[]), 40);
    lab.run(Part::Node, "nft", &["delete", "table", "inet", "loop"]);
    let listening = lab.listen(web(10, 80));
    let mut peer = lab.connect(web(10, 80));
    let mut upstream = listening.accept();
    peer.send(1);
    upstream.recv(1);
    drop((peer, upstream));
    proxy.finish();
}

#[test]
fn a_redirect_that_catches_the_proxys_own_connections_ends_at_once() {
    a_loop_ends(
        "table inet loop { chain output { type nat hook output priority -100; \
         oifname out0 meta l4proto tcp redirect to :15001; }; }",
    );
}
