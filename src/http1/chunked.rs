//! A chunked body (RFC 9112 7.1) as a stream: where it ends, and nothing of what it holds.
//!
//! Strict: sizes are hex digits only, every line ends with CR LF, trailers are fields. A machine
//! that has found a bad byte stays before it, so what passes does not depend on how the bytes were
//! cut.

use super::{BODY_BYTES_MAX, CHUNK_EXTRA_BYTES_MAX, RequestError, is_token};

/// The most digits of a size, leading zeros included.
const SIZE_DIGITS_MAX: u8 = 16;

/// Reads one chunked body.
#[derive(Debug)]
pub(super) struct Chunked {
    place: Place,
    /// Bytes of the present size line's extensions, or of all trailers.
    extra_bytes: u16,
}

/// What a piece of the body came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many bytes belong to the body; all there were, or those before a bad one.
    Within(usize),
    /// So many bytes belong to the body, and it ends with them.
    Last(usize),
    /// The first byte is bad.
    Bad(RequestError),
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy)]
enum Place {
    Size {
        value: u64,
        digits: u8,
    },
    Extension {
        value: u64,
    },
    /// The LF behind a size line.
    SizeEnd {
        value: u64,
    },
    Data {
        left: u64,
    },
    /// The CR behind a chunk's data.
    DataCr,
    DataLf,
    /// A trailer, or the CR of the last, empty line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    /// The body's last LF.
    LastLf,
    Over,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { place: Place::Size { value: 0, digits: 0 }, extra_bytes: 0 }
    }
}

impl Chunked {
    /// Reads on in `bytes`, which follow those that were taken before.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Piece {
        let mut taken = 0;
        while let Some(byte) = bytes.get(taken) {
            match self.place {
                Place::Over => return Piece::Last(taken),
                Place::Data { left } => {
                    let here = bytes.len() - taken;
                    let piece = usize::try_from(left).map_or(here, |left| left.min(here));
                    taken += piece;
                    self.place = self.after_data(left, piece);
                }
                _ => match self.step(*byte) {
                    Ok(place) => {
                        self.place = place;
                        taken += 1;
                    }
                    Err(refusal) if taken == 0 => return Piece::Bad(refusal),
                    Err(_) => return Piece::Within(taken),
                },
            }
        }
        match self.place {
            Place::Over => Piece::Last(taken),
            _ => Piece::Within(taken),
        }
    }

    /// Bytes of the present chunk's data that have not come: they need no look at all.
    pub(super) fn data_left(&self) -> u64 {
        match self.place {
            Place::Data { left } => left,
            _ => 0,
        }
    }

    /// Passes over `bytes` of the present chunk's data.
    pub(super) fn skip_data(&mut self, bytes: u64) {
        let Place::Data { left } = self.place else {
            unreachable!("only data is skipped, and data_left told how much there is");
        };
        self.place = match left.checked_sub(bytes) {
            Some(0) => Place::DataCr,
            Some(left) => Place::Data { left },
            None => unreachable!("no more is skipped than data_left told"),
        };
    }

    fn after_data(&self, left: u64, piece: usize) -> Place {
        match left.saturating_sub(piece as u64) {
            0 => Place::DataCr,
            left => Place::Data { left },
        }
    }

    /// Where `byte` leads.
    fn step(&mut self, byte: u8) -> Result<Place, RequestError> {
        match (self.place, byte) {
            (Place::Size { value, digits }, _) => self.size(value, digits, byte),
            (Place::Extension { value }, b'\r') => Ok(Place::SizeEnd { value }),
            (Place::Extension { value }, _) if is_text(byte) => {
                self.count_extra(RequestError::BadChunk)?;
                Ok(Place::Extension { value })
            }
            (Place::SizeEnd { value }, b'\n') => {
                self.extra_bytes = 0;
                Ok(match value {
                    0 => Place::TrailerStart,
                    left => Place::Data { left },
                })
            }
            (Place::DataCr, b'\r') => Ok(Place::DataLf),
            (Place::DataLf, b'\n') => Ok(Place::Size { value: 0, digits: 0 }),
            (Place::TrailerStart, b'\r') => Ok(Place::LastLf),
            (Place::LastLf, b'\n') => Ok(Place::Over),
            (
                Place::Extension { .. } | Place::SizeEnd { .. } | Place::DataCr | Place::DataLf,
                _,
            ) => Err(RequestError::BadChunk),
            (place, _) => {
                let place = trailer(place, byte).ok_or(RequestError::BadTrailer)?;
                self.count_extra(RequestError::BadTrailer)?;
                Ok(place)
            }
        }
    }

    fn size(&mut self, value: u64, digits: u8, byte: u8) -> Result<Place, RequestError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b';' if digits > 0 => return Ok(Place::Extension { value }),
            b'\r' if digits > 0 => return Ok(Place::SizeEnd { value }),
            _ => return Err(RequestError::BadChunk),
        };
        // Sixteen digits are 64 bits: the shift loses nothing.
        let value = value << 4 | u64::from(digit);
        if digits == SIZE_DIGITS_MAX || value > BODY_BYTES_MAX {
            return Err(RequestError::BadChunk);
        }
        Ok(Place::Size { value, digits: digits + 1 })
    }

    fn count_extra(&mut self, refusal: RequestError) -> Result<(), RequestError> {
        if self.extra_bytes == CHUNK_EXTRA_BYTES_MAX {
            return Err(refusal);
        }
        self.extra_bytes += 1;
        Ok(())
    }
}

