//! What a downstream sends, frame by frame, with the authority of each request.
//!
//! The gate holds the bytes and asks [`RequestFrames::next`] what the first of them are. It shows
//! the same bytes again, and more, after [`FrameStep::NeedMore`], and drops from the front what a
//! step has told. A request is told before any byte of its HEADERS has passed: the gate that must
//! wait (for a verdict) simply does not ask on.
//!
//! Every header block is decoded, also trailers and those of requests that will be blocked: each
//! may change the compression's state. Behind a block that cannot be decoded nobody knows what the
//! next one means, so the machine refuses for good. Behind one that was decoded and did not pass,
//! it is the server that would not know: no other block may pass ([`RequestFrames::refuse`]).

use super::block::{Progress, find_end, header_block};
use super::frame::{
    ACK, CONTINUATION, DATA, END_STREAM, FRAME_HEADER_BYTES, FrameHeader, HEADERS, PING,
    PUSH_PROMISE, SETTINGS,
};
use super::hpack::Decoder;
use super::opening::{Opening, PAYLOAD_BYTES_MAX};
use super::request::{Claimed, Fields};
use super::step::{FrameStep, Malformed, RawBinary};
use super::streams::{Passage, Request, Streams};
use super::{ErrorCode, FrameError};
use crate::judge::{RequestError, Rules};

/// Follows one downstream's frames, from the byte behind the preface.
#[derive(Debug, Default)]
pub struct RequestFrames {
    /// What requests are judged by; `None`: they only have to be read.
    rules: Option<Rules>,
    state: State,
    decoder: Decoder,
    last_stream: u32,
    streams: Streams,
    /// Until the first request, where Egret stands in for the server.
    opening: Option<Opening>,
    blocks: Blocks,
    raw_binary: RawBinary,
    knows: Knows,
}

/// Which SETTINGS the client has been shown.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Knows {
    /// None of the server: what it may send has the initial limits (RFC 9113 6.5.2).
    #[default]
    Initial,
    /// The server's, which watches over its limits itself.
    Servers,
}

/// Whether header blocks pass.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Blocks {
    #[default]
    Pass,
    /// One has not passed: the server could not decode another one.
    Dropped,
}

#[derive(Debug, Default)]
enum State {
    /// Before the client's first frame.
    #[default]
    Start,
    /// Before a frame.
    Boundary,
    /// Within a frame that passes, so many bytes before its end.
    Passing(usize),
    /// Within a frame that is dropped, so many bytes before its end.
    Dropping(usize),
    /// At a header block of this stream, whose frames are whole up to the offset.
    Block { stream: u32, whole: usize },
    /// Something was refused.
    Refused(FrameError),
}

/// What a frame's header leads to.
enum Lead {
    State(State),
    /// The same bytes, until the frame is whole.
    Wait,
    Step(FrameStep),
}

impl RequestFrames {
    /// Of a client that has no server before its first request. Requests are judged by `rules`.
    #[must_use]
    pub fn opening(rules: Rules) -> Self {
        Self { opening: Some(Opening::default()), ..Self::judged(rules) }
    }

    /// Of a client whose first request was upgraded from HTTP/1.
    pub(super) fn upgraded(rules: Rules) -> Self {
        Self { last_stream: 1, streams: Streams::upgraded(), ..Self::judged(rules) }
    }

    /// Frames whose requests are judged by `rules`.
    #[must_use]
    pub fn judged(rules: Rules) -> Self {
        Self { rules: Some(rules), ..Self::default() }
    }

    /// What the first of `bytes` are. `bytes` begin where the last step that told some ended.
    pub fn next(&mut self, bytes: &[u8]) -> FrameStep {
        let mut passed = 0;
        while passed < bytes.len() {
            let rest = &bytes[passed..];
            match self.state {
                State::Passing(left) => {
                    let piece = left.min(rest.len());
                    passed += piece;
                    self.state = match left - piece {
                        0 => State::Boundary,
                        left => State::Passing(left),
                    };
                }
                // What passes is told first: all else is told alone.
                State::Block { .. } | State::Refused(_) | State::Dropping(_) if passed > 0 => break,
                State::Start | State::Boundary => {
                    let Some(header) = FrameHeader::parse(rest) else { break };
                    match self.lead(header, rest, passed == 0) {
                        Lead::State(state) => self.state = state,
                        Lead::Wait => break,
                        Lead::Step(step) => return step,
                    }
                }
                State::Dropping(left) => return self.drop_piece(left, rest.len()),
                State::Block { stream, whole } => match self.block(bytes, stream, whole) {
                    Ok(step) => return step,
                    Err(error) => self.state = State::Refused(error),
                },
                State::Refused(error) => return FrameStep::Refused(error),
            }
        }
        match (passed, &self.state) {
            (0, State::Refused(error)) => FrameStep::Refused(*error),
            (0, _) => FrameStep::NeedMore,
            (bytes, _) => FrameStep::Pass { bytes },
        }
    }

