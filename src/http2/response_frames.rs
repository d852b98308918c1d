//! What an upstream sends: where a frame of one's own may be put into it, which streams end, and
//! what it accepts of gRPC.

use super::frame::{
    CONTINUATION, END_HEADERS, FRAME_HEADER_BYTES, FrameHeader, HEADERS, PING, PUSH_PROMISE,
    SETTINGS,
};
use super::request_frames::RequestFrames;
use super::step::RawBinary;

/// "True binary metadata" of gRPC (its proposal G1): the server takes raw octets if it sets 1.
const GRPC_ALLOW_TRUE_BINARY_METADATA: u16 = 0xfe03;

const SETTING_BYTES: usize = 6;

/// Follows the frames of one upstream, from its first byte on, as they pass.
#[derive(Debug, Default)]
pub struct ResponseFrames {
    /// The present frame's header, as far as it has come.
    header: [u8; FRAME_HEADER_BYTES],
    header_bytes: usize,
    /// What is missing of the present frame's payload.
    payload_left: usize,
    block: Block,
    progress: Progress,
    /// Within SETTINGS: the present one, as far as it has come.
    setting: Option<([u8; SETTING_BYTES], usize)>,
}

/// What the upstream's next frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextFrame {
    /// Its header has not come whole.
    Unknown,
    /// SETTINGS that acknowledges the other side's, of so many bytes.
    SettingsAck(usize),
    /// PING that answers the other side's, of so many bytes.
    Pong(usize),
    /// Another one, of so many bytes.
    Other(usize),
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

impl ResponseFrames {
    /// The next `bytes` have passed, in answer to `requests`.
    pub fn passed(&mut self, mut bytes: &[u8], requests: &mut RequestFrames) {
        if !bytes.is_empty() {
            self.progress = Progress::Begun;
            requests.server_has_spoken();
        }
        while !bytes.is_empty() {
            let taken = match self.payload_left {
                0 => self.header(bytes, requests),
                left => {
                    let taken = left.min(bytes.len());
                    self.payload(&bytes[..taken], requests);
                    self.payload_left -= taken;
                    taken
                }
            };
            bytes = &bytes[taken..];
        }
    }

    /// What frame `bytes` begin with. There is none inside another one.
    #[must_use]
    pub fn next_frame(bytes: &[u8]) -> NextFrame {
        match FrameHeader::parse(bytes) {
            None => NextFrame::Unknown,
            Some(header) if header.is_settings_ack() => {
                NextFrame::SettingsAck(header.frame_bytes())
            }
            Some(header) if header.kind == PING && header.is_ack() => {
                NextFrame::Pong(header.frame_bytes())
            }
            Some(header) => NextFrame::Other(header.frame_bytes()),
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

    /// Nothing has passed: the first frame must be SETTINGS ([`super::GREETING`]).
    #[must_use]
    pub fn is_at_start(&self) -> bool {
        self.progress == Progress::Nothing
    }

    /// Takes what belongs to the frame's header; how many bytes that were.
    fn header(&mut self, bytes: &[u8], requests: &mut RequestFrames) -> usize {
        let taken = (FRAME_HEADER_BYTES - self.header_bytes).min(bytes.len());
        self.header[self.header_bytes..][..taken].copy_from_slice(&bytes[..taken]);
        self.header_bytes += taken;
        if self.header_bytes == FRAME_HEADER_BYTES {
            if let Some(header) = FrameHeader::parse(&self.header) {
                self.begin(header, requests);
            }
            self.header_bytes = 0;
        }
        taken
    }

    fn begin(&mut self, header: FrameHeader, requests: &mut RequestFrames) {
        self.payload_left = header.payload_bytes;
        if matches!(header.kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.block = if header.has(END_HEADERS) { Block::Closed } else { Block::Open };
        }
        let has_settings = header.kind == SETTINGS && !header.is_ack();
        self.setting = has_settings.then_some(([0; SETTING_BYTES], 0));
        requests.streams().responded(header);
    }

    fn payload(&mut self, payload: &[u8], requests: &mut RequestFrames) {
        let Some((setting, filled)) = &mut self.setting else { return };
        for byte in payload {
            setting[*filled] = *byte;
            *filled = (*filled + 1) % SETTING_BYTES;
            if *filled == 0 && setting[..2] == GRPC_ALLOW_TRUE_BINARY_METADATA.to_be_bytes() {
                requests.set_raw_binary(match setting[2..] {
                    [0, 0, 0, 1] => RawBinary::Accepted,
                    _ => RawBinary::Refused,
                });
            }
        }
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
        let mut boundary = ResponseFrames::default();
        assert!(boundary.is_at_start());
        let mut boundaries = vec![];
        for (at, byte) in STREAM.iter().enumerate() {
            if boundary.to_boundary() == 0 {
                boundaries.push(at);
            }
            boundary.passed(&[*byte], &mut RequestFrames::default());
            assert!(!boundary.is_at_start());
        }
        assert_eq!(boundaries, [0, 15, 36]);
        assert_eq!(boundary.to_boundary(), 0);
    }

    #[test]
    fn what_is_told_is_what_is_missing() {
        let missing = |passed: usize| {
            let mut boundary = ResponseFrames::default();
            boundary.passed(&STREAM[..passed], &mut RequestFrames::default());
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
    fn the_upstream_s_settings_tell_whether_it_takes_raw_metadata() {
        let set = |value: u8| [0xfe, 3, 0, 0, 0, value];
        let settings = |entries: &[[u8; 6]]| {
            let payload = entries.concat();
            [&[0, 0, u8::try_from(payload.len()).unwrap(), 4, 0, 0, 0, 0, 0], &payload[..]].concat()
        };
        let ack = [0, 0, 0, 4, 1, 0, 0, 0, 0];
        let table = [
            (settings(&[]), RawBinary::Refused),
            (settings(&[[0, 3, 0, 0, 0, 1]]), RawBinary::Refused),
            (settings(&[set(1)]), RawBinary::Accepted),
            (settings(&[set(2)]), RawBinary::Refused),
            (settings(&[[0, 3, 0, 0, 0, 1], set(1), [0, 4, 0, 0, 0, 9]]), RawBinary::Accepted),
            ([settings(&[set(1)]), ack.to_vec()].concat(), RawBinary::Accepted),
            ([settings(&[set(1)]), settings(&[set(0)])].concat(), RawBinary::Refused),
        ];
        for (bytes, expected) in table {
            for cut in 0..bytes.len() {
                let (mut frames, mut requests) = Default::default();
                ResponseFrames::passed(&mut frames, &bytes[..cut], &mut requests);
                frames.passed(&bytes[cut..], &mut requests);
                assert_eq!(requests.raw_binary(), expected, "{bytes:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn real_answers_end_at_a_boundary() {
        let answers = include_bytes!("../../tests/fuzz/corpus/http2/nginx_answers");
        let mut boundary = ResponseFrames::default();
        let mut boundaries = 0;
        for byte in answers {
            boundaries += usize::from(boundary.to_boundary() == 0);
            boundary.passed(&[*byte], &mut RequestFrames::default());
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
