//! Requests: the tables of what is accepted and refused, and that no cut changes what is told.

use proptest::prelude::*;

use super::super::{HEAD_BYTES_MAX, HEADERS_MAX, Version};
use super::*;
use crate::config::Latin1;
use crate::judge::{Objections, Rules};
use crate::sniff::NameError;

/// What was told about a stream of bytes, bodies in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Head(RequestHead),
    Body { bytes: usize, ends: bool },
    Opaque(usize),
    Discard(usize),
    AwaitUpgrade,
    Refused(RequestError),
}

/// Shows `bytes` to `stream` as they arrive, up to each of the `cuts`.
fn tell_from(stream: &mut RequestStream, bytes: &[u8], cuts: &[usize]) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let mut taken = 0;
    for arrived in cuts.iter().copied().chain([bytes.len()]) {
        loop {
            let (now, len) = match stream.next(&bytes[taken..arrived]) {
                RequestStep::NeedMore => break,
                RequestStep::AwaitUpgrade => {
                    if told.last() != Some(&Told::AwaitUpgrade) {
                        told.push(Told::AwaitUpgrade);
                    }
                    break;
                }
                RequestStep::Refused(refusal) => {
                    told.push(Told::Refused(refusal));
                    return told;
                }
                RequestStep::Head(head) => (Told::Head((*head).clone()), head.head_len),
                RequestStep::Body { bytes, ends } => (Told::Body { bytes, ends }, bytes),
                RequestStep::Opaque { bytes } => (Told::Opaque(bytes), bytes),
                RequestStep::Discard { bytes } => (Told::Discard(bytes), bytes),
            };
            assert!(len > 0 && taken + len <= arrived, "a step takes some of what is there");
            taken += len;
            match (told.last_mut(), now) {
                (
                    Some(Told::Body { bytes: before, ends: ends @ false }),
                    Told::Body { bytes, ends: now_ends },
                ) => (*before, *ends) = (*before + bytes, now_ends),
                (Some(Told::Opaque(before)), Told::Opaque(bytes))
                | (Some(Told::Discard(before)), Told::Discard(bytes)) => *before += bytes,
                (_, now) => told.push(now),
            }
        }
    }
    told
}

fn judged() -> RequestStream {
    RequestStream::new(Some(Rules::default()))
}

fn tell(bytes: &[u8]) -> Vec<Told> {
    tell_from(&mut judged(), bytes, &[])
}

fn each_byte(bytes: &[u8]) -> Vec<usize> {
    (1..bytes.len()).collect()
}

/// The head of the request that is all of `request`.
fn head(request: &str) -> RequestHead {
    match judged().next(request.as_bytes()) {
        RequestStep::Head(head) => Rc::unwrap_or_clone(head),
        other => panic!("{request:?}: {other:?}"),
    }
}

fn name(head: &RequestHead) -> Option<&str> {
    match &head.host {
        Some(crate::sniff::Host::Name(name)) => Some(name.as_str()),
        Some(crate::sniff::Host::Address(_)) | None => None,
    }
}

#[test]
fn a_head_tells_what_is_asked_of_whom() {
    let text = "\r\nPOST /a?b HTTP/1.1\r\nHost: EXAMPLE.com:8080 \r\nContent-Length: 5\r\n\
                Expect: 100-Continue\r\n\r\n";
    let expected = RequestHead {
        is_head: false,
        host: Some(crate::sniff::Host::parse(b"example.com").unwrap()),
        version: Version::Http11,
        head_len: text.len(),
        body: Body::Length(5),
        upgrade: Upgrade::No,
        expects_continue: true,
        keep_alive: true,
        objections: Objections::default(),
        method_range: 2..6,
        target_range: 7..11,
    };
    assert_eq!(head(text), expected);
    assert_eq!((&text[2..6], &text[7..11]), ("POST", "/a?b"));
}

