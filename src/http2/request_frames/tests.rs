//! Frames: the tables of what is accepted and refused, and that no cut changes what is told.

use proptest::prelude::*;

use super::*;
use crate::http2::frame::{END_HEADERS, PADDED, PRIORITY_FLAG, RST_STREAM};
use crate::http2::hpack::HpackError;
use crate::http2::hpack::testing::{Coding, Encoder, Form};
use crate::http2::testing::frame;
use crate::http2::{Asked, BLOCK_BYTES_MAX, Claimed, METHOD_BYTES_MAX, PATH_BYTES_MAX};
use crate::sniff::{Host, NameError};

const DATA: u8 = 0x0;
const WINDOW_UPDATE: u8 = 0x8;
const END_STREAM: u8 = 0x1;
/// A type that nobody has defined.
const UNKNOWN: u8 = 0xfa;

/// What was told about a stream of bytes, what passes in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Pass(usize),
    Request { bytes: usize, stream: u32, claimed: Claimed },
    Refused(FrameError),
    Malformed(u32, Malformed),
    Dropped(usize),
    Reset(u32, Option<Malformed>),
}

fn judged() -> RequestFrames {
    RequestFrames::judged(Rules::default())
}

/// Shows `bytes` to `frames` as they arrive, up to each of the `cuts`.
fn tell_from(frames: &mut RequestFrames, bytes: &[u8], cuts: &[usize]) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let mut taken = 0;
    for arrived in cuts.iter().copied().chain([bytes.len()]) {
        loop {
            let (now, len) = match frames.next(&bytes[taken..arrived]) {
                FrameStep::NeedMore => break,
                FrameStep::Refused(error) => {
                    told.push(Told::Refused(error));
                    assert_eq!(frames.next(&bytes[taken..]), FrameStep::Refused(error));
                    return told;
                }
                FrameStep::Pass { bytes }
                | FrameStep::SettingsAck { bytes }
                | FrameStep::Settings { bytes }
                | FrameStep::Ping { bytes, .. } => (Told::Pass(bytes), bytes),
                FrameStep::Malformed { bytes, stream, error, .. } => {
                    (Told::Malformed(stream, error), bytes)
                }
                FrameStep::Drop { bytes, .. } => (Told::Dropped(bytes), bytes),
                FrameStep::Reset { bytes, stream, error, .. } => {
                    told.push(Told::Reset(stream, error));
                    (Told::Dropped(bytes), bytes)
                }
                FrameStep::Request { bytes, stream, authority } => {
                    (Told::Request { bytes, stream, claimed: authority }, bytes)
                }
            };
            assert!(len > 0 && taken + len <= arrived, "a step takes some of what is there");
            taken += len;
            match (told.last_mut(), now) {
                (Some(Told::Pass(before)), Told::Pass(bytes))
                | (Some(Told::Dropped(before)), Told::Dropped(bytes)) => *before += bytes,
                (_, now) => told.push(now),
            }
        }
    }
    told
}

/// What is told about `frames` behind the client's SETTINGS.
fn tell(frames: &[u8]) -> Vec<Told> {
    let bytes = [settings(), frames.to_vec()].concat();
    let mut told = tell_from(&mut judged(), &bytes, &[]);
    match told.first_mut() {
        Some(Told::Pass(bytes)) if *bytes == settings().len() => drop(told.remove(0)),
        Some(Told::Pass(bytes)) => *bytes -= settings().len(),
        other => panic!("{other:?}"),
    }
    told
}

/// The one request in `frames`.
fn claimed(frames: &[u8]) -> Claimed {
    match tell(frames).as_slice() {
        [Told::Request { claimed, .. }] => claimed.clone(),
        other => panic!("{other:?}"),
    }
}

fn refused(frames: &[u8]) -> FrameError {
    match tell(frames).last() {
        Some(Told::Refused(error)) => *error,
        other => panic!("{other:?}"),
    }
}

