//! Scalars to types: numbers, durations, addresses, words from a list.
//!
//! Every function takes a node and gives a value or a [`Finding`] that says what is allowed.
//! Nothing here knows which field it reads.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{Node, Value};
use crate::diagnostics::Finding;

/// The text of a scalar.
///
/// # Errors
/// When it is a list, a mapping or nothing.
pub(crate) fn text<'n>(node: &'n Node<'_>) -> Result<&'n str, Finding> {
    match &node.value {
        Value::Scalar(text) => Ok(text),
        _ => Err(Finding::at(node.line, format!("must be a single value, not {}", node.kind()))),
    }
}

/// A whole number in `range`, decimal or hexadecimal (`0x539`).
///
/// # Errors
/// When it is anything else. A leading zero is refused: some tools read it as octal.
pub(crate) fn number<T>(node: &Node<'_>, range: RangeInclusive<T>) -> Result<T, Finding>
where
    T: TryFrom<u64> + PartialOrd + std::fmt::Display,
{
    let text = text(node)?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        None if text == "0" || text.starts_with(|c: char| ('1'..='9').contains(&c)) => {
            text.parse().ok()
        }
        _ => None,
    };
    let value = parsed.and_then(|value| T::try_from(value).ok());
    value.filter(|value| range.contains(value)).ok_or_else(|| {
        let (from, to) = (range.start(), range.end());
        let message = format!("`{}` is not a whole number from {from} to {to}", shortened(text));
        Finding::at(node.line, message)
    })
}

/// `true` or `false`.
///
/// # Errors
/// When it is anything else.
pub(crate) fn boolean(node: &Node<'_>) -> Result<bool, Finding> {
    choice(node, &[("true", true), ("false", false)])
}

/// One of the words in `choices`, and what it stands for.
///
/// # Errors
/// When it is another word; the finding lists the valid ones.
pub(crate) fn choice<T: Clone>(node: &Node<'_>, choices: &[(&str, T)]) -> Result<T, Finding> {
    let text = text(node)?;
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(value.clone());
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    Err(Finding::at(node.line, format!("`{}` is not a valid value", shortened(text)))
        .fix(format!("allowed: {}", words.join(", "))))
}

/// A length of time in `range`, as people write it: `10s`, `1h`, `250ms`.
///
/// # Errors
/// When it is anything else.
pub(crate) fn duration(
    node: &Node<'_>,
    range: RangeInclusive<Duration>,
) -> Result<Duration, Finding> {
    let text = text(node)?;
    let shown = humantime::format_duration;
    let allowed = format!("allowed: {} to {}", shown(*range.start()), shown(*range.end()));
    match humantime::parse_duration(text) {
        Ok(value) if range.contains(&value) => Ok(value),
        Ok(_) => {
            Err(Finding::at(node.line, format!("`{}` is out of range", shortened(text)))
                .fix(allowed))
        }
        Err(error) => {
            let message = format!("`{}` is not a duration: {error}", shortened(text));
            Err(Finding::at(node.line, message).fix("write a number with a unit: 250ms, 10s, 1h"))
        }
    }
}

/// An IP address.
///
/// # Errors
/// When it is anything else.
pub(crate) fn address(node: &Node<'_>) -> Result<IpAddr, Finding> {
    parsed(node, "an IP address", "write it as 192.0.2.1 or 2001:db8::1")
}

/// An IP address with a port.
///
/// # Errors
/// When it is anything else.
pub(crate) fn socket_address(node: &Node<'_>) -> Result<SocketAddr, Finding> {
    parsed(node, "an address with a port", "write it as 127.0.0.1:15000 or [::1]:15000")
}

/// A list, each item read with `item`; stops at the first bad one.
///
/// # Errors
/// When it is no list, or one of its items is bad.
pub(crate) fn list<'n, T>(
    node: &'n Node<'n>,
    item: impl FnMut(&'n Node<'n>) -> Result<T, Finding>,
) -> Result<Vec<T>, Finding> {
    items(node)?.iter().map(item).collect()
}

/// The items of a list.
///
/// # Errors
/// When it is no list.
pub(crate) fn items<'n>(node: &'n Node<'n>) -> Result<&'n [Node<'n>], Finding> {
    match &node.value {
        Value::Sequence(items) => Ok(items),
        _ => Err(Finding::at(node.line, format!("must be a list, not {}", node.kind()))
            .fix("write one item per line, each after `- `")),
    }
}

/// Whether it is a list without items.
#[must_use]
pub(crate) fn is_empty_list(node: &Node<'_>) -> bool {
    items(node).is_ok_and(<[Node<'_>]>::is_empty)
}

/// `text`, cut to a length that fits a message.
#[must_use]
pub(crate) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push_str("...");
    }
    short
}

fn parsed<T: FromStr>(node: &Node<'_>, what: &str, fix: &str) -> Result<T, Finding> {
    let text = text(node)?;
    text.parse().map_err(|_| {
        Finding::at(node.line, format!("`{}` is not {what}", shortened(text))).fix(fix)
    })
}