/// Where `byte` leads within a trailer. `None`: nowhere.
fn trailer(place: Place, byte: u8) -> Option<Place> {
    match (place, byte) {
        (Place::TrailerName, b':') => Some(Place::TrailerValue),
        (Place::TrailerStart | Place::TrailerName, _) if is_token(byte) => Some(Place::TrailerName),
        (Place::TrailerValue, b'\r') => Some(Place::TrailerEnd),
        (Place::TrailerValue, _) if is_text(byte) => Some(Place::TrailerValue),
        (Place::TrailerEnd, b'\n') => Some(Place::TrailerStart),
        _ => None,
    }
}

/// A byte of a field's value or an extension (RFC 9110 5.5): no control byte but the tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the body, if it ends; else why it does not.
    fn read_all(body: &[u8], piece_bytes: usize) -> Result<Option<usize>, RequestError> {
        let mut chunked = Chunked::default();
        let mut taken = 0;
        let mut arrived = 0;
        while arrived < body.len() {
            arrived = (arrived + piece_bytes).min(body.len());
            while taken < arrived {
                match chunked.read(&body[taken..arrived]) {
                    Piece::Within(bytes) => taken += bytes,
                    Piece::Last(bytes) => return Ok(Some(taken + bytes)),
                    Piece::Bad(refusal) => return Err(refusal),
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn each_body_has_one_reading_however_it_is_cut() {
        let bad_chunk = Err(RequestError::BadChunk);
        let bad_trailer = Err(RequestError::BadTrailer);
        let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(8 * 1024));
        let too_long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(8 * 1024 + 1));
        let too_long_trailer = format!("0\r\nA:{}\r\n\r\n", "x".repeat(8 * 1024));
        let table: &[(&str, Result<Option<usize>, RequestError>)] = &[
            ("0\r\n\r\n", Ok(Some(5))),
            ("5\r\nhello\r\n0\r\n\r\n", Ok(Some(15))),
            ("5\r\nhello\r\n0\r\n\r\nGET /", Ok(Some(15))),
            ("A\r\n0123456789\r\n0\r\n\r\n", Ok(Some(20))),
            ("a\r\n0123456789\r\n00\r\n\r\n", Ok(Some(21))),
            ("0000000000000001\r\na\r\n0\r\n\r\n", Ok(Some(26))),
            ("2\r\n\r\n\r\n0\r\n\r\n", Ok(Some(12))),
            ("1;a=b;c=\"d e\"\r\nx\r\n0;e\r\n\r\n", Ok(Some(25))),
            (&long_extension, Ok(Some(8 * 1024 + 12))),
            ("0\r\nTrailer: a\r\nOther:\r\n\r\n", Ok(Some(25))),
            ("5\r\nhel", Ok(None)),
            ("7fffffffffffffff\r\n", Ok(None)),
            // Sizes.
            ("\r\n\r\n", bad_chunk),
            ("g\r\n", bad_chunk),
            ("-1\r\n", bad_chunk),
            ("+1\r\n", bad_chunk),
            ("0x5\r\nhello\r\n", bad_chunk),
            ("1_0\r\n", bad_chunk),
            (" 5\r\nhello\r\n", bad_chunk),
            ("5 \r\nhello\r\n", bad_chunk),
            ("5 ;a\r\nhello\r\n", bad_chunk),
            ("5\0\r\n", bad_chunk),
            ("8000000000000000\r\n", bad_chunk),
            ("10000000000000000\r\n", bad_chunk),
            ("00000000000000001\r\na\r\n", bad_chunk),
            ("fffffffffffffffff\r\n", bad_chunk),
            (";a\r\n", bad_chunk),
            // Ends of lines.
            ("5\nhello\r\n", bad_chunk),
            ("5\rhello\r\n", bad_chunk),
            ("5;a\nhello\r\n", bad_chunk),
            ("5;a\rb\r\n", bad_chunk),
            ("5;a\0\r\n", bad_chunk),
            ("5\r\nhello\n0\r\n\r\n", bad_chunk),
            ("5\r\nhelloX\r\n", bad_chunk),
            ("5\r\nhello\rX", bad_chunk),
            ("5\r\nhello!!0\r\n\r\n", bad_chunk),
            (&too_long_extension, bad_chunk),
            // Trailers.
            ("0\r\n\n", bad_trailer),
            ("0\r\n\rX", bad_trailer),
            ("0\r\nA: b\n\r\n", bad_trailer),
            ("0\r\nA: b\rc\r\n\r\n", bad_trailer),
            ("0\r\nA : b\r\n\r\n", bad_trailer),
            ("0\r\n A: b\r\n\r\n", bad_trailer),
            ("0\r\nA: b\r\n c\r\n\r\n", bad_trailer),
            ("0\r\nA\r\n\r\n", bad_trailer),
            ("0\r\n: b\r\n\r\n", bad_trailer),
            ("0\r\nA: \0\r\n\r\n", bad_trailer),
            ("0\r\nGET / HTTP/1.1\r\n", bad_trailer),
            (&too_long_trailer, bad_trailer),
        ];
        for (body, reading) in table {
            let shown = &body[..body.len().min(40)];
            for piece_bytes in [usize::MAX / 2, 1, 2, 3, 7] {
                let read = read_all(body.as_bytes(), piece_bytes);
                assert_eq!(&read, reading, "{shown:?} in pieces of {piece_bytes}");
            }
        }
    }

    #[test]
    fn data_may_pass_unseen() {
        let mut chunked = Chunked::default();
        assert_eq!(chunked.read(b"10\r\nab"), Piece::Within(6));
        assert_eq!(chunked.data_left(), 14);
        chunked.skip_data(4);
        chunked.skip_data(10);
        assert_eq!(chunked.data_left(), 0);
        assert_eq!(chunked.read(b"\r\n0\r\n\r\n"), Piece::Last(7));
    }
}
