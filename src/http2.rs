//! HTTP/2 with prior knowledge: which authority each request asks for, before its bytes pass.
//!
//! Two machines follow one connection, once [`crate::sniff`] has said HTTP/2 and the [`PREFACE`]
//! has been dropped from the front. [`RequestFrames`] reads what the downstream sends, frame by
//! frame (RFC 9113), and keeps the state of the header compression (RFC 7541), so that every
//! request is judged by its own `:authority`. [`FrameBoundary`] counts what the upstream sends, so
//! that a frame of Egret's own ([`goaway`]) never lands inside another one. Both only count and
//! classify: the bytes pass unchanged, and the caller holds them.
//!
//! It is not an HTTP/2 endpoint. Only what could hide a request, or leave the two ends with
//! different ideas of one, is refused ([`FrameError`]); flow control, the states of streams and the
//! values of settings are the upstream's to judge.

mod boundary;
mod frame;
pub mod hpack;
mod request;
mod request_frames;

pub use boundary::FrameBoundary;
pub use request::Claimed;
pub use request_frames::{FrameStep, RequestFrames};

use strum::{EnumCount, EnumDiscriminants, IntoStaticStr, VariantArray};

use crate::http1::HEAD_BYTES_MAX;
use crate::sniff::NameError;
use hpack::HpackError;

/// What a client with prior knowledge sends before its first frame (RFC 9113 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most bytes of a request's HEADERS and CONTINUATION frames together, their headers included.
/// They are held until they are whole, in one of a worker's buffers, and must not fill it. Servers
/// take 16 to 64 KiB of fields (Node.js, nginx, Envoy).
pub const BLOCK_BYTES_MAX: usize = HEAD_BYTES_MAX - 1;

/// The most bytes of a method that are kept for the log.
pub const METHOD_BYTES_MAX: usize = 32;

/// The most bytes of a path that are kept for the log.
pub const PATH_BYTES_MAX: usize = 2 * 1024;

/// An empty SETTINGS frame. A server's first frame is SETTINGS (RFC 9113 3.4), so this goes before
/// a [`goaway`] to a client that has had nothing from an upstream.
pub const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, frame::SETTINGS, 0, 0, 0, 0, 0];

/// Why nothing more of a connection may pass. One variant per label value of the metric that counts
/// them; the words are those of [`crate::http1::RequestError`] where the reason is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, EnumDiscriminants)]
#[strum_discriminants(
    vis(pub(crate)),
    name(FrameErrorKind),
    doc = "A [`FrameError`] without its details: what the metric counts by.",
    derive(EnumCount, IntoStaticStr, VariantArray),
    strum(serialize_all = "snake_case")
)]
pub enum FrameError {
    /// The first frame is not the SETTINGS that belongs to the preface.
    #[error("the first frame is not SETTINGS")]
    NoSettings,
    /// Only servers push.
    #[error("PUSH_PROMISE from a client")]
    PushPromise,
    /// CONTINUATION where no HEADERS is open, or something else where one is.
    #[error("a header block is interrupted, or continued without a beginning")]
    BrokenBlock,
    /// More than [`BLOCK_BYTES_MAX`]: one long HEADERS, or a flood of CONTINUATIONs. Or the first
    /// request is not whole in the bytes that a worker holds for it.
    #[error("a request's header frames, or those up to the first one, are longer than 32 KiB")]
    HeadTooLarge,
    /// HEADERS on a stream that no client may open.
    #[error("HEADERS on stream 0, or on a stream with an even number")]
    BadStream,
    /// Padding or priority longer than the frame.
    #[error("a HEADERS frame is shorter than its padding and priority")]
    BadPadding,
    /// The header block cannot be decoded, so none that follows can be.
    #[error("HPACK: {0}")]
    #[strum_discriminants(strum(serialize = "bad_hpack"))]
    Hpack(HpackError),
    /// A field's name is empty, not a token, or has upper-case letters.
    #[error("a header field's name is malformed")]
    BadFieldName,
    /// A NUL, CR or LF in a field's value, other than in gRPC's binary metadata.
    #[error("a header field's value has a control byte")]
    BadFieldValue,
    /// A field that belongs to a connection of HTTP/1, where it frames messages.
    #[error("a header field belongs to HTTP/1 only")]
    ConnectionField,
    /// A pseudo-header field that requests do not have, that came twice, or that came too late.
    #[error("a pseudo-header field is unknown, repeated, or behind other fields")]
    BadPseudoField,
    /// Without `:method`, `:scheme` or `:path`.
    #[error("the request lacks a method, scheme or path")]
    MissingField,
    /// Pseudo-header fields on a stream that has its request already.
    #[error("trailers have pseudo-header fields")]
    PseudoInTrailers,
    /// Not a token.
    #[error("the method is malformed")]
    BadMethod,
    /// Neither `http` nor `https`.
    #[error("the scheme is neither http nor https")]
    BadScheme,
    /// A path that is neither `*` nor begins with a slash, or has a space or control byte.
    #[error("the path is malformed")]
    BadTarget,
    /// Neither `:authority` nor Host.
    #[error("the request has neither :authority nor Host")]
    NoHost,
    /// More than one Host.
    #[error("the request has several Hosts")]
    SeveralHosts,
    /// An `:authority` or a Host that is no host.
    #[error(":authority or Host: {0}")]
    BadHost(NameError),
    /// CONNECT, also in its extended form (RFC 8441): a tunnel to somewhere else.
    #[error("CONNECT is not served here")]
    Connect,
}

