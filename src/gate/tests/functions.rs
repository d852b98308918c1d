//! What the worker asks a gate beside [`Gate::inspect`], in each of its states.

use super::http1::ALLOWED;
use super::http2::{PREFACE, SETTINGS};
use crate::config::Mode;
use crate::gate::testing::world::{A, World, snapshot};
use crate::gate::testing::{Moves, ROOM, Reach, Show, policy};
use crate::gate::{Action, Gate, Leg, Outcome, Reached, Tables};
use crate::metrics::{CloseReason, ResponseFlags};
use crate::relay::Side;

const GATED: World = World::Gated(Mode::RegistryOnly);
const OBSERVED: World = World::Observed(Mode::RegistryOnly);

/// Nothing that is known.
const SSH: &str = "SSH-2.0-x\r\n";

/// A connection of which this was sent.
fn sent(world: World, bytes: impl AsRef<[u8]>) -> Show {
    let mut show = Show::new(&snapshot(world));
    show.send(Side::Downstream, bytes.as_ref());
    show
}

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n\r\n")
}

#[test]
fn a_gate_holds_nothing_if_it_only_observes() {
    let table = [
        (sent(GATED, ""), false),
        (sent(GATED, ALLOWED), false),
        (sent(GATED, [PREFACE, &SETTINGS].concat()), false),
        (sent(GATED, SSH), true),
        (sent(OBSERVED, ""), true),
        (sent(OBSERVED, ALLOWED), true),
        (sent(OBSERVED, SSH), true),
    ];
    for (show, expected) in table {
        assert_eq!(show.gate.holds_nothing(), expected, "{:?}", show.gate);
    }
}

