//! Where a head ends: the empty line, looked for in bytes that may still be growing.
//!
//! Each byte is looked at once however slowly the head comes, and the parser runs once, on a whole
//! head. In a request every line ends with CR LF and none is folded; in a response LF will do.

use memchr::memchr;

use super::{HEAD_BYTES_MAX, RequestError};

/// Empty lines that may stand before a head (RFC 9112 2.2 asks for one).
const BLANK_LINES_MAX: u8 = 4;

/// How lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// With CR LF.
    Strict,
    /// With LF, with or without CR.
    Lenient,
}

/// Looks for the end of one head.
#[derive(Debug)]
pub(super) struct HeadEnd {
    lines: Lines,
    scanned_bytes: usize,
    line_start: usize,
    blank_lines: u8,
    first_line: FirstLine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstLine {
    Awaited,
    Seen,
}

impl HeadEnd {
    pub(super) fn new(lines: Lines) -> Self {
        Self {
            lines,
            scanned_bytes: 0,
            line_start: 0,
            blank_lines: 0,
            first_line: FirstLine::Awaited,
        }
    }

    /// The length of the head, once its end is in `bytes`: all that came since the last message's
    /// end, each time more of it.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, RequestError> {
        let bytes = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        while let Some(offset) = memchr(b'\n', &bytes[self.scanned_bytes..]) {
            let line_end = self.scanned_bytes + offset;
            if self.line(&bytes[self.line_start..line_end])? {
                return Ok(Some(line_end + 1));
            }
            self.scanned_bytes = line_end + 1;
            self.line_start = self.scanned_bytes;
        }
        self.scanned_bytes = bytes.len();
        match bytes.len() {
            HEAD_BYTES_MAX => Err(RequestError::HeadTooLarge),
            _ => Ok(None),
        }
    }

    /// Whether anything of the head has come.
    pub(super) fn has_begun(&self) -> bool {
        self.scanned_bytes > 0
    }

    /// Whether `line`, without its LF, is the one that ends the head.
    fn line(&mut self, line: &[u8]) -> Result<bool, RequestError> {
        let line = match (line.strip_suffix(b"\r"), self.lines) {
            (Some(line), _) => line,
            (None, Lines::Lenient) => line,
            (None, Lines::Strict) => return Err(RequestError::BareLineEnd),
        };
        match (line.first(), self.first_line) {
            (None, FirstLine::Seen) => return Ok(true),
            (None, FirstLine::Awaited) if self.blank_lines < BLANK_LINES_MAX => {
                self.blank_lines += 1;
            }
            (None, FirstLine::Awaited) => return Err(RequestError::BadRequestLine),
            (Some(b' ' | b'\t'), FirstLine::Seen) if self.lines == Lines::Strict => {
                return Err(RequestError::FoldedField);
            }
            (Some(_), _) => self.first_line = FirstLine::Seen,
        }
        Ok(false)
    }
}
