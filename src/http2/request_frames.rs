//! What a downstream sends, frame by frame, with the authority of each request.
//!
//! The worker holds the bytes and asks [`RequestFrames::next`] what the first of them are. It shows
//! the same bytes again, and more, after [`FrameStep::NeedMore`], and drops from the front what a
//! step has told. A request is told before any byte of its HEADERS has passed: the worker that must
//! wait (for a verdict) simply does not ask on.
//!
//! Every header block is decoded, also trailers and those of requests that will be blocked: each
//! may change the compression's state. So the machine refuses for good: behind a block that cannot
//! be decoded nobody knows what the next one means.

use std::borrow::Cow;

use super::frame::{
    ACK, CONTINUATION, END_HEADERS, FRAME_HEADER_BYTES, FrameHeader, HEADERS, PADDED, PRIORITY,
    PUSH_PROMISE, SETTINGS,
};
use super::hpack::Decoder;
use super::request::Fields;
use super::{BLOCK_BYTES_MAX, Claimed, FrameError};

/// The exclusive flag, the stream and the weight that HEADERS may carry (RFC 9113 6.2).
const PRIORITY_BYTES: usize = 5;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameStep {
    /// It cannot be told before more have come.
    NeedMore,
    /// The first `bytes` ask for nothing: frames other than a request's HEADERS, or parts of them.
    Pass {
        /// How many; at least one.
        bytes: usize,
    },
    /// The first `bytes` are a SETTINGS frame that acknowledges the other side's. Who has sent
    /// SETTINGS of its own keeps the first one back: the upstream has not asked for it.
    SettingsAck {
        /// How many.
        bytes: usize,
    },
    /// The first `bytes` are a request's HEADERS with its CONTINUATIONs, whole.
    Request {
        /// How many.
        bytes: usize,
        /// The stream that it opens.
        stream: u32,
        /// What it asks for.
        authority: Claimed,
    },
    /// Nothing from here on may pass.
    Refused(FrameError),
}

/// Follows one downstream's frames, from the byte behind the preface.
#[derive(Debug, Default)]
pub struct RequestFrames {
    state: State,
    decoder: Decoder,
    last_stream: u32,
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
    /// At a header block of this stream, whose frames are whole up to the offset.
    Block { stream: u32, whole: usize },
    /// Something was refused.
    Refused(FrameError),
}

impl RequestFrames {
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
                State::Start | State::Boundary => {
                    let Some(header) = FrameHeader::parse(rest) else { break };
                    if matches!(self.state, State::Boundary) && header.is_settings_ack() {
                        match passed {
                            0 => return FrameStep::SettingsAck { bytes: header.frame_bytes() },
                            _ => break,
                        }
                    }
                    self.state = self.after(header);
                }
                // What passes is told first: a block's bytes, and its error, are told alone.
                State::Block { .. } | State::Refused(_) if passed > 0 => break,
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

    /// Between frames: if the downstream ends here, and no byte is held, nothing is cut short.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Start | State::Boundary)
    }

    /// The state at a frame with this header.
    fn after(&self, header: FrameHeader) -> State {
        let is_settings = header.kind == SETTINGS && !header.has(ACK) && header.stream == 0;
        match header.kind {
            _ if matches!(self.state, State::Start) && !is_settings => {
                State::Refused(FrameError::NoSettings)
            }
            // Clients open streams with odd numbers (RFC 9113 5.1.1).
            HEADERS if header.stream.is_multiple_of(2) => State::Refused(FrameError::BadStream),
            HEADERS => State::Block { stream: header.stream, whole: 0 },
            PUSH_PROMISE => State::Refused(FrameError::PushPromise),
            CONTINUATION => State::Refused(FrameError::BrokenBlock),
            _ => State::Passing(header.frame_bytes()),
        }
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
        let mut fields = Fields::default();
        self.decoder
            .decode(&block, |name, value| fields.take(name, value))
            .map_err(FrameError::Hpack)?;
        self.state = State::Boundary;
        if stream > self.last_stream {
            let authority = fields.into_request()?;
            self.last_stream = stream;
            Ok(FrameStep::Request { bytes: whole, stream, authority })
        } else {
            // Streams are opened in order: this one has been opened, or never will be.
            fields.into_trailers()?;
            Ok(FrameStep::Pass { bytes: whole })
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Partial,
    Whole,
}

/// Moves `whole`, the end of the last whole frame of the header block that `bytes` begin with, as
/// far as `bytes` go. Each frame is looked at once, however slowly the block comes.
fn find_end(bytes: &[u8], stream: u32, whole: &mut usize) -> Result<Progress, FrameError> {
    while let Some(header) = FrameHeader::parse(&bytes[*whole..]) {
        let is_first = *whole == 0;
        if !is_first && (header.kind != CONTINUATION || header.stream != stream) {
            return Err(FrameError::BrokenBlock);
        }
        let end = *whole + header.frame_bytes();
        let is_last = header.has(END_HEADERS);
        // The header alone tells what must be held; behind a frame that is not the last one, at
        // least another header.
        let held = if is_last { end } else { end + FRAME_HEADER_BYTES };
        if held > BLOCK_BYTES_MAX {
            return Err(FrameError::HeadTooLarge);
        }
        if end > bytes.len() {
            break;
        }
        *whole = end;
        if is_last {
            return Ok(Progress::Whole);
        }
    }
    Ok(Progress::Partial)
}

/// The header block in `frames`: a HEADERS and its CONTINUATIONs, whole.
fn header_block(frames: &[u8]) -> Result<Cow<'_, [u8]>, FrameError> {
    let mut block = Cow::Borrowed([].as_slice());
    let mut rest = frames;
    while let Some(header) = FrameHeader::parse(rest) {
        let (frame, behind) = rest.split_at(header.frame_bytes());
        let fragment = fragment(header, &frame[FRAME_HEADER_BYTES..])?;
        match block.is_empty() {
            true => block = Cow::Borrowed(fragment),
            false => block.to_mut().extend_from_slice(fragment),
        }
        rest = behind;
    }
    Ok(block)
}

/// The part of a frame's payload that belongs to the header block.
fn fragment(header: FrameHeader, payload: &[u8]) -> Result<&[u8], FrameError> {
    let mut rest = payload;
    let mut padding_bytes = 0;
    // CONTINUATION has neither flag, whatever its bits say (RFC 9113 6.10).
    if header.kind == HEADERS && header.has(PADDED) {
        let (length, behind) = rest.split_first().ok_or(FrameError::BadPadding)?;
        (padding_bytes, rest) = (usize::from(*length), behind);
    }
    if header.kind == HEADERS && header.has(PRIORITY) {
        rest = rest.get(PRIORITY_BYTES..).ok_or(FrameError::BadPadding)?;
    }
    let fragment_bytes = rest.len().checked_sub(padding_bytes).ok_or(FrameError::BadPadding)?;
    Ok(&rest[..fragment_bytes])
}

#[cfg(test)]
mod tests;