/// Why the last request in `frames`, or its trailers, may not pass.
fn malformed(frames: &[u8]) -> RequestError {
    let told = tell(frames);
    let mut errors = told.iter().filter_map(|told| match told {
        Told::Malformed(_, Malformed::Request(error))
        | Told::Reset(_, Some(Malformed::Request(error))) => Some(*error),
        Told::Malformed(..)
        | Told::Refused(_)
        | Told::Reset(..)
        | Told::Pass(_)
        | Told::Request { .. }
        | Told::Dropped(_) => None,
    });
    errors.next_back().unwrap_or_else(|| panic!("{told:?}"))
}

fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])
}

fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), Form::Shortest, Coding::Huffman);
    }
    encoder.take()
}

/// A request's pseudo-header fields, and behind them `more`.
fn fields<'a>(authority: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let start =
        [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", authority)];
    [&start, more].concat()
}

/// HEADERS of a request to `authority` that need no table.
fn get(stream: u32, authority: &str) -> Vec<u8> {
    headers(stream, &block(&fields(authority, &[])))
}

fn host(text: &str) -> Host {
    Host::parse(text.as_bytes()).unwrap()
}

/// The name of a host, as a test writes it.
fn name(host: &Host) -> &str {
    match host {
        Host::Name(name) => name.as_str(),
        Host::Address(_) => "-",
    }
}

#[test]
fn a_request_tells_what_is_asked_of_whom() {
    let request = get(1, "A.Example.:8080");
    let told = tell(&request);
    let claimed = Claimed {
        host: host("a.example"),
        conflict: false,
        asked: Asked { method: (*b"GET").into(), path: (*b"/").into() },
        is_grpc: false,
    };
    assert_eq!(told, [Told::Request { bytes: request.len(), stream: 1, claimed }]);
}

#[test]
fn each_request_of_a_connection_is_told_before_its_bytes() {
    let stream = [
        frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]),
        get(1, "a.example"),
        frame(DATA, 0, 1, &[0; 300]),
        get(5, "b.example"),
        frame(UNKNOWN, 0xff, 77, b"whatever"),
        frame(DATA, END_STREAM, 5, b""),
        get(7, "a.example"),
    ];
    let told = tell(&stream.concat());
    let names: Vec<_> = told
        .iter()
        .map(|told| match told {
            Told::Pass(bytes) => (0, format!("{bytes}")),
            Told::Request { stream, claimed, .. } => (*stream, name(&claimed.host).to_owned()),
            other => panic!("{other:?}"),
        })
        .collect();
    let names: Vec<_> = names.iter().map(|(stream, text)| (*stream, text.as_str())).collect();
    let (a, b) = ("a.example", "b.example");
    assert_eq!(names, [(0, "13"), (1, a), (0, "309"), (5, b), (0, "26"), (7, a)]);
}

#[test]
fn host_stands_in_for_authority_and_must_agree_with_it() {
    let with = |scheme, authority: Option<&str>, host: Option<&str>| {
        let mut fields = vec![(":method", "GET"), (":scheme", scheme), (":path", "/")];
        fields.extend(authority.map(|authority| (":authority", authority)));
        fields.extend(host.map(|host| ("host", host)));
        claimed(&headers(1, &block(&fields)))
    };
    let alone = with("https", None, Some("a.example:81"));
    assert_eq!((alone.host, alone.conflict), (host("a.example"), false));
    for (scheme, authority, host, conflict) in [
        ("http", "a.example", "A.EXAMPLE.", false),
        ("http", "a.example:80", "a.example", false),
        ("https", "a.example:443", "a.example", false),
        ("HTTPS", "a.example", "a.example:80", true),
        ("http", "a.example", "b.example", true),
        ("http", "a.example:1", "a.example:2", true),
        ("http", "192.0.2.1", "192.0.2.2", true),
    ] {
        let both = with(scheme, Some(authority), Some(host));
        assert_eq!(both.conflict, conflict, "{scheme} {authority} {host}");
        let first = with(scheme, Some(authority), None);
        assert_eq!(both.host, first.host, ":authority is told");
    }
    assert_eq!(with("http", Some("[2001:db8::1]:80"), None).host, host("[2001:db8::1]"));
}

