//! Bodies that a server may not read as such, and answers that nothing asked for.

use super::http1::{ALLOWED, BLOCKED, OK, passed, registry_only, respond, said, send};
use crate::gate::testing::Moves;
use crate::gate::testing::world::A;
use crate::relay::Side;

/// A body that a server may take for the next request, and where its version's digit stands.
fn smuggling(fields: &str) -> (String, usize) {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a.example\r\n{fields}Content-Length: {}\r\n\r\n",
        BLOCKED.len()
    );
    let digit = head.len() + BLOCKED.find("HTTP/1").unwrap() + 5;
    (head + BLOCKED, digit)
}

const POST: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi";
const EXPECTS: &str = "Expect: 100-continue\r\n";
const UPGRADES: &str = "Connection: Upgrade\r\nUpgrade: foo\r\n";

#[test]
fn what_could_be_a_request_in_an_open_body_is_held_until_the_answer_or_for_a_second() {
    for fields in [EXPECTS, UPGRADES] {
        let (request, digit) = smuggling(fields);
        for cut in 1..request.len() {
            let mut show = registry_only();
            send(&mut show, &request[..cut]);
            send(&mut show, &request[cut..]);
            assert_eq!(passed(&show.seen), [(A, &request[..digit])], "cut at {cut}");
            let mut released = registry_only();
            send(&mut released, &request);
            released.wait_out();
            assert_eq!(passed(&released.seen), [(A, request.as_str())], "a second has passed");
            if fields == EXPECTS {
                respond(&mut show, "HTTP/1.1 102 Processing\r\n\r\n");
                assert_eq!(passed(&show.seen), [(A, &request[..digit])], "it says nothing");
                respond(&mut show, "HTTP/1.1 100 Continue\r\n\r\n");
            } else {
                respond(&mut show, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\n\r\n");
            }
            assert_eq!(passed(&show.seen), [(A, request.as_str())], "cut at {cut}");
        }
    }
}

#[test]
fn what_could_be_no_request_in_an_open_body_passes_at_once() {
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n";
    let body = "http:// HTTP /1 https://x/1 HTTP/ 1".repeat(50);
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    for size in [1, 7, 5_000] {
        let mut show = registry_only();
        show.moves = Moves::Spliced;
        for piece in request.as_bytes().chunks(size) {
            show.send(Side::Downstream, piece);
        }
        assert_eq!(passed(&show.seen), [(A, request.as_str())]);
    }
}

#[test]
fn behind_a_final_answer_the_rest_of_an_open_body_is_thrown_away() {
    for fields in [EXPECTS, UPGRADES] {
        let (request, digit) = smuggling(fields);
        for (sent, until) in [(request.len(), digit), (digit - 8, digit - 8)] {
            for waits in [false, true] {
                let mut show = registry_only();
                send(&mut show, &request[..sent]);
                respond(&mut show, OK);
                send(&mut show, &request[sent..]);
                if waits {
                    show.wait_out();
                }
                assert_eq!(said(&show.seen), OK);
                assert_eq!(passed(&show.seen), [(A, &request[..until])]);
                // Its body is its own.
                send(&mut show, POST);
                let expected = [(A, &request[..until]), (A, POST)];
                assert_eq!(passed(&show.seen), expected, "on a new connection");
            }
        }
    }
}

#[test]
fn a_long_rest_of_an_open_body_ends_the_connection() {
    let head = format!("POST / HTTP/1.1\r\nHost: a.example\r\n{EXPECTS}");
    let mut show = registry_only();
    send(&mut show, &format!("{head}Content-Length: 9000000\r\n\r\n"));
    respond(&mut show, OK);
    for _ in 0..64 {
        send(&mut show, &"x".repeat(16 * 1024));
        assert_eq!(show.seen.end, None);
    }
    send(&mut show, "x");
    assert_eq!(show.seen.end.as_deref(), Some("bad_request"));
}

#[test]
fn no_request_passes_behind_an_answer_that_nothing_asked_for() {
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
    for (first, goes_on) in [(ALLOWED, true), (POST, false)] {
        let mut show = registry_only();
        send(&mut show, &format!("{first}{ALLOWED}"));
        respond(&mut show, &format!("{OK}{smuggled}"));
        assert!(show.seen.notes.contains("unasked"));
        assert_eq!(said(&show.seen), OK, "it answers nothing");
        let expected: &[_] = if goes_on { &[(A, first), (A, ALLOWED)] } else { &[(A, first)] };
        assert_eq!(passed(&show.seen), expected, "never on the same connection");
    }
}
