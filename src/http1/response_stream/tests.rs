//! Answers: where each of them ends, and that no cut changes what is told.

use proptest::prelude::*;

use super::super::HEAD_BYTES_MAX;
use super::*;

const GET: ExpectedResponse = ExpectedResponse { is_head: false, wants_upgrade: false };
const HEAD: ExpectedResponse = ExpectedResponse { is_head: true, wants_upgrade: false };
const UPGRADE: ExpectedResponse = ExpectedResponse { is_head: false, wants_upgrade: true };

/// What was told, pieces of one body joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Head(u16, Turn, ResponseBody),
    Body { bytes: usize, ends: bool },
    Opaque(usize),
    Unasked,
    Unframed(FramingError),
}

fn stream(asked: &[ExpectedResponse]) -> ResponseStream {
    let mut stream = ResponseStream::default();
    for asked in asked {
        stream.asked(*asked, ());
    }
    stream
}

/// Shows `bytes` to `stream` as they arrive, up to each of the `cuts`.
fn tell_from(stream: &mut ResponseStream, bytes: &[u8], cuts: &[usize]) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let mut taken = 0;
    for arrived in cuts.iter().copied().chain([bytes.len()]) {
        loop {
            let (now, len) = match stream.next(&bytes[taken..arrived]) {
                ResponseStep::NeedMore => break,
                ResponseStep::Unasked => {
                    told.push(Told::Unasked);
                    return told;
                }
                ResponseStep::Unframed(lost) => {
                    told.push(Told::Unframed(lost));
                    continue;
                }
                ResponseStep::Head(head) => {
                    (Told::Head(head.status, head.turn, head.body), head.head_len)
                }
                ResponseStep::Body { bytes, ends } => (Told::Body { bytes, ends }, bytes),
                ResponseStep::Opaque { bytes } => (Told::Opaque(bytes), bytes),
            };
            assert!(len > 0 && taken + len <= arrived, "a step takes some of what is there");
            taken += len;
            match (told.last_mut(), now) {
                (
                    Some(Told::Body { bytes: before, ends: ends @ false }),
                    Told::Body { bytes, ends: now_ends },
                ) => (*before, *ends) = (*before + bytes, now_ends),
                (Some(Told::Opaque(before)), Told::Opaque(bytes)) => *before += bytes,
                (_, now) => told.push(now),
            }
        }
    }
    told
}

/// What is told of `response`, whole and byte by byte.
fn tell(asked: &[ExpectedResponse], response: &str) -> Vec<Told> {
    let bytes = response.as_bytes();
    let whole = tell_from(&mut stream(asked), bytes, &[]);
    let each: Vec<usize> = (1..bytes.len()).collect();
    let slowly = tell_from(&mut stream(asked), bytes, &each);
    assert_eq!(slowly, whole, "{response:?}, byte by byte");
    whole
}

const NONE: ResponseBody = ResponseBody::None;
const UNTIL_CLOSE: ResponseBody = ResponseBody::UntilClose;

#[test]
fn each_body_ends_where_it_should() {
    let ok = |body| Told::Head(200, Turn::Final, body);
    let body = |bytes, ends| Told::Body { bytes, ends };
    let table: &[(&str, &[Told])] = &[
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            &[ok(ResponseBody::Length(2)), body(2, true)],
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &[ok(NONE)]),
        ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", &[ok(NONE)]),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            &[ok(ResponseBody::Chunked), body(12, true)],
        ),
        ("HTTP/1.1 200 OK\r\n\r\nhi", &[ok(UNTIL_CLOSE), body(2, false)]),
        ("HTTP/1.0 200 OK\r\n\r\nhi", &[ok(UNTIL_CLOSE), body(2, false)]),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
            &[ok(UNTIL_CLOSE), body(2, false)],
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2",
            &[ok(UNTIL_CLOSE), body(1, false)],
        ),
        (
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            &[Told::Head(204, Turn::Final, NONE)],
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            &[Told::Head(304, Turn::Final, NONE)],
        ),
        // Sloppy, but plain.
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", &[ok(ResponseBody::Length(2)), body(2, true)]),
        (
            "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi",
            &[ok(ResponseBody::Length(2)), body(2, true)],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\nContent-Length: 2\r\n\r\nhi",
            &[ok(ResponseBody::Length(2)), body(2, true)],
        ),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", &[ok(NONE)]),
    ];
    for (response, told) in table {
        assert_eq!(tell(&[GET], response), *told, "{response:?}");
    }
}