#[test]
fn each_accepted_head_has_one_meaning() {
    let h = "Host: example.com\r\n";
    let accept = |line: &str, fields: &str| head(&format!("{line}\r\n{fields}\r\n"));
    let get = "GET / HTTP/1.1";

    for (method, is_head) in [("GET", false), ("HEAD", true), ("HEADER", false)] {
        assert_eq!(accept(&format!("{method} / HTTP/1.1"), h).is_head, is_head, "{method}");
    }
    assert_eq!(accept("OPTIONS * HTTP/1.1", h).body, Body::None);

    // Hosts.
    assert_eq!(name(&accept(get, "host:example.com.\r\n")), Some("example.com"));
    assert_eq!(name(&accept(get, "Host: 192.0.2.1:80\r\n")), None);
    assert_eq!(name(&accept(get, "Host: [::1]\r\n")), None);
    assert_eq!(name(&accept(get, "Host:\r\n")), None);
    assert_eq!(name(&accept("GET / HTTP/1.0", "")), None);
    assert_eq!(name(&accept("GET / HTTP/1.0", h)), Some("example.com"));
    for target in ["http://example.com/", "HTTP://EXAMPLE.com.:80", "http://example.com/?q"] {
        assert_eq!(name(&accept(&format!("GET {target} HTTP/1.1"), h)), Some("example.com"));
        assert_eq!(name(&accept(&format!("GET {target} HTTP/1.0"), "")), Some("example.com"));
    }

    // Bodies.
    let body = |fields: &str| accept("POST / HTTP/1.1", &format!("{h}{fields}")).body;
    assert_eq!(body(""), Body::None);
    assert_eq!(body("Content-Length: 0\r\n"), Body::None);
    assert_eq!(body("content-length:7\r\n"), Body::Length(7));
    assert_eq!(body("Content-Length: 007\r\n"), Body::Length(7));
    assert_eq!(body("Content-Length: 005368709120000000\r\n"), Body::Length(5_368_709_120_000_000));
    assert_eq!(body("Transfer-Encoding: Chunked\r\n"), Body::Chunked);

    // The connection.
    let keep_alive = |line: &str, fields: &str| accept(line, &format!("{h}{fields}")).keep_alive;
    assert!(keep_alive(get, ""));
    assert!(!keep_alive(get, "Connection: foo, Close\r\n"));
    assert!(!keep_alive(get, "Connection: keep-alive\r\nConnection: close\r\n"));
    assert!(!keep_alive("GET / HTTP/1.0", ""));
    assert!(keep_alive("GET / HTTP/1.0", "Connection: Keep-Alive\r\n"));
    let upgrade = |fields: &str| accept(get, &format!("{h}{fields}")).upgrade;
    assert_eq!(upgrade("Upgrade: websocket\r\nConnection: upgrade\r\n"), Upgrade::Other);
    assert_eq!(upgrade("Upgrade: foo, h2c\r\n"), Upgrade::H2c);
    assert_eq!(upgrade("Connection: upgrade\r\n"), Upgrade::No);
}

