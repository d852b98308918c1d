//! What the access log says of a request, read from its head.

use std::mem::MaybeUninit;

use crate::access_log::Request;
use crate::gate::Logged;
use crate::http1::{HEADERS_MAX, RequestHead, Version};
use crate::sniff::Name;

/// What the log says of a request that asks for `name`.
pub(super) fn of(logged: &Logged, name: Option<&Name>) -> Request {
    match logged {
        Logged::Head(head, bytes) => of_head(head, bytes),
        Logged::Unread(bytes) => of_unread(bytes),
        Logged::Stream(method, path) => Request {
            method: (&**method).into(),
            target: (&**path).into(),
            version: "HTTP/2",
            authority: name.map(|name| name.as_str().into()),
            ..Request::default()
        },
    }
}

/// The line of `head`, which is what `bytes` begin with. Read again, because only a log that is on
/// wants these fields.
fn of_head(head: &RequestHead, bytes: &[u8]) -> Request {
    let bytes = &bytes[..head.head_len.min(bytes.len())];
    let part = |range: &std::ops::Range<usize>| bytes.get(range.clone()).unwrap_or_default();
    let mut line = Request {
        method: part(&head.method_range).into(),
        target: part(&head.target_range).into(),
        version: match head.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        },
        ..Request::default()
    };
    let mut storage = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    if request.parse_with_uninit_headers(bytes, &mut storage).is_err() {
        return line;
    }
    for header in request.headers {
        line.keep(header.name.as_bytes(), header.value);
    }
    line
}

/// What can be told of a head that is malformed, or of which only the first bytes are there: a
/// request line is three words, and a field is a name and a value with a colon between them.
fn of_unread(bytes: &[u8]) -> Request {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let mut words = first.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let mut next = || words.next().unwrap_or_default();
    let (method, target) = (next(), next());
    let mut line = Request {
        method: method.into(),
        target: target.into(),
        version: match next() {
            b"HTTP/1.0" => "HTTP/1.0",
            b"HTTP/1.1" => "HTTP/1.1",
            _ => "-",
        },
        ..Request::default()
    };
    for field in lines.take_while(|line| !line.is_empty()) {
        if let Some(colon) = memchr::memchr(b':', field) {
            line.keep(&field[..colon], field[colon + 1..].trim_ascii());
        }
    }
    line
}
