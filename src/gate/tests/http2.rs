//! Gated HTTP/2: which frames pass, and what Egret says itself.

use std::net::SocketAddr;

use proptest::prelude::*;

use crate::config::Mode;
use crate::gate::testing::world::{A, B, C, DESTINATION, World, X, snapshot};
use crate::gate::testing::{Reach, Show};
use crate::http2;
use crate::relay::Side;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
/// What Egret says before anything else: SETTINGS with NO_RFC7540_PRIORITIES.
const GREETING: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1];
/// How long a client may take to its first request before it is greeted.
const PAUSE: u64 = 50_000;

/// HEADERS that open and end a stream: a GET of `/` from `authority`, in literals only.
pub(super) fn get(stream: u8, authority: &str) -> Vec<u8> {
    // :method GET, :scheme http, :path / are in the static table; :authority is its first name.
    let mut block = vec![0x82, 0x86, 0x84, 0x01, u8::try_from(authority.len()).unwrap()];
    block.extend(authority.bytes());
    frame(1, 5, stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    http2::testing::frame(kind, flags, stream.into(), payload)
}

/// A `:status` on `stream`, and the end.
fn answer(stream: u8, status: &[u8; 3]) -> Vec<u8> {
    [&[0, 0, 5, 1, 5, 0, 0, 0, stream, 8, 3], &status[..]].concat()
}

fn goaway(stream: u8, code: u8) -> Vec<u8> {
    frame(7, 0, 0, &[0, 0, 0, stream, 0, 0, 0, code])
}

/// A client that sends these pieces.
fn shown(mode: Mode, pieces: &[&[u8]]) -> Show {
    let mut show = Show::new(&snapshot(World::Gated(mode)));
    pieces.iter().for_each(|piece| show.send(Side::Downstream, piece));
    show
}

#[test]
fn an_allowed_authority_passes_cut_at_every_byte_and_so_do_the_answers() {
    let sent = [PREFACE, &SETTINGS, &get(1, "a.example")].concat();
    let answered = [&SETTINGS[..], &ACK, &frame(0, 1, 1, b"x")].concat();
    for cut in 1..sent.len() {
        let mut show = shown(Mode::RegistryOnly, &[&sent[..cut], &sent[cut..]]);
        assert_eq!(show.seen.upstreams, [(A, sent.clone())], "cut at {cut}");
        for piece in answered.chunks(cut) {
            show.send(Side::Upstream, piece);
        }
        assert_eq!(show.seen.client, answered, "cut at {cut}: Egret says nothing");
        assert_eq!(show.seen.end, None);
        let seen = show.close();
        assert_eq!(seen.accounted.len(), 1, "{:?}", seen.accounted);
        assert!(seen.accounted[0].contains("a.example"), "{:?}", seen.accounted);
    }
}

#[test]
fn a_blocked_authority_is_answered_502_and_nothing_passes_cut_at_every_byte() {
    let sent = [PREFACE, &SETTINGS, &get(1, "blocked.example")].concat();
    for cut in 1..sent.len() {
        let seen = shown(Mode::RegistryOnly, &[&sent[..cut], &sent[cut..]]).close();
        assert_eq!(seen.upstreams, [], "cut at {cut}");
        let said = [&GREETING[..], &answer(1, b"502"), &goaway(1, 0)].concat();
        assert_eq!(seen.client, said, "cut at {cut}: SETTINGS come once");
        assert_eq!(seen.end.as_deref(), Some("blackhole"));
        assert_eq!(seen.accounted, ["Some(\"blocked.example\") 502 0 up 0 down by Egret None"]);
    }
}

#[test]
fn who_waits_for_settings_is_greeted_and_each_side_s_acknowledgement_goes_no_further() {
    let (first, second) = (get(1, "a.example"), get(3, "a.example"));
    // Before the request, and behind it; what the client acknowledges later passes.
    for behind in [[&ACK[..], &first].concat(), [&first[..], &ACK].concat()] {
        let sent = [PREFACE, &SETTINGS, &behind, &second, &ACK].concat();
        for cut in PREFACE.len() + SETTINGS.len()..sent.len() {
            let mut show = shown(Mode::RegistryOnly, &[&sent[..PREFACE.len() + SETTINGS.len()]]);
            show.wait(PAUSE - 1);
            assert!(show.seen.client.is_empty(), "not before its time");
            show.wait(1);
            let greeted = [&GREETING[..], &ACK].concat();
            assert_eq!(show.seen.client, greeted, "and its own SETTINGS are acknowledged");
            show.send(Side::Downstream, &sent[PREFACE.len() + SETTINGS.len()..cut]);
            show.send(Side::Downstream, &sent[cut..]);
            let passed = [PREFACE, &SETTINGS, &first, &second, &ACK].concat();
            assert_eq!(show.seen.upstreams, [(A, passed)], "cut at {cut}");
            assert_eq!(show.seen.dropped, ACK);
            let said = [&SETTINGS[..], &frame(6, 1, 0, &[7; 8]), &ACK, &ACK].concat();
            said.chunks(cut % 11 + 1).for_each(|piece| show.send(Side::Upstream, piece));
            let relayed = [&SETTINGS[..], &frame(6, 1, 0, &[7; 8]), &ACK].concat();
            assert_eq!(show.seen.client, [greeted, relayed].concat(), "the server's own");
        }
    }
}

#[test]
fn before_the_first_request_egret_answers_as_a_server_would() {
    let ping = frame(6, 0, 0, b"12345678");
    let pong = frame(6, 1, 0, b"12345678");
    let greeted = [&GREETING[..], &ACK].concat();
    // A PING is answered with the greeting; SETTINGS are acknowledged each time.
    let mut show = shown(Mode::RegistryOnly, &[PREFACE, &SETTINGS, &ping]);
    show.wait(PAUSE);
    show.send(Side::Downstream, &[&ACK[..], &SETTINGS, &ping].concat());
    let said = [&greeted[..], &pong, &ACK, &pong].concat();
    assert_eq!(show.seen.client, said);
    show.send(Side::Downstream, &[get(1, "a.example"), ping.clone()].concat());
    let opening = [PREFACE, &SETTINGS, &ping, &SETTINGS, &ping].concat();
    let passed = [&opening[..], &get(1, "a.example"), &ping].concat();
    assert_eq!(show.seen.upstreams, [(A, passed)]);
    show.send(Side::Upstream, &[&SETTINGS[..], &pong, &ACK, &pong, &ACK, &pong].concat());
    assert_eq!(show.seen.client, [&said[..], &SETTINGS, &pong].concat(), "the last one is new");
    // What any server refuses, Egret does.
    let refused: [(Vec<u8>, u8); 3] = [
        (frame(6, 0, 0, b"short"), 6),
        (frame(8, 0, 0, &[0; 4]), 1),
        (frame(4, 0, 0, &[0, 4, 0xff, 0, 0, 0]), 3),
    ];
    for (bad, code) in refused {
        for is_greeted in [true, false] {
            let mut show = shown(Mode::RegistryOnly, &[PREFACE, &SETTINGS]);
            if is_greeted {
                show.wait(PAUSE);
            }
            show.send(Side::Downstream, &bad);
            assert!(show.seen.client.ends_with(&goaway(0, code)), "{:?}", show.seen.client);
            assert_eq!(show.seen.upstreams, []);
        }
    }
}

/// The first request passes, and the server has answered so many bytes of these frames before the
/// client sends a blocked one; the rest of them follows.
#[test]
fn a_later_blocked_stream_is_answered_between_two_frames_and_the_others_end_by_themselves() {
    let first = [PREFACE, &SETTINGS, &get(1, "a.example")].concat();
    let blocked = get(3, "blocked.example");
    let data = frame(0, 0, 1, b"data");
    let answers = [&SETTINGS[..], &data, &frame(0, 1, 1, b"last")].concat();
    for sent in 0..answers.len() {
        for cut in 0..blocked.len() {
            let mut show = shown(Mode::RegistryOnly, &[&first]);
            show.send(Side::Upstream, &answers[..sent]);
            show.send(Side::Downstream, &blocked[..cut]);
            show.send(Side::Downstream, &blocked[cut..]);
            assert_eq!(show.seen.end, None, "stream 1 is open");
            show.send(Side::Upstream, &answers[sent..]);
            // The frame in which the server is passes to its end.
            let ends = [0, 9, 22, 35];
            let end = *ends.iter().find(|end| **end >= sent).unwrap();
            let start = if sent == 0 { &GREETING[..] } else { &[] };
            let own = [start, &answer(3, b"502"), &goaway(3, 0)].concat();
            let said = [&answers[..end], &own, &answers[end..]].concat();
            assert_eq!(show.seen.client, said, "answered {sent}, cut at {cut}");
            assert_eq!(show.seen.upstreams, [(A, first.clone())]);
            assert_eq!(show.seen.end.as_deref(), Some("blackhole"), "all is over");
            assert!(show.seen.notes.contains("BlockedStream"));
        }
    }
}

#[test]
fn behind_a_refusal_what_belongs_to_allowed_streams_passes_and_nothing_else() {
    let post = |stream| {
        let mut request = get(stream, "a.example");
        // POST, and no end.
        (request[4], request[9]) = (4, 0x83);
        request
    };
    let first = [PREFACE, &SETTINGS, &post(1), &post(3)].concat();
    let refused = get(5, "blocked.example");
    let trailers = frame(1, 5, 3, &[0x82]);
    let pieces: [(&[u8], bool); 9] = [
        (&refused, false),
        (&frame(0, 0, 1, b"body"), true),
        (&frame(0, 0, 5, &[0; 300]), false),
        (&frame(8, 0, 1, &[0, 0, 1, 0]), true),
        (&frame(8, 0, 5, &[0, 0, 1, 0]), false),
        (&frame(6, 0, 0, &[7; 8]), true),
        (&get(7, "a.example"), false),
        (&trailers, false),
        (&frame(0, 1, 1, b"end"), true),
    ];
    let all: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.to_vec()).collect();
    let rst = |stream| frame(3, 0, stream, &[0, 0, 0, 8]);
    let mut passed = first.clone();
    for (bytes, passes) in pieces {
        match passes {
            true => passed.extend_from_slice(bytes),
            false if bytes == trailers => passed.extend(rst(3)),
            false => {}
        }
    }
    let credit = frame(8, 0, 0, &[0, 0, 1, 44]);
    let own = [&answer(5, b"502")[..], &goaway(5, 0), &credit, &rst(3)].concat();
    for cut in 0..all.len() {
        let mut show = shown(Mode::RegistryOnly, &[&first]);
        show.send(Side::Upstream, &SETTINGS);
        show.send(Side::Downstream, &all[..cut]);
        show.send(Side::Downstream, &all[cut..]);
        assert_eq!(show.seen.upstreams, [(A, passed.clone())], "cut at {cut}");
        assert_eq!(show.seen.client, [&SETTINGS[..], &own].concat(), "cut at {cut}");
        assert_eq!(show.seen.end, None);
        show.send(Side::Upstream, &frame(1, 5, 1, &[0x88]));
        assert_eq!(show.seen.end.as_deref(), Some("blackhole"), "stream 3 was reset");
    }
}