/// The codes that end a connection (RFC 9113 7): those that Egret has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A graceful end.
    NoError,
    /// The peer broke the protocol.
    ProtocolError,
    /// The header compression is lost.
    CompressionError,
    /// More than is good for this side.
    EnhanceYourCalm,
}

impl FrameError {
    /// What the client is told in the GOAWAY.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::HeadTooLarge | Self::Hpack(HpackError::ListTooLarge) => {
                ErrorCode::EnhanceYourCalm
            }
            Self::Hpack(_) => ErrorCode::CompressionError,
            _ => ErrorCode::ProtocolError,
        }
    }
}

impl ErrorCode {
    const fn number(self) -> u8 {
        match self {
            Self::NoError => 0x0,
            Self::ProtocolError => 0x1,
            Self::CompressionError => 0x9,
            Self::EnhanceYourCalm => 0xb,
        }
    }
}

/// A GOAWAY frame (RFC 9113 6.8). `last_stream` is the highest stream that something was done for,
/// a refusal included: a client takes what is above it for unseen, and may try it again elsewhere.
#[must_use]
pub fn goaway(last_stream: u32, code: ErrorCode) -> [u8; 17] {
    let mut frame = [0, 0, 8, frame::GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code.number()];
    frame[9..13].copy_from_slice(&(last_stream & frame::STREAM_MASK).to_be_bytes());
    frame
}

/// A HEADERS frame that answers `stream` with `status` (of three digits) and nothing else.
///
/// The status is a literal that enters no table (RFC 7541 6.2.2), so the frame means the same
/// whatever the state of the header compression is, and changes nothing of it.
#[must_use]
pub fn answer(stream: u32, status: u16) -> Vec<u8> {
    /// The entry of the static table whose name is `:status` (RFC 7541 A).
    const STATUS: u8 = 8;
    let value = status.to_string();
    let value_bytes = u8::try_from(value.len()).unwrap_or(0);
    let flags = frame::END_STREAM | frame::END_HEADERS;
    let mut bytes = vec![0, 0, 2 + value_bytes, frame::HEADERS, flags];
    bytes.extend((stream & frame::STREAM_MASK).to_be_bytes());
    bytes.extend([STATUS, value_bytes]);
    bytes.extend(value.bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goaway_is_laid_out_as_the_rfc_draws_it() {
        let expected = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0, 0, 5, 0, 0, 0, 0xb];
        assert_eq!(goaway(0xff00_0005, ErrorCode::EnhanceYourCalm), expected);
    }

    #[test]
    fn an_answer_is_a_whole_block_that_decodes_alone() {
        let frame = answer(3, 502);
        assert_eq!(frame, [0, 0, 5, 1, 5, 0, 0, 0, 3, 8, 3, b'5', b'0', b'2']);
        let mut fields = Vec::new();
        let decoded = hpack::Decoder::default().decode(&frame[9..], |name, value| {
            fields.push((name.to_vec(), value.to_vec()));
        });
        assert_eq!(decoded, Ok(()));
        assert_eq!(fields, [(b":status".to_vec(), b"502".to_vec())]);
    }

    #[test]
    fn the_code_tells_a_client_whose_fault_it_was() {
        let hpack = FrameError::Hpack;
        assert_eq!(hpack(HpackError::BadIndex).code(), ErrorCode::CompressionError);
        assert_eq!(hpack(HpackError::ListTooLarge).code(), ErrorCode::EnhanceYourCalm);
        assert_eq!(FrameError::HeadTooLarge.code(), ErrorCode::EnhanceYourCalm);
        assert_eq!(FrameError::PushPromise.code(), ErrorCode::ProtocolError);
    }
}
