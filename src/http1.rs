//! HTTP/1: where each request and each response begins and ends, and what each request asks for.
//!
//! Two machines follow one connection, once [`crate::sniff`] has said HTTP/1. [`RequestStream`]
//! reads what the downstream sends and tells each request's head before a byte of it is passed on,
//! so that every request is judged by its own Host. [`ResponseStream`] reads what the upstream
//! sends, knows which requests are unanswered, and tells each response's status and end. Both only
//! count and classify: the bytes pass unchanged, and the caller holds them.
//!
//! The two directions differ on purpose. A request whose end two parsers could see in two places is
//! refused ([`RequestError`], [`crate::judge`]): behind it a blocked request could hide. A response
//! that cannot be framed ([`FramingError`]) can harm only the workload that asked for it, as it
//! could without a proxy; it may pass as it is until its connection closes.

mod chunked;
mod head_end;
mod known_heads;
mod queue;
mod request_head;
mod request_stream;
mod response_head;
mod response_stream;

pub use known_heads::KnownHeads;
#[cfg(feature = "internals")]
pub use request_head::Body;
pub use request_head::{RequestHead, Upgrade, Version};
pub use request_stream::{RequestStep, RequestStream};
pub use response_head::{Agreed, ResponseBody, ResponseHead, Turn};
pub use response_stream::{Answered, ExpectedResponse, FramingError, ResponseStep, ResponseStream};

pub use crate::judge::RequestError;

/// The longest head, of a request or a response. Servers take 8 to 32 KiB by default (Apache,
/// Node.js, nginx), and a head of this length still fits in one of a worker's buffers, where it is
/// held.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// The most header fields in a head. Servers and proxies take 100 by default (Apache, Envoy).
pub const HEADERS_MAX: usize = 128;

/// The most bytes of a chunk's extensions, which nobody needs, and of a body's trailers.
pub const CHUNK_EXTRA_BYTES_MAX: u16 = 8 * 1024;

/// The longest body that can be counted, or chunk of one: a signed 64-bit number.
pub const BODY_BYTES_MAX: u64 = i64::MAX.unsigned_abs();

/// Requests that may be unanswered on one connection. A client that pipelines more waits.
pub const UNANSWERED_MAX: usize = 64;

/// The members of a comma-separated list, without the space around them.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// A Content-Length of a response: digits and nothing else.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (length <= BODY_BYTES_MAX).then_some(length)
}
