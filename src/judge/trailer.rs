//! Trailers: fields behind a body, which servers merge into the head's, or do not read at all.

use super::field::{fold, is_folded};
use super::{RequestError, is_alias};

/// How the names begin, by their letters and digits, of fields by which proxies and frameworks
/// choose a host.
const FORWARDING: [&[u8]; 2] = [b"forwarded", b"xforwarded"];

/// Others that frame, route or describe the connection.
const FORBIDDEN: [&[u8]; 6] =
    [b"keepalive", b"proxyconnection", b"xhost", b"xoriginalhost", b"xoriginalurl", b"xrewriteurl"];

/// Whether a trailer means the same to all servers. Those that merge trailers into the fields take
/// a Host among them for the request's (uvicorn, WEBrick; RFC 9110 6.5.1 forbids it), and those
/// that do not read them take them for the next request (cheroot, tiny_http).
pub(crate) fn trailer(name: &[u8], value: &[u8]) -> Result<(), RequestError> {
    let begins = |start: &&[u8]| fold(name).take(start.len()).eq(start.iter().copied());
    let is_forbidden = is_alias(name)
        || FORWARDING.iter().any(begins)
        || FORBIDDEN.iter().any(|folded| is_folded(name, folded));
    match is_forbidden || ends_like_a_request_line(value) {
        true => Err(RequestError::ForbiddenTrailer),
        false => Ok(()),
    }
}

/// Whether a word of `value` begins like a version of HTTP.
fn ends_like_a_request_line(value: &[u8]) -> bool {
    let is_version = |word: &[u8]| {
        word.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"))
            && word.get(5).is_some_and(u8::is_ascii_digit)
    };
    value.split(|byte| matches!(byte, b' ' | b'\t')).any(is_version)
}
