//! A chunked body (RFC 9112 7.1) as a stream: where it ends, and nothing of what it holds.
//!
//! Strict: sizes are hex digits only, every line ends with CR LF, trailers are fields. A machine
//! that has found a bad byte stays before it, so what passes does not depend on how the bytes were
//! cut. Trailers pass when all of them have come, and are judged.

use memchr::memchr;

use super::{BODY_BYTES_MAX, CHUNK_EXTRA_BYTES_MAX, RequestError};
use crate::config::Latin1;
use crate::judge::{self, Rules, is_text, is_token};

/// The most digits of a size, leading zeros included.
const SIZE_DIGITS_MAX: u8 = 16;

/// The largest chunk of a request that is judged: some servers count in 32 bits, with or without a
/// sign (the JDK's HttpServer, Netty before 4.2.13).
const JUDGED_CHUNK_BYTES_MAX: u64 = i32::MAX.unsigned_abs() as u64;

/// Reads one chunked body.
#[derive(Debug)]
pub(super) struct Chunked {
    place: Place,
    /// What it is judged by; `None`: it only has to be followed.
    rules: Option<Rules>,
    /// Bytes of the present size line's extensions, or of the trailers that are judged.
    extra_bytes: u16,
    extension: Utf8,
    /// Data of the chunks whose sizes have been read.
    data_bytes: u64,
}

/// What a piece of the body came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many bytes belong to the body; all there were, or those before a bad one or before
    /// trailers that have not come whole.
    Within(usize),
    /// The first bytes are trailers, and more of them are to come.
    Partial,
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
    /// White space behind a size, which some servers write to a fixed width.
    Padding {
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
    /// The trailers, with the empty line that ends them.
    Trailers,
    Over,
}

/// Text that comes byte by byte: the bytes of a character that has not come whole.
#[derive(Debug, Clone, Copy, Default)]
struct Utf8 {
    character: [u8; 4],
    length: u8,
}

