//! The end of the process: drained, at the deadline, at once, or because a worker has panicked.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::lab::{Lab, wait_until, web};
use crate::options::Options;
use crate::peer::echo;
use crate::proxy::Proxy;
use crate::scrape::{ACTIVE, CLOSED};

#[test]
fn a_drain_under_load_loses_no_connection_and_exits_with_0() {
    let lab = Lab::new();
    let mut proxy = Proxy::start(&lab, &Options::default());
    let server = lab.serve(web(10, 8000), echo);
    let mut busy: Vec<_> = (0..50).map(|_| lab.connect(web(10, 8000))).collect();
    for peer in &mut busy {
        peer.ping();
    }
    // These are connected as far as they know; the proxy may not have accepted them yet.
    let queued: Vec<_> = (0..200).map(|_| lab.connect(web(10, 8000))).collect();
    proxy.signal(Signal::SIGTERM);
    busy.extend(queued);
    for _ in 0..20 {
        for peer in &mut busy {
            peer.ping();
        }
    }
    wait_until("new connections to be refused", || lab.try_connect(web(10, 8000)).is_err());
    assert!(!proxy.is_ready(), "a proxy that drains is not ready");
    for peer in &mut busy {
        peer.ping();
        peer.shutdown();
        peer.expect_eof();
    }
    drop(busy);
    let status = proxy.wait();
    assert_eq!(status.code(), Some(0), "{status}");
    server.finish();
}

#[test]
fn at_the_drain_deadline_what_has_nothing_outstanding_ends_by_fin_and_the_exit_is_still_0() {
    let lab = Lab::new();
    let drain = Duration::from_secs(1);
    let mut proxy = Proxy::start(&lab, &Options { drain, ..Options::default() });
    let server = lab.serve(web(10, 8000), |mut peer| {
        peer.recv(1);
        peer.send(1);
        peer.expect_eof();
    });
    let mut peer = lab.connect(web(10, 8000));
    peer.ping();
    let start = Instant::now();
    proxy.signal(Signal::SIGINT);
    peer.expect_eof();
    let status = proxy.wait();
    let elapsed = start.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!((drain..drain * 4).contains(&elapsed), "{elapsed:?}");
    assert_eq!(server.finish(), 1);
}

#[test]
fn a_second_signal_ends_the_drain_at_once() {
    let lab = Lab::new();
    let mut proxy = Proxy::start(&lab, &Options::default());
    let server = lab.serve(web(10, 8000), echo);
    let mut peer = lab.connect(web(10, 8000));
    peer.ping();
    proxy.signal(Signal::SIGTERM);
    wait_until("the drain to begin", || !proxy.is_ready());
    peer.ping();
    let status = proxy.end_at_once();
    assert_ne!(status.code(), Some(0), "it was cut short");
    drop(peer);
    server.finish();
}

#[test]
fn an_idle_proxy_drains_at_once() {
    let lab = Lab::new();
    let mut proxy = Proxy::start(&lab, &Options::default());
    assert_eq!(proxy.end_at_once().code(), Some(0));
}

#[test]
fn a_worker_that_panics_ends_the_process() {
    let lab = Lab::new();
    let options = Options { arguments: &["--debug-endpoints"], ..Options::default() };
    let mut proxy = Proxy::start(&lab, &options);
    let server = lab.serve(web(10, 8000), echo);
    let mut peer = lab.connect(web(10, 8000));
    peer.ping();
    // The answer may be lost with the process.
    let _ = proxy.post("/debug/panic?worker=1");
    let status = proxy.wait();
    assert_ne!(status.code(), Some(0), "{status}");
    drop(peer);
    server.finish();
}

#[test]
fn a_worker_that_hangs_ends_the_process_which_names_it() {
    let lab = Lab::new();
    let options = Options { arguments: &["--debug-endpoints"], ..Options::default() };
    let mut proxy = Proxy::start(&lab, &options);
    let _ = proxy.post("/debug/hang?worker=1");
    let status = proxy.wait();
    assert_ne!(status.code(), Some(0), "{status}");
    let log = proxy.log();
    assert!(log.contains("the worker hangs") && log.contains("worker=1"), "{log}");
}

#[test]
fn without_the_option_there_is_no_debug_endpoint() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let (code, answer) = proxy.post("/debug/panic?worker=0").expect("the admin server answers");
    assert_eq!(code, 404, "{answer}");
    let server = lab.serve(web(10, 8000), echo);
    lab.connect(web(10, 8000)).ping();
    proxy.wait_for_metric(CLOSED, &[], 1);
    proxy.wait_for_metric(ACTIVE, &[], 0);
    server.finish();
    proxy.finish();
}
