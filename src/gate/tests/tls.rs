//! TLS behind the ClientHello that has decided: a second one must name the same server.

use std::path::Path;

use crate::config::Mode;
use crate::gate::Gate;
use crate::gate::testing::world::{TLS, World, snapshot};
use crate::gate::testing::{Seen, Show};
use crate::relay::Side;
use crate::sniff::testing::{hello, message, record};

/// A ServerHello with this random value.
fn server_hello(random: &[u8]) -> Vec<u8> {
    record(22, &[&[2, 0, 0, 70, 3, 3], random, &[0; 36]].concat())
}

/// The random value of a HelloRetryRequest, from a real one.
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

fn show() -> Show {
    Show::new(&snapshot(World::Gated(Mode::RegistryOnly)))
}

/// The client says one hello, the server this, and the client more, cut at each byte.
fn second(says: &[u8], more: &[u8], check: impl Fn(Seen, usize)) {
    for cut in 1..=more.len() {
        let mut show = show();
        show.send(Side::Downstream, &hello("a.example.com"));
        show.send(Side::Upstream, says);
        show.send(Side::Downstream, &more[..cut]);
        show.send(Side::Downstream, &more[cut..]);
        check(show.close(), cut);
    }
}

fn passes(says: &[u8], more: &[u8]) {
    let expected = [hello("a.example.com"), more.to_vec()].concat();
    second(says, more, |seen, cut| {
        assert_eq!(seen.upstreams, [(TLS, expected.clone())], "cut at {cut}");
        assert_eq!((seen.client.as_slice(), seen.end), (says, None));
    });
}

/// All that passes of `more` are its first `allowed` bytes.
fn ends(says: &[u8], more: &[u8], allowed: usize) {
    let expected = [&hello("a.example.com"), &more[..allowed]].concat();
    second(says, more, |seen, cut| {
        assert_eq!(seen.upstreams, [(TLS, expected.clone())], "cut at {cut}");
        assert_eq!(seen.end.as_deref(), Some("bad_request"));
        assert!(seen.notes.contains("NameConflict"));
    });
}

#[test]
fn a_second_hello_must_name_the_same_server_wherever_it_is_cut() {
    let between = [record(20, &[1]), record(23, &[9; 40])].concat();
    let in_records_of = |size: usize, name: &str| -> Vec<u8> {
        message(name).chunks(size).flat_map(|piece| record(22, piece)).collect()
    };
    let another = "b.example.com";
    // Before the server has said anything, too: whatever it will say, it reads this.
    for says in [server_hello(&RETRY), Vec::new()] {
        passes(&says, &[&between[..], &hello("a.example.com"), b"whatever follows"].concat());
        passes(&says, &hello("A.Example.COM"));
        passes(&says, &in_records_of(10, "a.example.com"));
        ends(&says, &hello(another), 0);
        ends(&says, &[&between[..], &hello(another)].concat(), between.len());
        ends(&says, &in_records_of(1, another), 0);
        ends(&says, &hello("192.0.2.1"), 0);
        // An alert that is no end.
        let alert = record(21, &[1, 90]);
        ends(&says, &[&alert[..], &hello(another)].concat(), alert.len());
        // What cannot be read may be read otherwise by the server.
        ends(&says, &record(22, &[1, 0, 0, 2, 3, 3]), 0);
        ends(&says, &record(22, &[]), 0);
        // A third one behind it in the same record.
        let third = [message("a.example.com"), message(another)].concat();
        ends(&says, &record(22, &third), 0);
    }
}

#[test]
fn the_watch_ends_with_the_handshake_and_everything_passes_then() {
    for (says, more) in [
        (server_hello(&[7; 32]), record(23, b"application data")),
        (server_hello(&[7; 32]), b"\x16".to_vec()),
        // TLS 1.2: the client's key exchange.
        (Vec::new(), record(22, &[16, 0, 0, 1, 7])),
    ] {
        passes(&says, &more);
        let mut show = show();
        show.send(Side::Downstream, &hello("a.example.com"));
        assert!(matches!(show.gate, Gate::Tls(_)) && !show.gate.holds_nothing());
        show.send(Side::Upstream, &says);
        show.send(Side::Downstream, &more);
        assert!(matches!(show.gate, Gate::Open), "{says:?}");
        assert_eq!(show.gate.unseen(Side::Downstream), u64::MAX);
    }
}

#[test]
fn a_hello_with_another_message_in_its_record_goes_no_further() {
    let both = record(22, &[message("a.example.com"), message("b.example.com")].concat());
    let first = both.len() - message("b.example.com").len();
    for cut in 1..both.len() {
        let mut show = show();
        show.send(Side::Downstream, &both[..cut]);
        show.send(Side::Downstream, &both[cut..]);
        assert_eq!(show.seen.upstreams, [(TLS, both[..first].to_vec())], "cut at {cut}");
        assert_eq!(show.seen.end.as_deref(), Some("bad_request"));
    }
}

#[test]
fn no_other_name_is_possible_behind_real_hellos_that_servers_accept() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/client_hello");
    for name in ["openssl_default", "post_quantum_key_share", "records_of_1"] {
        let mut show = show();
        show.send(Side::Downstream, &std::fs::read(corpus.join(name)).unwrap());
        assert!(matches!(show.gate, Gate::Tls(_)), "{name}");
        server_hello(&[7; 32]).iter().for_each(|byte| show.send(Side::Upstream, &[*byte]));
        assert!(matches!(show.gate, Gate::Open), "{name}");
    }
}
