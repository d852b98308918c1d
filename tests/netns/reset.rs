//! A reset is a reset: truncated data never looks complete, and a connection that was aborted
//! leaves nothing behind for the next one.

use crate::lab::{Lab, Part, web};
use crate::options::Options;
use crate::pattern::Random;
use crate::peer::{End, Peer};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, SPLICED};

const MIB: u64 = 1 << 20;

/// `from` sends part of what it would and resets; `to` must see a prefix of it, then the reset.
fn reset_at(mut from: Peer, mut to: Peer, offset: u64) {
    // The proxy has this connection in its hands before the reset comes.
    from.send(1);
    to.recv(1);
    let sending = std::thread::spawn(move || {
        from.send(offset);
        from.reset();
    });
    let (received, end) = to.receiver.recv_to_end();
    sending.join().expect("it was sent");
    assert_eq!(end, End::Reset, "after {received} of {offset} bytes");
    assert!(received <= offset);
}

#[test]
fn a_reset_at_a_random_offset_never_looks_like_the_end_of_the_stream() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    let mut random = Random::new(3);
    for turn in 0..300 {
        let magnitude = random.below(23);
        let offset = random.below(1 << magnitude);
        let downstream = lab.connect(web(10, 8000));
        let upstream = listening.accept();
        if turn % 2 == 0 {
            reset_at(downstream, upstream, offset);
        } else {
            reset_at(upstream, downstream, offset);
        }
    }
    proxy.wait_for_metric(CLOSED, &[], 300);
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum(CLOSED, &[("response_flags", "DC")]), 150, "downstream resets");
    assert_eq!(scrape.sum(CLOSED, &[("response_flags", "UR")]), 150, "upstream resets");
    assert!(scrape.sum(SPLICED, &[]) > 0, "some of it was spliced");
    proxy.finish();
}

#[test]
fn what_was_sent_before_a_reset_and_had_time_to_arrive_arrives() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    for bytes in [1, 1000, 100_000, 2 * MIB] {
        let mut downstream = lab.connect(web(10, 8000));
        let mut upstream = listening.accept();
        let sending = std::thread::spawn(move || {
            upstream.send(bytes);
            upstream
        });
        downstream.recv(bytes);
        sending.join().expect("it was sent").reset();
        downstream.expect_reset();
    }
    proxy.finish();
}

#[test]
fn a_reset_ends_a_connection_that_is_half_closed() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let listening = lab.listen(web(10, 8000));
    let mut downstream = lab.connect(web(10, 8000));
    let mut upstream = listening.accept();
    downstream.shutdown();
    upstream.expect_eof();
    upstream.send(10);
    downstream.recv(10);
    upstream.reset();
    downstream.expect_reset();
    proxy.finish();
}

/// Connections at a time.
const THREADS: u64 = 20;
/// Connections for each thread.
const TURNS: u64 = 50;

#[test]
fn no_byte_crosses_between_a_thousand_connections_of_which_half_are_aborted() {
    let lab = Lab::new();
    let proxy = Proxy::start(&lab, &Options::default());
    let server = lab.serve(web(10, 8000), |mut peer| {
        // The id comes first; a connection that was aborted at once has none.
        let Some(id) = peer.learn() else { return };
        let aborted = id % 2 == 1;
        let (mut sender, mut receiver) = peer.split();
        let sending = std::thread::spawn(move || {
            let (_, result) = sender.try_send(size_of(id));
            assert!(result.is_ok() || aborted, "connection {id}: {result:?}");
            if result.is_ok() && !aborted {
                sender.shutdown();
            }
            result
        });
        let (received, end) = receiver.recv_to_end();
        let sent = sending.join().expect("the sender has not failed");
        // A reset is reported once: to the thread that writes, or to this one.
        let reset = end == End::Reset || sent.is_err();
        assert_eq!(
            reset,
            aborted,
            "connection {id}: {received} of {} bytes, {sent:?}",
            size_of(id)
        );
        assert!(aborted || received == size_of(id), "connection {id}: {received} bytes");
    });
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let lab = &lab;
            scope.spawn(move || {
                for turn in 0..TURNS {
                    transfer(lab.connect(web(10, 8000)), thread * TURNS + turn);
                }
            });
        }
    });
    assert_eq!(server.finish() as u64, THREADS * TURNS);
    assert!(proxy.metric(SPLICED, &[]) > 0, "some of it was spliced");
    proxy.finish();
}

fn size_of(id: u64) -> u64 {
    Random::new(id).below(MIB)
}

/// The downstream's part of connection `id`; every second one is aborted halfway.
fn transfer(mut peer: Peer, id: u64) {
    peer.announce(id);
    let half = size_of(id) / 2;
    if id % 2 == 1 {
        peer.recv(half.min(20_000));
        // The rest of what the server sends is still on its way.
        let (mut sender, receiver) = peer.split();
        sender.send(half);
        return Peer { sender, receiver }.reset();
    }
    let (mut sender, mut receiver) = peer.split();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.send(size_of(id));
            sender.shutdown();
        });
        assert_eq!(receiver.recv_to_end(), (size_of(id), End::Eof), "connection {id}");
    });
}

/// Nothing of what the node sends arrives in `part` any more, as behind a host that has vanished.
const VANISHED: &str = "table inet vanished {
    chain input { type filter hook input priority 0; meta l4proto tcp drop; }
}";

#[test]
fn a_peer_that_has_vanished_is_noticed_after_timeouts_user() {
    for (part, label) in [(Part::Outside, "UR"), (Part::Pod, "DC")] {
        let lab = Lab::new();
        lab.tally.expect_strangers();
        let proxy = Proxy::start(&lab, &Options { user: "1s", ..Options::default() });
        let listening = lab.listen(web(10, 8000));
        let mut downstream = lab.connect(web(10, 8000));
        let mut upstream = listening.accept();
        downstream.send(1);
        upstream.recv(1);
        upstream.send(1);
        downstream.recv(1);
        lab.nft(part, VANISHED);
        // Without the timeout the kernel would send these again for about 15 minutes.
        let mut lives = match part {
            Part::Outside => {
                downstream.send(1000);
                downstream
            }
            Part::Pod | Part::Node => {
                upstream.send(1000);
                upstream
            }
        };
        lives.expect_reset();
        proxy.wait_for_metric(CLOSED, &[("response_flags", label)], 1);
    }
}