#[test]
fn a_malformed_request_ends_its_stream_and_no_allowed_one() {
    let first = [PREFACE, &SETTINGS, &get(1, "a.example")].concat();
    let mut malformed = get(3, "a.example");
    // `:path` has become `:method` again.
    malformed[11] = 0x82;
    let rst = frame(3, 0, 3, &[0, 0, 0, 1]);
    let mut show = shown(Mode::RegistryOnly, &[&first]);
    show.send(Side::Upstream, &SETTINGS);
    show.send(Side::Downstream, &malformed);
    assert_eq!(show.seen.client, [&SETTINGS[..], &rst, &goaway(3, 0)].concat());
    assert_eq!((&show.seen.upstreams[0].1, &show.seen.end), (&first, &None));
    show.send(Side::Upstream, &frame(1, 5, 1, &[0x88]));
    assert_eq!(show.seen.end.as_deref(), Some("bad_request"));
    // Alone it is told the same.
    let seen = shown(Mode::RegistryOnly, &[PREFACE, &SETTINGS, &malformed]).close();
    assert_eq!(seen.client, [&GREETING[..], &rst, &goaway(3, 0)].concat());
    assert_eq!(seen.upstreams, []);
}

#[test]
fn a_body_that_nothing_announces_is_reset_both_ways_and_the_connection_goes_on() {
    let mut request = get(1, "a.example");
    request[4] = 4;
    let first = [PREFACE, &SETTINGS, &request].concat();
    let body = frame(0, 0, 1, b"GET / HTTP/1.1");
    let rst = |code| frame(3, 0, 1, &[0, 0, 0, code]);
    for cut in 0..body.len() {
        let mut show = shown(Mode::RegistryOnly, &[&first, &body[..cut], &body[cut..]]);
        show.send(Side::Downstream, &get(3, "a.example"));
        let passed = [&first[..], &rst(8), &get(3, "a.example")].concat();
        assert_eq!(show.seen.upstreams, [(A, passed)], "cut at {cut}");
        let credit = frame(8, 0, 0, &[0, 0, 0, 14]);
        assert_eq!(show.seen.client, [&GREETING[..], &rst(1), &credit].concat());
        assert_eq!(show.seen.end, None);
    }
}