#[test]
fn a_response_that_cannot_be_framed_is_lost_and_then_opaque() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let long = format!("{ok}A: {}", "x".repeat(HEAD_BYTES_MAX));
    let head = |fields: &str| format!("{ok}{fields}\r\n\r\nhi");
    let table = [
        ("ICY 200 OK\r\n\r\n".to_owned(), FramingError::BadHead),
        ("S".to_owned(), FramingError::BadHead),
        ("\0\0\u{12}\u{4}".to_owned(), FramingError::BadHead),
        ("HTTP/2 200 OK\r\n\r\n".to_owned(), FramingError::BadHead),
        ("HTTP/1.1 20 OK\r\n\r\n".to_owned(), FramingError::BadHead),
        ("HTTP/1.1 099 OK\r\n\r\n".to_owned(), FramingError::BadHead),
        (long, FramingError::HeadTooLarge),
        (head("Content-Length: x"), FramingError::BadLength),
        (head("Content-Length: 2, 3"), FramingError::BadLength),
        (head("Content-Length: 2\r\nContent-Length: 3"), FramingError::BadLength),
        (head("Content-Length: 2\r\nTransfer-Encoding: chunked"), FramingError::LengthWithCoding),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\nhi".to_owned(), FramingError::UnaskedSwitch),
    ];
    for (response, lost) in table {
        let told = tell_from(&mut stream(&[GET]), response.as_bytes(), &[]);
        assert_eq!(told, [Told::Unframed(lost), Told::Opaque(response.len())], "{lost:?}");
    }
    let bad = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2x\r\nhi\r\n0\r\n\r\n";
    assert_eq!(
        tell(&[GET], bad)[1..],
        [
            Told::Body { bytes: 1, ends: false },
            Told::Unframed(FramingError::BadChunk),
            Told::Opaque(12)
        ]
    );
}

#[test]
fn the_last_coding_delimits_a_response() {
    for (fields, is_chunked) in [
        ("Transfer-Encoding: gzip, chunked", true),
        ("Transfer-Encoding: chunked, chunked", true),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: Chunked", true),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", true),
        ("Transfer-Encoding: chunked, gzip", false),
        ("Transfer-Encoding: gzip", false),
        ("Transfer-Encoding:", false),
    ] {
        let response = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n2 \r\nhi\r\n0\r\n\r\n");
        let told = tell(&[GET], &response);
        assert_eq!(told[1..], [Told::Body { bytes: 13, ends: is_chunked }], "{fields}");
    }
    let identity = "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(tell(&[GET], identity)[1..], [Told::Body { bytes: 2, ends: true }]);
}

#[test]
fn interim_responses_do_not_end_the_exchange() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
    let responses = format!("HTTP/1.1 100 Continue\r\n\r\n{hints}{hints}HTTP/1.1 204 No\r\n\r\n");
    let turns: Vec<_> = tell(&[GET], &responses)
        .iter()
        .map(|told| match told {
            Told::Head(status, turn, _) => (*status, *turn),
            other => panic!("{other:?}"),
        })
        .collect();
    let interim = |status| (status, Turn::Interim);
    assert_eq!(turns, [interim(100), interim(103), interim(103), (204, Turn::Final)]);
    let mut stream = stream(&[GET]);
    tell_from(&mut stream, responses.as_bytes(), &[]);
    assert_eq!(stream.unanswered(), 0);
    assert_eq!(stream.response_bytes(), responses.len() as u64);
}

#[test]
fn the_request_decides_whether_a_body_follows() {
    let with_length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let responses = format!("{with_length}HTTP/1.1 100 C\r\n\r\n{with_length}{with_length}hello");
    assert_eq!(
        tell(&[HEAD, HEAD, GET], &responses),
        [
            Told::Head(200, Turn::Final, NONE),
            Told::Head(100, Turn::Interim, NONE),
            Told::Head(200, Turn::Final, NONE),
            Told::Head(200, Turn::Final, ResponseBody::Length(5)),
            Told::Body { bytes: 5, ends: true },
        ]
    );
}

#[test]
fn only_101_to_a_request_that_wants_it_changes_the_protocol() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let told = tell(&[UPGRADE], &format!("{switching}HTTP/1.1 200 OK\r\n\r\n"));
    assert_eq!(told, [Told::Head(101, Turn::Switched, NONE), Told::Opaque(19)]);
    let told = tell(&[UPGRADE], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(told, [Told::Head(200, Turn::Declined, NONE)]);
    let told = tell(&[GET, UPGRADE], "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 426 No\r\n\r\n");
    assert_eq!(
        told,
        [Told::Head(204, Turn::Final, NONE), Told::Head(426, Turn::Declined, UNTIL_CLOSE)]
    );
}

#[test]
fn words_that_nobody_asked_for_are_unasked() {
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(tell(&[], timeout), [Told::Unasked]);
    let told = tell(&[GET], &format!("HTTP/1.1 204 No\r\n\r\n{timeout}"));
    assert_eq!(told.last(), Some(&Told::Unasked));
}