#[test]
fn what_the_log_keeps_is_bounded() {
    let (method, path) = ("M".repeat(100), format!("/{}", "p".repeat(9000)));
    let fields = [(":method", &*method), (":scheme", "http"), (":path", &*path), ("host", "a.b")];
    let claimed = claimed(&headers(1, &block(&fields)));
    assert_eq!(*claimed.asked.method, method.as_bytes()[..METHOD_BYTES_MAX]);
    assert_eq!(*claimed.asked.path, path.as_bytes()[..PATH_BYTES_MAX]);
}

#[test]
fn each_malformed_request_has_its_reason() {
    let (m, s, p, a) =
        ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"));
    let method = |method| [(":method", method), s, p, a];
    let path = |path| [m, s, (":path", path), a];
    let more = |name, value| [m, s, p, a, (name, value)];
    let malformed = |fields: &[(&str, &str)]| malformed(&headers(1, &block(fields)));
    for (fields, reason) in [
        (&[s, p, a][..], RequestError::MissingField),
        (&[m, p, a], RequestError::MissingField),
        (&[m, s, a], RequestError::MissingField),
        (&[], RequestError::MissingField),
        (&[m, s, p], RequestError::NoHost),
        (&[m, s, p, a, a], RequestError::BadPseudoField),
        (&[m, m, s, p, a], RequestError::BadPseudoField),
        (&[m, s, p, ("x", ""), a], RequestError::BadPseudoField),
        (&more(":status", "200"), RequestError::BadPseudoField),
        (&more(":", ""), RequestError::BadPseudoField),
        (&more(":protocol", "websocket"), RequestError::Connect),
        (&method("CONNECT"), RequestError::Connect),
        (&[("x", ""), (":protocol", "websocket")], RequestError::BadPseudoField),
        (&method(""), RequestError::BadMethod),
        (&method("G T"), RequestError::BadMethod),
        (&[m, (":scheme", "ftp"), p, a], RequestError::BadScheme),
        (&path(""), RequestError::BadTarget),
        (&path("http://b.example/"), RequestError::BadTarget),
        (&path("/ HTTP/1.1"), RequestError::BadTarget),
        (&path("*/"), RequestError::BadTarget),
        (&path("*"), RequestError::BadTarget),
        (&path("/\u{7f}"), RequestError::BadFieldValue),
        (&more("X", ""), RequestError::BadFieldName),
        (&more("Host", "b.example"), RequestError::BadFieldName),
        (&more("host ", "b.example"), RequestError::BadFieldName),
        (&more("", ""), RequestError::BadFieldName),
        (&more("x:", ""), RequestError::BadFieldName),
        (&more("x", "\r\nhost: b.example"), RequestError::BadFieldValue),
        (&more("x", "\0"), RequestError::BadFieldValue),
        (&more("x-bin", "a\0"), RequestError::BadFieldValue),
        (&more("x-bin", "\r\0"), RequestError::BadFieldValue),
        (&more("transfer-encoding", "chunked"), RequestError::ConnectionField),
        (&more("connection", "close"), RequestError::ConnectionField),
        (&more("te", "chunked"), RequestError::ConnectionField),
        (&more("x", " y"), RequestError::BadFieldValue),
        (&more("x", "y\t"), RequestError::BadFieldValue),
        (&more("content-length", "52\u{b}"), RequestError::BadFieldValue),
        (&more("content-length", " 52"), RequestError::BadFieldValue),
        (&[m, s, p, a, ("host", "a"), ("host", "a")], RequestError::SeveralHosts),
        (&more("host", "b@a"), RequestError::BadHost(NameError::BadByte)),
        (&[m, s, p, (":authority", "")], RequestError::BadHost(NameError::Empty)),
        (&[m, s, p, (":authority", "b:0")], RequestError::BadHost(NameError::BadPort)),
    ] {
        assert_eq!(malformed(fields), reason, "{fields:?}");
    }
    let options = [(":method", "OPTIONS"), s, (":path", "*"), a];
    assert_eq!(*claimed(&headers(1, &block(&options))).asked.path, *b"*");
    claimed(&headers(1, &block(&more("te", "trailers"))));
}

