//! When a connection waits for its name, and when not.

use std::time::{Duration, Instant};

use crate::lab::{Lab, Part, web};
use crate::options::{Options, Policy, named_entry};
use crate::peer::{End, echo};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, RECOGNISED, RECOGNISING};

const BLACK_HOLE: (&str, &str) = ("destination_service_name", "BlackHoleCluster");
const PASSTHROUGH: (&str, &str) = ("destination_service_name", "PassthroughCluster");

/// The deadline of these tests, and how much later it may be kept: timeouts are looked at in turn.
const DEADLINE: Duration = Duration::from_millis(500);
const LATE_MAX: Duration = Duration::from_millis(1500);

const BANNER_BYTES: u64 = 64;
/// How much later than without the proxy a banner may come, in the median.
const BANNER_LATE_MAX: Duration = Duration::from_millis(5);
const BANNER_TRIES: usize = 31;

/// Connects, and waits for what the server says first. The median of the times.
fn time_of_banner(lab: &Lab, from: Part, port: u16) -> Duration {
    let mut times: Vec<_> = (0..BANNER_TRIES)
        .map(|_| {
            let start = Instant::now();
            let mut peer = lab.try_connect_from(from, web(10, port)).expect("it is served");
            peer.recv(BANNER_BYTES);
            start.elapsed()
        })
        .collect();
    times.sort();
    times[BANNER_TRIES / 2]
}

/// The node's own connections are not captured: they show the way without the proxy.
fn a_banner_is_not_late(options: &Options, port: u16) -> Proxied {
    let lab = Lab::alone();
    // The direct ones pass the proxy by.
    lab.tally.expect_strangers();
    let proxy = Proxy::start(&lab, options);
    let server = lab.serve(web(10, port), |mut peer| {
        peer.send(BANNER_BYTES);
        peer.expect_eof();
    });
    let direct = time_of_banner(&lab, Part::Node, port);
    let proxied = time_of_banner(&lab, Part::Pod, port);
    eprintln!("a banner comes after {direct:?} directly, {proxied:?} through the proxy");
    assert!(proxied < direct + BANNER_LATE_MAX, "{proxied:?}, directly {direct:?}");
    proxy.wait_for_metric(CLOSED, &[("response_flags", "-")], BANNER_TRIES as u64);
    let scrape = proxy.scrape();
    let server_first = scrape.sum(RECOGNISED, &[("result", "server_first")]);
    let by_name = |name| scrape.sum(CLOSED, &[("destination_service_name", name)]);
    let seen = Proxied {
        server_first,
        passed: by_name("PassthroughCluster"),
        to_database: by_name("database.test"),
    };
    assert_eq!(server.finish(), 2 * BANNER_TRIES);
    proxy.finish();
    seen
}

#[derive(Debug, PartialEq, Eq)]
struct Proxied {
    server_first: u64,
    passed: u64,
    to_database: u64,
}

#[test]
fn a_server_that_speaks_first_is_relayed_at_once_where_everything_is_allowed() {
    let count = BANNER_TRIES as u64;
    let seen = a_banner_is_not_late(&Options::default(), 2222);
    assert_eq!(seen, Proxied { server_first: count, passed: count, to_database: 0 });
}

#[test]
fn a_server_that_speaks_first_is_relayed_at_once_on_an_opaque_port_with_an_entry() {
    let entry = named_entry("database.test", "TCP", 3306, None)
        .replace("  ports:", "  addresses: [203.0.113.10]\n  ports:");
    let options = Options { policy: Policy::RegistryOnly, registry: entry, ..Options::default() };
    let count = BANNER_TRIES as u64;
    let seen = a_banner_is_not_late(&options, 3306);
    assert_eq!(seen, Proxied { server_first: 0, passed: 0, to_database: count });
}

#[test]
fn on_an_opaque_port_what_is_unknown_is_blocked_at_once() {
    let lab = Lab::new();
    let options = Options { policy: Policy::RegistryOnly, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let start = Instant::now();
    assert_eq!(lab.cut_off(Part::Pod, web(10, 3306)), (0, End::Eof));
    // The default deadline is 5 s.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    proxy.wait_for_metric(CLOSED, &[BLACK_HOLE], 1);
    assert_eq!(proxy.metric(RECOGNISED, &[]), 0);
    proxy.finish();
}

#[test]
fn a_client_that_stops_after_one_byte_is_blocked_at_the_deadline() {
    let lab = Lab::alone();
    let registry = named_entry("known.test", "HTTP", 80, None);
    let policy = Policy::RegistryOnly;
    let options = Options { policy, registry, names: "deadline: 500ms", ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let listening = lab.listen(web(10, 80));
    // One that has sent nothing is not late: a name could let it pass.
    let silent = lab.connect(web(10, 80));
    for (n, text) in [(1, "G"), (2, "\x16")] {
        let start = Instant::now();
        let mut peer = lab.connect(web(10, 80));
        peer.send_text(text.as_bytes());
        proxy.wait_for_metric(RECOGNISING, &[], 2);
        assert_eq!(peer.receiver.recv_to_end(), (0, End::Eof));
        let took = start.elapsed();
        assert!(took >= DEADLINE, "decided after {took:?}, which is before the deadline");
        assert!(took < DEADLINE + LATE_MAX, "decided after {took:?}");
        proxy.wait_for_metric(CLOSED, &[BLACK_HOLE], n);
        proxy.wait_for_metric(RECOGNISED, &[("result", "deadline")], n);
    }
    assert_eq!(proxy.metric(RECOGNISING, &[]), 1, "it waits");
    drop(silent);
    proxy.wait_for_metric(CLOSED, &[BLACK_HOLE], 3);
    assert!(listening.try_accept().is_none(), "nothing went out");
    proxy.finish();
}

#[test]
fn a_client_that_stops_after_one_byte_is_passed_on_at_the_deadline() {
    let lab = Lab::alone();
    let registry = named_entry("known.test", "HTTP", 80, None);
    let options = Options { names: "deadline: 500ms", registry, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let server = lab.serve(web(10, 80), |mut peer| {
        assert_eq!(peer.recv_text(1), b"G");
        echo(peer);
    });
    let start = Instant::now();
    let mut peer = lab.connect(web(10, 80));
    peer.send_text(b"G");
    proxy.wait_for_metric(RECOGNISED, &[("result", "deadline")], 1);
    let took = start.elapsed();
    assert!(took >= DEADLINE, "decided after {took:?}, which is before the deadline");
    assert!(took < DEADLINE + LATE_MAX, "decided after {took:?}");
    // What was held comes first, and the rest behind it.
    peer.send(100_000);
    peer.recv(100_000);
    drop(peer);
    proxy.wait_for_metric(CLOSED, &[PASSTHROUGH], 1);
    assert_eq!(server.finish(), 1);
    proxy.finish();
}

#[test]
fn a_client_that_ends_before_its_name_is_told_is_blocked_at_once() {
    let lab = Lab::new();
    let options = Options { policy: Policy::RegistryOnly, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let start = Instant::now();
    let mut peer = lab.connect(web(10, 80));
    peer.shutdown();
    peer.expect_eof();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    proxy.wait_for_metric(RECOGNISED, &[("result", "ended")], 1);
    proxy.wait_for_metric(CLOSED, &[BLACK_HOLE], 1);
    drop(peer);
    // And one that is gone without a word.
    let silent = lab.connect(web(10, 80));
    proxy.wait_for_metric(RECOGNISING, &[], 1);
    silent.reset();
    proxy.wait_for_metric(CLOSED, &[], 2);
    proxy.wait_for_metric(RECOGNISING, &[], 0);
    proxy.finish();
}
