//! HTTP/2 with prior knowledge: which authority each request asks for, before its bytes pass.
//!
//! Two machines follow one connection, once [`crate::sniff`] has said HTTP/2 and the [`PREFACE`]
//! has been dropped from the front. [`RequestFrames`] reads what the downstream sends, frame by
//! frame (RFC 9113), and keeps the state of the header compression (RFC 7541), so that every
//! request is judged by its own `:authority`. [`ResponseFrames`] follows what the upstream sends,
//! so that a frame of Egret's own ([`goaway`]) never lands inside another one. Both only count and
//! classify: the bytes pass unchanged, and the caller holds them.
//!
//! It is not an HTTP/2 endpoint, but for the frames before the first request (`opening.rs`), which
//! have no other. Behind that, only what could hide a request, or leave the two ends with different
//! ideas of one, is refused ([`FrameError`]); flow control, the order of frames on a stream and the
//! values of settings are the upstream's to judge.

mod block;
mod frame;
pub mod hpack;
mod opening;
mod request;
mod request_frames;
mod response_frames;
mod step;
mod streams;
#[cfg(any(test, feature = "internals"))]
pub mod testing;

pub use request::{Asked, Claimed};
pub use request_frames::RequestFrames;
pub use response_frames::{NextFrame, ResponseFrames};
pub use step::{FrameStep, Malformed, RawBinary};

use strum::{EnumCount, EnumDiscriminants, IntoStaticStr, VariantArray};

use crate::http1::HEAD_BYTES_MAX;
use crate::judge::Rules;
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

/// What Egret says to a client that has had nothing from an upstream: a server's first frame is
/// SETTINGS (RFC 9113 3.4). The one setting, NO_RFC7540_PRIORITIES (9), may not change later (RFC
/// 9218 2.1), and is what servers say that know it.
pub const GREETING: [u8; 15] = [0, 0, 6, frame::SETTINGS, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1];

/// A connection that began as HTTP/1, and has agreed to go on as HTTP/2 (RFC 7540 3.2).
#[derive(Debug)]
pub struct Upgraded {
    /// What the client sends, behind the preface: its request is stream 1.
    pub requests: RequestFrames,
    /// What the upstream sends behind its 101.
    pub responses: ResponseFrames,
}

impl Upgraded {
    /// A connection of which nothing has passed behind the 101. Requests are judged by `rules`.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { requests: RequestFrames::upgraded(rules), responses: ResponseFrames::default() }
    }

    /// The upstream has sent these bytes.
    pub fn responded(&mut self, bytes: &[u8]) {
        self.responses.passed(bytes, &mut self.requests);
    }
}

/// An acknowledgement of the other side's SETTINGS.
pub const SETTINGS_ACK: [u8; 9] = [0, 0, 0, frame::SETTINGS, frame::ACK, 0, 0, 0, 0];

/// Why nothing more of a connection can be read. One variant per label value of the metric that
/// counts them. What is wrong with a request alone is a [`crate::judge::RequestError`].
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
    /// A frame that any server refuses, before the first request or where it may not pass.
    #[error("a frame is malformed")]
    #[strum_discriminants(strum(serialize = "bad_frame"))]
    BadFrame(ErrorCode),
    /// More than `streams::OPEN_MAX` open ones.
    #[error("more than 4096 streams are open")]
    TooManyStreams,
}

/// The codes that end a stream or a connection (RFC 9113 7): those that Egret has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A graceful end.
    NoError,
    /// The peer broke the protocol.
    Protocol,
    /// The peer sent more than it was allowed to.
    FlowControl,
    /// A frame's size is wrong.
    FrameSize,
    /// Nothing was done; the client may try again.
    RefusedStream,
    /// The stream is of no more use.
    Cancel,
    /// The header compression is lost.
    Compression,
    /// More than is good for this side.
    EnhanceYourCalm,
}

impl FrameError {
    /// What the client is told.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::HeadTooLarge | Self::Hpack(HpackError::ListTooLarge) => {
                ErrorCode::EnhanceYourCalm
            }
            Self::Hpack(_) => ErrorCode::Compression,
            Self::BadFrame(code) => code,
            Self::TooManyStreams => ErrorCode::RefusedStream,
            _ => ErrorCode::Protocol,
        }
    }
}

