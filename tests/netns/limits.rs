//! At the limits: descriptors, connections, local ports. The proxy goes on for the others, does not
//! spin, and recovers when something is freed.

use std::time::{Duration, Instant};

use crate::lab::{Lab, Part, wait_until, web};
use crate::options::{Options, Policy};
use crate::peer::{Peer, echo};
use crate::proxy::Proxy;
use crate::scrape::{ACTIVE, CLOSED, ENDED};

/// Opens connections, and sorts them: those that work, and those that were cut off.
fn open(lab: &Lab, count: usize) -> (Vec<Peer>, usize) {
    let mut working = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let Ok(mut peer) = lab.try_connect(web(10, 8000)) else {
            refused += 1;
            continue;
        };
        // The proxy may have cut it off already.
        let _ = peer.sender.try_send(1);
        match peer.receiver.try_recv(1) {
            Ok(()) => working.push(peer),
            Err(_) => refused += 1,
        }
    }
    (working, refused)
}

fn works_again(lab: &Lab) {
    wait_until("a connection that works", || !open(lab, 1).0.is_empty());
}

#[test]
fn with_64_descriptors_the_excess_is_refused_the_others_work_and_nothing_spins() {
    let lab = Lab::alone();
    let options = Options { descriptors: Some(64), ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let server = lab.serve(web(10, 8000), echo);
    let (mut working, refused) = open(&lab, 100);
    assert!(!working.is_empty(), "some fit into 64 descriptors");
    assert!(refused > 0, "100 connections cannot fit into 64 descriptors");
    assert!(proxy.holdings().descriptors <= 64);

    // Those that wait or were refused do not keep a processor busy.
    let before = (Instant::now(), proxy.processor_time());
    working[0].receiver.expect_silence(Duration::from_secs(1));
    let busy = proxy.processor_time() - before.1;
    assert!(busy < before.0.elapsed() / 4, "busy for {busy:?} of {:?}", before.0.elapsed());

    for peer in &mut working {
        peer.ping();
    }
    drop(working);
    works_again(&lab);
    drop(server);
    proxy.finish();
}

#[test]
fn above_the_connection_limit_the_excess_is_reset_and_counted() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options { connections: 10, ..Options::default() });
    let server = lab.serve(web(10, 8000), echo);
    let (mut working, refused) = open(&lab, 15);
    assert_eq!((working.len(), refused), (10, 5));
    proxy.wait_for_metric(CLOSED, &[("response_flags", "UO")], 5);
    proxy.wait_for_metric(ENDED, &[("reason", "connection_limit")], 5);
    for peer in &mut working {
        peer.ping();
    }
    drop(working);
    works_again(&lab);
    drop(server);
    proxy.finish();
}

#[test]
fn blackholed_connections_that_linger_do_not_exhaust_the_limit_for_ever() {
    let lab = Lab::new();
    let (policy, names) = (Policy::RegistryOnly, "enabled: false");
    let options = Options { connections: 10, policy, names, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    // Workloads that never close what was closed on them; some are refused meanwhile.
    let stubborn: Vec<_> = (0..100).filter_map(|_| lab.try_connect(web(10, 8000)).ok()).collect();
    assert!(!stubborn.is_empty());
    proxy.wait_for_metric(ACTIVE, &[], 0);
    drop(stubborn);
    proxy.finish();
}

#[test]
fn without_local_ports_for_one_destination_the_others_go_on() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    lab.set_sysctl(Part::Node, "net/ipv4/ip_local_port_range", "40000 40010");
    let first = lab.serve(web(10, 8000), echo_and_reset);
    let second = lab.serve(web(11, 8000), echo_and_reset);
    let (mut working, refused) = open(&lab, 15);
    // There are 11 ports for a destination, of which the kernel does not always find the last.
    assert!((10..=11).contains(&working.len()), "{} work", working.len());
    assert_eq!(working.len() + refused, 15);
    proxy.wait_for_metric(CLOSED, &[("response_flags", "UF,URX")], refused as u64);
    proxy.wait_for_metric(ENDED, &[("reason", "no_local_port")], refused as u64);
    // Another destination has ports of its own.
    let mut other = lab.connect(web(11, 8000));
    other.ping();
    for peer in &mut working {
        peer.ping();
    }
    // A reset leaves no TIME_WAIT behind, so the ports are free at once.
    for peer in working {
        peer.reset();
    }
    works_again(&lab);
    other.reset();
    drop((first, second));
    proxy.finish();
}

/// Like `echo`, but never the first to close in an orderly way.
fn echo_and_reset(mut peer: Peer) {
    while peer.receiver.try_recv(1).is_ok() {
        peer.send(1);
    }
    peer.reset();
}