#[test]
fn the_upstreams_end_completes_only_what_has_no_end_of_its_own() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    // The statuses of the responses that are complete then, and the requests that are left.
    let table: &[(&[ExpectedResponse], &str, &[u16], usize)] = &[
        (&[], "", &[], 0),
        (&[GET], "", &[], 1),
        (&[GET, GET], "", &[], 2),
        (&[GET, GET], "HTTP/1.1 204 No\r\n\r\n", &[204], 1),
        (&[GET], "HTTP/1.1 100 Continue\r\n\r\n", &[], 1),
        (&[GET], "HTTP/1.1 20", &[], 1),
        (&[GET], length, &[], 1),
        (&[GET], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", &[], 1),
        (&[HEAD], length, &[200], 0),
        (&[GET], "HTTP/1.1 200 OK\r\n\r\nhi", &[200], 0),
        (&[GET, GET], "HTTP/1.1 200 OK\r\n\r\nhi", &[200], 1),
        (&[GET], "no response", &[], 1),
        (&[UPGRADE], "HTTP/1.1 101 Yes\r\n\r\nhi", &[101], 0),
    ];
    for (asked, response, statuses, left) in table {
        let mut stream = stream(asked);
        tell_from(&mut stream, response.as_bytes(), &[]);
        stream.upstream_ended();
        let ended: Vec<_> = std::iter::from_fn(|| stream.pop_ended()).collect();
        assert_eq!(
            ended.iter().map(|one| one.status).collect::<Vec<_>>(),
            *statuses,
            "{response:?}"
        );
        assert_eq!(stream.unanswered(), *left, "{response:?}");
        if let [one] = ended[..] {
            assert_eq!(one.bytes, response.len() as u64, "{response:?}");
        }
    }
}

#[test]
fn a_body_is_counted_without_heads_and_framing() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
    for (asked, response, body_bytes) in [
        (GET, "HTTP/1.1 204 No\r\n\r\n", 0),
        (GET, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 2),
        (HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 0),
        (GET, chunked, 13),
        (GET, "HTTP/1.1 200 OK\r\n\r\nto the end", 10),
    ] {
        let mut stream = stream(&[asked]);
        tell_from(&mut stream, response.as_bytes(), &[]);
        stream.upstream_ended();
        let ended = stream.pop_ended().unwrap();
        assert_eq!((ended.bytes, ended.body_bytes), (response.len() as u64, body_bytes));
    }
    // Cut off: what has come of it.
    let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc";
    let mut stream = stream(&[GET]);
    tell_from(&mut stream, cut.as_bytes(), &[]);
    assert_eq!(stream.pop_unanswered().unwrap().body_bytes, 3);
}

#[test]
fn a_large_body_may_pass_unseen() {
    let mut stream = stream(&[GET, GET]);
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    tell_from(&mut stream, head.as_bytes(), &[]);
    assert_eq!(stream.body_left(), 1000);
    assert!(!stream.skip_body(999));
    assert!(stream.skip_body(1));
    assert_eq!((stream.unanswered(), stream.body_left()), (1, 0));
    assert_eq!(stream.response_bytes(), head.len() as u64 + 1000);
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    tell_from(&mut stream, head.as_bytes(), &[]);
    assert_eq!(stream.body_left(), u64::MAX);
    assert!(!stream.skip_body(1 << 40));
    assert_eq!(stream.response_bytes(), head.len() as u64 + (1 << 40));
}

#[test]
fn a_full_queue_says_so() {
    let mut stream = stream(&[GET; UNANSWERED_MAX - 1]);
    assert!(!stream.is_full());
    stream.asked(GET, ());
    assert!(stream.is_full());
    tell_from(&mut stream, b"HTTP/1.1 204 No\r\n\r\n", &[]);
    assert!(!stream.is_full());
}

fn responses() -> impl Strategy<Value = Vec<u8>> {
    let response = prop_oneof![
        "[a-z]{0,20}".prop_map(|b| format!("200 OK\r\nContent-Length: {}\r\n\r\n{b}", b.len())),
        "[a-z]{1,9}".prop_map(|b| {
            format!("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{b}\r\n0\r\n\r\n", b.len())
        }),
        Just("100 Continue\r\n\r\n".to_owned()),
        Just("204 No Content\n\n".to_owned()),
        Just("200 OK\r\n\r\nuntil close".to_owned()),
    ];
    let junk = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (prop::collection::vec(response, 1..5), junk).prop_map(|(responses, junk)| {
        let mut bytes: Vec<u8> = responses
            .iter()
            .flat_map(|response| format!("HTTP/1.1 {response}").into_bytes())
            .collect();
        if let Some((at, byte)) = junk {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn cuts_never_change_what_is_told(
        bytes in responses(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut cuts: Vec<usize> =
            cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let asked = [GET, HEAD, UPGRADE, GET];
        let whole = tell_from(&mut stream(&asked), &bytes, &[]);
        let cut = tell_from(&mut stream(&asked), &bytes, &cuts);
        prop_assert_eq!(cut, whole);
    }
}