impl ErrorCode {
    const fn number(self) -> u8 {
        match self {
            Self::NoError => 0x0,
            Self::Protocol => 0x1,
            Self::FlowControl => 0x3,
            Self::FrameSize => 0x6,
            Self::RefusedStream => 0x7,
            Self::Cancel => 0x8,
            Self::Compression => 0x9,
            Self::EnhanceYourCalm => 0xb,
        }
    }
}

/// A GOAWAY frame (RFC 9113 6.8). `last_stream` is the highest stream that something was done for,
/// a refusal included: a client takes what is above it for unseen, and may try it again elsewhere.
#[must_use]
pub fn goaway(last_stream: u32, code: ErrorCode) -> Vec<u8> {
    let payload = [last_stream.to_be_bytes(), [0, 0, 0, code.number()]].concat();
    whole_frame(frame::GOAWAY, 0, 0, &payload)
}

/// A RST_STREAM frame (RFC 9113 6.4).
#[must_use]
pub fn reset(stream: u32, code: ErrorCode) -> Vec<u8> {
    whole_frame(frame::RST_STREAM, 0, stream, &[0, 0, 0, code.number()])
}

/// A WINDOW_UPDATE frame (RFC 9113 6.9) that gives back what was sent on the connection.
#[must_use]
pub fn credit(bytes: u32) -> Vec<u8> {
    whole_frame(frame::WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes())
}

/// The PING frame (RFC 9113 6.7) that replies to one with `data`.
#[must_use]
pub fn pong(data: [u8; 8]) -> Vec<u8> {
    whole_frame(frame::PING, frame::ACK, 0, &data)
}

/// A HEADERS frame that answers `stream` with `status` (of three digits), these fields, and nothing
/// else.
///
/// All are literals that enter no table (RFC 7541 6.2.2), so the frame means the same whatever the
/// state of the header compression is, and changes nothing of it.
#[must_use]
pub fn answer(stream: u32, status: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    /// The entry of the static table whose name is `:status` (RFC 7541 A).
    const STATUS: u8 = 8;
    let mut block = vec![STATUS];
    literal(&mut block, &status.to_string());
    for (name, value) in fields {
        block.push(0);
        literal(&mut block, name);
        literal(&mut block, value);
    }
    whole_frame(frame::HEADERS, frame::END_STREAM | frame::END_HEADERS, stream, &block)
}

/// A string literal (RFC 7541 5.2) of at most 126 bytes.
fn literal(block: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(126)];
    block.push(u8::try_from(text.len()).unwrap_or(0));
    block.extend(text);
}

fn whole_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let stream = (stream & frame::STREAM_MASK).to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goaway_is_laid_out_as_the_rfc_draws_it() {
        let expected = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0, 0, 5, 0, 0, 0, 0xb];
        assert_eq!(goaway(0x7f00_0005, ErrorCode::EnhanceYourCalm), expected);
    }

    #[test]
    fn an_answer_is_a_whole_block_that_decodes_alone() {
        let frame = answer(3, 502, &[]);
        assert_eq!(frame, [0, 0, 5, 1, 5, 0, 0, 0, 3, 8, 3, b'5', b'0', b'2']);
        let mut fields = Vec::new();
        let decoded = hpack::Decoder::default().decode(&frame[9..], |name, value| {
            fields.push((name.to_vec(), value.to_vec()));
        });
        assert_eq!(decoded, Ok(()));
        assert_eq!(fields, [(b":status".to_vec(), b"502".to_vec())]);
    }

    #[test]
    fn frames_of_one_s_own_are_laid_out_as_the_rfc_draws_them() {
        assert_eq!(reset(5, ErrorCode::Cancel), [0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 8]);
        assert_eq!(credit(258), [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(pong([7; 8]), [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &[7; 8]].concat());
        assert_eq!(answer(1, 200, &[("a", "bc")])[9..], *b"\x08\x03200\0\x01a\x02bc");
    }

    #[test]
    fn the_code_tells_a_client_whose_fault_it_was() {
        let hpack = FrameError::Hpack;
        assert_eq!(hpack(HpackError::BadIndex).code(), ErrorCode::Compression);
        assert_eq!(hpack(HpackError::ListTooLarge).code(), ErrorCode::EnhanceYourCalm);
        assert_eq!(FrameError::HeadTooLarge.code(), ErrorCode::EnhanceYourCalm);
        assert_eq!(FrameError::PushPromise.code(), ErrorCode::Protocol);
    }
}