#[test]
fn an_extended_connect_is_a_request_like_others() {
    let with = |method| {
        let fields = [
            (":method", method),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/chat"),
            (":authority", "a.example"),
        ];
        frame(HEADERS, END_HEADERS, 1, &block(&fields))
    };
    let opaque = frame(DATA, 0, 1, b"whatever");
    let told = tell(&[with("CONNECT"), opaque.clone()].concat());
    assert!(matches!(&told[..], [Told::Request { stream: 1, .. }, Told::Pass(17)]), "{told:?}");
    assert_eq!(malformed(&with("GET")), RequestError::Connect);
}

#[test]
fn raw_metadata_needs_a_server_that_takes_it() {
    let with = |name| headers(1, &block(&fields("a.example", &[(name, "\0\r\n\0")])));
    let told = |name, raw_binary| {
        let mut frames = judged();
        frames.set_raw_binary(raw_binary);
        let bytes = [settings(), with(name)].concat();
        tell_from(&mut frames, &bytes, &[]).pop().unwrap()
    };
    let bad = Told::Malformed(1, RequestError::BadFieldValue.into());
    assert_eq!(told("x-bin", RawBinary::Refused), bad);
    assert_eq!(told("x", RawBinary::Accepted), bad);
    assert!(matches!(told("x-bin", RawBinary::Accepted), Told::Request { .. }));
}

/// A request without an end, with this method and these fields.
fn open(stream: u32, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let start = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    frame(HEADERS, END_HEADERS, stream, &block(&[&start, more].concat()))
}

#[test]
fn until_the_server_has_spoken_the_initial_limit_of_a_frame_holds() {
    let request = [settings(), open(1, "POST", &[])].concat();
    for (size, passes_at_first) in [(16_384, true), (16_385, false)] {
        let body = frame(DATA, 0, 1, &vec![0; size]);
        let told = |frames: &mut RequestFrames| {
            tell_from(frames, &request, &[]);
            tell_from(frames, &body, &[])
        };
        let error = FrameError::BadFrame(crate::http2::ErrorCode::FrameSize);
        let expected = if passes_at_first { Told::Pass(9 + size) } else { Told::Refused(error) };
        assert_eq!(told(&mut judged()), [expected]);
        let mut frames = judged();
        frames.server_has_spoken();
        assert_eq!(told(&mut frames), [Told::Pass(9 + size)]);
    }
}

#[test]
fn a_body_that_nothing_announces_ends_a_stream_whose_method_has_none() {
    let length = [("content-length", "3")];
    let body = frame(DATA, 0, 1, b"abc");
    let reset =
        [Told::Reset(1, Some(RequestError::UnannouncedBody.into())), Told::Dropped(body.len())];
    for (method, more, is_reset) in [
        ("GET", &[][..], true),
        ("HEAD", &[], true),
        ("DELETE", &[], true),
        ("OPTIONS", &[], true),
        ("TRACE", &[], true),
        ("GET", &[("content-length", "0")], true),
        ("DELETE", &length, false),
        ("POST", &[], false),
        ("PATCH", &[], false),
    ] {
        let request = open(1, method, more);
        let told = tell(&[&request[..], &body].concat());
        let expected = if is_reset { &reset[..] } else { &[Told::Pass(body.len())] };
        assert_eq!(&told[1..], expected, "{method} {more:?}");
        let empty = frame(DATA, END_STREAM, 1, b"");
        let told = tell(&[&request[..], &empty].concat());
        assert_eq!(told[1..], [Told::Pass(9)], "{method}: an end is no body");
    }
    // What the client sends before it has read the reset goes no further; other streams do.
    let more = [
        open(1, "GET", &[]),
        open(3, "POST", &[]),
        body.clone(),
        frame(DATA, 0, 1, b"d"),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]),
        frame(DATA, END_STREAM, 3, b"other"),
        frame(DATA, END_STREAM, 1, b""),
    ];
    let bytes = more.concat();
    let told = tell(&bytes);
    let dropped = body.len() + 10 + 13;
    let expected = [
        Told::Reset(1, Some(RequestError::UnannouncedBody.into())),
        Told::Dropped(dropped),
        Told::Pass(14),
        Told::Dropped(9),
    ];
    assert_eq!(told[2..], expected);
    let bytes = [settings(), bytes].concat();
    let each: Vec<usize> = (1..bytes.len()).collect();
    let slowly = tell_from(&mut RequestFrames::default(), &bytes, &each);
    assert_eq!(slowly[slowly.len() - 4..], expected);
}