impl Chunked {
    /// A body that is followed, and judged if there are `rules`.
    pub(super) fn new(rules: Option<Rules>) -> Self {
        Self {
            place: Place::Size { value: 0, digits: 0 },
            rules,
            extra_bytes: 0,
            extension: Utf8::default(),
            data_bytes: 0,
        }
    }

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
                Place::Trailers => {
                    return match self.trailers(&bytes[taken..]) {
                        Piece::Last(trailers) => Piece::Last(taken + trailers),
                        other if taken == 0 => other,
                        // What is before them passes first.
                        Piece::Within(_) | Piece::Partial | Piece::Bad(_) => Piece::Within(taken),
                    };
                }
                Place::Size { .. }
                | Place::Extension { .. }
                | Place::Padding { .. }
                | Place::SizeEnd { .. }
                | Place::DataCr
                | Place::DataLf => match self.step(*byte) {
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

    /// Bytes of data up to now: the body without its framing.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes.wrapping_sub(self.data_left())
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
            (Place::Extension { value }, b'\r') if self.may_end_extension() => {
                Ok(Place::SizeEnd { value })
            }
            (Place::Extension { value }, _) if is_text(byte) => {
                self.extension(byte)?;
                Ok(Place::Extension { value })
            }
            (Place::Padding { value }, b' ' | b'\t') => Ok(Place::Padding { value }),
            (Place::Padding { value }, b'\r') => Ok(Place::SizeEnd { value }),
            (Place::SizeEnd { value }, b'\n') => {
                self.extra_bytes = 0;
                // Sizes that add up to more than there are bytes in the world only wrap.
                self.data_bytes = self.data_bytes.wrapping_add(value);
                Ok(match value {
                    0 => Place::Trailers,
                    left => Place::Data { left },
                })
            }
            (Place::DataCr, b'\r') => Ok(Place::DataLf),
            (Place::DataLf, b'\n') => Ok(Place::Size { value: 0, digits: 0 }),
            (
                Place::Extension { .. }
                | Place::Padding { .. }
                | Place::SizeEnd { .. }
                | Place::DataCr
                | Place::DataLf
                | Place::Data { .. }
                | Place::Trailers
                | Place::Over,
                _,
            ) => Err(RequestError::BadChunk),
        }
    }

    fn size(&mut self, value: u64, digits: u8, byte: u8) -> Result<Place, RequestError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b';' if digits > 0 => return Ok(Place::Extension { value }),
            b'\r' if digits > 0 => return Ok(Place::SizeEnd { value }),
            b' ' | b'\t' if digits > 0 && self.rules.is_none() => {
                return Ok(Place::Padding { value });
            }
            _ => return Err(RequestError::BadChunk),
        };
        // Sixteen digits are 64 bits: the shift loses nothing.
        let value = value << 4 | u64::from(digit);
        let value_max = match self.rules {
            None => BODY_BYTES_MAX,
            Some(_) => JUDGED_CHUNK_BYTES_MAX,
        };
        if digits == SIZE_DIGITS_MAX || value > value_max {
            return Err(RequestError::BadChunk);
        }
        Ok(Place::Size { value, digits: digits + 1 })
    }

    /// A byte of an extension.
    fn extension(&mut self, byte: u8) -> Result<(), RequestError> {
        if self.extra_bytes == CHUNK_EXTRA_BYTES_MAX {
            return Err(RequestError::BadChunk);
        }
        self.extra_bytes += 1;
        match self.refuses_latin1() && !self.extension.take(byte) {
            true => Err(RequestError::NotUtf8),
            false => Ok(()),
        }
    }

    /// A decoder could take the end of the line for the rest of a character.
    fn may_end_extension(&self) -> bool {
        !self.refuses_latin1() || self.extension.length == 0
    }

    fn refuses_latin1(&self) -> bool {
        self.rules.is_some_and(|rules| rules.latin1 == Latin1::Refuse)
    }

    /// The trailers that `bytes` begin with, of which `extra_bytes` have been judged before.
    fn trailers(&mut self, bytes: &[u8]) -> Piece {
        loop {
            let rest = &bytes[usize::from(self.extra_bytes)..];
            let Some(line_bytes) = memchr(b'\n', rest) else {
                return self.partial_trailer(bytes, rest);
            };
            let line = rest[..line_bytes].strip_suffix(b"\r");
            match line.ok_or(RequestError::BadTrailer).and_then(|line| self.trailer(line)) {
                Ok(Trailer::End) => {
                    self.place = Place::Over;
                    return Piece::Last(usize::from(self.extra_bytes) + line_bytes + 1);
                }
                Ok(Trailer::Field) => {}
                Err(refusal) => return Piece::Bad(refusal),
            }
            let judged = usize::from(self.extra_bytes) + line_bytes + 1;
            match u16::try_from(judged).ok().filter(|judged| *judged <= CHUNK_EXTRA_BYTES_MAX) {
                Some(judged) => self.extra_bytes = judged,
                None => return Piece::Bad(RequestError::BadTrailer),
            }
        }
    }

    /// The last of `bytes`, which are trailers, are a line that has not come whole.
    fn partial_trailer(&self, bytes: &[u8], line: &[u8]) -> Piece {
        // With its line's end, and the empty line's.
        let is_too_long = bytes.len() > usize::from(CHUNK_EXTRA_BYTES_MAX) + 1;
        let begun = line.strip_suffix(b"\r").unwrap_or(line);
        match is_too_long || !begins_like_a_trailer(begun) {
            true => Piece::Bad(RequestError::BadTrailer),
            false => Piece::Partial,
        }
    }

    /// A line of the trailers, without its end.
    fn trailer(&self, line: &[u8]) -> Result<Trailer, RequestError> {
        if line.is_empty() {
            return Ok(Trailer::End);
        }
        let colon = memchr(b':', line).filter(|colon| *colon > 0 && begins_like_a_trailer(line));
        let (name, value) = line.split_at(colon.ok_or(RequestError::BadTrailer)?);
        if self.rules.is_some() {
            judge::trailer(name, &value[1..])?;
        }
        match self.refuses_latin1() && std::str::from_utf8(value).is_err() {
            true => Err(RequestError::NotUtf8),
            false => Ok(Trailer::Field),
        }
    }
}

