//! The words of Kubernetes and Istio: which texts are labels, keys and values.
//!
//! Stricter than what Egret itself needs, on purpose: a document that Istio would refuse is one
//! that its author has not meant so.

use crate::diagnostics::Finding;
use crate::yaml::{Node, Value, values};

/// As DNS bounds a label (RFC 1035 2.3.4), and Kubernetes the parts of its keys and values.
const LABEL_BYTES_MAX: usize = 63;
/// As DNS bounds a name; the prefix of a label's key is one.
const NAME_BYTES_MAX: usize = 253;

/// Whether `text` is a label of a host name (RFC 1123 2.1): letters, digits and hyphens, no hyphen
/// at its ends.
pub(super) fn is_dns_label(text: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    is_bounded(text, is_inside)
}

/// Whether each label of `text` is one.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_dns_label)
}

/// Reads a name that is one DNS label.
pub(super) fn dns_label(node: &Node<'_>) -> Result<Box<str>, Finding> {
    let text = values::text(node)?;
    if is_dns_label(text) {
        return Ok(text.into());
    }
    let message = format!("`{}` is not a DNS label", values::shortened(text));
    let fix = "use letters, digits and hyphens, at most 63, none of the hyphens at an end";
    Err(Finding::at(node.line, message).fix(fix))
}

/// Kubernetes labels (`metadata/labels` of its documentation): `prefix/name: value`.
pub(super) fn check_labels(node: &Node<'_>) -> Result<(), Finding> {
    let Value::Mapping(labels) = &node.value else {
        let message = format!("labels are a mapping, not {}", node.kind());
        return Err(Finding::at(node.line, message).fix("write `key: value` lines"));
    };
    for (key, value) in labels {
        let text = match value.value {
            Value::Null => "",
            _ => values::text(value)?,
        };
        if !is_label_key(&key.name) || !(text.is_empty() || is_label_word(text)) {
            let (key_text, text) = (values::shortened(&key.name), values::shortened(text));
            let message = format!("`{key_text}: {text}` is not a label");
            return Err(Finding::at(key.line, message).fix("write it as `app: checkout`"));
        }
    }
    Ok(())
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_label_word(name),
        None => is_label_word(text),
    }
}

fn is_label_word(text: &str) -> bool {
    is_bounded(text, |byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a text of these bytes begins and ends with a letter or a digit.
fn is_bounded(text: &str, is_inside: impl Fn(u8) -> bool) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_BYTES_MAX
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| is_inside(*byte))
}
