//! The judge of requests, for HTTP/1 and HTTP/2: methods, targets, fields, lengths, trailers.
//!
//! A gate decides by what it reads, so it lets pass only what every server reads as it does.
//! Servers differ: some take a target that begins with two slashes for another host, some merge
//! trailers into the fields, some fold `_` to `-` in names. And an HTTP/2 request often goes on
//! through a gateway that writes it as HTTP/1. So one set of rules holds for both protocols; it is
//! stricter than the RFCs where a deployed server is known to read the same bytes otherwise.
//!
//! [`crate::http1`] and [`crate::http2`] find the parts of a message and ask here. Most of what is
//! wrong makes a message unreadable ([`RequestError`] at once). The rest are [`Objections`]: an
//! observed connection can still be followed, and two of them depend on the configuration
//! ([`Rules`]).

mod field;
mod target;
mod trailer;

use strum::{EnumCount, EnumDiscriminants, IntoStaticStr, VariantArray};

use crate::config::{Latin1, Names};
use crate::sniff::{Authority, NameError};
pub(crate) use field::{Value, content_length, expectation, is_alias, is_text, is_token, value};
pub(crate) use target::{absolute_form, path};
pub(crate) use trailer::trailer;

/// The most digits of a Content-Length, leading zeros included: servers that read more of them
/// into 64 bits get another number (uWSGI).
pub(crate) const LENGTH_DIGITS_MAX: usize = 18;

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
    /// More than [`crate::http1::HEAD_BYTES_MAX`].
    #[error("the request head is longer than 32 KiB")]
    HeadTooLarge,
    /// More than [`crate::http1::HEADERS_MAX`].
    #[error("the request has more than 128 header fields")]
    TooManyHeaders,
    /// The request line is not three words with one space between them.
    #[error("the request line is malformed")]
    BadRequestLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    BadVersion,
    /// A method that is no token, or one of the standard methods but for upper and lower case.
    #[error("the method is malformed, or a standard method in other letters")]
    BadMethod,
    /// A scheme other than `http` and `https`.
    #[error("the scheme is neither http nor https")]
    BadScheme,
    /// A target that is none of origin, absolute `http` and asterisk form, or that names another
    /// host to some servers.
    #[error("the request target is malformed, or can be read as one of another host")]
    BadTarget,
    /// A field's name is not a token (in HTTP/2: in lower case), or something stands between it
    /// and the colon.
    #[error("a header field's name is malformed")]
    BadFieldName,
    /// A field's name is that of Host or of a field that frames messages, but for its punctuation.
    #[error("a header field's name is like that of Host or a framing field")]
    AliasedField,
    /// A control byte in a field's value; in HTTP/2 also white space at one of its ends.
    #[error("a header field's value has a control byte, or white space at an end")]
    BadFieldValue,
    /// Bytes above 127 that are not UTF-8.
    #[error("the target or a field is not UTF-8 (names.latin1: pass allows it)")]
    NotUtf8,
    /// A line that ends with LF alone, or CR alone.
    #[error("a line does not end with CR LF")]
    BareLineEnd,
    /// A field continued on the next line.
    #[error("a header field is folded")]
    FoldedField,
    /// A field of HTTP/1 connections in HTTP/2.
    #[error("a header field belongs to HTTP/1 only")]
    ConnectionField,
    /// HTTP/2: a pseudo-header field that requests do not have, that came twice, or too late.
    #[error("a pseudo-header field is unknown, repeated, or behind other fields")]
    BadPseudoField,
    /// HTTP/2 without `:method`, `:scheme` or `:path`.
    #[error("the request lacks a method, scheme or path")]
    MissingField,
    /// No Host (HTTP/1.1), or neither `:authority` nor Host (HTTP/2).
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
    /// An expectation other than one `100-continue`.
    #[error("Expect is something other than 100-continue")]
    BadExpectation,
    /// More than one Content-Length.
    #[error("the request has several Content-Lengths")]
    SeveralLengths,
    /// Not one number of at most [`LENGTH_DIGITS_MAX`] digits.
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
    /// A body with a method for which it means nothing.
    #[error("GET, HEAD or OPTIONS has a body (names.refuseGetBodies: false allows it)")]
    UnexpectedBody,
    /// HTTP/2: a body on GET, HEAD, DELETE, OPTIONS or TRACE whose length was not announced.
    #[error("a request has a body that its method does not have and nothing announces")]
    UnannouncedBody,
    /// TRACE with a body (RFC 9110 9.3.8).
    #[error("TRACE has a body")]
    TraceBody,
    /// Bytes behind a request that said it was the last one.
    #[error("bytes behind a request that said it was the last one")]
    ExtraBytes,
    /// A chunk's size line or end is malformed, or its size is above 2^31 - 1.
    #[error("a chunk is malformed or too large")]
    BadChunk,
    /// A trailer is malformed.
    #[error("a trailer is malformed")]
    BadTrailer,
    /// A trailer that frames or routes, or that a server which skips trailers would take for a
    /// request line.
    #[error("a trailer frames or routes, or looks like a request")]
    ForbiddenTrailer,
    /// HTTP/2: pseudo-header fields in trailers.
    #[error("trailers have pseudo-header fields")]
    PseudoInTrailers,
}

