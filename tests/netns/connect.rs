//! Upstream connections that cannot be made: the downstream learns it at once, by a reset.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::lab::{FAMILIES, Lab, Part, outside, web};
use crate::options::{Options, static_entry};
use crate::peer::{End, echo};
use crate::proxy::Proxy;
use crate::scrape::{ACCEPTS, CLOSED, ENDED, OPENED};

/// Connects and waits for the reset; how long that took.
fn time_to_reset(lab: &Lab, to: SocketAddr) -> Duration {
    let start = Instant::now();
    assert_eq!(lab.cut_off(Part::Pod, to), (0, End::Reset));
    start.elapsed()
}

/// Tries that often; the machine may be busy during one of them.
const TRIES: usize = 21;

/// The median of the times of all tries is below `limit`.
fn are_soon_over(to: SocketAddr, limit: Duration, one_try: impl Fn() -> Duration) {
    let mut times: Vec<Duration> = (0..TRIES).map(|_| one_try()).collect();
    times.sort();
    assert!(times[TRIES / 2] < limit, "{to}: {times:?}");
}

fn is_reset_at_once(lab: &Lab, to: SocketAddr) {
    are_soon_over(to, Duration::from_millis(10), || time_to_reset(lab, to));
}

fn is_counted_as_failed(proxy: &Proxy<'_>, connections: usize, reason: &str) {
    let connections = connections as u64;
    proxy.wait_for_metric(CLOSED, &[("response_flags", "UF,URX")], connections);
    proxy.wait_for_metric(ENDED, &[("reason", reason)], connections);
    let scrape = proxy.scrape();
    for metric in [OPENED, CLOSED] {
        assert_eq!(scrape.sum(metric, &[("response_flags", "UF,URX")]), connections);
        assert_eq!(scrape.sum(metric, &[]), connections, "nothing else is counted");
    }
}

#[test]
fn a_refused_connection_is_reset_at_once_and_counted() {
    let lab = Lab::alone();
    let proxy = Proxy::start(&lab, &Options::default());
    for family in FAMILIES {
        is_reset_at_once(&lab, outside(10, family, 9));
    }
    is_counted_as_failed(&proxy, 2 * TRIES, "connect_refused");
    proxy.finish();
}

#[test]
fn an_unreachable_host_is_reset_soon_and_counted() {
    let lab = Lab::alone();
    let proxy = Proxy::start(&lab, &Options::default());
    // From the router beyond, as ICMP messages.
    lab.nft(
        Part::Outside,
        "table inet faults { chain input { type filter hook input priority 0; \
         tcp dport 81 reject with icmpx type host-unreachable; \
         tcp dport 82 reject with icmpx type admin-prohibited; }; }",
    );
    // ICMP errors are limited in their rate; the lab's are not to be.
    lab.set_sysctl(Part::Outside, "net/ipv4/icmp_ratelimit", "0");
    lab.set_sysctl(Part::Outside, "net/ipv6/icmp/ratelimit", "0");
    // IORING_OP_CONNECT may report success for such a connection: the message waits in the error
    // queue of the IPv4 socket (ip_icmp_error), which to the ring is a poll event without an error.
    // In the lab the ICMP message arrives while connect(2) still holds the socket, and then TCP
    // only takes note of it until it sends the SYN again, after 1 s (tcp_v4_err,
    // sock_owned_by_user).
    for (family, port) in FAMILIES.into_iter().flat_map(|family| [(family, 81), (family, 82)]) {
        let elapsed = time_to_reset(&lab, outside(10, family, port));
        assert!(elapsed < Duration::from_secs(3), "{family:?} {port}: {elapsed:?}");
    }
    proxy.wait_for_metric(CLOSED, &[("response_flags", "UF,URX")], 4);
    assert_eq!(proxy.metric(OPENED, &[("response_flags", "UF,URX")]), 4);
    proxy.finish();
}

#[test]
fn a_destination_without_a_route_is_reset_at_once_and_counted() {
    let lab = Lab::alone();
    let proxy = Proxy::start(&lab, &Options::default());
    // The node of the lab has no default route.
    let nowhere = ["198.51.100.1:80", "[2001:db8::1]:80"];
    for to in nowhere {
        is_reset_at_once(&lab, to.parse().expect("it is an address"));
    }
    is_counted_as_failed(&proxy, 2 * TRIES, "connect_unreachable");
    proxy.finish();
}

