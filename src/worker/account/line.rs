//! What the access log says of a request, read from its head.

use std::mem::MaybeUninit;

use crate::access_log::{Excerpt, Request};
use crate::gate::Logged;
use crate::http1::{HEADERS_MAX, RequestHead, Version};
use crate::sniff::Name;

/// What the log says of a request that asks for `name`.
pub(super) fn of(logged: &Logged, name: Option<&Name>) -> Request {
    match logged {
        Logged::Head(head, bytes) => of_head(head, bytes),
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
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            keep(&mut line.authority, header.value);
        } else if is("user-agent") {
            keep(&mut line.user_agent, header.value);
        } else if is("x-forwarded-for") {
            keep(&mut line.forwarded_for, header.value);
        } else if is("x-request-id") {
            keep(&mut line.request_id, header.value);
        }
    }
    line
}

/// The first of several fields counts.
fn keep<const BYTES_MAX: usize>(field: &mut Option<Excerpt<BYTES_MAX>>, value: &[u8]) {
    field.get_or_insert_with(|| value.into());
}