/// What a line of the trailers is.
enum Trailer {
    Field,
    End,
}

/// Whether all of `line` can be the beginning of a field.
fn begins_like_a_trailer(line: &[u8]) -> bool {
    let name_bytes = line.iter().take_while(|byte| is_token(**byte)).count();
    match line[name_bytes..].split_first() {
        None => true,
        Some((b':', value)) => name_bytes > 0 && value.iter().all(|byte| is_text(*byte)),
        Some(_) => false,
    }
}

impl Utf8 {
    /// Whether `byte` can follow.
    fn take(&mut self, byte: u8) -> bool {
        let length = usize::from(self.length);
        let Some(place) = self.character.get_mut(length) else { return false };
        *place = byte;
        match std::str::from_utf8(&self.character[..=length]) {
            Ok(_) => self.length = 0,
            // More of the character may come.
            Err(error) if error.error_len().is_none() => self.length += 1,
            Err(_) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the body, if it ends; else why it does not.
    fn read_all(body: &[u8], piece_bytes: usize) -> Result<Option<usize>, RequestError> {
        let mut chunked = Chunked::new(Some(Rules::default()));
        let mut taken = 0;
        let mut arrived = 0;
        while arrived < body.len() {
            arrived = (arrived + piece_bytes).min(body.len());
            while taken < arrived {
                match chunked.read(&body[taken..arrived]) {
                    Piece::Within(bytes) => taken += bytes,
                    Piece::Partial => break,
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
        let forbidden = Err(RequestError::ForbiddenTrailer);
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
            ("0\r\nChecksum: a\r\nOther:\r\n\r\n", Ok(Some(26))),
            ("1;a=\u{e9}\u{20ac}\u{1f980}\r\nx\r\n0\r\nA: \u{e9}\r\n\r\n", Ok(Some(30))),
            ("5\r\nhel", Ok(None)),
            ("0\r\nA: b\r\n\r", Ok(None)),
            ("7fffffff\r\n", Ok(None)),
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
            ("80000000\r\n", bad_chunk),
            ("100000002\r\nab\r\n", bad_chunk),
            ("7fffffff00000002\r\nab\r\n", bad_chunk),
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
            ("0\r\nHost: a\r\n\r\n", forbidden),
            ("0\r\nA: b\r\ncontent_length: 3\r\n\r\n", forbidden),
            ("0\r\nX:GET /smuggled HTTP/1.1\r\n\r\n", forbidden),
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
    fn a_body_that_is_only_followed_may_have_padded_sizes() {
        for (body, reading) in [
            ("5  \r\nhello\r\n0 \r\n\r\n", Piece::Last(18)),
            ("5\t\r\nhello\r\n0\r\nHost: a\r\n\r\n", Piece::Last(25)),
            ("5 5\r\n", Piece::Within(2)),
            ("100000002\r\n", Piece::Within(11)),
        ] {
            assert_eq!(Chunked::new(None).read(body.as_bytes()), reading, "{body:?}");
        }
    }

    #[test]
    fn data_may_pass_unseen() {
        let mut chunked = Chunked::new(Some(Rules::default()));
        assert_eq!(chunked.read(b"10\r\nab"), Piece::Within(6));
        assert_eq!(chunked.data_left(), 14);
        chunked.skip_data(4);
        chunked.skip_data(10);
        assert_eq!(chunked.data_left(), 0);
        assert_eq!(chunked.read(b"\r\n0\r\n\r\n"), Piece::Last(7));
    }
}
