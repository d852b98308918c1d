//! The rules one by one, and that both protocols keep them.

use super::*;
use crate::http1::{RequestStep, RequestStream};
use crate::http2::hpack::testing::{Coding, Encoder, Form};
use crate::http2::{FrameStep, Malformed, RequestFrames};

#[test]
fn names_are_compared_by_their_letters_and_digits() {
    for name in [
        "Transfer_Encoding",
        "TRANSFER-ENCODING_",
        "transferencoding",
        "Content_Length",
        "content.length",
        "-host",
        "h-o-s-t",
        "HOST!",
        "T-E",
        "~trailer",
        "ex.pect",
        "Con-nection",
        "up'grade",
    ] {
        assert!(is_alias(name.as_bytes()), "{name}");
    }
    for name in [
        "Accept",
        "Cookie",
        "Content-Type",
        "Content-Length-2",
        "X-Host",
        "Hosts",
        "Ghost",
        "User-Agent",
        "Accept-Encoding",
        "Transfer-Encodings",
        "TTE",
        "Date",
        "-",
    ] {
        assert!(!is_alias(name.as_bytes()), "{name}");
    }
}

#[test]
fn a_path_behind_two_slashes_is_one_if_it_names_no_other_host() {
    let host = Authority::parse(b"a.example").unwrap();
    for (text, is_path) in [
        ("/", true),
        ("/a//b.example/", true),
        ("//", true),
        ("//api/v1", true),
        ("//api?to=b.example", true),
        ("///b.example/", true),
        ("//a.example/x", true),
        ("//A.EXAMPLE.:80/x", true),
        ("//a.example:81/x", false),
        ("//b.example/x", false),
        ("//b.example", false),
        ("//b.example?x", false),
        ("/\\b.example/x", false),
        ("//b.example\\@a.example/", false),
        ("//b@c/", false),
        ("//[::1]/", false),
        ("//b:80/", false),
        ("//api/?a://b", false),
        ("/api/?a=http://b.example/", true),
        ("/x#y", false),
    ] {
        let expected = if is_path { Ok(()) } else { Err(RequestError::BadTarget) };
        assert_eq!(path(text.as_bytes(), Some(&host), 80), expected, "{text}");
    }
}

#[test]
fn trailers_neither_route_nor_look_like_a_request() {
    for (name, value, is_trailer) in [
        ("Checksum", "sha256 0a", true),
        ("grpc-status", "0", true),
        ("Link", "<http://a.example/>", true),
        ("Via", "1.1 http/a", true),
        ("host", "b.example", false),
        ("Content_Length", "5", false),
        ("Trailer", "x", false),
        ("Forwarded", "host=b", false),
        ("X_Forwarded_Host", "b", false),
        ("X-Original-URL", "/", false),
        ("Keep-Alive", "5", false),
        ("X", "GET /smuggled HTTP/1.1", false),
        ("X", " HTTP/1.0", false),
        ("X", "HTTP/1.0", false),
        ("X", "/\tHtTp/1.1 ", false),
    ] {
        let expected = if is_trailer { Ok(()) } else { Err(RequestError::ForbiddenTrailer) };
        assert_eq!(trailer(name.as_bytes(), value.as_bytes()), expected, "{name}: {value}");
    }
}

/// What is asked for, and how HTTP/2 and HTTP/1 refuse it.
struct Case {
    method: &'static str,
    path: &'static str,
    fields: &'static [(&'static str, &'static str)],
    trailers: &'static [(&'static str, &'static str)],
    refusal: Option<RequestError>,
}

const GET: Case = Case { method: "GET", path: "/", fields: &[], trailers: &[], refusal: None };
const POST: Case = Case { method: "POST", ..GET };

