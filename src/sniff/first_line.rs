//! Whether a connection's first line is a request line of HTTP/1, or the preface of HTTP/2.
//!
//! It errs towards HTTP: what a lenient server could take for a request line is answered `Http1`,
//! so that [`crate::http1`] refuses it, rather than passing as opaque with its Host unread. But a
//! line that merely quotes a request, as a log shipper sends it, is no request.

use memchr::memchr;

use super::{OpaqueReason, Sniff};
use crate::judge::is_token;

/// What a client of HTTP/2 with prior knowledge sends first (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a request line's last field begins.
const PROTOCOL: &[u8; 5] = b"HTTP/";

/// Empty lines that may stand before a request line; more are no client's habit.
const BLANK_BYTES_MAX: u8 = 8;

/// The longest method; the longest registered one, UPDATEREDIRECTREF, has 17.
const METHOD_BYTES_MAX: u8 = 32;

/// The methods of RFC 9110 and RFC 5789: a line that begins with one is a request however it goes
/// on.
const KNOWN_METHODS: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT"];

/// The longest of them.
const METHOD_KNOWN_BYTES_MAX: usize = 7;

/// Reads the first line, byte by byte.
#[derive(Debug, Default)]
pub(super) struct FirstLine {
    place: Place,
    blank_bytes: u8,
    method: [u8; METHOD_KNOWN_BYTES_MAX],
    method_len: u8,
    /// Bytes that have matched [`PREFACE`] so far; behind `preface_over` it has failed to.
    preface_matched: usize,
    preface_over: bool,
    /// What the line is, once it can be told. It is given when the preface is out of the question.
    verdict: Option<Sniff>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Place {
    /// Before the first byte that is not an empty line's.
    #[default]
    Blank,
    Method,
    /// Between fields. `after` counts the fields passed, the method being the first.
    Gap {
        after: u8,
        method: MethodKind,
    },
    /// In a field behind the method, of which `matched` bytes are `HTTP/` (`None`: it is another
    /// word).
    Field {
        number: u8,
        method: MethodKind,
        matched: Option<u8>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MethodKind {
    Known,
    Unknown,
}

const UNKNOWN_PROTOCOL: Sniff = Sniff::Opaque(OpaqueReason::UnknownProtocol);

impl FirstLine {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Sniff {
        if matches!((self.place, self.blank_bytes), (Place::Blank, 0)) && is_plain(bytes) {
            return Sniff::Http1;
        }
        for byte in bytes {
            self.preface(*byte);
            if self.verdict.is_none() {
                self.verdict = self.line(*byte);
            }
            if self.preface_matched == PREFACE.len() {
                return Sniff::Http2Preface;
            }
            if let (true, Some(verdict)) = (self.preface_over, &self.verdict) {
                return verdict.clone();
            }
        }
        Sniff::NeedMore
    }

    fn preface(&mut self, byte: u8) {
        if !self.preface_over {
            match PREFACE.get(self.preface_matched) {
                Some(expected) if *expected == byte => self.preface_matched += 1,
                _ => self.preface_over = true,
            }
        }
    }

    fn line(&mut self, byte: u8) -> Option<Sniff> {
        match self.place {
            Place::Blank if matches!(byte, b'\r' | b'\n') => {
                self.blank_bytes += 1;
                (self.blank_bytes > BLANK_BYTES_MAX).then_some(UNKNOWN_PROTOCOL)
            }
            Place::Blank => {
                self.place = Place::Method;
                self.method(byte)
            }
            Place::Method => self.method(byte),
            Place::Gap { .. } | Place::Field { .. } if byte == b'\n' => Some(UNKNOWN_PROTOCOL),
            Place::Gap { .. } if is_gap(byte) => None,
            Place::Gap { after, method } => {
                self.field(byte, after.saturating_add(1), method, Some(0))
            }
            Place::Field { number, method, .. } if is_gap(byte) => {
                self.place = Place::Gap { after: number, method };
                None
            }
            Place::Field { number, method, matched } => self.field(byte, number, method, matched),
        }
    }

    fn method(&mut self, byte: u8) -> Option<Sniff> {
        if is_token(byte) {
            if let Some(slot) = self.method.get_mut(usize::from(self.method_len)) {
                *slot = byte;
            }
            self.method_len += 1;
            return (self.method_len > METHOD_BYTES_MAX).then_some(UNKNOWN_PROTOCOL);
        }
        if self.method_len == 0 || !is_gap(byte) {
            return Some(UNKNOWN_PROTOCOL);
        }
        let written = self.method.get(..usize::from(self.method_len));
        let method = match written.is_some_and(|written| KNOWN_METHODS.contains(&written)) {
            true => MethodKind::Known,
            false => MethodKind::Unknown,
        };
        self.place = Place::Gap { after: 1, method };
        None
    }

    fn field(
        &mut self,
        byte: u8,
        number: u8,
        method: MethodKind,
        matched: Option<u8>,
    ) -> Option<Sniff> {
        let matched =
            matched.filter(|matched| byte.eq_ignore_ascii_case(&PROTOCOL[usize::from(*matched)]));
        let matched = matched.map(|matched| matched + 1);
        let is_protocol = matched.is_some_and(|matched| usize::from(matched) == PROTOCOL.len());
        match (method, number) {
            (MethodKind::Known, _) | (MethodKind::Unknown, 3) if is_protocol => {
                return Some(Sniff::Http1);
            }
            (MethodKind::Unknown, 3) if matched.is_none() => return Some(UNKNOWN_PROTOCOL),
            (MethodKind::Unknown, _) if byte.is_ascii_control() => return Some(UNKNOWN_PROTOCOL),
            _ => {}
        }
        // A whole `HTTP/` that decides nothing is a word like others.
        let matched = matched.filter(|_| !is_protocol);
        self.place = Place::Field { number, method, matched };
        None
    }
}

/// Whether `bytes` begin with the whole request line of a usual request, of which the byte by byte
/// reading would say the same.
fn is_plain(bytes: &[u8]) -> bool {
    let method_end = bytes.iter().take(METHOD_KNOWN_BYTES_MAX + 1).position(|byte| *byte == b' ');
    let Some(method_end) = method_end else { return false };
    let Some(line_end) = memchr(b'\n', bytes) else { return false };
    let is_request = |line: &[u8]| line.ends_with(b" HTTP/1.1\r") || line.ends_with(b" HTTP/1.0\r");
    KNOWN_METHODS.contains(&&bytes[..method_end]) && is_request(&bytes[..line_end])
}

/// What some parsers take for a space in a request line (RFC 9112 3).
fn is_gap(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_in_one_piece_reads_as_it_does_byte_by_byte(
            line in "(GET|POST|PATCH|PRI|GETS|get) [ !-~]{0,12}( HTTP/1\\.[01]|x)\r?\n[ -~]{0,3}",
        ) {
            let mut slowly = FirstLine::default();
            let mut steps = line.as_bytes().chunks(1).map(|byte| slowly.feed(byte));
            let step = steps.find(|step| *step != Sniff::NeedMore);
            let whole = FirstLine::default().feed(line.as_bytes());
            prop_assert_eq!(whole, step.unwrap_or(Sniff::NeedMore));
        }
    }
}