#[test]
fn a_destination_that_does_not_answer_is_reset_at_the_timeout_and_counted() {
    let lab = Lab::alone();
    let connect = Duration::from_millis(800);
    let proxy = Proxy::start(&lab, &Options { connect, ..Options::default() });
    lab.nft(
        Part::Outside,
        "table inet faults { chain input { type filter hook input priority 0; \
         tcp dport 81 drop; }; }",
    );
    for family in FAMILIES {
        let elapsed = time_to_reset(&lab, outside(10, family, 81));
        // Timers are coarse: they may be late by some, but never early.
        let limits = connect.mul_f64(0.95)..connect + Duration::from_millis(1200);
        assert!(limits.contains(&elapsed), "{elapsed:?}");
    }
    is_counted_as_failed(&proxy, 2, "connect_timeout");
    proxy.finish();
}

#[test]
fn a_downstream_that_leaves_while_the_connect_is_pending_leaves_nothing_behind() {
    let lab = Lab::new();
    let connect = Duration::from_millis(1500);
    let proxy = Proxy::start(&lab, &Options { connect, ..Options::default() });
    lab.nft(
        Part::Outside,
        "table inet faults { chain input { type filter hook input priority 0; \
         tcp dport 81 drop; }; }",
    );
    for turn in 0..20 {
        let mut peer = lab.connect(web(10, 81));
        proxy.wait_for_metric(ACCEPTS, &[("result", "accepted")], turn + 1);
        peer.send(100);
        if turn % 2 == 0 {
            peer.reset();
        }
    }
    proxy.wait_for_metric(CLOSED, &[], 20);
    assert_eq!(proxy.metric(OPENED, &[("response_flags", "-")]), 0);
    proxy.finish();
}

#[test]
fn a_service_with_a_dead_endpoint_is_served_by_the_next() {
    let lab = Lab::new();
    let mut registry = static_entry("orders.example.com", "203.0.113.11", "203.0.113.12");
    registry.push_str("  - address: \"203.0.113.13\"\n");
    let proxy = Proxy::start(&lab, &Options { registry, ..Options::default() });
    // Nobody listens on .12, the first endpoint.
    let server = lab.serve(web(13, 8080), echo);
    for _ in 0..20 {
        lab.connect(web(11, 80)).ping();
    }
    let service = [("destination_service_name", "orders.example.com")];
    proxy.wait_for_metric(CLOSED, &service, 20);
    assert_eq!(proxy.metric(OPENED, &service), 20);
    assert_eq!(server.finish(), 20);
    proxy.finish();
}

/// Segments that the only connection to `port` has brought its server, by what `ss` says: all, and
/// those with data.
fn segments_of_the_only_connection(lab: &Lab, port: u16) -> (u32, u32) {
    let filter = format!("sport = :{port}");
    let told = lab.run(Part::Outside, "ss", &["-tinH", "state", "established", &filter]);
    let field = |name: &str| {
        let mut values = told.split_whitespace().filter_map(|word| word.strip_prefix(name));
        let value = values.next().and_then(|value| value.parse().ok());
        assert_eq!(values.next(), None, "one connection: {told}");
        value.unwrap_or_else(|| panic!("{name} in {told}"))
    };
    (field("segs_in:"), field("data_segs_in:"))
}

#[test]
fn what_the_downstream_says_at_once_travels_with_the_end_of_the_handshake() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    let mut seen = Vec::new();
    for _ in 0..TRIES {
        let mut downstream = lab.connect(web(10, 8000));
        downstream.send(64);
        let mut upstream = listening.accept();
        upstream.recv(64);
        seen.push(segments_of_the_only_connection(&lab, 8000));
    }
    // SYN and the bytes; else there is a segment of its own for the end of the handshake. On a busy
    // machine the downstream may be too late with its bytes, but not each time.
    assert!(seen.iter().all(|seen| matches!(seen, (2 | 3, 1))), "{seen:?}");
    assert!(seen.contains(&(2, 1)), "{seen:?}");
    proxy.finish();
}

#[test]
fn a_server_that_speaks_first_is_reached_at_once() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let server = lab.serve(web(10, 25), |mut peer| {
        peer.send(64);
        peer.expect_eof();
    });
    // Held back until the kernel's own timer, the end of the handshake would take 200 ms.
    are_soon_over(web(10, 25), Duration::from_millis(100), || {
        let start = Instant::now();
        lab.connect(web(10, 25)).recv(64);
        start.elapsed()
    });
    assert_eq!(server.finish(), TRIES);
    proxy.finish();
}