#[test]
fn both_protocols_have_one_judge() {
    use RequestError as R;
    let table = [
        GET,
        Case { fields: &[("expect", "100-continue")], ..POST },
        Case { fields: &[("x", "\u{e9}")], ..GET },
        Case { trailers: &[("checksum", "1"), ("x", "\u{e9}")], ..POST },
        Case { method: "get", refusal: Some(R::BadMethod), ..GET },
        Case { method: "Delete", refusal: Some(R::BadMethod), ..GET },
        Case { path: "//b.example/", refusal: Some(R::BadTarget), ..GET },
        Case { path: "/#", refusal: Some(R::BadTarget), ..GET },
        Case { path: "*", refusal: Some(R::BadTarget), ..GET },
        Case { fields: &[("expect", "x")], refusal: Some(R::BadExpectation), ..POST },
        Case { fields: &[("transfer_encoding", "x")], refusal: Some(R::AliasedField), ..POST },
        Case { fields: &[("x", "a\u{1}b")], refusal: Some(R::BadFieldValue), ..GET },
        Case { fields: &[("content-length", "+1")], refusal: Some(R::BadLength), ..POST },
        Case {
            fields: &[("content-length", "0000000000000000001")],
            refusal: Some(R::BadLength),
            ..POST
        },
        Case {
            fields: &[("content-length", "1"), ("content-length", "1")],
            refusal: Some(R::SeveralLengths),
            ..POST
        },
        Case { fields: &[("content-length", "1")], refusal: Some(R::UnexpectedBody), ..GET },
        Case {
            method: "TRACE",
            fields: &[("content-length", "1")],
            refusal: Some(R::TraceBody),
            ..GET
        },
        Case { trailers: &[("host", "b.example")], refusal: Some(R::ForbiddenTrailer), ..POST },
        Case { trailers: &[("x", "/ HTTP/1.1")], refusal: Some(R::ForbiddenTrailer), ..POST },
    ];
    for case in table {
        let shown = (case.method, case.path, case.fields, case.trailers);
        assert_eq!(by_http1(&case), case.refusal, "HTTP/1: {shown:?}");
        assert_eq!(by_http2(&case), case.refusal, "HTTP/2: {shown:?}");
    }
}

fn by_http1(case: &Case) -> Option<RequestError> {
    let lines = |fields: &[(&str, &str)]| -> String {
        fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
    };
    let Case { method, path, fields, trailers, .. } = case;
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: a.example\r\n{}", lines(fields));
    match trailers {
        [] => text += "\r\n",
        _ => text += &format!("transfer-encoding: chunked\r\n\r\n0\r\n{}\r\n", lines(trailers)),
    }
    let mut stream = RequestStream::new(Some(Rules::default()));
    let mut taken = 0;
    while taken < text.len() {
        taken += match stream.next(&text.as_bytes()[taken..]) {
            RequestStep::Head(head) => head.head_len,
            RequestStep::Body { bytes, .. } => bytes,
            RequestStep::Refused(error) => return Some(error),
            RequestStep::NeedMore
            | RequestStep::AwaitUpgrade
            | RequestStep::Opaque { .. }
            | RequestStep::Discard { .. } => return None,
        };
    }
    None
}

fn by_http2(case: &Case) -> Option<RequestError> {
    let pseudo = [
        (":method", case.method),
        (":scheme", "http"),
        (":path", case.path),
        (":authority", "a.example"),
    ];
    let mut encoder = Encoder::default();
    let mut block = |fields: &[(&str, &str)]| {
        for (name, value) in fields {
            encoder.field(name.as_bytes(), value.as_bytes(), Form::Shortest, Coding::Huffman);
        }
        let block = encoder.take();
        let length = u8::try_from(block.len()).unwrap();
        [&[0, 0, length, 1, 4, 0, 0, 0, 1], &*block].concat()
    };
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    bytes.extend(block(&[&pseudo, case.fields].concat()));
    bytes.extend(block(case.trailers));
    let mut frames = RequestFrames::judged(Rules::default());
    let mut taken = 0;
    while taken < bytes.len() {
        taken += match frames.next(&bytes[taken..]) {
            FrameStep::Pass { bytes } => bytes,
            FrameStep::Request { bytes, .. } => bytes,
            FrameStep::Malformed { error: Malformed::Request(error), .. }
            | FrameStep::Reset { error: Some(Malformed::Request(error)), .. } => {
                return Some(error);
            }
            other => panic!("{other:?}"),
        };
    }
    None
}
