//! What holds for any bytes that a peer may send, and for any file. A property panics where it does
//! not.
//!
//! The fuzz targets and the replay of the corpus share this file.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use egret::config::Config;
use egret::internals::diagnostics::{DIAGNOSTICS_MAX, Diagnostic, Severity};
use egret::internals::gate::fuzzing;
use egret::internals::http1::{
    Body, ExpectedResponse, RequestStep, RequestStream, ResponseStep, ResponseStream,
};
use egret::internals::http2::hpack::{Decoder, HpackError, LIST_BYTES_MAX, TABLE_BYTES_MAX};
use egret::internals::http2::{BLOCK_BYTES_MAX, FrameStep, RequestFrames, ResponseFrames};
use egret::internals::judge::Rules;
use egret::internals::registry::service_entry::{self, HostPattern, NameSource, ServiceEntry};
use egret::internals::registry::snapshot::{Answers, Match, Shown, Snapshot, Target};
use egret::internals::sniff::{Authority, ClientHello, Host, Name, Sni, Sniff, Sniffer};
use egret::internals::workload::Workloads;

/// Protocol detection: more bytes never change an answer, and cuts do not matter.
pub(crate) fn client_hello(bytes: &[u8]) {
    let mut whole = Sniffer::default();
    whole.feed(bytes);
    let mut slowly = Sniffer::default();
    let mut answer = Sniff::NeedMore;
    for byte in bytes {
        let now = slowly.feed(std::slice::from_ref(byte));
        assert!(answer == Sniff::NeedMore || *now == answer, "an answer changed");
        if *now != answer {
            answer = now.clone();
        }
    }
    assert_eq!(*whole.answer(), answer, "a cut changed the answer");
    if let Sniff::Tls(ClientHello { sni: Sni::Name(name), .. }) = &answer {
        is_normal(name);
    }
}

/// A head that is accepted has one end and one Host.
pub(crate) fn request_head(bytes: &[u8]) {
    let mut stream = RequestStream::new(Some(Rules::default()));
    let mut slowly = RequestStream::new(Some(Rules::default()));
    let step = stream.next(bytes);
    let last = (1..=bytes.len())
        .map(|arrived| slowly.next(&bytes[..arrived]))
        .find(|step| *step != RequestStep::NeedMore);
    assert_eq!(last.unwrap_or(RequestStep::NeedMore), step, "a cut changed the step");
    let RequestStep::Head(head) = step else {
        return;
    };
    let text = &bytes[..head.head_len];
    assert!(text.ends_with(b"\r\n\r\n"), "a head ends with an empty line");
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    assert!(lines.iter().rev().skip(1).all(|line| line.ends_with(b"\r")), "a bare LF passed");
    let fields = |name: &str| {
        let begins = |line: &&&[u8]| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
        };
        lines.iter().filter(begins).count()
    };
    assert!(fields("host:") <= 1, "several Hosts passed");
    let framing = fields("content-length:") + fields("transfer-encoding:");
    assert!(framing <= 1, "two ways to frame the body passed");
    assert!(framing == 1 || head.body == Body::None);
    if let Some(Host::Name(name)) = &head.host {
        is_normal(name);
    }
    assert!(head.target_range.end < head.head_len);
}

/// Requests and answers: cuts do not matter, nothing is told twice, and a chunked body that is
/// accepted ends where a parser that takes anything sees its end.
pub(crate) fn framing(bytes: &[u8]) {
    assert_eq!(requests(bytes, bytes.len()), requests(bytes, 1), "a cut changed the requests");
    assert_eq!(answers(bytes, bytes.len()), answers(bytes, 1), "a cut changed the answers");
    lenient_parsers_agree(bytes);
}

/// A name is its own normal form, and Host and SNI agree on it.
pub(crate) fn name(bytes: &[u8]) {
    let host = Host::parse(bytes);
    if let Ok(Host::Name(name)) = &host {
        is_normal(name);
    }
    let authority = Authority::parse(bytes);
    if !bytes.contains(&b':') {
        assert_eq!(authority.map(|authority| authority.host), host, "Host and SNI disagree");
    } else if let Ok(Authority { host: Host::Name(name), .. }) = &authority {
        is_normal(name);
    }
}