impl RequestError {
    /// The status that the workload is answered.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => 431,
            Self::BadExpectation => 417,
            // A proxy that does not reach what it was asked for.
            Self::Connect => 502,
            _ => 400,
        }
    }
}

/// What the configuration leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `names.latin1`.
    pub latin1: Latin1,
    /// `names.refuseGetBodies`.
    pub refuse_get_bodies: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self::from(&Names::default())
    }
}

impl From<&Names> for Rules {
    fn from(names: &Names) -> Self {
        Self { latin1: names.latin1, refuse_get_bodies: names.refuse_get_bodies }
    }
}

/// What there is against a message that can be read all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Objections {
    /// The first one that holds always.
    always: Option<RequestError>,
    is_not_utf8: bool,
    has_unexpected_body: bool,
}

impl Objections {
    /// The reason to refuse the message, by `rules`.
    #[must_use]
    pub fn refusal(self, rules: Rules) -> Option<RequestError> {
        if self.always.is_some() {
            return self.always;
        }
        if self.is_not_utf8 && rules.latin1 == Latin1::Refuse {
            return Some(RequestError::NotUtf8);
        }
        (self.has_unexpected_body && rules.refuse_get_bodies)
            .then_some(RequestError::UnexpectedBody)
    }

    /// Takes down what has come of a rule.
    pub(crate) fn note(&mut self, rule: Result<(), RequestError>) {
        if let (Err(error), None) = (rule, self.always) {
            self.always = Some(error);
        }
    }

    /// Takes down whether `text` is UTF-8. What is around it, in ASCII, may be part of it.
    pub(crate) fn note_text(&mut self, text: &[u8]) {
        self.is_not_utf8 |= !text.is_ascii() && std::str::from_utf8(text).is_err();
    }

    /// Takes down what a body means with `method`. Behind a request that wants another protocol
    /// it is held until the answer shows how it was read, so it is not refused.
    pub(crate) fn note_body(&mut self, method: &[u8], wants_upgrade: bool) {
        match method {
            b"TRACE" => self.note(Err(RequestError::TraceBody)),
            b"GET" | b"HEAD" | b"OPTIONS" => self.has_unexpected_body |= !wants_upgrade,
            _ => {}
        }
    }
}

/// The methods of RFC 9110 and RFC 5789.
const STANDARD_METHODS: [&[u8]; 9] =
    [b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT"];

/// Whether a method, which is a token, is one name for all: servers and gateways that compare
/// without case make `get` or `connect` the real ones.
pub(crate) fn method(method: &[u8]) -> Result<(), RequestError> {
    let is_standard = STANDARD_METHODS.contains(&method);
    let is_like = |standard: &&[u8]| standard.eq_ignore_ascii_case(method);
    match !is_standard && STANDARD_METHODS.iter().any(is_like) {
        true => Err(RequestError::BadMethod),
        false => Ok(()),
    }
}

/// Whether two authorities are the same one; a port that is not written is `default_port`.
pub(crate) fn is_same(one: &Authority, other: &Authority, default_port: u16) -> bool {
    one.host == other.host && one.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
}

#[cfg(test)]
mod tests;
