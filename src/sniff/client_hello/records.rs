//! The record layer (RFC 8446 5.1): the payloads of handshake records, wherever they are cut.
//!
//! It reads records until the first one that cannot belong to a ClientHello in plain text. What the
//! payloads say is the business of [`super`].

use crate::sniff::{OpaqueReason, TLS_HANDSHAKE};

/// The most plain bytes in a record.
const RECORD_BYTES_MAX: u16 = 1 << 14;

/// Takes records apart.
#[derive(Debug)]
pub(super) struct Records {
    place: Place,
    seen: Seen,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the header, before the byte with this index; `length` has been read so far.
    Header { index: u8, length: u16 },
    /// In the payload, of which so much is left.
    Payload { left: u16 },
}

/// Whether a whole header was one of TLS: then the connection is TLS, well formed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Record,
}

impl Default for Records {
    fn default() -> Self {
        Self { place: Place::Header { index: 0, length: 0 }, seen: Seen::Nothing }
    }
}

impl Records {
    /// What begins `bytes`, of which there is at least one: a byte of a header, which gives an
    /// empty payload, or a piece of payload. And the bytes behind it.
    pub(super) fn split<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<(&'a [u8], &'a [u8]), OpaqueReason> {
        match self.place {
            Place::Header { index, length } => {
                let Some((first, rest)) = bytes.split_first() else {
                    return Ok((bytes, bytes));
                };
                self.place = self.header(index, length, *first)?;
                Ok((&[], rest))
            }
            Place::Payload { left } => {
                let (payload, rest) = bytes.split_at(bytes.len().min(usize::from(left)));
                // The payload has at most `left` bytes, so its length fits.
                let left = left.saturating_sub(u16::try_from(payload.len()).unwrap_or(left));
                self.place = match left {
                    0 => Place::Header { index: 0, length: 0 },
                    _ => Place::Payload { left },
                };
                Ok((payload, rest))
            }
        }
    }

    /// The present record has more payload.
    pub(super) fn is_within_payload(&self) -> bool {
        matches!(self.place, Place::Payload { .. })
    }

    /// Where the header's next byte leads.
    fn header(&mut self, index: u8, length: u16, byte: u8) -> Result<Place, OpaqueReason> {
        let is_good = match index {
            0 => byte == TLS_HANDSHAKE,
            1 => byte == 3,
            // From SSL 3.0 to 1.3, which says 1.0 or 1.2 here: a version tells nothing.
            2 => byte <= 4,
            _ => true,
        };
        match (index, length | u16::from(byte)) {
            _ if !is_good && self.seen == Seen::Nothing => Err(OpaqueReason::UnknownProtocol),
            _ if !is_good => Err(OpaqueReason::BadTls),
            (0..3, _) => Ok(Place::Header { index: index + 1, length: 0 }),
            (3, high) => Ok(Place::Header { index: 4, length: high << 8 }),
            (_, left @ 1..=RECORD_BYTES_MAX) => {
                self.seen = Seen::Record;
                Ok(Place::Payload { left })
            }
            _ => Err(OpaqueReason::BadTls),
        }
    }
}
