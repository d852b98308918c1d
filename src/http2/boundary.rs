//! Where a frame of one's own may be put into what the upstream sends.

use super::frame::{
    CONTINUATION, END_HEADERS, FRAME_HEADER_BYTES, FrameHeader, HEADERS, PUSH_PROMISE,
};

/// Counts the frames of one direction, from its first byte on, as they pass.
#[derive(Debug, Default)]
pub struct FrameBoundary {
    /// The present frame's header, as far as it has come.
    header: [u8; FRAME_HEADER_BYTES],
    header_bytes: usize,
    /// What is missing of the present frame's payload.
    payload_left: usize,
    block: Block,
    progress: Progress,
}

/// Whether the last frame left a header block that only CONTINUATION may follow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Block {
    #[default]
    Closed,
    Open,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    #[default]
    Nothing,
    Begun,
}

impl FrameBoundary {
    /// The next `bytes` have passed.
    pub fn passed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.progress = Progress::Begun;
            let taken = match self.payload_left {
                0 => self.header(bytes),
                left => {
                    let taken = left.min(bytes.len());
                    self.payload_left -= taken;
                    taken
                }
            };
            bytes = &bytes[taken..];
        }
    }

    /// How many bytes must pass before another frame could follow; 0: one may follow here.
    ///
    /// It is the least that is known: the rest of the frame, or of its header. Ask again when they
    /// have passed. Within a header block there is no such place (RFC 9113 4.3).
    #[must_use]
    pub fn to_boundary(&self) -> usize {
        match (self.payload_left, self.header_bytes, self.block) {
            (0, 0, Block::Closed) => 0,
            (0, header_bytes, _) => FRAME_HEADER_BYTES - header_bytes,
            (left, ..) => left,
        }
    }

    /// Nothing has passed: the first frame must be SETTINGS ([`super::EMPTY_SETTINGS`]).
    #[must_use]
    pub fn is_at_start(&self) -> bool {
        self.progress == Progress::Nothing
    }

    /// Takes what belongs to the frame's header; how many bytes that were.
    fn header(&mut self, bytes: &[u8]) -> usize {
        let taken = (FRAME_HEADER_BYTES - self.header_bytes).min(bytes.len());
        self.header[self.header_bytes..][..taken].copy_from_slice(&bytes[..taken]);
        self.header_bytes += taken;
        if self.header_bytes == FRAME_HEADER_BYTES {
            if let Some(header) = FrameHeader::parse(&self.header) {
                self.payload_left = header.payload_bytes;
                if matches!(header.kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
                    self.block = if header.has(END_HEADERS) { Block::Closed } else { Block::Open };
                }
            }
            self.header_bytes = 0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SETTINGS with one setting, HEADERS of 3 bytes that a CONTINUATION of none ends, DATA of 2.
    const STREAM: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x01\0\0\x10\0\
        \0\0\x03\x01\0\0\0\0\x01abc\
        \0\0\0\x09\x04\0\0\0\x01\
        \0\0\x02\0\x01\0\0\0\x01xy";

    #[test]
    fn a_boundary_is_behind_each_whole_frame_and_never_inside_a_header_block() {
        let mut boundary = FrameBoundary::default();
        assert!(boundary.is_at_start());
        let mut boundaries = vec![];
        for (at, byte) in STREAM.iter().enumerate() {
            if boundary.to_boundary() == 0 {
                boundaries.push(at);
            }
            boundary.passed(&[*byte]);
            assert!(!boundary.is_at_start());
        }
        assert_eq!(boundaries, [0, 15, 36]);
        assert_eq!(boundary.to_boundary(), 0);
    }

    #[test]
    fn what_is_told_is_what_is_missing() {
        let missing = |passed: usize| {
            let mut boundary = FrameBoundary::default();
            boundary.passed(&STREAM[..passed]);
            boundary.to_boundary()
        };
        assert_eq!(missing(1), 8);
        assert_eq!(missing(9), 6);
        assert_eq!(missing(14), 1);
        assert_eq!(missing(25), 2);
        assert_eq!(missing(27), 9, "the CONTINUATION that must follow");
        assert_eq!(missing(30), 6);
        assert_eq!(missing(36), 0);
        assert_eq!(missing(45), 2);
    }

    #[test]
    fn real_answers_end_at_a_boundary() {
        let answers = include_bytes!("../../tests/fuzz/corpus/http2/nginx_answers");
        let mut boundary = FrameBoundary::default();
        let mut boundaries = 0;
        for byte in answers {
            boundaries += usize::from(boundary.to_boundary() == 0);
            boundary.passed(&[*byte]);
        }
        assert_eq!(boundary.to_boundary(), 0);
        assert_eq!(boundaries, frames_of(answers));
    }

    /// The frames in `bytes`, all of them whole.
    fn frames_of(mut bytes: &[u8]) -> usize {
        let mut frames = 0;
        while let Some(header) = FrameHeader::parse(bytes) {
            bytes = &bytes[header.frame_bytes()..];
            frames += 1;
        }
        frames
    }
}