#[test]
fn only_bodies_and_what_nobody_reads_may_pass_unseen() {
    let down = |show: &Show| show.gate.unseen(Side::Downstream);
    assert_eq!(down(&sent(GATED, "")), 0);
    assert_eq!(down(&sent(OBSERVED, "")), 0);
    assert_eq!(down(&sent(OBSERVED, SSH)), u64::MAX);
    assert_eq!(down(&sent(GATED, [PREFACE, &SETTINGS].concat())), 0);
    assert_eq!(down(&sent(GATED, post("Content-Length: 70"))), 70);
    assert_eq!(down(&sent(GATED, post("Content-Length: 70") + "abc")), 67);
    assert_eq!(down(&sent(GATED, post("Transfer-Encoding: chunked") + "5\r\nabc")), 2);
    // A head that waits for the response before it.
    let waits = ALLOWED.to_owned() + &post("Content-Length: 70");
    assert_eq!(down(&sent(GATED, waits)), 0);
    let mut show = sent(GATED, ALLOWED);
    assert_eq!(show.gate.unseen(Side::Upstream), 0);
    show.send(Side::Upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123");
    assert_eq!(show.gate.unseen(Side::Upstream), 6);
    let mut show = sent(GATED, ALLOWED);
    show.send(Side::Upstream, b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(show.gate.unseen(Side::Upstream), u64::MAX);
}

#[test]
fn what_waits_for_an_upstream_says_so_again_and_its_body_does_not_pass_unseen() {
    let head = "POST / HTTP/1.1\r\nHost: b.example\r\nContent-Length: 9\r\n\r\n";
    let (mut gate, mut tables) = (sent(GATED, "").gate, Tables::default());
    let snapshot = snapshot(GATED);
    let mut inspect = |gate: &mut Gate| {
        let policy = policy(&snapshot, Leg::None, ROOM);
        gate.inspect(Side::Downstream, head.as_bytes(), &policy, &mut tables)
    };
    assert!(matches!(inspect(&mut gate), Outcome::Note(_)), "HTTP/1 is detected");
    for _ in 0..3 {
        let Outcome::Act(Action::Go(route)) = inspect(&mut gate) else { panic!("{gate:?}") };
        assert_eq!(route.name().unwrap().as_str(), "b.example");
        assert_eq!(gate.unseen(Side::Downstream), 0);
    }
}

#[test]
fn what_was_skipped_counts_like_what_was_copied() {
    let body = "x".repeat(100_000);
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let (length, coding) =
        (format!("Content-Length: {}", body.len()), "Transfer-Encoding: chunked");
    let pairs = [
        (post(&length) + &body, length.as_str(), &body),
        (post(coding) + &chunks, coding, &chunks),
    ];
    for world in [GATED, OBSERVED] {
        for (request, fields, content) in &pairs {
            let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{content}");
            let run = |moves: Moves, pieces: usize| {
                let mut show = sent(world, "");
                show.moves = moves;
                for _ in 0..2 {
                    for (side, text) in [(Side::Downstream, request), (Side::Upstream, &response)] {
                        text.as_bytes().chunks(pieces).for_each(|piece| show.send(side, piece));
                    }
                }
                show.close()
            };
            let copied = run(Moves::Copied, usize::MAX);
            assert_eq!(copied.accounted.len(), 2);
            let expected = format!("200 {} up {} down", request.len(), response.len());
            assert!(copied.accounted[1].contains(&expected), "{:?}", copied.accounted);
            for pieces in [usize::MAX, 65_536, 1_000] {
                assert_eq!(run(Moves::Spliced, pieces), copied, "in pieces of {pieces}");
            }
        }
    }
}

#[test]
fn a_request_waits_for_a_response_and_for_nothing_else() {
    let waits = |show: &Show| Side::BOTH.map(|side| show.gate.waits(side));
    assert_eq!(waits(&sent(GATED, "GE")), [false, false]);
    assert_eq!(waits(&sent(GATED, "GET / HTTP/1.1\r\n")), [false, false]);
    let mut show = sent(GATED, ALLOWED.to_owned() + "GET");
    assert_eq!(waits(&show), [true, false]);
    show.send(Side::Upstream, b"HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(waits(&show), [false, false]);
    assert_eq!(waits(&sent(OBSERVED, ALLOWED)), [false, false]);
    assert_eq!(waits(&sent(GATED, PREFACE)), [false, false]);
}

#[test]
fn a_request_that_reaches_nobody_is_answered_503_and_counted_once() {
    for (host, reach, reason, flags) in [
        ("a.example", Reach::Down, CloseReason::ConnectRefused, ResponseFlags::ConnectFailed),
        ("none.example", Reach::Up, CloseReason::NoEndpoint, ResponseFlags::BlackHole),
    ] {
        let mut show = Show::new(&snapshot(GATED));
        show.reach = reach;
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        show.send(Side::Downstream, format!("{head}{ALLOWED}").as_bytes());
        let seen = show.close();
        assert!(seen.client.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
        assert_eq!(seen.end.as_deref(), Some(reason.label()));
        let (length, said) = (head.len(), seen.client.len());
        let expected = format!("Some(\"{host}\") 503 {length} up {said} down by Egret {flags:?}");
        assert_eq!(seen.accounted, [expected]);
    }
}

#[test]
fn without_a_request_that_waits_nothing_is_said_when_no_upstream_is_reached() {
    for bytes in [&b""[..], b"GE", b"SSH", PREFACE] {
        let (mut gate, snapshot) = (sent(GATED, bytes).gate, snapshot(GATED));
        let policy = policy(&snapshot, Leg::None, ROOM);
        let said = gate.unreachable(b"", &policy, CloseReason::ConnectRefused);
        assert!(said.is_none(), "{gate:?}");
    }
}

/// The responses end when this has been sent and this answered; then the client sends more. What
/// has passed then behind the first bytes.
fn behind_the_end(bytes: &str, response: &str, more: &str) -> String {
    let mut show = sent(GATED, bytes);
    show.send(Side::Upstream, response.as_bytes());
    show.finish(Side::Upstream);
    let before = show.seen.upstreams[0].1.len();
    show.send(Side::Downstream, more.as_bytes());
    assert_eq!(show.seen.upstreams.len(), 1, "no other connection");
    String::from_utf8(show.seen.upstreams[0].1[before..].to_vec()).unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[test]
fn once_the_responses_have_ended_only_the_rest_of_a_body_passes() {
    let length = post("Content-Length: 10");
    // At a head, within one, and behind one that has no response.
    assert_eq!(behind_the_end(ALLOWED, OK, ALLOWED), "");
    assert_eq!(behind_the_end(&format!("{ALLOWED}GET"), OK, &ALLOWED[3..]), "");
    assert_eq!(behind_the_end(ALLOWED, "", ALLOWED), "");
    assert_eq!(behind_the_end(&format!("{ALLOWED}{ALLOWED}"), "", ALLOWED), "");
    // Within a body, answered or not.
    for response in [OK, ""] {
        let rest = format!("4567890{ALLOWED}");
        assert_eq!(behind_the_end(&format!("{length}123"), response, &rest), "4567890");
        let chunked = post("Transfer-Encoding: chunked") + "3\r\na";
        let rest = format!("bc\r\n0\r\n\r\n{ALLOWED}");
        assert_eq!(behind_the_end(&chunked, response, &rest), "bc\r\n0\r\n\r\n");
    }
    // A head that waits with its body.
    let waits = format!("{ALLOWED}{length}123");
    assert_eq!(behind_the_end(&waits, "HTTP/1.1 200 OK\r\n", "4567890"), "");
    // An upgrade that was not answered.
    let upgrade = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    assert_eq!(behind_the_end(&format!("{upgrade}other"), "", "protocol"), "");
    // One that was agreed goes on.
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n";
    assert_eq!(behind_the_end(upgrade, switched, "protocol"), "protocol");
}

#[test]
fn neither_a_head_that_waits_nor_its_body_passes_once_the_responses_have_ended() {
    let mut show = sent(GATED, ALLOWED);
    show.send(Side::Upstream, OK.as_bytes());
    let (mut gate, snapshot) = (show.gate, snapshot(GATED));
    let mut tables = Tables::default();
    let next = "POST / HTTP/1.1\r\nHost: b.example\r\nContent-Length: 90\r\n\r\nbody";
    let mut inspect = |gate: &mut Gate, bytes: &str| {
        let to_a = Reached { address: A, name: None };
        let policy = policy(&snapshot, Leg::Up(&to_a), ROOM);
        gate.inspect(Side::Downstream, bytes.as_bytes(), &policy, &mut tables)
    };
    assert!(matches!(inspect(&mut gate, next), Outcome::Act(Action::Go(_))));
    assert!(gate.end_responses());
    for bytes in [next, "more of the body", ALLOWED] {
        let outcome = inspect(&mut gate, bytes);
        assert!(matches!(outcome, Outcome::Drop(count) if count == bytes.len()), "{outcome:?}");
        assert_eq!(gate.unseen(Side::Downstream), 0);
    }
}

#[test]
fn what_a_server_sends_that_has_spoken_first_needs_no_look_and_the_client_is_still_read() {
    let mut show = Show::new(&snapshot(OBSERVED));
    assert_eq!(show.gate.unseen(Side::Upstream), 0);
    show.send(Side::Upstream, b"220 ready\r\n");
    assert_eq!(show.gate.unseen(Side::Upstream), u64::MAX);
    assert_eq!(show.gate.unseen(Side::Downstream), 0);
    show.send(Side::Downstream, b"GE");
    assert_eq!(show.gate.unseen(Side::Downstream), 0, "it may be a request");
}

#[test]
fn trailers_that_have_come_in_part_pass_behind_the_end_of_the_responses() {
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "1\r\nx\r\n0\r\nT: u\r\n\r\n";
    for cut in 0..=body.len() {
        let mut show = sent(GATED, &(head.to_owned() + &body[..cut]));
        show.finish(Side::Upstream);
        let behind = body[cut..].to_owned() + ALLOWED;
        show.send(Side::Downstream, behind.as_bytes());
        let passed = String::from_utf8_lossy(&show.seen.upstreams[0].1).into_owned();
        assert_eq!(passed, head.to_owned() + body, "cut at {cut}");
    }
}

#[test]
fn the_end_of_responses_means_something_to_gated_http1_only() {
    let mut show = sent(GATED, ALLOWED);
    assert!(show.gate.end_responses());
    for mut show in [sent(OBSERVED, ALLOWED), sent(GATED, PREFACE), sent(GATED, "GE")] {
        assert!(!show.gate.end_responses(), "{:?}", show.gate);
    }
    assert!(!Gate::Open.end_responses());
}

#[test]
fn an_answer_that_nothing_asked_for_ends_the_responses() {
    let mut show = sent(GATED, ALLOWED);
    show.send(Side::Upstream, OK.as_bytes());
    show.send(Side::Upstream, b"HTTP/1.1 408 Request Timeout\r\n\r\n");
    show.send(Side::Downstream, ALLOWED.as_bytes());
    assert_eq!(show.seen.upstreams, [(A, ALLOWED.into())]);
    assert_eq!(show.seen.client, OK.as_bytes(), "it is not told");
}

#[test]
fn the_attribution_of_http2_is_given_once_and_that_of_others_never() {
    let mut show = sent(GATED, ALLOWED);
    assert!(show.gate.take_attribution().is_none());
    assert!(Gate::Open.take_attribution().is_none());
    // `testing.rs` takes it when the upstream connection is made.
    let get = b"\0\0\x0f\x01\x05\0\0\0\x01\x82\x86\x84\x01\x09a.example";
    let get = [&get[..2], &[14], &get[3..]].concat();
    let mut show = sent(GATED, [PREFACE, &SETTINGS, &get].concat());
    assert_eq!(show.seen.accounted.len(), 1, "{:?}", show.seen);
    assert!(show.gate.take_attribution().is_none(), "once");
}

#[test]
fn requests_that_were_not_answered_are_counted_at_the_end() {
    let accounted = sent(GATED, ALLOWED).close().accounted;
    let length = ALLOWED.len();
    assert_eq!(
        accounted,
        [format!("unanswered: Some(\"a.example\") 0 {length} up 0 down by Upstream")]
    );
    // One that waits was never read.
    assert_eq!(sent(GATED, ALLOWED.repeat(3)).close().accounted.len(), 1);
    // An observed one has passed.
    assert_eq!(sent(OBSERVED, ALLOWED.repeat(3)).close().accounted.len(), 3);
}
