//! Whether an A-label is one: a decoder of RFC 3492 that keeps nothing.
//!
//! The name keeps its A-label; this only tells labels that stand for Unicode text from junk that
//! merely begins with `xn--`. It does not apply IDNA's tables (which code points are allowed).

/// Parameters of RFC 3492 section 5.
const BASE: u32 = 36;
const T_MIN: u32 = 1;
const T_MAX: u32 = 26;
const SKEW: u32 = 38;
const DAMP: u32 = 700;
const INITIAL_BIAS: u32 = 72;
const INITIAL_CODE_POINT: u32 = 128;

/// Whether `encoded`, a label in lower case without its `xn--`, decodes to text that is not ASCII.
pub(super) fn decodes(encoded: &str) -> bool {
    let (basic, deltas) = encoded.rsplit_once('-').unwrap_or(("", encoded));
    // Without a delta the text would be plain ASCII, which has no A-label.
    !deltas.is_empty() && walk(basic.len(), deltas.as_bytes()).is_some()
}

/// RFC 3492 6.2 without the output: follows the deltas and their code points. `None`: does not
/// decode.
fn walk(basic_len: usize, mut deltas: &[u8]) -> Option<()> {
    let mut code_point = INITIAL_CODE_POINT;
    let mut position: u32 = 0;
    let mut bias = INITIAL_BIAS;
    let mut text_len = u32::try_from(basic_len).ok()?;
    while !deltas.is_empty() {
        let position_before = position;
        let mut weight: u32 = 1;
        let mut k = BASE;
        loop {
            let (digit, rest) = deltas.split_first()?;
            deltas = rest;
            let digit = digit_value(*digit)?;
            position = position.checked_add(digit.checked_mul(weight)?)?;
            let threshold = k.saturating_sub(bias).clamp(T_MIN, T_MAX);
            if digit < threshold {
                break;
            }
            weight = weight.checked_mul(BASE - threshold)?;
            k += BASE;
        }
        text_len += 1;
        bias = adapt(position - position_before, text_len, position_before == 0);
        code_point = code_point.checked_add(position / text_len)?;
        char::from_u32(code_point)?;
        position = position % text_len + 1;
    }
    Some(())
}

/// RFC 3492 6.1.
fn adapt(delta: u32, text_len: u32, is_first: bool) -> u32 {
    let mut delta = delta / if is_first { DAMP } else { 2 };
    delta += delta / text_len;
    let mut k = 0;
    while delta > (BASE - T_MIN) * T_MAX / 2 {
        delta /= BASE - T_MIN;
        k += BASE;
    }
    k + (BASE - T_MIN + 1) * delta / (delta + SKEW)
}

fn digit_value(digit: u8) -> Option<u32> {
    match digit {
        b'a'..=b'z' => Some(u32::from(digit - b'a')),
        b'0'..=b'9' => Some(u32::from(digit - b'0') + 26),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::decodes;

    #[test]
    fn labels_in_use_decode() {
        for label in ["bcher-kva", "mnchen-3ya", "fsqu00a", "p1ai", "ls8h", "maana-pta", "4ca0bs"] {
            assert!(decodes(label), "{label}");
        }
    }

    #[test]
    fn junk_does_not_decode() {
        for label in ["", "-", "abc-", "99999999999", "a_b", "abc-zz_", "zzzzzzzzzzzzzzzzzzzz"] {
            assert!(!decodes(label), "{label}");
        }
    }
}