#[test]
fn a_blocked_call_of_grpc_gets_a_status_that_its_client_reads() {
    let mut block = vec![0x83, 0x86, 0x84, 0x01, 15];
    block.extend(b"blocked.example");
    // content-type is entry 31 of the static table.
    block.extend([0x0f, 16, 16]);
    block.extend(b"application/grpc");
    let call = frame(1, 4, 1, &block);
    let seen = shown(Mode::RegistryOnly, &[PREFACE, &SETTINGS, &call]).close();
    let text = String::from_utf8_lossy(&seen.client);
    for part in ["\u{3}200", "content-type\u{10}application/grpc", "grpc-status\u{2}14"] {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
    assert_eq!(seen.accounted, ["Some(\"blocked.example\") 200 0 up 0 down by Egret None"]);
}

#[test]
fn junk_behind_the_first_request_ends_with_goaway_in_any_pieces() {
    let first = [PREFACE, &SETTINGS, &get(1, "a.example")].concat();
    // PUSH_PROMISE, which only servers send.
    let junk = frame(5, 4, 1, &[0, 0, 0, 2]);
    for cut in 0..junk.len() {
        let show = shown(Mode::RegistryOnly, &[&first, &junk[..cut], &junk[cut..]]);
        assert_eq!(show.seen.upstreams, [(A, first.clone())], "cut at {cut}");
        assert_eq!(show.seen.client, [&GREETING[..], &goaway(1, 1)].concat(), "cut at {cut}");
        assert_eq!(show.seen.end.as_deref(), Some("bad_request"));
        assert!(show.seen.notes.contains("Refused(Frames(PushPromise))"), "{:?}", show.seen.notes);
    }
}

#[test]
fn streams_that_wait_for_an_upstream_are_answered_503_when_none_can_be_reached() {
    let body = frame(0, 1, 1, b"hi");
    let waiting = [&get(1, "a.example")[..], &body, &get(3, "a.example")].concat();
    for (behind, last) in [("a.example", 5), ("b.example", 3), ("blocked.example", 3)] {
        let sent = [PREFACE, &SETTINGS, &waiting, &get(5, behind)].concat();
        for greeted in [PREFACE.len() + SETTINGS.len(), sent.len()] {
            let mut show = Show::new(&snapshot(World::Gated(Mode::RegistryOnly)));
            show.reach = Reach::Down;
            show.send(Side::Downstream, &sent[..greeted]);
            show.send(Side::Downstream, &sent[greeted..]);
            let answers = [1, 3, 5].map(|stream| answer(stream, b"503"));
            let answers = answers[..usize::from(last / 2) + 1].concat();
            let said = [&GREETING[..], &answers, &goaway(last, 0)].concat();
            assert_eq!(show.seen.client, said, "{behind}");
            assert_eq!(show.seen.upstreams, []);
            assert_eq!(show.seen.end.as_deref(), Some("connect_refused"));
            assert_eq!(show.seen.accounted.len(), usize::from(last / 2) + 1);
            assert!(show.seen.accounted.iter().all(|one| one.ends_with("ConnectFailed")));
        }
    }
}

#[test]
fn a_service_without_an_endpoint_is_answered_503_under_its_own_flag() {
    let sent = [PREFACE, &SETTINGS, &get(1, "none.example")].concat();
    let seen = shown(Mode::RegistryOnly, &[&sent]).close();
    assert_eq!(seen.client, [&GREETING[..], &answer(1, b"503"), &goaway(1, 0)].concat());
    assert_eq!(seen.end.as_deref(), Some("no_endpoint"));
    assert!(seen.accounted[0].ends_with("BlackHole"), "{:?}", seen.accounted);
}

/// A frame of a client, as the model sees it.
#[derive(Debug, Clone, Copy)]
enum Drawn {
    Ping,
    Data(u8),
    Acknowledgement,
    Request(&'static str),
}

fn leads_to(host: &str, mode: Mode) -> Option<SocketAddr> {
    match (host, mode) {
        ("a.example", _) => Some(A),
        ("x.b.example", _) => Some(B),
        ("x.c.example", _) => Some(X),
        ("y.c.example", _) => Some(C),
        (_, Mode::AllowAny) => Some(DESTINATION),
        (_, Mode::RegistryOnly) => None,
    }
}

/// The model: of the frames that have come whole, those that must have passed, and where to. Up to
/// the first request that does not lead to the connection's upstream all pass, and behind it those
/// that open no stream. The client is told so in frames, before which SETTINGS go: what it
/// acknowledges next are these.
fn model(
    frames: &[(Drawn, Vec<u8>)],
    sent: usize,
    mode: Mode,
) -> Option<(SocketAddr, Vec<u8>, usize)> {
    let (mut to, mut passed, mut end) = (None, [PREFACE, &SETTINGS].concat(), 33);
    let (mut is_refused, mut is_acknowledged) = (false, false);
    for (drawn, bytes) in frames {
        if end + bytes.len() > sent {
            // Of what is no request a part may have passed.
            let part =
                if matches!(drawn, Drawn::Request(_)) { 0 } else { sent.saturating_sub(end) };
            return to.map(|to| (to, passed, part));
        }
        end += bytes.len();
        let passes = match drawn {
            Drawn::Request(_) if is_refused => false,
            Drawn::Request(host) => {
                let leads = leads_to(host, mode);
                is_refused = to.is_some() && leads != to;
                to = to.or(leads);
                to?;
                !is_refused
            }
            Drawn::Acknowledgement if is_refused => std::mem::replace(&mut is_acknowledged, true),
            Drawn::Acknowledgement | Drawn::Ping | Drawn::Data(_) => true,
        };
        if passes {
            passed.extend_from_slice(bytes);
        }
    }
    to.map(|to| (to, passed, 0))
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let hosts =
        vec!["a.example", "a.example", "x.b.example", "x.c.example", "y.c.example", "d.example"];
    prop_oneof![
        1 => Just(Drawn::Ping),
        2 => any::<u8>().prop_map(Drawn::Data),
        1 => Just(Drawn::Acknowledgement),
        4 => prop::sample::select(hosts).prop_map(Drawn::Request),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn frames_pass_up_to_the_first_request_that_leads_elsewhere(
        drawn in prop::collection::vec(drawn(), 1..12),
        pieces in prop::collection::vec(1_usize..60, 1..80),
        is_strict in any::<bool>(),
    ) {
        let mode = if is_strict { Mode::RegistryOnly } else { Mode::AllowAny };
        let mut streams = (1..).step_by(2);
        // A body belongs to a stream.
        let first = drawn.iter().position(|drawn| matches!(drawn, Drawn::Request(_)));
        let frames: Vec<(Drawn, Vec<u8>)> = drawn.into_iter().enumerate().map(|(index, drawn)| {
            let drawn = match drawn {
                Drawn::Data(_) if first.is_none_or(|first| index < first) => Drawn::Ping,
                other => other,
            };
            let bytes = match drawn {
                Drawn::Ping => frame(6, 0, 0, &[7; 8]),
                Drawn::Data(length) => frame(0, 0, 1, &vec![1; length.into()]),
                Drawn::Acknowledgement => ACK.to_vec(),
                Drawn::Request(host) => get(streams.next().unwrap(), host),
            };
            (drawn, bytes)
        }).collect();
        let all = frames.iter().flat_map(|(_, bytes)| bytes.iter().copied());
        let bytes: Vec<u8> = [PREFACE, &SETTINGS].concat().into_iter().chain(all).collect();
        let mut show = Show::new(&snapshot(World::Gated(mode)));
        let mut sent = 0;
        for piece in pieces {
            let until = (sent + piece).min(bytes.len());
            show.send(Side::Downstream, &bytes[sent..until]);
            sent = until;
            let expected = model(&frames, sent, mode);
            let got = &show.seen.upstreams;
            match expected {
                None => prop_assert_eq!(got, &[]),
                Some((to, passed, part)) => {
                    prop_assert_eq!(got.len(), 1);
                    let (address, bytes) = &got[0];
                    prop_assert_eq!(*address, to);
                    prop_assert!(bytes.starts_with(&passed));
                    prop_assert!(bytes.len() <= passed.len() + part);
                }
            }
        }
    }
}