/// A file that an operator wrote is read or refused, in any of its three roles; every diagnostic
/// stands within it; and what was read can be decided by.
pub(crate) fn yaml(bytes: &[u8]) {
    // The reader of files refuses other bytes before they are parsed.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = Path::new("file.yaml");
    if let Some(config) = read(text, Config::parse(text, file)) {
        let dumped = serde_yaml::to_string(&config).expect("a configuration can be written");
        let again = Config::parse(&dumped, Path::new("file.yaml")).map(|(config, _)| config);
        assert_eq!(again.as_ref(), Ok(&config), "what is dumped says something else");
    }
    read(text, Workloads::parse(text, file, "Kubernetes"));
    if let Some(entries) = read(text, service_entry::parse(text, file)) {
        decides(&entries);
    }
}

fn read<T>(text: &str, result: Result<(T, Vec<Diagnostic>), Vec<Diagnostic>>) -> Option<T> {
    let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
    let (value, diagnostics) = match result {
        Ok((value, warnings)) => (Some(value), warnings),
        Err(diagnostics) => (None, diagnostics),
    };
    assert_eq!(diagnostics.iter().any(is_error), value.is_none(), "{diagnostics:?}");
    assert!(diagnostics.len() <= 2 * (DIAGNOSTICS_MAX + 1), "{} problems", diagnostics.len());
    // A text that ends too early is wrong on the line after its last.
    let last = text.split(['\n', '\r']).count() + 1;
    for diagnostic in diagnostics {
        assert!(diagnostic.line.is_none_or(|line| (1..=last).contains(&line)), "{diagnostic}");
        assert!(!diagnostic.message.is_empty());
    }
    value
}

/// A snapshot of `entries` finds each of their names.
fn decides(entries: &[ServiceEntry]) {
    let size: usize = entries.iter().map(ServiceEntry::claims).sum();
    // Larger ones are only slower.
    if size > 10_000 {
        return;
    }
    let mut answers = Answers::default();
    for name in service_entry::names_to_resolve(entries) {
        is_normal(&name);
        answers.insert(name, [IpAddr::from([192, 0, 2, 1])]);
    }
    let (snapshot, _) = Snapshot::build(1, Arc::default(), entries, Arc::default(), &answers);
    for service in snapshot.services() {
        let host = service.host.to_string();
        assert_eq!(HostPattern::parse(&host).as_ref(), Ok(&service.host), "not normal: {host}");
        // A wildcard stands for something.
        let Ok(name) = Name::parse(host.replacen('*', "a", 1).as_bytes()) else { continue };
        assert!(service.host.matches(&name), "{host} does not match {name}");
        let destination = SocketAddr::from(([198, 51, 100, 1], service.port));
        let Some(by) = service.reach.by_name else { continue };
        let asked = Host::Name(name.clone());
        let (shown, otherwise, other) = match by {
            NameSource::Host => {
                (Shown::Http(Some(&asked)), Shown::Tls(Some(&name)), NameSource::Sni)
            }
            NameSource::Sni => {
                (Shown::Tls(Some(&name)), Shown::Http(Some(&asked)), NameSource::Host)
            }
        };
        let source = IpAddr::from([10, 0, 0, 1]);
        assert!(snapshot.reads_names(service.port), "{host} decides");
        assert!(snapshot.find(source, destination, shown).is_some(), "{host} is not found");
        if let Some((found, Match::Host | Match::Wildcard)) =
            snapshot.find(source, destination, otherwise)
        {
            assert_eq!(found.reach.by_name, Some(other), "{host} is found where nobody reads it");
        }
        if let Target::Endpoints(endpoints) = &service.target {
            let next = service.next_endpoint();
            assert!(endpoints.is_empty() || next < endpoints.len());
        }
    }
}

/// Frames behind the preface: cuts do not matter, no step asks for more than a buffer holds, and
/// header blocks mean what another decoder says.
pub(crate) fn http2(bytes: &[u8]) {
    assert_eq!(frames(bytes, bytes.len()), frames(bytes, 1), "a cut changed the requests");
    boundaries_agree(bytes);
    decoders_agree(bytes);
}

