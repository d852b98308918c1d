//! HTTP/1: which bytes pass, and what Egret says itself, however the bytes are cut.

use std::net::SocketAddr;

use super::http2::{PREFACE, SETTINGS, get};
use crate::config::Mode;
use crate::gate::testing::world::{A, B, DESTINATION, World, snapshot};
use crate::gate::testing::{Moves, Seen, Show};
use crate::relay::Side;

pub(super) const ALLOWED: &str = "GET /1 HTTP/1.1\r\nHost: a.example\r\n\r\n";
pub(super) const BLOCKED: &str = "GET /secret HTTP/1.1\r\nHost: blocked.example\r\n\r\n";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BAD_GATEWAY: &str = "HTTP/1.1 502 Bad Gateway\r\n\
    content-length: 0\r\nconnection: close\r\nserver: egret\r\n\r\n";
pub(super) const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-length: 0\r\nconnection: close\r\nserver: egret\r\n\r\n";

pub(super) fn show(world: World) -> Show {
    Show::new(&snapshot(world))
}

pub(super) fn registry_only() -> Show {
    show(World::Gated(Mode::RegistryOnly))
}

pub(super) fn send(show: &mut Show, text: &str) {
    show.send(Side::Downstream, text.as_bytes());
}

pub(super) fn respond(show: &mut Show, text: &str) {
    show.send(Side::Upstream, text.as_bytes());
}

/// What has passed to each upstream connection, as text.
pub(super) fn passed(seen: &Seen) -> Vec<(SocketAddr, &str)> {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    seen.upstreams.iter().map(|(address, bytes)| (*address, text(bytes))).collect()
}

pub(super) fn said(seen: &Seen) -> &str {
    std::str::from_utf8(&seen.client).unwrap()
}

#[test]
fn allowed_then_blocked_cut_at_every_byte() {
    let both = format!("{ALLOWED}{BLOCKED}");
    for cut in 1..both.len() {
        // The response comes before the rest, or behind it.
        for is_late in [false, true] {
            let mut show = registry_only();
            send(&mut show, &both[..cut]);
            let has_passed = cut >= ALLOWED.len();
            assert_eq!(passed(&show.seen).len(), usize::from(has_passed), "cut at {cut}");
            if has_passed && !is_late {
                respond(&mut show, OK);
            }
            send(&mut show, &both[cut..]);
            if !has_passed || is_late {
                respond(&mut show, OK);
            }
            let seen = show.close();
            assert_eq!(passed(&seen), [(A, ALLOWED)], "nothing of the blocked one, cut at {cut}");
            assert_eq!(said(&seen), format!("{OK}{BAD_GATEWAY}"), "cut at {cut}");
            assert_eq!(seen.end.as_deref(), Some("blackhole"));
            let (one, two) = (ALLOWED.len(), BLOCKED.len());
            let (ok, bad) = (OK.len(), BAD_GATEWAY.len());
            let passed = format!("Some(\"a.example\") 200 {one} up {ok} down by Upstream");
            let blocked =
                format!("Some(\"blocked.example\") 502 {two} up {bad} down by Egret None");
            assert_eq!(seen.accounted, [passed, blocked], "and no TCP connection");
        }
    }
}

