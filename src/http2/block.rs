//! A header block in its frames: HEADERS, and the CONTINUATIONs behind it (RFC 9113 6.10).

use std::borrow::Cow;

use super::frame::{
    CONTINUATION, END_HEADERS, FRAME_HEADER_BYTES, FrameHeader, HEADERS, PADDED, PRIORITY_FLAG,
};
use super::{BLOCK_BYTES_MAX, FrameError};

/// The exclusive flag, the stream and the weight that HEADERS may carry (RFC 9113 6.2).
const PRIORITY_BYTES: usize = 5;

/// Whether a header block is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Partial,
    Whole,
}

/// Moves `whole`, the end of the last whole frame of the header block that `bytes` begin with, as
/// far as `bytes` go. Each frame is looked at once, however slowly the block comes.
pub(super) fn find_end(
    bytes: &[u8],
    stream: u32,
    whole: &mut usize,
) -> Result<Progress, FrameError> {
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
pub(super) fn header_block(frames: &[u8]) -> Result<Cow<'_, [u8]>, FrameError> {
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
    if header.kind == HEADERS && header.has(PRIORITY_FLAG) {
        rest = rest.get(PRIORITY_BYTES..).ok_or(FrameError::BadPadding)?;
    }
    let fragment_bytes = rest.len().checked_sub(padding_bytes).ok_or(FrameError::BadPadding)?;
    Ok(&rest[..fragment_bytes])
}