/// What passes where a name decides, and where one labels: see `src/gate/fuzzing.rs`.
pub(crate) fn gate(bytes: &[u8]) {
    fuzzing::any_bytes(bytes);
}

fn is_normal(name: &Name) {
    let text = name.as_str();
    assert_eq!(Name::parse(text.as_bytes()).as_ref(), Ok(name), "not its own normal form");
    assert!(text.len() <= egret::internals::sniff::name::NAME_BYTES_MAX);
    let is_plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    assert!(text.bytes().all(is_plain), "a name with other bytes");
}

/// What was told about `bytes` that come in pieces: each step, and where it ended.
fn requests(bytes: &[u8], piece_bytes: usize) -> Vec<String> {
    let mut stream = RequestStream::new(Some(Rules::default()));
    tell(bytes, piece_bytes, |bytes| match stream.next(bytes) {
        RequestStep::NeedMore | RequestStep::AwaitUpgrade => Told::NeedMore,
        RequestStep::Head(head) => Told::Some(format!("{head:?}"), head.head_len),
        RequestStep::Body { bytes, ends: false } => Told::Within(bytes),
        RequestStep::Body { bytes, ends: true } => Told::Some("end".into(), bytes),
        RequestStep::Opaque { bytes } => Told::Rest("opaque", bytes),
        RequestStep::Discard { bytes } => Told::Rest("discard", bytes),
        RequestStep::Refused(refusal) => Told::Over(refusal.to_string()),
    })
}

fn answers(bytes: &[u8], piece_bytes: usize) -> Vec<String> {
    let mut stream = ResponseStream::default();
    for index in 0..8 {
        stream.asked(ExpectedResponse { is_head: index == 2, wants_upgrade: index == 4 }, ());
    }
    tell(bytes, piece_bytes, |bytes| match stream.next(bytes) {
        ResponseStep::NeedMore => Told::NeedMore,
        ResponseStep::Head(head) => Told::Some(format!("{head:?}"), head.head_len),
        ResponseStep::Body { bytes, ends: false } => Told::Within(bytes),
        ResponseStep::Body { bytes, ends: true } => Told::Some("end".into(), bytes),
        ResponseStep::Opaque { bytes } => Told::Rest("opaque", bytes),
        ResponseStep::Unasked => Told::Over("unasked".into()),
        ResponseStep::Unframed(lost) => Told::Over(lost.to_string()),
    })
}

fn frames(bytes: &[u8], piece_bytes: usize) -> Vec<String> {
    let mut frames = RequestFrames::judged(Rules::default());
    tell(bytes, piece_bytes, |bytes| match frames.next(bytes) {
        FrameStep::NeedMore => {
            assert!(bytes.len() < BLOCK_BYTES_MAX, "more than a buffer holds");
            Told::NeedMore
        }
        FrameStep::Pass { bytes }
        | FrameStep::SettingsAck { bytes }
        | FrameStep::Settings { bytes }
        | FrameStep::Ping { bytes, .. } => Told::Within(bytes),
        FrameStep::Malformed { bytes, stream, error, .. } => {
            Told::Some(format!("{stream}: {error}"), bytes)
        }
        // However the rest of the frame comes, it is dropped.
        FrameStep::Drop { .. } | FrameStep::Reset { .. } => Told::Over("drop".into()),
        FrameStep::Request { bytes, stream, authority } => {
            if let Host::Name(name) = &authority.host {
                is_normal(name);
            }
            Told::Some(format!("{stream}: {authority:?}"), bytes)
        }
        FrameStep::Refused(error) => Told::Over(error.to_string()),
    })
}

/// A boundary is where it was said to be, and cuts do not move it.
fn boundaries_agree(bytes: &[u8]) {
    let mut slowly = ResponseFrames::default();
    let mut whole = ResponseFrames::default();
    whole.passed(bytes, &mut RequestFrames::default());
    let mut promised = 0;
    for byte in bytes {
        let left = slowly.to_boundary();
        if promised > 0 {
            assert_eq!(left, promised, "a boundary has moved");
        }
        slowly.passed(std::slice::from_ref(byte), &mut RequestFrames::default());
        promised = left.saturating_sub(1);
    }
    assert_eq!(slowly.to_boundary(), whole.to_boundary(), "a cut moved the boundary");
}

