//! HTTP/1: where each request and each response begins and ends, and what each request asks for.
//!
//! Two machines follow one connection, once [`crate::sniff`] has said HTTP/1. [`RequestStream`]
//! reads what the downstream sends and tells each request's head before a byte of it is passed on,
//! so that every request is judged by its own Host. [`ResponseStream`] reads what the upstream
//! sends, knows which requests are unanswered, and tells each response's status and end. Both only
//! count and classify: the bytes pass unchanged, and the caller holds them.
//!
//! The two directions differ on purpose. A request whose end two parsers could see in two places is
//! refused ([`RequestError`]): behind it a blocked request could hide. A response that cannot be
//! framed ([`FramingError`]) can harm only the workload that asked for it, as it could without a
//! proxy; it may pass as it is until its connection closes.

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
#[cfg(any(test, feature = "internals"))]
pub use request_head::Upgrade;
pub use request_head::{RequestHead, Version};
pub use request_stream::{RequestStep, RequestStream};
pub use response_head::{Agreed, ResponseBody, ResponseHead, Turn};
pub use response_stream::{Answered, ExpectedResponse, FramingError, ResponseStep, ResponseStream};

use strum::{EnumCount, EnumDiscriminants, IntoStaticStr, VariantArray};

use crate::sniff::NameError;

/// The longest head, of a request or a response. Servers take 8 to 32 KiB by default (Apache,
/// Node.js, nginx), and a head of this length still fits in one of a worker's buffers, where it is
/// held.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// The most header fields in a head. Servers and proxies take 100 by default (Apache, Envoy).
pub const HEADERS_MAX: usize = 128;

/// The most bytes of a chunk's extensions, which nobody needs, and of a body's trailers.
pub const CHUNK_EXTRA_BYTES_MAX: u16 = 8 * 1024;

/// The longest body, or chunk of one: a signed 64-bit number, as many an upstream counts in one.
pub const BODY_BYTES_MAX: u64 = i64::MAX.unsigned_abs();

/// Requests that may be unanswered on one connection. A client that pipelines more waits.
pub const UNANSWERED_MAX: usize = 64;

/// Why a request is refused. One variant per label value of the metric that counts them: its name
/// in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, EnumDiscriminants)]
#[strum_discriminants(
    vis(pub(crate)),
    name(RequestErrorKind),
    doc = "A [`RequestError`] without its details: what the metric counts by.",
    derive(EnumCount, IntoStaticStr, VariantArray),
    strum(serialize_all = "snake_case")
)]
pub enum RequestError {
    /// More than [`HEAD_BYTES_MAX`].
    #[error("the request head is longer than 32 KiB")]
    HeadTooLarge,
    /// More than [`HEADERS_MAX`].
    #[error("the request has more than 128 header fields")]
    TooManyHeaders,
    /// The request line is not three words with one space between them.
    #[error("the request line is malformed")]
    BadRequestLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    BadVersion,
    /// A target that is none of origin, absolute `http` and asterisk form.
    #[error("the request target is malformed")]
    BadTarget,
    /// A field's name is not a token, or something stands between it and the colon.
    #[error("a header field's name is malformed")]
    BadFieldName,
    /// A NUL, a bare CR or another control byte in a field's value.
    #[error("a header field's value has a control byte")]
    BadFieldValue,
    /// A line that ends with LF alone, or CR alone.
    #[error("a line does not end with CR LF")]
    BareLineEnd,
    /// A field continued on the next line.
    #[error("a header field is folded")]
    FoldedField,
    /// HTTP/1.1 without Host.
    #[error("the request has no Host")]
    NoHost,
    /// More than one Host.
    #[error("the request has several Hosts")]
    SeveralHosts,
    /// A Host that is no host.
    #[error("Host: {0}")]
    BadHost(NameError),
    /// An absolute-form target whose authority is not Host.
    #[error("Host and the request target disagree")]
    HostMismatch,
    /// CONNECT: a tunnel to somewhere else.
    #[error("CONNECT is not served here")]
    Connect,
    /// More than one Content-Length.
    #[error("the request has several Content-Lengths")]
    SeveralLengths,
    /// Not one number.
    #[error("Content-Length is malformed")]
    BadLength,
    /// Content-Length with Transfer-Encoding.
    #[error("the request has Content-Length and Transfer-Encoding")]
    LengthWithCoding,
    /// A Transfer-Encoding other than exactly `chunked`, or more than one.
    #[error("Transfer-Encoding is something other than chunked")]
    BadCoding,
    /// Transfer-Encoding in HTTP/1.0, which does not have it.
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInHttp10,
    /// A chunk's size line or end is malformed.
    #[error("a chunk is malformed")]
    BadChunk,
    /// A trailer is malformed.
    #[error("a trailer is malformed")]
    BadTrailer,
}

impl RequestError {
    /// The status that the workload is answered.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            _ => 400,
        }
    }
}

/// A byte of a token: methods and field names (RFC 9110 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The members of a comma-separated list, without the space around them.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// A Content-Length: digits and nothing else.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (length <= BODY_BYTES_MAX).then_some(length)
}
