//! A frame's header (RFC 9113 4.1), and the numbers that this side of HTTP/2 needs.

/// The bytes before each frame's payload.
pub(super) const FRAME_HEADER_BYTES: usize = 9;

/// A stream's number without the bit above it, which is reserved and ignored.
pub(super) const STREAM_MASK: u32 = 0x7fff_ffff;

// Types (RFC 9113 6).
pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

// Flags. ACK shares its bit with END_STREAM: they belong to different types.
pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY_FLAG: u8 = 0x20;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// The bytes that follow the header, at most 2^24-1.
    pub(super) payload_bytes: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHeader {
    /// The header that `bytes` begin with, if it is whole.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
        Some(Self {
            payload_bytes: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & STREAM_MASK,
        })
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// SETTINGS or PING that answers the other side's.
    pub(super) fn is_ack(&self) -> bool {
        self.has(ACK)
    }

    /// SETTINGS that acknowledges the other side's, which has no payload (RFC 9113 6.5).
    pub(super) fn is_settings_ack(&self) -> bool {
        self.kind == SETTINGS && self.is_ack() && self.stream == 0 && self.payload_bytes == 0
    }

    /// The frame's bytes, header and payload.
    pub(super) fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload_bytes
    }
}
