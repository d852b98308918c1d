//! First bytes: TLS by its server name, everything else by the address; and the ends that come
//! before anything is known.

use std::path::Path;

use super::http1::ALLOWED;
use super::http2::{PREFACE, SETTINGS, get};
use crate::config::Mode;
use crate::gate::testing::world::{A, DESTINATION, TLS, World, snapshot};
use crate::gate::testing::{Seen, Show, policy};
use crate::gate::{Gate, Leg};
use crate::metrics::Detected;
use crate::relay::Side;

/// A real ClientHello.
fn hello(name: &str) -> Vec<u8> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/client_hello");
    std::fs::read(corpus.join(name)).unwrap()
}

fn show(world: World) -> Show {
    Show::new(&snapshot(world))
}

/// A client sends this under each policy, in one piece and in single bytes, and ends.
fn outcomes(bytes: &[u8]) -> [Seen; 2] {
    [Mode::RegistryOnly, Mode::AllowAny].map(|mode| {
        let [whole, slowly] = [bytes.len().max(1), 1].map(|size| {
            let mut show = show(World::Gated(mode));
            bytes.chunks(size).for_each(|piece| show.send(Side::Downstream, piece));
            show.finish(Side::Downstream);
            show.close()
        });
        assert_eq!(whole, slowly);
        whole
    })
}

#[test]
fn a_client_hello_cut_at_every_byte_is_decided_alike_and_passes_unchanged() {
    for name in ["openssl_default", "curl_h2", "post_quantum_key_share", "records_of_100"] {
        let hello = hello(name);
        for cut in 1..hello.len() {
            let mut show = show(World::Gated(Mode::RegistryOnly));
            show.send(Side::Downstream, &hello[..cut]);
            assert_eq!(show.seen.upstreams, [], "{name} is not whole at {cut}");
            show.send(Side::Downstream, &hello[cut..]);
            assert_eq!(show.seen.upstreams, [(TLS, hello.clone())], "{name} cut at {cut}");
            show.send(Side::Upstream, b"server hello");
            let record = b"\x17\x03\x03\0\x04then";
            show.send(Side::Downstream, record);
            let seen = show.close();
            assert_eq!(seen.upstreams, [(TLS, [&hello[..], record].concat())]);
            assert_eq!(seen.client, b"server hello");
            assert_eq!(seen.accounted.len(), 1, "{:?}", seen.accounted);
            assert!(seen.accounted[0].contains(".example.com"), "{:?}", seen.accounted);
            assert!(seen.accounted[0].contains("Tls"), "{:?}", seen.accounted);
        }
    }
}

#[test]
fn a_blocked_server_name_leads_nowhere_cut_at_every_byte() {
    // It names a host of another domain.
    let hello = hello("two_sni");
    for cut in 1..hello.len() {
        let mut show = show(World::Gated(Mode::RegistryOnly));
        show.send(Side::Downstream, &hello[..cut]);
        show.send(Side::Downstream, &hello[cut..]);
        assert_eq!((&show.seen.upstreams[..], show.seen.client.len()), (&[][..], 0));
        assert_eq!(show.seen.end.as_deref(), Some("blackhole"), "cut at {cut}");
    }
}

#[test]
fn opaque_bytes_and_ends_are_decided_by_the_address() {
    let inputs: [(&[u8], &str); 5] = [
        (b"SSH-2.0-x\r\n", "Unknown"),
        (b"\x16\x03\x01\x00\x05junk!", "BadTls"),
        (b"", "Ended"),
        (b"GE", "Ended"),
        (&hello("openssl_default")[..100], "Ended"),
    ];
    for (bytes, found) in inputs {
        let [strict, lenient] = outcomes(bytes);
        assert_eq!((&strict.upstreams[..], strict.end.as_deref()), (&[][..], Some("blackhole")));
        assert_eq!(lenient.upstreams, [(DESTINATION, bytes.to_vec())]);
        let expected = [format!("Name None Tcp Some({found}) None")];
        assert_eq!((&strict.accounted[..], &lenient.accounted[..]), (&expected[..], &expected[..]));
    }
}

#[test]
fn an_end_within_a_head_is_decided_by_the_address() {
    for cut in 4..ALLOWED.len() {
        let head = &ALLOWED.as_bytes()[..cut];
        let [strict, lenient] = outcomes(head);
        assert_eq!((&strict.upstreams[..], strict.end.as_deref()), (&[][..], Some("blackhole")));
        assert_eq!(lenient.upstreams, [(DESTINATION, head.to_vec())], "cut at {cut}");
    }
}

#[test]
fn an_observed_connection_passes_every_byte_as_it_comes() {
    for bytes in [&hello("curl_h2")[..], b"GET / HTTP/1.1\r\nHost: x", b"SSH-2.0-x\r\n", b"GE"] {
        let mut show = show(World::Observed(Mode::RegistryOnly));
        for (index, byte) in bytes.iter().enumerate() {
            show.send(Side::Downstream, &[*byte]);
            assert_eq!(show.seen.upstreams[0].1, bytes[..=index], "nothing is held");
        }
    }
}

