//! Bytes through the proxy: exact, in both directions, whatever the sizes, the pieces and the way
//! they are moved; half-close; readers that are slow.

use std::time::Duration;

use crate::lab::{Family, Lab, Part, outside, wait_until, web};
use crate::options::{Capture, Options};
use crate::pattern::Random;
use crate::peer::{End, Peer};
use crate::proxy::Proxy;
use crate::scrape::{ACTIVE, CLOSED, COPIED, ENDED, OPENED, RECEIVED, SENT, SPLICED};

const MIB: u64 = 1 << 20;

/// Transfers that size that nobody may splice: below what counts as bulk.
const SMALL_BYTES: u64 = 64 * 1024;

/// Both directions at once, each in pieces of its own, then the end of both.
fn exchange(downstream: Peer, upstream: Peer, up_bytes: u64, down_bytes: u64, seed: u64) {
    let (mut down_sender, mut down_receiver) = downstream.split();
    let (mut up_sender, mut up_receiver) = upstream.split();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            down_sender.send_in_pieces(up_bytes, seed);
            down_sender.shutdown();
        });
        scope.spawn(move || {
            up_sender.send_in_pieces(down_bytes, seed + 1);
            up_sender.shutdown();
        });
        scope.spawn(move || assert_eq!(up_receiver.recv_to_end(), (up_bytes, End::Eof)));
        assert_eq!(down_receiver.recv_to_end(), (down_bytes, End::Eof));
    });
}

fn bytes_arrive_exact(capture: Capture, family: Family) {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options { capture, ..Options::default() });
    let at = outside(10, family, 8000);
    let listening = lab.listen(at);
    let mut random = Random::new(7);
    let mut sizes =
        vec![(0, 0), (1, 0), (0, 1), (64 * MIB, 3), (5, 64 * MIB), (32 * MIB, 32 * MIB)];
    sizes.extend((0..40).map(|_| {
        let (up, down) = (random.below(22), random.below(22));
        (random.below(1 << up), random.below(1 << down))
    }));
    for (seed, &(up, down)) in (0..).zip(&sizes) {
        let downstream = lab.connect(at);
        exchange(downstream, listening.accept(), up, down, seed);
    }
    let count = sizes.len() as u64;
    proxy.wait_for_metric(CLOSED, &[("response_flags", "-")], count);
    let scrape = proxy.scrape();
    let (up, down) = sizes.iter().fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
    let passthrough = [("destination_service_name", "PassthroughCluster")];
    assert_eq!(scrape.sum(RECEIVED, &passthrough), up);
    assert_eq!(scrape.sum(SENT, &passthrough), down);
    assert_eq!(scrape.sum(OPENED, &passthrough), count);
    assert_eq!(scrape.sum(COPIED, &[]) + scrape.sum(SPLICED, &[]), up + down);
    assert!(scrape.sum(SPLICED, &[]) > 64 * MIB, "the bulk of it is spliced");
    proxy.finish();
}

#[test]
fn bytes_arrive_exact_redirect_v4() {
    bytes_arrive_exact(Capture::Redirect, Family::V4);
}

#[test]
fn bytes_arrive_exact_redirect_v6() {
    bytes_arrive_exact(Capture::Redirect, Family::V6);
}

#[test]
fn bytes_arrive_exact_tproxy_v4() {
    bytes_arrive_exact(Capture::Tproxy, Family::V4);
}

#[test]
fn bytes_arrive_exact_tproxy_v6() {
    bytes_arrive_exact(Capture::Tproxy, Family::V6);
}

#[test]
fn small_transfers_are_copied_and_none_is_spliced() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    let mut total = 0;
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let (up, down) = (random.below(SMALL_BYTES), random.below(SMALL_BYTES));
        let downstream = lab.connect(web(10, 8000));
        exchange(downstream, listening.accept(), up, down, seed);
        total += up + down;
    }
    proxy.wait_for_metric(CLOSED, &[], 50);
    let scrape = proxy.scrape();
    assert_eq!((scrape.sum(COPIED, &[]), scrape.sum(SPLICED, &[])), (total, 0));
    proxy.finish();
}

#[test]
fn a_long_conversation_of_small_pieces_waits_for_nothing() {
    // One core of four thousand round trips: a delay of 40 ms or 200 ms (a corked reply) in each
    // would take minutes.
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    let mut downstream = lab.connect(web(10, 8000));
    let mut upstream = listening.accept();
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..4000 {
                upstream.recv(1 + n % 1400);
                upstream.send(1 + n % 1400);
            }
            upstream.expect_eof();
        });
        for n in 0..4000 {
            downstream.send(1 + n % 1400);
            downstream.recv(1 + n % 1400);
        }
        downstream.shutdown();
        downstream.expect_eof();
    });
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    proxy.finish();
}

#[test]
fn after_a_half_close_by_the_downstream_a_late_answer_comes_through() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    let mut downstream = lab.connect(web(10, 8000));
    let mut upstream = listening.accept();
    downstream.send(100);
    downstream.shutdown();
    upstream.recv(100);
    upstream.expect_eof();
    downstream.receiver.expect_silence(Duration::from_millis(300));
    let writer = std::thread::spawn(move || {
        upstream.send(10 * MIB);
        upstream.shutdown();
        upstream
    });
    assert_eq!(downstream.receiver.recv_to_end(), (10 * MIB, End::Eof));
    writer.join().expect("the answer was sent");
    proxy.finish();
}