#[test]
fn behind_a_request_that_did_not_pass_no_header_block_does() {
    let mut frames = RequestFrames::default();
    let first = [settings(), open(1, "POST", &[]), open(3, "POST", &[]), get(5, "b")].concat();
    tell_from(&mut frames, &first, &[]);
    frames.refuse();
    assert!(!frames.passes_blocks());
    let body = frame(DATA, 0, 1, b"abc");
    let trailers = headers(3, &block(&[("x", "y")]));
    let later = [get(7, "a"), frame(DATA, 0, 7, b"late"), frame(DATA, 0, 5, b"refused")].concat();
    let cut = frame(HEADERS, 0, 9, b"");
    let rest = frame(CONTINUATION, END_HEADERS, 9, b"\x82");
    let ping = frame(PING, 0, 0, &[7; 8]);
    let all = [&body[..], &trailers, &later, &cut, &rest, &ping, &body].concat();
    let expected = [
        Told::Pass(body.len()),
        Told::Reset(3, None),
        Told::Dropped(trailers.len() + later.len() + cut.len() + rest.len()),
        Told::Pass(ping.len() + body.len()),
    ];
    assert_eq!(tell_from(&mut frames, &all, &[]), expected);
    assert!(!frames.streams().are_over());
    let end = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    assert_eq!(tell_from(&mut frames, &end, &[]), [Told::Pass(end.len())]);
    assert!(frames.streams().are_over());
}

#[test]
fn what_is_dropped_is_given_back_once() {
    let mut frames = RequestFrames::default();
    tell_from(&mut frames, &[settings(), get(1, "a")].concat(), &[]);
    frames.refuse();
    let body = frame(DATA, 0, 1, &[0; 300]);
    let steps = [frames.next(&body[..100]), frames.next(&body[100..])];
    let expected = [(100, 300), (209, 0)].map(|(bytes, credit)| FrameStep::Drop { bytes, credit });
    assert_eq!(steps, expected);
}

#[test]
fn more_streams_than_are_followed_are_refused() {
    let mut frames = RequestFrames::default();
    tell_from(&mut frames, &settings(), &[]);
    for stream in (1_u32..).step_by(2).take(4096) {
        assert!(matches!(frames.next(&get(stream, "a")), FrameStep::Request { .. }));
    }
    let error = FrameError::TooManyStreams;
    assert!(matches!(
        frames.next(&get(8193, "a")),
        FrameStep::Malformed { stream: 8193, error: Malformed::Frames(told), .. } if told == error
    ));
}

#[test]
fn before_the_first_request_settings_and_pings_are_told() {
    let mut frames = RequestFrames::opening(Rules::default());
    let ping = frame(PING, 0, 0, b"12345678");
    let window = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]);
    assert_eq!(frames.next(&settings()[..14]), FrameStep::NeedMore);
    assert_eq!(frames.next(&settings()), FrameStep::Settings { bytes: 15 });
    assert_eq!(frames.next(&window), FrameStep::Pass { bytes: 13 });
    let told = FrameStep::Ping { bytes: 17, data: *b"12345678" };
    assert_eq!([frames.next(&ping[..16]), frames.next(&ping)], [FrameStep::NeedMore, told]);
    let get = get(1, "a");
    assert!(matches!(frames.next(&get), FrameStep::Request { stream: 1, .. }));
    assert_eq!(frames.next(&ping), FrameStep::Pass { bytes: 17 }, "the server answers now");
}