#[test]
fn behind_a_server_that_speaks_first_the_reply_tells_the_protocol() {
    let http2 = [PREFACE, &SETTINGS, &get(1, "a.example")].concat();
    let server_first = "Address None Tcp Some(ServerFirst) None";
    // The last one is never known to be anything.
    let replies: [(&[u8], &str); 5] = [
        (&http2, "Address Some(Name(\"a.example\")) Http2 Some(Http2) None"),
        (&hello("curl_h2"), "Address Some(Name(\"www.example.com\")) Tls Some(Tls) None"),
        (b"EHLO x\r\n", server_first),
        (ALLOWED.as_bytes(), server_first),
        (b"PRI", server_first),
    ];
    for (reply, expected) in replies {
        let mut show = show(World::Observed(Mode::AllowAny));
        show.send(Side::Upstream, b"220 ready\r\n");
        assert!(show.gate.holds_nothing());
        reply.chunks(7).for_each(|piece| show.send(Side::Downstream, piece));
        let seen = show.close();
        assert_eq!(seen.client, b"220 ready\r\n");
        assert_eq!(seen.upstreams, [(DESTINATION, reply.to_vec())]);
        assert_eq!(seen.accounted, [expected]);
    }
}

/// A silent workload that was connected to where it meant to go.
fn connected_ahead() -> Show {
    let mut show = show(World::Gated(Mode::AllowAny));
    show.connect(DESTINATION, None);
    show
}

#[test]
fn the_name_decides_when_a_workload_speaks_that_was_connected_ahead() {
    let http2 = [PREFACE, &SETTINGS, &get(1, "a.example")].concat();
    for (bytes, to) in [
        (ALLOWED.as_bytes(), A),
        (&http2, A),
        (&hello("curl_h2"), TLS),
        (b"SSH-2.0-x\r\n", DESTINATION),
    ] {
        for size in [1, 7, bytes.len()] {
            let mut show = connected_ahead();
            bytes.chunks(size).for_each(|piece| show.send(Side::Downstream, piece));
            let expected = [(DESTINATION, Vec::new()), (to, bytes.to_vec())];
            assert_eq!(show.seen.upstreams, expected, "in pieces of {size}");
        }
    }
}

#[test]
fn a_server_may_speak_first_to_a_workload_that_was_connected_ahead() {
    let mut show = connected_ahead();
    show.send(Side::Upstream, b"220 ready\r\n");
    show.send(Side::Downstream, b"EHLO x\r\n");
    let seen = show.close();
    assert_eq!(seen.upstreams, [(DESTINATION, b"EHLO x\r\n".to_vec())]);
    assert_eq!(seen.client, b"220 ready\r\n");
    assert_eq!(seen.accounted, ["Address None Tcp Some(ServerFirst) None"]);
}

#[test]
fn a_server_that_answers_early_does_not_end_the_look_at_a_client_that_has_begun() {
    let mut show = show(World::Observed(Mode::AllowAny));
    let hello = hello("curl_h2");
    show.send(Side::Downstream, &hello[..50]);
    show.send(Side::Upstream, b"early");
    show.send(Side::Downstream, &hello[50..]);
    let seen = show.close();
    assert!(seen.accounted[0].contains("www.example.com"), "{:?}", seen.accounted);
}

#[test]
fn giving_up_opens_the_gate_and_says_why_where_nothing_was_found() {
    let starts: [(&[u8], Option<Detected>); 3] = [
        (b"GE", Some(Detected::Deadline)),
        // Their protocol was counted before.
        (b"GET / HTTP/1.1\r\n", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
    ];
    for (bytes, found) in starts {
        let snapshot = snapshot(World::Gated(Mode::AllowAny));
        let mut show = Show::new(&snapshot);
        show.send(Side::Downstream, bytes);
        assert!(!show.gate.holds_nothing());
        let mut gate = std::mem::take(&mut show.gate);
        let attribution = gate.give_up(Detected::Deadline, &policy(&snapshot, Leg::None, 0));
        assert!(matches!(gate, Gate::Open) && gate.holds_nothing());
        assert_eq!((attribution.found, &attribution.host), (found, &None));
    }
}

#[test]
fn only_an_observed_connection_without_a_protocol_stops_being_observed() {
    let observed = || show(World::Observed(Mode::AllowAny));
    for bytes in [&b""[..], b"GE"] {
        let mut show = observed();
        show.send(Side::Downstream, bytes);
        let found = show.gate.stop_observing(Detected::Deadline).unwrap().found;
        assert_eq!(found, Some(Detected::Deadline));
        assert!(matches!(show.gate, Gate::Open));
        assert!(show.gate.stop_observing(Detected::Deadline).is_none(), "once");
    }
    let mut http1 = observed();
    http1.send(Side::Downstream, ALLOWED.as_bytes());
    let mut held = show(World::Gated(Mode::AllowAny));
    held.send(Side::Downstream, b"GE");
    for mut show in [http1, held] {
        assert!(show.gate.stop_observing(Detected::Deadline).is_none());
        assert!(!matches!(show.gate, Gate::Open), "and it goes on");
    }
}
