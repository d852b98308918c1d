//! What cannot be judged: refused at once, or let pass to where it meant to go.

use super::http1::{ALLOWED, BAD_REQUEST, BLOCKED, OK, passed, registry_only, respond, said};
use super::http1::{send, show};
use crate::config::Mode;
use crate::gate::testing::Reach;
use crate::gate::testing::world::{A, DESTINATION, World};

const ALLOW_ANY: World = World::Gated(Mode::AllowAny);

/// Requests that cannot be judged, and one that others can read in two ways.
const UNJUDGED: [(&str, &str); 8] = [
    ("GET / HTTP/1.1\r\n\r\n", "NoHost"),
    ("GET / HTTP/1.1\nHost: x.example\n\n", "BareLineEnd"),
    ("GET / HTTP/1.1\r\nHost: x.example\r\nA: b\r\n c\r\n\r\n", "FoldedField"),
    ("GET / HTTP/1.1\r\nHost: 123456789012\r\n\r\n", "BadHost(BadAddress)"),
    ("POST / HTTP/1.1\r\nHost: x.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "BadCoding"),
    ("CONNECT x.example:443 HTTP/1.1\r\nHost: x.example:443\r\n\r\n", "Connect"),
    ("GET https://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n", "BadTarget"),
    ("GET / HTTP/1.1\r\nHost: x.example\r\nContent_Length: 5\r\n\r\n", "AliasedField"),
];

#[test]
fn what_cannot_be_judged_goes_where_it_meant_to_go_under_allow_any_cut_at_every_byte() {
    for (request, why) in UNJUDGED {
        let sent = format!("{request}{ALLOWED}\0\x16 and anything else");
        for cut in 1..sent.len() {
            let mut show = show(ALLOW_ANY);
            send(&mut show, &sent[..cut]);
            send(&mut show, &sent[cut..]);
            respond(&mut show, "ICY 200 OK\r\n");
            let seen = show.close();
            assert_eq!(passed(&seen), [(DESTINATION, sent.as_str())], "{why} cut at {cut}");
            assert_eq!(said(&seen), "ICY 200 OK\r\n");
            assert!(seen.notes.contains(&format!("unjudged: {why}")), "{:?}", seen.notes);
        }
    }
}

#[test]
fn behind_a_request_what_cannot_be_judged_never_goes_where_another_name_led() {
    for (request, why) in UNJUDGED {
        for (first, to) in [(ALLOWED, A), (BLOCKED, DESTINATION)] {
            let mut show = show(ALLOW_ANY);
            send(&mut show, &format!("{first}{request}"));
            assert_eq!(passed(&show.seen), [(to, first)], "{why}: it waits for the response");
            respond(&mut show, OK);
            send(&mut show, "more");
            let behind = format!("{request}more");
            let all = format!("{first}{behind}");
            let (one, two) = ([(A, first), (DESTINATION, &*behind)], [(DESTINATION, &*all)]);
            let expected: &[_] = if to == A { &one } else { &two };
            assert_eq!(passed(&show.seen), expected, "{why}");
        }
    }
}

#[test]
fn what_cannot_be_judged_and_reaches_nobody_is_answered_503() {
    for (request, why) in UNJUDGED {
        let mut show = show(ALLOW_ANY);
        show.reach = Reach::Down;
        send(&mut show, request);
        let seen = show.close();
        assert!(said(&seen).starts_with("HTTP/1.1 503 "), "{why}: {seen:?}");
        assert_eq!(seen.accounted.len(), 1);
    }
}

/// A stream that goes up behind a request without a body: NTRIP, Icecast.
const STREAMS: [(&str, &str); 3] = [
    ("GET /VRS HTTP/1.0\r\nHost: HOST\r\n\r\n", "ICY 200 OK\r\n\r\n"),
    ("SOURCE /live HTTP/1.0\r\nHost: HOST\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"),
    (
        "PUT /live HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ),
];

#[test]
fn a_stream_behind_a_request_without_a_body_passes_or_ends_the_connection() {
    for (head, answer) in STREAMS {
        let request = head.replace("HOST", "else.example");
        let mut show = show(ALLOW_ANY);
        send(&mut show, &request);
        respond(&mut show, answer);
        send(&mut show, "$GPGGA,1\r\n");
        send(&mut show, "GET / HTTP/1.1\r\n");
        let all = format!("{request}$GPGGA,1\r\nGET / HTTP/1.1\r\n");
        assert_eq!(passed(&show.seen), [(DESTINATION, all.as_str())]);

        let request = head.replace("HOST", "a.example");
        let mut show = registry_only();
        send(&mut show, &request);
        respond(&mut show, answer);
        send(&mut show, "$GPGGA,1\r\n");
        let seen = show.close();
        assert_eq!(passed(&seen), [(A, request.as_str())]);
        assert_eq!((said(&seen), seen.end.as_deref()), (answer, Some("bad_request")));
    }
}

#[test]
fn an_empty_line_behind_the_last_request_is_nothing() {
    let last = "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\
                Content-Length: 3\r\n\r\nfoo";
    let mut show = registry_only();
    send(&mut show, &format!("{last}\r\n"));
    respond(&mut show, OK);
    assert_eq!((passed(&show.seen), said(&show.seen)), (vec![(A, last)], OK));
    assert_eq!(show.seen.end, None);
}

#[test]
fn a_bad_body_is_refused_before_the_response_which_waits_for_it() {
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut show = registry_only();
    send(&mut show, &format!("{head}3\r\nabc\r\nx"));
    let passed_body = format!("{head}3\r\nabc\r\n");
    assert_eq!(passed(&show.seen), [(A, passed_body.as_str())]);
    assert_eq!((said(&show.seen), show.seen.end.as_deref()), (BAD_REQUEST, Some("bad_request")));
    // Behind the beginning of a response the connection can only end.
    let mut show = registry_only();
    send(&mut show, &format!("{head}3\r\nabc\r\n"));
    respond(&mut show, &OK[..OK.len() - 1]);
    send(&mut show, "x");
    assert_eq!(said(&show.seen), &OK[..OK.len() - 1]);
    assert_eq!(show.seen.end.as_deref(), Some("bad_request"));
}