#[test]
fn each_bad_frame_has_its_reason() {
    let block = block(&fields("a.example", &[]));
    let open = frame(HEADERS, 0, 1, &block[..5]);
    let then = |next: Vec<u8>| [open.clone(), next].concat();
    let padded = |flags, payload: &[u8]| frame(HEADERS, END_HEADERS | flags, 1, payload);
    for (what, frames, reason) in [
        ("stream 0", headers(0, &block), FrameError::BadStream),
        ("a server's stream", headers(2, &block), FrameError::BadStream),
        ("a push", frame(PUSH_PROMISE, END_HEADERS, 1, &block), FrameError::PushPromise),
        ("no beginning", frame(CONTINUATION, END_HEADERS, 1, &block), FrameError::BrokenBlock),
        ("DATA within", then(frame(DATA, 0, 1, b"")), FrameError::BrokenBlock),
        ("HEADERS within", then(headers(3, &block)), FrameError::BrokenBlock),
        ("unknown within", then(frame(UNKNOWN, 0, 0, b"")), FrameError::BrokenBlock),
        ("another's", then(frame(CONTINUATION, 4, 3, &block)), FrameError::BrokenBlock),
        ("no pad length", padded(PADDED, b""), FrameError::BadPadding),
        ("all padding", padded(PADDED, b"\x01"), FrameError::BadPadding),
        ("no priority", padded(PRIORITY_FLAG, b"1234"), FrameError::BadPadding),
        ("both", padded(PADDED | PRIORITY_FLAG, b"\x0112345"), FrameError::BadPadding),
        ("not HPACK", headers(1, b"\x80"), FrameError::Hpack(HpackError::BadIndex)),
        ("cut", headers(1, &block[..block.len() - 1]), FrameError::Hpack(HpackError::Truncated)),
    ] {
        assert_eq!(refused(&frames), reason, "{what}");
    }
    let first = |frame: &[u8]| judged().next(frame);
    let no_settings = FrameStep::Refused(FrameError::NoSettings);
    assert_eq!(first(&get(1, "a.example")), no_settings);
    assert_eq!(first(&frame(SETTINGS, ACK, 0, b"")), no_settings);
    assert_eq!(first(&frame(SETTINGS, 0, 1, b"")), no_settings);
    assert_eq!(first(&settings()), FrameStep::Pass { bytes: 15 });
}