#[test]
fn each_bad_head_is_refused_for_its_reason() {
    use RequestError as R;
    let get = "GET / HTTP/1.1\r\nHost: example.com\r\n";
    let many = "A: b\r\n".repeat(HEADERS_MAX);
    let long = format!("{get}A: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
    let with = |fields: &str| format!("{get}{fields}\r\n");
    let first = |line: &str| format!("{line}\r\nHost: example.com\r\n\r\n");
    let table: Vec<(String, RequestError)> = vec![
        // Request lines.
        (first("GET  / HTTP/1.1"), R::BadRequestLine),
        (first("GET / HTTP/1.1 "), R::BareLineEnd),
        (first("GET\t/ HTTP/1.1"), R::BadRequestLine),
        (first(" GET / HTTP/1.1"), R::BadRequestLine),
        (first("GET /a b HTTP/1.1"), R::BadVersion),
        (first("GET /\0 HTTP/1.1"), R::BadRequestLine),
        (first("G(T / HTTP/1.1"), R::BadRequestLine),
        (first("GET /"), R::BadRequestLine),
        (first("GET / HTTP/1.2"), R::BadVersion),
        (first("GET / HTTP/2.0"), R::BadVersion),
        (first("GET / HTTP/0.9"), R::BadVersion),
        (first("GET / http/1.1"), R::BadVersion),
        (first("GET / HTTP/1.10"), R::BareLineEnd),
        ("\r\n".repeat(5) + get, R::BadRequestLine),
        (first("CONNECT example.com:443 HTTP/1.1"), R::Connect),
        (first("connect / HTTP/1.1"), R::Connect),
        // Targets.
        (first("GET example.com HTTP/1.1"), R::BadTarget),
        (first("GET * HTTP/1.1"), R::BadTarget),
        (first("OPTIONS ** HTTP/1.1"), R::BadTarget),
        (first("GET https://example.com/ HTTP/1.1"), R::BadTarget),
        (first("GET ?q HTTP/1.1"), R::BadTarget),
        (first("GET http://other.example/ HTTP/1.1"), R::HostMismatch),
        (first("GET http://example.com:8080/ HTTP/1.1"), R::HostMismatch),
        (first("GET http://192.0.2.1/ HTTP/1.1"), R::HostMismatch),
        (first("GET http:/// HTTP/1.1"), R::BadHost(NameError::Empty)),
        (first("GET http://a@example.com/ HTTP/1.1"), R::BadHost(NameError::BadByte)),
        ("GET http://example.com/ HTTP/1.1\r\n\r\n".into(), R::NoHost),
        ("GET http://example.com/ HTTP/1.1\r\nHost:\r\n\r\n".into(), R::HostMismatch),
        ("GET http://example.com/ HTTP/1.0\r\nHost: b\r\n\r\n".into(), R::HostMismatch),
        // Where an authority ends, and whether a path is one.
        (first("GET http://example.com?q HTTP/1.1"), R::BadTarget),
        (first("GET http://example.com#@other.example/ HTTP/1.1"), R::BadTarget),
        (first("GET http://example.com\\@other.example/ HTTP/1.1"), R::BadTarget),
        (first("GET http://example.com//other.example/ HTTP/1.1"), R::BadTarget),
        (first("GET /#x HTTP/1.1"), R::BadTarget),
        (first("GET //other.example/f HTTP/1.1"), R::BadTarget),
        // Methods.
        (first("get / HTTP/1.1"), R::BadMethod),
        (first("Trace / HTTP/1.1"), R::BadMethod),
        // Hosts.
        ("GET / HTTP/1.1\r\n\r\n".into(), R::NoHost),
        (with("Host: example.com\r\n"), R::SeveralHosts),
        (with("HOST: other.example\r\n"), R::SeveralHosts),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".into(), R::SeveralHosts),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), R::BadHost(NameError::BadByte)),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), R::BadHost(NameError::BadByte)),
        ("GET / HTTP/1.1\r\nHost: a:0\r\n\r\n".into(), R::BadHost(NameError::BadPort)),
        ("GET / HTTP/1.1\r\nHost: \u{fc}\r\n\r\n".into(), R::BadHost(NameError::NotAscii)),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n".into(), R::BadHost(NameError::Empty)),
        // Lengths and codings.
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), R::LengthWithCoding),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), R::LengthWithCoding),
        (with("Content-Length: 0\r\nTransfer-Encoding: x\r\n"), R::LengthWithCoding),
        (with("Content-Length: 5\r\nContent-Length: 6\r\n"), R::SeveralLengths),
        (with("Content-Length: 5\r\ncontent-length: 5\r\n"), R::SeveralLengths),
        (with("Content-Length: 5, 5\r\n"), R::BadLength),
        (with("Content-Length: 5,6\r\n"), R::BadLength),
        (with("Content-Length:\r\n"), R::BadLength),
        (with("Content-Length: +5\r\n"), R::BadLength),
        (with("Content-Length: -5\r\n"), R::BadLength),
        (with("Content-Length: 5 5\r\n"), R::BadLength),
        (with("Content-Length: 0x5\r\n"), R::BadLength),
        (with("Content-Length: 5.0\r\n"), R::BadLength),
        (with("Content-Length: 5_0\r\n"), R::BadLength),
        (with("Content-Length: \"5\"\r\n"), R::BadLength),
        (with("Content-Length: \u{663}\r\n"), R::BadLength),
        (with("Content-Length: 0000000000000000052\r\n"), R::BadLength),
        (with("Content-Length: 9223372036854775808\r\n"), R::BadLength),
        (with("Content-Length: 18446744073709551616\r\n"), R::BadLength),
        (with("Transfer-Encoding: gzip\r\n"), R::BadCoding),
        (with("Transfer-Encoding: gzip, chunked\r\n"), R::BadCoding),
        (with("Transfer-Encoding: chunked, identity\r\n"), R::BadCoding),
        (with("Transfer-Encoding: chunked, chunked\r\n"), R::BadCoding),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), R::BadCoding),
        (with("Transfer-Encoding: identity\r\n"), R::BadCoding),
        (with("Transfer-Encoding: xchunked\r\n"), R::BadCoding),
        (with("Transfer-Encoding: chunked;a=b\r\n"), R::BadCoding),
        (with("Transfer-Encoding: \"chunked\"\r\n"), R::BadCoding),
        (with("Transfer-Encoding: ,chunked\r\n"), R::BadCoding),
        (with("Transfer-Encoding:\r\n"), R::BadCoding),
        (with("Transfer-Encoding: \u{b}chunked\r\n"), R::BadFieldValue),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), R::CodingInHttp10),
        // Bodies.
        (with("Content-Length: 5\r\n"), R::UnexpectedBody),
        (with("Transfer-Encoding: chunked\r\n"), R::UnexpectedBody),
        (
            "TRACE / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\n".into(),
            R::TraceBody,
        ),
        // Fields.
        (with("Expect: x\r\n"), R::BadExpectation),
        (with("Expect: 100-continue, x\r\n"), R::BadExpectation),
        (with("Expect: 100-continue\r\nexpect: 100-continue\r\n"), R::BadExpectation),
        (with("Transfer_Encoding: chunked\r\n"), R::AliasedField),
        (with("_host: other.example\r\n"), R::AliasedField),
        // Syntax of fields.
        (with("Content-Length : 5\r\n"), R::BadFieldName),
        (with("Transfer-Encoding\t: chunked\r\n"), R::BadFieldName),
        (with("Transfer\u{b}Encoding: chunked\r\n"), R::BadFieldName),
        (with("Transfer-Encoding\0: chunked\r\n"), R::BadFieldName),
        (with("no colon\r\n"), R::BadFieldName),
        (with(": no name\r\n"), R::BadFieldName),
        (with("A: b\0c\r\n"), R::BadFieldValue),
        (with("A: b\u{1}c\r\n"), R::BadFieldValue),
        (with("A: b\u{7f}c\r\n"), R::BadFieldValue),
        (with("A: b\rContent-Length: 5\r\n"), R::BadFieldValue),
        (with("A: b\r\r\n"), R::BadFieldValue),
        (with("A: b\r\n c\r\n"), R::FoldedField),
        (with("A: b\r\n\tc\r\n"), R::FoldedField),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".into(), R::FoldedField),
        (with("A: b\n"), R::BareLineEnd),
        (with("A: b\n\r\n"), R::BareLineEnd),
        (format!("{get}\n"), R::BareLineEnd),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), R::BareLineEnd),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), R::BareLineEnd),
        // Limits.
        (with(&many), R::TooManyHeaders),
        (long, R::HeadTooLarge),
        (format!("GET /{}", "a".repeat(HEAD_BYTES_MAX)), R::HeadTooLarge),
    ];
    for (request, refusal) in table {
        let shown = &request[..request.len().min(90)];
        let told = tell(request.as_bytes());
        assert_eq!(told, [Told::Refused(refusal)], "{shown:?}");
        assert!(matches!(refusal.status(), 400 | 417 | 431 | 502));
        if request.len() < HEAD_BYTES_MAX {
            let cuts = each_byte(request.as_bytes());
            let slowly = tell_from(&mut judged(), request.as_bytes(), &cuts);
            assert_eq!(slowly, told, "{shown:?}, byte by byte");
        }
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_as_the_configuration_says() {
    let head = |text: &[u8]| {
        [b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ", text, b"\r\nContent-Length: 0\r\n\r\n"].concat()
    };
    let pass = Rules { latin1: Latin1::Pass, ..Rules::default() };
    for (text, is_utf8) in [
        (&b"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\xa6\x80"[..], true),
        (b"caf\xe9", false),
        (b"\xe0", false),
        (b"\xc0\xaf", false),
        (b"\xed\xa0\x80", false),
    ] {
        let bytes = head(text);
        let by = |rules| match RequestStream::new(rules).next(&bytes) {
            RequestStep::Head(_) => None,
            RequestStep::Refused(error) => Some(error),
            other => panic!("{other:?}"),
        };
        assert_eq!(by(Some(Rules::default())), (!is_utf8).then_some(RequestError::NotUtf8));
        assert_eq!((by(Some(pass)), by(None)), (None, None));
    }
}

#[test]
fn a_body_of_get_is_refused_as_the_configuration_says() {
    let pass = Rules { refuse_get_bodies: false, ..Rules::default() };
    for (method, is_refused) in [
        ("GET", true),
        ("HEAD", true),
        ("OPTIONS", true),
        ("POST", false),
        ("DELETE", false),
        ("SEARCH", false),
    ] {
        let head = |fields| format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let by = |rules, fields| RequestStream::new(rules).next(head(fields).as_bytes());
        let refused = RequestStep::Refused(RequestError::UnexpectedBody);
        let rules = Some(Rules::default());
        assert_eq!(by(rules, "Content-Length: 1") == refused, is_refused, "{method}");
        for (rules, fields) in [
            (Some(pass), "Content-Length: 1"),
            (None, "Content-Length: 1"),
            (rules, "Content-Length: 0"),
            (rules, "Upgrade: x\r\nContent-Length: 1"),
        ] {
            assert!(matches!(by(rules, fields), RequestStep::Head(_)), "{method} {fields}");
        }
    }
}

#[test]
fn a_head_at_the_limits_is_accepted() {
    let get = "GET / HTTP/1.1\r\nHost: example.com\r\n";
    let fields = "A: b\r\n".repeat(HEADERS_MAX - 1);
    assert_eq!(name(&head(&format!("{get}{fields}\r\n"))), Some("example.com"));
    let padding = "x".repeat(HEAD_BYTES_MAX - 1 - get.len() - "A: \r\n\r\n".len());
    let longest = format!("{get}A: {padding}\r\n\r\n");
    assert_eq!(head(&longest).head_len, HEAD_BYTES_MAX - 1);
}

#[test]
fn each_pipelined_request_is_told_by_itself_at_every_cut() {
    let requests = b"POST /1 HTTP/1.1\r\nHost: allowed.example\r\nContent-Length: 5\r\n\r\nhello\
        POST /2 HTTP/1.1\r\nHost: allowed.example\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n\
        \r\nGET /3 HTTP/1.1\r\nHost: blocked.example\r\n\r\n\
        GET /4 HTTP/1.0\r\n\r\nand more";
    let whole = tell(requests);
    let heads: Vec<_> = whole
        .iter()
        .filter_map(|told| match told {
            Told::Head(head) => Some(name(head)),
            _ => None,
        })
        .collect();
    let allowed = Some("allowed.example");
    assert_eq!(heads, [allowed, allowed, Some("blocked.example"), None]);
    assert!(whole.contains(&Told::Body { bytes: 5, ends: true }));
    assert!(whole.contains(&Told::Body { bytes: 23, ends: true }));
    assert_eq!(whole.last(), Some(&Told::Discard(8)));
    for cut in 0..requests.len() {
        let told = tell_from(&mut judged(), requests, &[cut]);
        assert_eq!(told, whole, "cut at {cut}");
    }
    let told = tell_from(&mut judged(), requests, &each_byte(requests));
    assert_eq!(told, whole, "byte by byte");
}

#[test]
fn a_body_that_looks_like_a_request_is_a_body() {
    let inner = "GET /blocked HTTP/1.1\r\nHost: blocked.example\r\n\r\n";
    let outer = format!(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    );
    let told = tell(outer.as_bytes());
    assert_eq!(told.len(), 2);
    assert_eq!(told[1], Told::Body { bytes: inner.len(), ends: true });
}

#[test]
fn a_refused_stream_stays_refused() {
    let mut stream = judged();
    let refused = RequestStep::Refused(RequestError::NoHost);
    assert_eq!(stream.next(b"GET / HTTP/1.1\r\n\r\n"), refused);
    assert_eq!(stream.next(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"), refused);
    assert_eq!(stream.next(b""), refused);
}

const WEBSOCKET: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\n\r\n";
const BLOCKED: &[u8] = b"GET / HTTP/1.1\r\nHost: blocked.example\r\n\r\n";

#[test]
fn bytes_behind_an_upgrade_are_opaque_only_after_it_was_agreed() {
    let mut stream = judged();
    let told = tell_from(&mut stream, &[WEBSOCKET, BLOCKED].concat(), &[]);
    assert!(matches!(told[..], [Told::Head(_), Told::AwaitUpgrade]), "{told:?}");
    stream.upgraded();
    assert_eq!(tell_from(&mut stream, BLOCKED, &[]), [Told::Opaque(BLOCKED.len())]);
}

#[test]
fn bytes_behind_a_declined_upgrade_are_requests() {
    let mut stream = judged();
    tell_from(&mut stream, WEBSOCKET, &[]);
    stream.upgrade_declined();
    let told = tell_from(&mut stream, BLOCKED, &[]);
    assert!(matches!(&told[..], [Told::Head(head)] if name(head) == Some("blocked.example")));
}

#[test]
fn an_upgrade_answered_early_waits_for_the_end_of_its_body() {
    let with_body =
        b"POST / HTTP/1.1\r\nHost: a.example\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\n12";
    let mut stream = judged();
    tell_from(&mut stream, with_body, &[]);
    stream.upgraded();
    let told = tell_from(&mut stream, b"34xyz", &[]);
    assert_eq!(told, [Told::Body { bytes: 2, ends: true }, Told::Opaque(3)]);

    let mut stream = judged();
    tell_from(&mut stream, with_body, &[]);
    stream.upgrade_declined();
    let told = tell_from(&mut stream, &[b"34", BLOCKED].concat(), &[]);
    assert!(matches!(told[..], [Told::Body { bytes: 2, ends: true }, Told::Head(_)]));
}

#[test]
fn a_large_body_may_pass_unseen() {
    let mut stream = judged();
    assert_eq!(stream.body_left(), 0);
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\n";
    tell_from(&mut stream, format!("{post}0123456789").as_bytes(), &[]);
    assert_eq!(stream.body_left(), 990);
    assert!(!stream.skip_body(900));
    assert!(!stream.is_between_requests());
    assert!(stream.skip_body(90));
    assert!(stream.is_between_requests());
    assert_eq!(stream.request_bytes(), (post.len() as u64 + 1000, 1000));
    let told = tell_from(&mut stream, BLOCKED, &[]);
    assert!(matches!(told[..], [Told::Head(_)]));
}

#[test]
fn a_body_is_counted_without_framing() {
    let mut stream = judged();
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
    tell_from(&mut stream, post.as_bytes(), &[]);
    assert_eq!(stream.request_bytes(), (post.len() as u64, 6));
    tell_from(&mut stream, BLOCKED, &[]);
    assert_eq!(stream.request_bytes(), (BLOCKED.len() as u64, 0));
}

#[test]
fn an_end_within_a_request_is_told_from_one_between_two() {
    let mut stream = judged();
    assert!(stream.is_between_requests());
    assert_eq!(stream.next(b"GET / HT"), RequestStep::NeedMore);
    assert!(!stream.is_between_requests());
    tell_from(&mut stream, BLOCKED, &[]);
    assert!(stream.is_between_requests());
}

/// Streams of requests, most of them good, with a byte of junk now and then.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let head = "(GET|POST|HEAD) /[a-z]{0,5} HTTP/1\\.[01]\r\n(Host: [a-z]{1,5}\\.example\r\n)?\
                (A: [a-z]{0,9}\r\n)?(Connection: (close|keep-alive)\r\n)?";
    let body = prop_oneof![
        3 => Just(String::from("\r\n")),
        2 => "[a-z]{0,20}".prop_map(|b| format!("Content-Length: {}\r\n\r\n{b}", b.len())),
        2 => prop::collection::vec("[a-z\r\n]{1,20}", 0..4).prop_map(|chunks| {
            let chunks: String =
                chunks.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
            format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
        }),
        1 => Just(String::from("Upgrade: websocket\r\n\r\n")),
    ];
    let junk = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (prop::collection::vec((head, body), 1..4), junk).prop_map(|(requests, junk)| {
        let mut bytes: Vec<u8> =
            requests.into_iter().flat_map(|(head, body)| (head + &body).into_bytes()).collect();
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
        bytes in requests(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut cuts: Vec<usize> =
            cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = tell(&bytes);
        let cut = tell_from(&mut judged(), &bytes, &cuts);
        prop_assert_eq!(&cut, &whole);
        let slowly = tell_from(&mut judged(), &bytes, &each_byte(&bytes));
        prop_assert_eq!(&slowly, &whole);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let whole = tell(&bytes);
        let slowly = tell_from(&mut judged(), &bytes, &each_byte(&bytes));
        prop_assert_eq!(slowly, whole);
    }
}
