//! Fields: names, values, lengths, expectations.

use super::{LENGTH_DIGITS_MAX, RequestError};

/// Fields that frame messages or route them, by their letters and digits.
const FRAMING: [&[u8]; 8] = [
    b"host",
    b"contentlength",
    b"transferencoding",
    b"connection",
    b"expect",
    b"upgrade",
    b"trailer",
    b"te",
];

/// For each byte, a bit for each of [`FRAMING`] that can begin with it, or end: a byte that is no
/// letter or digit can stand before or behind any of them.
const BEGINS: [u8; 256] = bits(0);
const ENDS: [u8; 256] = bits(1);

const fn bits(end: usize) -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        let mut number = 0;
        while number < FRAMING.len() {
            let name = FRAMING[number];
            let edge = if end == 0 { name[0] } else { name[name.len() - 1] };
            if byte.to_ascii_lowercase() == edge || !byte.is_ascii_alphanumeric() {
                table[byte as usize] |= 1 << number;
            }
            number += 1;
        }
        if byte == u8::MAX {
            return table;
        }
        byte += 1;
    }
}

/// Whether `name`, which is none of the fields that frame or route, is one of them by its letters
/// and digits: CGI, WSGI and Perl make `Transfer_Encoding` the same as `Transfer-Encoding`.
pub(crate) fn is_alias(name: &[u8]) -> bool {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return false };
    // Few names begin and end like one.
    BEGINS[usize::from(*first)] & ENDS[usize::from(*last)] != 0
        && FRAMING.iter().any(|framing| is_folded(name, framing))
}

/// Whether the letters and digits of `name` are `folded`.
pub(super) fn is_folded(name: &[u8], folded: &[u8]) -> bool {
    fold(name).eq(folded.iter().copied())
}

/// The letters and digits of `name`, in lower case.
pub(super) fn fold(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase)
}

/// A byte of a token: methods and field names (RFC 9110 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a field's value or an extension (RFC 9110 5.5): no control byte but the tab.
pub(crate) fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// What a value may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// Text.
    Text,
    /// Any octets, which both ends have agreed on.
    Octets,
}

/// Whether a value of HTTP/2 is one in HTTP/1, too, and the same: HTTP/1 has no control bytes in
/// it, and nobody keeps white space at its ends.
pub(crate) fn value(value: &[u8], may_hold: Value) -> Result<(), RequestError> {
    let is_padded = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    let is_text = value.iter().all(|byte| is_text(*byte));
    match may_hold {
        Value::Octets => Ok(()),
        Value::Text if is_text && !is_padded(value.first()) && !is_padded(value.last()) => Ok(()),
        Value::Text => Err(RequestError::BadFieldValue),
    }
}

/// A Content-Length: digits and nothing else.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    let is_number = value.iter().all(u8::is_ascii_digit);
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX || !is_number {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether an expectation is one that every server meets in the same way: some answer another one
/// 417 and take the body for the next request (Netty).
pub(crate) fn expectation(value: &[u8]) -> Result<(), RequestError> {
    match value.eq_ignore_ascii_case(b"100-continue") {
        true => Ok(()),
        false => Err(RequestError::BadExpectation),
    }
}