#[test]
fn padding_priority_and_continuations_hide_nothing() {
    let block = block(&fields("a.example", &[]));
    let (start, end) = block.split_at(3);
    let padded = [&[4], &[0x80, 0, 0, 0, 16][..], start, &[0xbe; 4]].concat();
    let reserved = 0x8000_0000;
    let frames = [
        frame(HEADERS, PADDED | PRIORITY_FLAG | END_STREAM, 1 | reserved, &padded),
        frame(CONTINUATION, 0, 1, b""),
        // The bits of PADDED and PRIORITY mean nothing here.
        frame(CONTINUATION, PADDED | PRIORITY_FLAG, 1, &end[..1]),
        frame(CONTINUATION, END_HEADERS, 1, &end[1..]),
    ];
    let frames = frames.concat();
    match tell(&frames).as_slice() {
        [Told::Request { bytes, stream: 1, claimed }] => {
            assert_eq!(*bytes, frames.len());
            assert_eq!(claimed.host, host("a.example"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn trailers_are_no_request_and_keep_the_table_in_step() {
    let mut encoder = Encoder::default();
    let mut add = |fields: &[(&str, &str)]| {
        for (name, value) in fields {
            encoder.field(name.as_bytes(), value.as_bytes(), Form::Shortest, Coding::Raw);
        }
        encoder.take()
    };
    let request = frame(HEADERS, END_HEADERS, 1, &add(&fields("a.example", &[])));
    let trailers = headers(1, &add(&[("grpc-status", "0"), ("x", "y")]));
    // By index: two entries further back than without the trailers.
    let next = headers(3, &add(&fields("a.example", &[("x", "y")])));
    let told = tell(&[request, trailers.clone(), next].concat());
    match told.as_slice() {
        [Told::Request { .. }, Told::Pass(bytes), Told::Request { stream: 3, claimed, .. }] => {
            assert_eq!(*bytes, trailers.len());
            assert_eq!(claimed.host, host("a.example"));
        }
        other => panic!("{other:?}"),
    }

    let late = |late: Vec<u8>| malformed(&[get(5, "a.example"), late].concat());
    assert_eq!(late(get(5, "b.example")), RequestError::PseudoInTrailers);
    assert_eq!(late(get(3, "b.example")), RequestError::PseudoInTrailers);
    assert_eq!(late(headers(5, &block(&[("X", "")]))), RequestError::BadFieldName);
    assert_eq!(late(headers(5, &block(&[("host", "b")]))), RequestError::ForbiddenTrailer);
}

#[test]
fn behind_a_malformed_request_the_next_one_is_read() {
    let bad = headers(1, &block(&fields("a.example", &[("connection", "close")])));
    let told = tell(&[bad, get(3, "b.example")].concat());
    let [Told::Malformed(1, error), Told::Request { stream: 3, .. }] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(*error, RequestError::ConnectionField.into());
}

#[test]
fn a_long_block_is_refused_by_its_length_before_it_is_held() {
    let held = BLOCK_BYTES_MAX - FRAME_HEADER_BYTES;
    let with = |payload_bytes: usize, flags| {
        let mut frames = judged();
        frames.next(&settings());
        frames.next(&frame(HEADERS, flags, 1, &vec![0; payload_bytes])[..FRAME_HEADER_BYTES])
    };
    let too_large = FrameStep::Refused(FrameError::HeadTooLarge);
    assert_eq!(with(held, END_HEADERS), FrameStep::NeedMore);
    assert_eq!(with(held + 1, END_HEADERS), too_large);
    assert_eq!(with(held - FRAME_HEADER_BYTES, 0), FrameStep::NeedMore);
    assert_eq!(with(held - FRAME_HEADER_BYTES + 1, 0), too_large);
}

#[test]
fn a_flood_of_continuations_is_refused() {
    let mut stream = frame(HEADERS, 0, 1, b"\x82");
    while stream.len() < BLOCK_BYTES_MAX {
        stream.extend(frame(CONTINUATION, 0, 1, b""));
    }
    assert_eq!(refused(&stream), FrameError::HeadTooLarge);
}

#[test]
fn a_long_frame_passes_as_it_comes() {
    let mut frames = judged();
    frames.server_has_spoken();
    assert_eq!(frames.next(&settings()), FrameStep::Pass { bytes: 15 });
    assert!(frames.is_between_frames());
    let longest = [0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1];
    assert_eq!(frames.next(&longest[..8]), FrameStep::NeedMore);
    assert_eq!(frames.next(&longest), FrameStep::Pass { bytes: 9 });
    assert!(!frames.is_between_frames());
    let piece = vec![0; 32 * 1024];
    let mut left = (1 << 24) - 1;
    while left > 0 {
        let bytes = piece.len().min(left);
        assert_eq!(frames.next(&piece[..bytes]), FrameStep::Pass { bytes });
        left -= bytes;
    }
    assert!(frames.is_between_frames());
    let request = get(1, "a.example");
    assert!(matches!(frames.next(&request), FrameStep::Request { stream: 1, .. }));
    assert_eq!(frames.last_stream(), 1);
}

/// What real clients sent behind the preface, recorded between them and nginx (gRPC: grpcio).
#[test]
fn the_requests_of_real_clients_are_told() {
    macro_rules! recorded {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/fuzz/corpus/http2/", $name)).as_slice()
        };
    }
    let (a, b, c, d) = ("a.example", "b.example", "c.example", "d.example");
    let local = "-";
    for (client, bytes, asked) in [
        ("curl 7.88", recorded!("curl"), vec![a]),
        ("nghttp 1.52, trailers", recorded!("nghttp_trailers"), vec![b; 4]),
        ("nghttp 1.52, CONTINUATION", recorded!("nghttp_continuation"), vec![local]),
        ("nghttp 1.52, table of 64 KiB", recorded!("nghttp_table_64k"), vec![local; 2]),
        ("h2load 1.52", recorded!("h2load"), vec![c; 12]),
        ("h2load 1.52, no table", recorded!("h2load_no_table"), vec![c; 6]),
        ("grpcio 1.85", recorded!("grpc"), vec![d; 5]),
    ] {
        let mut frames = judged();
        // As its server has said.
        frames.set_raw_binary(RawBinary::Accepted);
        let each_byte: Vec<usize> = (1..bytes.len()).collect();
        let told = tell_from(&mut frames, bytes, &each_byte);
        let asks = told.iter().filter_map(|told| match told {
            Told::Pass(_) => None,
            Told::Refused(_) | Told::Malformed(..) | Told::Dropped(_) | Told::Reset(..) => {
                panic!("{client}: {told:?}")
            }
            Told::Request { claimed: Claimed { host, conflict, .. }, .. } => {
                assert!(!conflict, "{client}");
                Some(name(host))
            }
        });
        assert_eq!(asks.collect::<Vec<_>>(), asked, "{client}");
        assert!(frames.is_between_frames(), "{client}");
    }
}

/// A frame that may stand between requests.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..60);
    let kind = prop_oneof![Just(DATA), Just(SETTINGS), Just(WINDOW_UPDATE), Just(UNKNOWN)];
    (kind, any::<u8>(), any::<u32>(), payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

fn any_form() -> impl Strategy<Value = (Form, Coding)> {
    let form = prop_oneof![Just(Form::Shortest), Just(Form::Added), Just(Form::Plain)];
    (form, prop_oneof![Just(Coding::Raw), Just(Coding::Huffman)])
}

/// A block, cut into HEADERS and CONTINUATIONs.
fn in_frames(stream: u32, block: &[u8], piece_bytes: usize) -> Vec<u8> {
    let mut pieces = block.chunks(piece_bytes).peekable();
    let mut frames = Vec::new();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        frames.extend(frame(kind, flags, stream, piece));
        kind = CONTINUATION;
    }
    frames
}

proptest! {
    /// The authorities that a client asked for are told, in order, whatever else it sends between,
    /// and however the bytes are cut.
    #[test]
    fn each_requests_authority_is_told(
        requests in prop::collection::vec(
            ("[a-f]{1,3}\\.example", any_form(), 1..40_usize, any_frame(), any::<bool>()),
            1..12,
        ),
    ) {
        let mut encoder = Encoder::default();
        let mut bytes = settings();
        let mut asked = Vec::new();
        for (stream, (authority, (form, coding), piece_bytes, between, trailers)) in
            (1_u32..).step_by(2).zip(requests)
        {
            for (name, value) in fields(&authority, &[("x", &authority), ("cookie", "c=1")]) {
                encoder.field(name.as_bytes(), value.as_bytes(), form, coding);
            }
            bytes.extend(in_frames(stream, &encoder.take(), piece_bytes));
            bytes.extend(between);
            if trailers {
                encoder.field(b"x-late", authority.as_bytes(), Form::Added, coding);
                bytes.extend(in_frames(stream, &encoder.take(), piece_bytes));
            }
            asked.push((stream, authority));
        }
        let whole = tell_from(&mut judged(), &bytes, &[]);
        let told: Vec<_> = whole
            .iter()
            .filter_map(|told| match told {
                Told::Request { stream, claimed, .. } => {
                    Some((*stream, name(&claimed.host).to_owned()))
                }
                Told::Pass(_) => None,
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert_eq!(told, asked);
        let each_byte: Vec<usize> = (1..bytes.len()).collect();
        prop_assert_eq!(tell_from(&mut judged(), &bytes, &each_byte), whole);
    }

    /// One cut anywhere, in bytes that are no more than nearly right, changes nothing.
    #[test]
    fn a_cut_changes_nothing(
        frames in prop::collection::vec((any_frame(), "[a-c]\\.example"), 1..6),
        changed in (any::<prop::sample::Index>(), any::<u8>()),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = settings();
        for (stream, (frame, authority)) in (1_u32..).step_by(2).zip(&frames) {
            bytes.extend(frame);
            bytes.extend(get(stream, authority));
        }
        let at = changed.0.index(bytes.len());
        bytes[at] = changed.1;
        let whole = tell_from(&mut judged(), &bytes, &[]);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(tell_from(&mut judged(), &bytes, &[cut]), whole);
    }
}