#[test]
fn bodies_are_followed_to_their_end_cut_at_every_byte() {
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\n";
    let bodies = [
        format!("{head}Content-Length: {}\r\n\r\n{BLOCKED}", BLOCKED.len()),
        format!("{head}Content-Length: 0\r\n\r\n"),
        format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n\
             {:x};x=y\r\n{BLOCKED}\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n",
            BLOCKED.len()
        ),
    ];
    for body in bodies {
        let sent = format!("{body}{ALLOWED}{BLOCKED}");
        for cut in 1..sent.len() {
            for moves in [Moves::Copied, Moves::Spliced] {
                let mut show = registry_only();
                show.moves = moves;
                send(&mut show, &sent[..cut]);
                send(&mut show, &sent[cut..]);
                // The body is there to its end, and nothing behind it, before the response.
                assert_eq!(passed(&show.seen), [(A, body.as_str())], "cut at {cut}");
                respond(&mut show, OK);
                let both = format!("{body}{ALLOWED}");
                assert_eq!(passed(&show.seen), [(A, both.as_str())], "cut at {cut}");
                respond(&mut show, OK);
                let seen = show.close();
                assert_eq!(passed(&seen), [(A, both.as_str())], "cut at {cut}");
                assert_eq!(said(&seen), format!("{OK}{OK}{BAD_GATEWAY}"), "cut at {cut}");
                let first = format!("Some(\"a.example\") 200 {} up", body.len());
                assert!(seen.accounted[0].starts_with(&first), "{:?}", seen.accounted);
            }
        }
    }
}