#[test]
fn after_a_half_close_by_the_upstream_a_late_request_comes_through() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    let mut downstream = lab.connect(web(10, 8000));
    let mut upstream = listening.accept();
    upstream.send(100);
    upstream.shutdown();
    downstream.recv(100);
    downstream.expect_eof();
    upstream.receiver.expect_silence(Duration::from_millis(300));
    let writer = std::thread::spawn(move || {
        downstream.send(10 * MIB);
        downstream.shutdown();
        downstream
    });
    assert_eq!(upstream.receiver.recv_to_end(), (10 * MIB, End::Eof));
    writer.join().expect("the request was sent");
    proxy.finish();
}

#[test]
fn a_fin_does_not_cut_off_what_a_slow_reader_has_still_to_come() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    for bytes in [10_000, 300_000, 3 * MIB] {
        let mut downstream = lab.connect(web(10, 8000));
        downstream.shrink_receive_buffer();
        let mut upstream = listening.accept();
        let writer = std::thread::spawn(move || {
            upstream.send(bytes);
            upstream.shutdown();
            upstream.expect_eof();
        });
        // The sender is done, or stuck behind the reader; then the reader begins.
        let mut before = u64::MAX;
        wait_until("the transfer to stall", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = proxy.metric(SENT, &[]);
            std::mem::replace(&mut before, now) == now
        });
        downstream.shutdown();
        assert_eq!(downstream.receiver.recv_to_end(), (bytes, End::Eof));
        writer.join().expect("all was sent, and the end was seen");
    }
    proxy.finish();
}

#[test]
fn a_reader_that_does_not_read_stalls_nobody_and_costs_bounded_memory() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    let mut downstream = lab.connect(web(10, 8000));
    let mut upstream = listening.accept();
    upstream.send(1);
    downstream.recv(1);
    let before = proxy.memory_bytes();
    let writer = std::thread::spawn(move || {
        upstream.send(64 * MIB);
        upstream
    });
    let mut last = u64::MAX;
    wait_until("the transfer to stall", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = proxy.metric(SENT, &[]);
        std::mem::replace(&mut last, now) == now
    });
    for _ in 0..50 {
        let mut other = lab.connect(web(10, 8000));
        let mut answering = listening.accept();
        other.send(1000);
        answering.recv(1000);
        answering.send(1000);
        other.recv(1000);
    }
    let grown = proxy.memory_bytes().saturating_sub(before);
    assert!(grown < 4 * MIB, "{grown} bytes of user memory for one stalled transfer");
    downstream.recv(64 * MIB);
    drop(writer.join().expect("all was sent"));
    drop(downstream);
    proxy.finish();
}

#[test]
fn a_stalled_transfer_to_a_peer_that_has_sent_its_fin_keeps_no_processor_busy() {
    // Polls of the ring always include EPOLLRDHUP, which stays true after a FIN: a wait for room in
    // the send buffer that is made of them ends at once, for ever.
    let lab = Lab::alone();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    for bytes in [SMALL_BYTES, 16 * MIB] {
        let mut downstream = lab.connect(web(10, 8000));
        let mut upstream = listening.accept();
        upstream.shrink_receive_buffer();
        upstream.shutdown();
        downstream.expect_eof();
        let (mut sender, receiver) = downstream.split();
        let writer = std::thread::spawn(move || {
            // In pieces that are copied, or as bulk that is spliced.
            sender.send(bytes);
            sender.shutdown();
        });
        let mut before = u64::MAX;
        wait_until("the transfer to stall", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = proxy.metric(RECEIVED, &[]);
            std::mem::replace(&mut before, now) == now
        });
        let start = (std::time::Instant::now(), proxy.processor_time());
        std::thread::sleep(Duration::from_secs(1));
        let threads = proxy.holdings().threads;
        assert!(!threads.iter().any(|name| name.starts_with("iou-wrk")), "{threads:?}");
        let busy = proxy.processor_time() - start.1;
        assert!(busy < start.0.elapsed() / 5, "busy for {busy:?} of {:?}", start.0.elapsed());
        assert_eq!(upstream.receiver.recv_to_end(), (bytes, End::Eof));
        writer.join().expect("all was sent");
        drop(receiver);
    }
    proxy.finish();
}

#[test]
fn a_flow_that_conntrack_forgot_ends_with_the_half_close_timeout() {
    // conntrack drops a flow in CLOSE_WAIT after a while (60 s by default, 1 s here); the
    // workload's own FIN is then no longer translated and never arrives.
    let lab = Lab::new();
    let half_close = Duration::from_secs(4);
    let proxy = Proxy::start(&lab, &Options { half_close, ..Options::default() });
    let timeout = "net/netfilter/nf_conntrack_tcp_timeout_close_wait";
    lab.set_sysctl(Part::Node, timeout, "1");
    let listening = lab.listen(web(10, 8000));
    let mut downstream = lab.connect(web(10, 8000));
    let mut upstream = listening.accept();
    upstream.send(5);
    upstream.shutdown();
    downstream.recv(5);
    downstream.expect_eof();
    upstream.receiver.expect_silence(Duration::from_secs(2));
    drop(downstream);
    // The proxy cannot know. Without a timeout both sockets would stay for ever.
    assert_ne!(upstream.receiver.recv_to_end().0, u64::MAX);
    proxy.wait_for_metric(ACTIVE, &[], 0);
    assert_eq!(proxy.metric(ENDED, &[]), 1);
    proxy.finish();
}