    /// The highest stream whose request was told; 0 before the first.
    #[must_use]
    pub fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// The request that was told last does not pass, and no header block from here on. What the
    /// client sends on streams that have passed does.
    pub fn refuse(&mut self) {
        self.streams.forget(self.last_stream);
        self.blocks = Blocks::Dropped;
        self.opening = None;
    }

    /// The server's first frames, its SETTINGS, have passed to the client.
    pub fn server_has_spoken(&mut self) {
        self.knows = Knows::Servers;
    }

    /// What the server says of gRPC's metadata.
    pub fn set_raw_binary(&mut self, raw_binary: RawBinary) {
        self.raw_binary = raw_binary;
    }

    #[cfg(test)]
    pub(super) fn raw_binary(&self) -> RawBinary {
        self.raw_binary
    }

    /// Whether a header block may still pass.
    #[must_use]
    pub fn passes_blocks(&self) -> bool {
        self.blocks == Blocks::Pass
    }

    /// The streams that are open.
    pub fn streams(&mut self) -> &mut Streams {
        &mut self.streams
    }

    /// Between frames: if the downstream ends here, and no byte is held, nothing is cut short.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Start | State::Boundary)
    }

    /// Where a frame with this header leads, which `bytes` begin with.
    fn lead(&mut self, header: FrameHeader, bytes: &[u8], is_first: bool) -> Lead {
        let is_settings = header.kind == SETTINGS && !header.has(ACK) && header.stream == 0;
        if matches!(self.state, State::Start) && !is_settings {
            return Lead::State(State::Refused(FrameError::NoSettings));
        }
        if header.is_settings_ack() {
            let bytes = header.frame_bytes();
            return if is_first {
                Lead::Step(FrameStep::SettingsAck { bytes })
            } else {
                Lead::Wait
            };
        }
        let is_block = matches!(header.kind, HEADERS | CONTINUATION | PUSH_PROMISE);
        if is_block && self.blocks == Blocks::Dropped {
            return self.drop_block(header, bytes, is_first);
        }
        match header.kind {
            // Clients open streams with odd numbers (RFC 9113 5.1.1).
            HEADERS if header.stream.is_multiple_of(2) => {
                Lead::State(State::Refused(FrameError::BadStream))
            }
            HEADERS => Lead::State(State::Block { stream: header.stream, whole: 0 }),
            PUSH_PROMISE => Lead::State(State::Refused(FrameError::PushPromise)),
            CONTINUATION => Lead::State(State::Refused(FrameError::BrokenBlock)),
            _ if self.opening.is_some() => self.open(header, bytes, is_first),
            _ if header.stream == 0 => Lead::State(State::Passing(header.frame_bytes())),
            _ => self.stream_frame(header, bytes, is_first),
        }
    }

    /// A frame before the first request.
    fn open(&mut self, header: FrameHeader, bytes: &[u8], is_first: bool) -> Lead {
        let refused = |code| Lead::State(State::Refused(FrameError::BadFrame(code)));
        if let Err(code) = Opening::header(header) {
            return refused(code);
        }
        if !Opening::reads(header) {
            return Lead::State(State::Passing(header.frame_bytes()));
        }
        if bytes.len() < header.frame_bytes() || !is_first {
            return Lead::Wait;
        }
        let payload = &bytes[FRAME_HEADER_BYTES..header.frame_bytes()];
        if let Some(Err(code)) = self.opening.as_mut().map(|open| open.payload(header, payload)) {
            return refused(code);
        }
        let bytes = header.frame_bytes();
        let step = match (header.kind, payload.try_into()) {
            (SETTINGS, _) => FrameStep::Settings { bytes },
            (PING, Ok(data)) if !header.has(ACK) => FrameStep::Ping { bytes, data },
            _ => return Lead::State(State::Passing(bytes)),
        };
        self.state = State::Boundary;
        Lead::Step(step)
    }

    /// A frame of a stream that is no header block.
    fn stream_frame(&mut self, header: FrameHeader, bytes: &[u8], is_first: bool) -> Lead {
        if self.knows == Knows::Initial && header.payload_bytes > PAYLOAD_BYTES_MAX {
            return Lead::State(State::Refused(FrameError::BadFrame(ErrorCode::FrameSize)));
        }
        let is_unknown = self.blocks == Blocks::Dropped && !self.streams.is_open(header.stream);
        if !is_first && (is_unknown || !self.streams.is_open(header.stream)) {
            // It may have to be told alone.
            return Lead::Wait;
        }
        match self.streams.requested(header) {
            Passage::Passes if !is_unknown => Lead::State(State::Passing(header.frame_bytes())),
            Passage::Bodyless if !is_first => Lead::Wait,
            Passage::Passes | Passage::Dropped => Lead::Step(self.drop_frame(header, bytes)),
            Passage::Bodyless => {
                let error = RequestError::UnannouncedBody.into();
                Lead::Step(self.reset_by(header, bytes, Some(error)))
            }
        }
    }

    /// A part of a header block, none of which passes any more. A stream that has passed ends here.
    fn drop_block(&mut self, header: FrameHeader, bytes: &[u8], is_first: bool) -> Lead {
        match is_first {
            false => Lead::Wait,
            true if header.kind == HEADERS && self.streams.is_open(header.stream) => {
                Lead::Step(self.reset_by(header, bytes, None))
            }
            true => Lead::Step(self.drop_frame(header, bytes)),
        }
    }

    fn reset_by(
        &mut self,
        header: FrameHeader,
        bytes: &[u8],
        error: Option<Malformed>,
    ) -> FrameStep {
        self.streams.reset(header.stream);
        // It may be the client's last frame on it.
        self.streams.requested(header);
        let FrameStep::Drop { bytes, credit } = self.drop_frame(header, bytes) else {
            return FrameStep::NeedMore;
        };
        FrameStep::Reset { bytes, stream: header.stream, credit, error }
    }

    /// The frame that `bytes` begin with is dropped, as far as it has come.
    fn drop_frame(&mut self, header: FrameHeader, bytes: &[u8]) -> FrameStep {
        let credit = match header.kind {
            DATA => u32::try_from(header.payload_bytes).unwrap_or(0),
            _ => 0,
        };
        match self.drop_piece(header.frame_bytes(), bytes.len()) {
            FrameStep::Drop { bytes, .. } => FrameStep::Drop { bytes, credit },
            other => other,
        }
    }

    fn drop_piece(&mut self, left: usize, length: usize) -> FrameStep {
        let bytes = left.min(length);
        self.state = match left - bytes {
            0 => State::Boundary,
            left => State::Dropping(left),
        };
        FrameStep::Drop { bytes, credit: 0 }
    }

    /// The header block of `stream` that `bytes` begin with, whose frames are whole up to `whole`.
    fn block(
        &mut self,
        bytes: &[u8],
        stream: u32,
        mut whole: usize,
    ) -> Result<FrameStep, FrameError> {
        let progress = find_end(bytes, stream, &mut whole)?;
        if progress == Progress::Partial {
            self.state = State::Block { stream, whole };
            return Ok(FrameStep::NeedMore);
        }
        let block = header_block(&bytes[..whole])?;
        // Streams are opened in order: another one has been opened, or never will be.
        let is_request = stream > self.last_stream;
        let mut fields = Fields::new(self.rules, self.raw_binary);
        let take = match is_request {
            true => Fields::take,
            false => Fields::take_trailer,
        };
        self.decoder
            .decode(&block, |name, value| take(&mut fields, name, value))
            .map_err(FrameError::Hpack)?;
        self.state = State::Boundary;
        let Some(header) = FrameHeader::parse(bytes) else { return Ok(FrameStep::NeedMore) };
        match is_request {
            true => Ok(self.request(header, whole, fields)),
            false => Ok(self.trailers(header, whole, fields)),
        }
    }

    /// The first `bytes` are a request with these fields.
    fn request(&mut self, header: FrameHeader, bytes: usize, fields: Fields) -> FrameStep {
        let stream = header.stream;
        self.last_stream = stream;
        self.opening = None;
        let request = match (fields.may_have_body(), header.has(END_STREAM)) {
            (_, true) => Request::Ended,
            (true, false) => Request::Open,
            (false, false) => Request::Bodyless,
        };
        match fields.into_request() {
            Ok(Claimed { asked, .. }) | Err((_, asked)) if self.streams.is_full() => {
                let error = FrameError::TooManyStreams.into();
                FrameStep::Malformed { bytes, stream, error, asked }
            }
            Ok(authority) => {
                self.streams.begin(stream, request);
                FrameStep::Request { bytes, stream, authority }
            }
            Err((error, asked)) => {
                FrameStep::Malformed { bytes, stream, error: error.into(), asked }
            }
        }
    }

    /// The first `bytes` are the trailers of a request. The server does not see those that are
    /// dropped, so it sees no other block either.
    fn trailers(&mut self, header: FrameHeader, bytes: usize, fields: Fields) -> FrameStep {
        let stream = header.stream;
        let error = match fields.into_trailers() {
            Ok(()) if self.streams.requested(header) != Passage::Dropped => {
                return FrameStep::Pass { bytes };
            }
            Ok(()) => None,
            Err(error) => Some(error.into()),
        };
        self.blocks = Blocks::Dropped;
        self.streams.reset(stream);
        self.streams.requested(header);
        FrameStep::Reset { bytes, stream, credit: 0, error }
    }
}

#[cfg(test)]
mod tests;
