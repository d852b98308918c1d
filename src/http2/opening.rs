//! What a client says before its first request, judged as a server would.
//!
//! Until a request names a host there is no server to pass these frames to, and a client may wait
//! for what a server says to them.

use super::ErrorCode;
use super::frame::{
    DATA, FrameHeader, GOAWAY, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

/// The largest payload before anything else is agreed (RFC 9113 4.2).
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 14;

/// The largest window (RFC 9113 6.9.1).
const WINDOW_MAX: u64 = (1 << 31) - 1;

/// The first window (RFC 9113 6.9.2).
const WINDOW_INITIAL: u64 = 65_535;

// Settings (RFC 9113 6.5.2).
const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;

/// The frames before the first request.
#[derive(Debug)]
pub(super) struct Opening {
    /// What the client lets a server send.
    window: u64,
}

impl Default for Opening {
    fn default() -> Self {
        Self { window: WINDOW_INITIAL }
    }
}

impl Opening {
    /// Whether a server would accept a frame with this header, as far as that tells.
    pub(super) fn header(header: FrameHeader) -> Result<(), ErrorCode> {
        match header.kind {
            _ if header.payload_bytes > PAYLOAD_BYTES_MAX => Err(ErrorCode::FrameSize),
            // No stream is open.
            DATA | RST_STREAM => Err(ErrorCode::Protocol),
            WINDOW_UPDATE | SETTINGS | PING | GOAWAY if header.stream != 0 => {
                Err(ErrorCode::Protocol)
            }
            PRIORITY if header.stream == 0 => Err(ErrorCode::Protocol),
            PRIORITY => has_size(header, 5),
            PING => has_size(header, 8),
            WINDOW_UPDATE => has_size(header, 4),
            SETTINGS if header.is_ack() => has_size(header, 0),
            SETTINGS if !header.payload_bytes.is_multiple_of(6) => Err(ErrorCode::FrameSize),
            _ => Ok(()),
        }
    }

    /// Whether the payload of a frame with this header must be seen.
    pub(super) fn reads(header: FrameHeader) -> bool {
        matches!(header.kind, SETTINGS | PING | WINDOW_UPDATE | PRIORITY)
    }

    /// Whether a server would accept the whole frame.
    pub(super) fn payload(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ErrorCode> {
        match (header.kind, payload) {
            (SETTINGS, _) => payload.chunks_exact(6).try_for_each(setting),
            (WINDOW_UPDATE, &[a, b, c, d]) => self.update(u32::from_be_bytes([a & 0x7f, b, c, d])),
            // A stream that depends on itself (RFC 7540 5.3.1).
            (PRIORITY, &[a, b, c, d, _]) => {
                let parent = u32::from_be_bytes([a & 0x7f, b, c, d]);
                if parent == header.stream { Err(ErrorCode::Protocol) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn update(&mut self, increment: u32) -> Result<(), ErrorCode> {
        self.window += u64::from(increment);
        match increment {
            0 => Err(ErrorCode::Protocol),
            _ if self.window > WINDOW_MAX => Err(ErrorCode::FlowControl),
            _ => Ok(()),
        }
    }
}

fn has_size(header: FrameHeader, size: usize) -> Result<(), ErrorCode> {
    if header.payload_bytes == size { Ok(()) } else { Err(ErrorCode::FrameSize) }
}

fn setting(entry: &[u8]) -> Result<(), ErrorCode> {
    let &[i, d, a, b, c, e] = entry else { return Ok(()) };
    let value = u32::from_be_bytes([a, b, c, e]);
    match u16::from_be_bytes([i, d]) {
        ENABLE_PUSH if value > 1 => Err(ErrorCode::Protocol),
        INITIAL_WINDOW_SIZE if u64::from(value) > WINDOW_MAX => Err(ErrorCode::FlowControl),
        MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => Err(ErrorCode::Protocol),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a frame.
    fn judged(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), ErrorCode> {
        let header = FrameHeader { payload_bytes: payload.len(), kind, flags, stream };
        Opening::header(header)?;
        assert!(Opening::reads(header) || payload.is_empty() || kind > WINDOW_UPDATE);
        Opening::default().payload(header, payload)
    }

    #[test]
    fn each_frame_is_judged_as_a_server_would() {
        const ACK: u8 = 1;
        let window = |left: u32| left.to_be_bytes();
        type Row<'a> = (&'a str, u8, u8, u32, &'a [u8], Result<(), ErrorCode>);
        let table: [Row<'_>; 28] = [
            ("settings", SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100], Ok(())),
            ("settings that nobody knows", SETTINGS, 0, 0, &[0x0a; 12], Ok(())),
            ("settings of a stream", SETTINGS, 0, 1, &[], Err(ErrorCode::Protocol)),
            ("half a setting", SETTINGS, 0, 0, &[0; 3], Err(ErrorCode::FrameSize)),
            ("an acknowledgement", SETTINGS, ACK, 0, &[], Ok(())),
            ("one with a payload", SETTINGS, ACK, 0, &[0; 6], Err(ErrorCode::FrameSize)),
            ("push", SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1], Ok(())),
            ("push 2", SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2], Err(ErrorCode::Protocol)),
            ("window", SETTINGS, 0, 0, &[0, 4, 0x7f, 255, 255, 255], Ok(())),
            ("large window", SETTINGS, 0, 0, &[0, 4, 128, 0, 0, 0], Err(ErrorCode::FlowControl)),
            ("frames", SETTINGS, 0, 0, &[0, 5, 0, 0, 64, 0], Ok(())),
            ("small frames", SETTINGS, 0, 0, &[0, 5, 0, 0, 63, 255], Err(ErrorCode::Protocol)),
            ("large frames", SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0], Err(ErrorCode::Protocol)),
            ("a ping", PING, 0, 0, &[7; 8], Ok(())),
            ("a short ping", PING, 0, 0, &[7; 6], Err(ErrorCode::FrameSize)),
            ("a stream's ping", PING, 0, 3, &[7; 8], Err(ErrorCode::Protocol)),
            ("credit", WINDOW_UPDATE, 0, 0, &window(0x7fff_0000), Ok(())),
            ("none", WINDOW_UPDATE, 0, 0, &window(0), Err(ErrorCode::Protocol)),
            ("too much", WINDOW_UPDATE, 0, 0, &window(0x7fff_0001), Err(ErrorCode::FlowControl)),
            ("an idle stream's", WINDOW_UPDATE, 0, 1, &window(1), Err(ErrorCode::Protocol)),
            ("a short one", WINDOW_UPDATE, 0, 0, &[1; 3], Err(ErrorCode::FrameSize)),
            ("a priority", PRIORITY, 0, 3, &[0, 0, 0, 1, 9], Ok(())),
            ("its own parent", PRIORITY, 0, 3, &[0, 0, 0, 3, 9], Err(ErrorCode::Protocol)),
            ("a short priority", PRIORITY, 0, 3, &[0; 4], Err(ErrorCode::FrameSize)),
            ("no stream's priority", PRIORITY, 0, 0, &[0; 5], Err(ErrorCode::Protocol)),
            ("a body", DATA, 0, 1, &[1], Err(ErrorCode::Protocol)),
            ("a reset", RST_STREAM, 0, 1, &[0; 4], Err(ErrorCode::Protocol)),
            ("something new", 0xfa, 255, 9, &[1; 30], Ok(())),
        ];
        for (what, kind, flags, stream, payload, expected) in table {
            assert_eq!(judged(kind, flags, stream, payload), expected, "{what}");
        }
        let large = FrameHeader { payload_bytes: 16_385, kind: 0xfa, flags: 0, stream: 0 };
        assert_eq!(Opening::header(large), Err(ErrorCode::FrameSize));
    }

    #[test]
    fn credit_adds_up() {
        let mut opening = Opening::default();
        assert_eq!(opening.update(0x7ffe_0000), Ok(()));
        assert_eq!(opening.update(0x10000), Ok(()));
        assert_eq!(opening.update(1), Err(ErrorCode::FlowControl));
    }
}