/// The bytes, as header blocks of one connection, once to this decoder and once to the oracle. A
/// byte before each block is its length.
fn decoders_agree(mut bytes: &[u8]) {
    type Fields = Vec<(Vec<u8>, Vec<u8>)>;
    let mut decoder = Decoder::default();
    let mut oracle = loona_hpack::Decoder::new();
    oracle.set_max_allowed_table_size(TABLE_BYTES_MAX);
    while let Some((length, rest)) = bytes.split_first() {
        let (block, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        let mut fields = Fields::new();
        let result =
            decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())));
        let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        assert!(size <= LIST_BYTES_MAX, "more fields than allowed were shown");
        match (result, oracle.decode(block)) {
            (Ok(()), Ok(expected)) => assert_eq!(fields, expected, "two decoders, two meanings"),
            // The oracle wants a field behind a change of the table's size.
            (Ok(()), Err(loona_hpack::decoder::DecoderError::SizeUpdateAtEnd)) => {
                assert!(fields.is_empty(), "the size changed behind a field");
            }
            (Ok(()), Err(error)) => panic!("{block:02x?} decoded, and is {error}"),
            // The oracle lets the size change anywhere, and the fields be as many as they like.
            (Err(HpackError::BadSizeUpdate | HpackError::ListTooLarge), _) => return,
            (Err(error), expected) => {
                assert!(expected.is_err(), "{block:02x?} is {error}, and the oracle decodes it");
                return;
            }
        }
    }
}

enum Told {
    NeedMore,
    /// A step and its bytes.
    Some(String, usize),
    /// So many bytes of a body: how many such steps there are depends on the cuts.
    Within(usize),
    /// So many bytes that are this, like all that follow.
    Rest(&'static str, usize),
    /// The last step.
    Over(String),
}

fn tell(bytes: &[u8], piece_bytes: usize, mut next: impl FnMut(&[u8]) -> Told) -> Vec<String> {
    let mut told = Vec::new();
    let (mut taken, mut arrived) = (0, 0);
    while arrived < bytes.len() {
        arrived = (arrived + piece_bytes.max(1)).min(bytes.len());
        while taken < arrived {
            let len = match next(&bytes[taken..arrived]) {
                Told::NeedMore => break,
                Told::Some(what, len) => {
                    told.push(format!("{what} to {}", taken + len));
                    len
                }
                Told::Within(len) => len,
                Told::Rest(what, len) => {
                    if told.last().is_none_or(|last| last != what) {
                        told.push(what.to_owned());
                    }
                    len
                }
                Told::Over(why) => {
                    told.push(format!("{why} at {taken}"));
                    return told;
                }
            };
            assert!(len > 0 && len <= arrived - taken, "a step takes some of what is there");
            taken += len;
        }
    }
    told.push(format!("{taken} taken"));
    told
}

/// The bytes, as a chunked body, once to the strict reader and once to a lenient one.
fn lenient_parsers_agree(body: &[u8]) {
    let mut stream = RequestStream::new(Some(Rules::default()));
    let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(matches!(stream.next(head), RequestStep::Head(_)), "a plain head is accepted");
    if let RequestStep::Body { bytes, ends: true } = stream.next(body) {
        assert_eq!(lenient_end(body), Some(bytes), "two parsers see two ends");
    }
}

/// Where a parser that takes any line end and any text behind a size sees a chunked body's end.
fn lenient_end(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    let line = |at: &mut usize| {
        let length = body.get(*at..)?.iter().position(|byte| *byte == b'\n')?;
        let line = &body[*at..*at + length];
        *at += length + 1;
        Some(line.trim_ascii())
    };
    loop {
        let size = line(&mut at)?;
        let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&size[..digits]).ok()?;
        match usize::from_str_radix(size, 16).ok()? {
            0 => break,
            size => at = at.checked_add(size)?,
        }
        if !line(&mut at)?.is_empty() {
            return None;
        }
    }
    while !line(&mut at)?.is_empty() {}
    Some(at)
}