#[test]
fn each_request_goes_to_its_own_upstream_and_answers_come_in_order() {
    let hosts = ["a.example", "A.example.", "x.b.example:8080", "a.example"];
    let requests = [0, 1, 2, 3].map(|n| format!("GET /{n} HTTP/1.1\r\nHost: {}\r\n\r\n", hosts[n]));
    let sent = requests.concat();
    for size in [sent.len(), 40, 7, 1] {
        let mut show = registry_only();
        for piece in sent.as_bytes().chunks(size) {
            show.send(Side::Downstream, piece);
        }
        let answers = ["a0", "a1", "b2", "a3"];
        let answers =
            answers.map(|text| format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{text}"));
        for (number, answer) in answers.iter().enumerate() {
            let (_, got) = passed(&show.seen).pop().unwrap();
            assert!(got.ends_with(&requests[number]), "one at a time: {got}");
            respond(&mut show, answer);
        }
        let seen = show.close();
        let both = format!("{}{}", requests[0], requests[1]);
        let expected = [(A, both.as_str()), (B, &requests[2]), (A, &requests[3])];
        assert_eq!(passed(&seen), expected, "an upstream that gave way is not used again");
        assert_eq!(said(&seen), answers.concat());
        assert_eq!(seen.end, None);
        assert!(seen.accounted[2].starts_with("Some(\"x.b.example\") 200"), "{:?}", seen.accounted);
    }
}

#[test]
fn every_framing_of_responses_is_followed_cut_at_every_byte() {
    let chunks = "5;x=y\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n";
    let responses = [
        ("GET", format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n".to_owned()),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_owned()),
        ("GET", format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{OK}")),
        ("PUT", format!("HTTP/1.1 100 Continue\r\n\r\n{OK}")),
    ];
    for (method, response) in responses {
        let request = format!("{method} /x HTTP/1.1\r\nHost: a.example\r\n\r\n");
        for cut in 1..response.len() {
            for moves in [Moves::Copied, Moves::Spliced] {
                let mut show = registry_only();
                show.moves = moves;
                send(&mut show, &format!("{request}{ALLOWED}{BLOCKED}"));
                respond(&mut show, &response[..cut]);
                assert_eq!(
                    passed(&show.seen),
                    [(A, request.as_str())],
                    "it has not ended at {cut}"
                );
                respond(&mut show, &response[cut..]);
                let both = format!("{request}{ALLOWED}");
                assert_eq!(passed(&show.seen), [(A, both.as_str())], "it has ended, cut at {cut}");
                respond(&mut show, OK);
                let seen = show.close();
                assert_eq!(passed(&seen), [(A, both.as_str())]);
                assert_eq!(said(&seen), format!("{response}{OK}{BAD_GATEWAY}"));
                let bytes = format!("up {} down by Upstream", response.len());
                assert!(seen.accounted[0].ends_with(&bytes), "{:?}", seen.accounted);
            }
        }
    }
}

/// The client takes all that comes before the end for the response's body.
#[test]
fn behind_a_response_that_the_end_delimits_nothing_is_said() {
    let response = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody";
    for next in [ALLOWED, BLOCKED, "GET / HTTP/1.1\r\n\r\n"] {
        let mut show = registry_only();
        send(&mut show, &format!("{ALLOWED}{next}"));
        respond(&mut show, response);
        show.finish(Side::Upstream);
        let seen = show.close();
        assert_eq!(passed(&seen), [(A, ALLOWED)], "{next}");
        assert_eq!(said(&seen), response, "{next}");
    }
}

#[test]
fn after_a_101_everything_passes_cut_at_every_byte() {
    let upgrade =
        "GET /1 HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let switched = "HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\n\r\n";
    let sent = format!("{upgrade}{BLOCKED}");
    for cut in 1..sent.len().max(switched.len()) {
        let mut show = registry_only();
        send(&mut show, &sent[..cut.min(sent.len())]);
        send(&mut show, &sent[cut.min(sent.len())..]);
        assert_eq!(passed(&show.seen), [(A, upgrade)], "until it is agreed, cut at {cut}");
        respond(&mut show, &switched[..cut.min(switched.len())]);
        respond(&mut show, &switched[cut.min(switched.len())..]);
        respond(&mut show, BLOCKED);
        assert_eq!(passed(&show.seen), [(A, sent.as_str())], "cut at {cut}");
        send(&mut show, "more");
        assert_eq!(passed(&show.seen), [(A, format!("{sent}more").as_str())], "cut at {cut}");
        assert_eq!(said(&show.seen), format!("{switched}{BLOCKED}"));
        // Declined, it is HTTP/1 as before.
        let mut show = registry_only();
        send(&mut show, &sent);
        respond(&mut show, OK);
        assert_eq!(passed(&show.seen), [(A, upgrade)]);
        assert_eq!(said(&show.seen), format!("{OK}{BAD_GATEWAY}"));
    }
}

/// An offer to go on with `protocol`, and the answer that agrees to `agreed`.
fn offer(protocol: &str, agreed: &str) -> (String, String) {
    let offer = format!(
        "GET /1 HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    );
    let agrees = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {agreed}\r\n\r\n"
    );
    (offer, agrees)
}

#[test]
fn behind_a_101_the_preface_begins_gated_http2_whatever_was_agreed() {
    let frame = |kind, flags, stream, payload: &[u8]| {
        let head = [0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
        [&head[..], payload].concat()
    };
    let start = [PREFACE, &SETTINGS, &get(3, "a.example")].concat();
    let sent = [&start[..], &get(5, "blocked.example")].concat();
    let responses = [&SETTINGS[..], &frame(1, 5, 1, &[0x88]), &frame(1, 5, 3, &[0x88])].concat();
    let farewell =
        [&frame(1, 5, 5, b"\x08\x03502")[..], &frame(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0])];
    for (protocol, agreed) in [
        ("h2c", "h2c"),
        ("h2c;q=1", "h2c"),
        ("h2c websocket", "h2c"),
        ("h2c-14", "h2c-14"),
        ("websocket", "websocket"),
        ("websocket", ""),
    ] {
        let (offer, agrees) = offer(protocol, agreed);
        for cut in 1..sent.len() {
            let mut show = registry_only();
            send(&mut show, &offer);
            // The server says its SETTINGS before the client speaks, and a part of its response.
            respond(&mut show, &agrees);
            show.send(Side::Upstream, &responses[..cut % 20]);
            show.send(Side::Downstream, &sent[..cut]);
            show.send(Side::Downstream, &sent[cut..]);
            let passed = [offer.as_bytes(), &start].concat();
            assert_eq!(show.seen.upstreams, [(A, passed)], "{protocol} cut at {cut}");
            show.send(Side::Upstream, &responses[cut % 20..]);
            assert_eq!(show.seen.end.as_deref(), Some("blackhole"), "{protocol} cut at {cut}");
            assert!(
                show.seen.client.ends_with(&responses[10..]) || {
                    let end = farewell.concat();
                    show.seen.client.windows(end.len()).any(|window| window == end)
                }
            );
            let seen = show.close();
            let (up, down) = (offer.len(), agrees.len() + responses.len());
            let account = format!("Some(\"a.example\") 101 {up} up {down} down by Upstream");
            assert!(
                seen.accounted.iter().any(|one| one.contains(&account)),
                "{:?}",
                seen.accounted
            );
        }
    }
}

#[test]
fn what_is_not_the_preface_passes_behind_a_101_that_agrees_to_another_protocol_only() {
    for (agreed, passes) in [
        ("websocket", true),
        ("", true),
        ("TLS/1.0, HTTP/1.1", true),
        ("h2c", false),
        ("H2C-16", false),
        ("HTTP/2.0", false),
    ] {
        let (offer, agrees) = offer("h2c", agreed);
        for text in ["whatever", "PRI * HTTP/1.1", "PING"] {
            let mut show = registry_only();
            send(&mut show, &offer);
            respond(&mut show, &agrees);
            text.as_bytes().chunks(1).for_each(|byte| show.send(Side::Downstream, byte));
            respond(&mut show, "more");
            let expected = if passes { offer.clone() + text } else { offer.clone() };
            assert_eq!(passed(&show.seen), [(A, expected.as_str())], "{agreed}: {text}");
            let end = if passes { None } else { Some("bad_request") };
            assert_eq!(show.seen.end.as_deref(), end, "{agreed}: {text}");
            if passes {
                assert!(said(&show.seen).ends_with("more"));
                assert_eq!(show.gate.unseen(Side::Upstream), u64::MAX);
            }
        }
    }
}

#[test]
fn a_client_that_is_held_behind_a_101_is_spliced_on_neither_side() {
    let (offer, agrees) = offer("h2c", "h2c");
    let mut show = registry_only();
    send(&mut show, &offer);
    respond(&mut show, &agrees);
    assert_eq!(Side::BOTH.map(|side| show.gate.unseen(side)), [0, 0]);
}

#[test]
fn of_malformed_requests_nothing_passes_cut_at_every_byte() {
    let host = "Host: a.example\r\n";
    let bad = [
        (format!("GET / HTTP/1.1\r\n{host}Host: x\r\n\r\n"), "SeveralHosts"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "NoHost"),
        ("GET / HTTP/1.1\nHost: a.example\n\n".to_owned(), "BareLineEnd"),
        (
            format!(
                "POST / HTTP/1.1\r\n{host}Content-Length: 3\r\n\
                 Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            "LengthWithCoding",
        ),
        (format!("GET / HTTP/1.1\r\n{host}x: a\r\n b\r\n\r\n"), "FoldedField"),
        ("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n".to_owned(), "Connect"),
        (format!("GET http://blocked.example/ HTTP/1.1\r\n{host}\r\n"), "HostMismatch"),
    ];
    for (request, reason) in bad {
        for before in ["", ALLOWED] {
            let sent = format!("{before}{request}{ALLOWED}");
            for cut in 1..sent.len() {
                let mut show = registry_only();
                send(&mut show, &sent[..cut]);
                send(&mut show, &sent[cut..]);
                if !before.is_empty() {
                    assert_eq!(said(&show.seen), "", "the earlier response comes first");
                    respond(&mut show, OK);
                }
                let seen = show.close();
                let expected: &[_] = if before.is_empty() { &[] } else { &[(A, ALLOWED)] };
                assert_eq!(passed(&seen), expected, "{reason} cut at {cut}");
                let refused = if reason == "Connect" { BAD_GATEWAY } else { BAD_REQUEST };
                assert!(said(&seen).ends_with(refused), "{reason} cut at {cut}");
                assert!(seen.notes.contains(&format!("Request({reason})")), "{:?}", seen.notes);
                assert_eq!(seen.end.as_deref(), Some("bad_request"));
                let last = seen.accounted.last().unwrap();
                assert!(last.ends_with("DownstreamProtocol"), "{last}");
            }
        }
    }
}

#[test]
fn a_head_without_an_end_is_431_in_any_pieces() {
    let head = format!("GET / HTTP/1.1\r\nHost: a.example\r\nx: {}", "y".repeat(70_000));
    for size in [1_000, 16_384, 32_768, 70_000] {
        for before in ["", ALLOWED] {
            let mut show = registry_only();
            for piece in format!("{before}{head}").as_bytes().chunks(size) {
                show.send(Side::Downstream, piece);
            }
            if !before.is_empty() {
                assert_eq!(passed(&show.seen), [(A, ALLOWED)], "in pieces of {size}");
                respond(&mut show, OK);
            }
            let said = said(&show.seen);
            assert!(
                said.contains("HTTP/1.1 431 Request Header Fields Too Large\r\n"),
                "{size}: {said}"
            );
        }
    }
}

#[test]
fn a_request_that_waits_goes_nowhere_behind_a_response_without_an_end() {
    let lost = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: x\r\n\r\nok",
        // A client may have read an end in this one.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokx\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2x\r\nok\r\n0\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ];
    for response in lost {
        for host in ["a.example", "b.example", "blocked.example"] {
            let mut show = registry_only();
            send(&mut show, &format!("{ALLOWED}GET /2 HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            respond(&mut show, response);
            assert!(show.gate.is_unframed(), "{response}");
            show.finish(Side::Upstream);
            send(&mut show, ALLOWED);
            assert_eq!(passed(&show.seen), [(A, ALLOWED)], "{response}");
            assert_eq!(said(&show.seen), response, "it passes");
        }
    }
}

#[test]
fn what_is_not_registered_goes_where_the_client_meant_under_allow_any() {
    let mut show = show(World::Gated(Mode::AllowAny));
    send(&mut show, &format!("{BLOCKED}{ALLOWED}"));
    assert_eq!(passed(&show.seen), [(DESTINATION, BLOCKED)]);
    respond(&mut show, OK);
    assert_eq!(passed(&show.seen), [(DESTINATION, BLOCKED), (A, ALLOWED)]);
}

#[test]
fn an_observed_request_passes_at_once_and_is_counted_whole_cut_at_every_byte() {
    let hosts = ["a.example.com", "b.example.com", "A.example.com:80"];
    let request = |host| format!("POST / HTTP/1.1\r\nHost: {host}\r\ncontent-length: 2\r\n\r\nhi");
    let sent = hosts.map(request).concat();
    for cut in 1..sent.len() {
        let mut show = show(World::Observed(Mode::RegistryOnly));
        send(&mut show, &sent[..cut]);
        assert_eq!(passed(&show.seen), [(DESTINATION, &sent[..cut])]);
        send(&mut show, &sent[cut..]);
        assert_eq!(passed(&show.seen), [(DESTINATION, sent.as_str())]);
        hosts.iter().for_each(|_| respond(&mut show, OK));
        let names = ["a.example.com", "b.example.com", "a.example.com"];
        let (length, ok) = (request("a.example.com").len(), OK.len());
        for (number, (name, accounted)) in names.iter().zip(&show.seen.accounted).enumerate() {
            let length = length + if number == 2 { 3 } else { 0 };
            let expected = format!("Some(\"{name}\") 200 {length} up {ok} down by Upstream");
            assert_eq!(*accounted, expected, "cut at {cut}");
        }
        assert_eq!(show.seen.accounted.len(), 3);
    }
}

#[test]
fn what_cannot_be_followed_passes_and_is_counted_as_such_cut_at_every_byte() {
    let odd = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nwhatever";
    for cut in 1..odd.len() {
        let mut show = show(World::Observed(Mode::AllowAny));
        send(&mut show, &odd[..cut]);
        send(&mut show, &odd[cut..]);
        assert_eq!(passed(&show.seen), [(DESTINATION, odd)]);
        assert!(show.seen.notes.contains("unfollowed: Some(SeveralHosts) None"), "cut at {cut}");
        assert_eq!(show.gate.unseen(Side::Downstream), u64::MAX);
    }
}
