//! The one normaliser of host names: what a workload calls its destination, in the one spelling
//! that the registry, the metrics and the logs compare.
//!
//! Host and `:authority` ([`Authority::parse`]), SNI ([`Host::parse`]) and the registry's own hosts
//! all go through it, so two spellings of one name are always one [`Name`]. A name stands in lower
//! case, without its trailing dot, without a port, international labels as A-labels (`xn--`). An
//! address is not a name. Whatever else is not a host name is refused with a [`NameError`]; nothing
//! is repaired.
//!
//! It does not resolve names, knows no wildcards and does not judge whether a name is registered.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use strum::{EnumCount, IntoStaticStr, VariantArray};
use thiserror::Error;

/// The longest name in its text form, without the trailing dot (RFC 1035 2.3.4 counts 255 octets in
/// the wire form, which holds two more).
pub const NAME_BYTES_MAX: usize = 253;

/// The longest label (RFC 1035 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// A host name in its normal form. Two names are the same host exactly if they are equal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

/// A host as a workload writes it: a name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name.
    Name(Name),
    /// An IP literal: no name, and no claim beyond the address itself.
    Address(IpAddr),
}

/// A host with its port: what Host, `:authority` and an absolute-form target carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if one was written.
    pub port: Option<u16>,
}

/// Why a text is not a host. One variant per label value of the metric that counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum NameError {
    /// Nothing is there.
    #[error("the host is empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`].
    #[error("the host name is longer than 253 bytes")]
    TooLong,
    /// A label of more than [`LABEL_BYTES_MAX`].
    #[error("a label of the host name is longer than 63 bytes")]
    LabelTooLong,
    /// Two dots in a row, or a dot first.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// A byte that no host name has: control, space, `@`, `%`, `*`, ...
    #[error("the host name has a byte that is not a letter, digit, hyphen or underscore")]
    BadByte,
    /// A byte above 127: international names are written as A-labels.
    #[error("the host name is not ASCII; write international labels as xn--")]
    NotAscii,
    /// A label that begins with `xn--` and does not decode.
    #[error("an xn-- label of the host name does not decode")]
    BadPunycode,
    /// Ends in a number without being a dotted IPv4 address, or is a bracketed text without an IPv6
    /// address: parsers disagree about what `127.1` or `0x7f000001` mean, so nobody is asked.
    #[error("the host looks like an address and is none")]
    BadAddress,
    /// What stands behind the colon is not a port.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
}

impl Name {
    /// The name that `text` spells; an IP literal is none ([`NameError::BadAddress`]).
    ///
    /// # Errors
    /// When `text` is not a host name.
    pub fn parse(text: &[u8]) -> Result<Self, NameError> {
        match Host::parse(text)? {
            Host::Name(name) => Ok(name),
            Host::Address(_) => Err(NameError::BadAddress),
        }
    }

    /// The normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Host {
    /// The host that `text` spells, without a port: the form of SNI and of the registry's hosts.
    ///
    /// An IPv6 address may stand in brackets or bare.
    ///
    /// # Errors
    /// When `text` is neither a name nor an address.
    pub fn parse(text: &[u8]) -> Result<Self, NameError> {
        if let Some(inside) = text.strip_prefix(b"[") {
            let address = inside.strip_suffix(b"]").and_then(ipv6).ok_or(NameError::BadAddress)?;
            return Ok(Self::Address(address));
        }
        if text.contains(&b':')
            && let Some(address) = ipv6(text)
        {
            return Ok(Self::Address(address));
        }
        name_or_ipv4(text)
    }

    /// The name, if it is one.
    #[must_use]
    pub fn into_name(self) -> Option<Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl Authority {
    /// The host and port that `text` spells. An empty port (`host:`) is none, as RFC 3986 3.2.3 has
    /// it. Userinfo is refused (RFC 9110 4.2.4), as is a bare IPv6 address: its port could not be
    /// told.
    ///
    /// # Errors
    /// When `text` is not `host` or `host:port`.
    pub fn parse(text: &[u8]) -> Result<Self, NameError> {
        let host_len = match text.first() {
            Some(b'[') => {
                text.iter().position(|byte| *byte == b']').ok_or(NameError::BadAddress)? + 1
            }
            _ => text.iter().position(|byte| *byte == b':').unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at(host_len);
        let port = match rest {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return Err(NameError::BadAddress),
        };
        Ok(Self { host: Host::parse(host)?, port })
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn name_or_ipv4(text: &[u8]) -> Result<Host, NameError> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    // The rest is asked only of what could be an address, or has a label in Punycode: each request
    // comes this way.
    let (mut last, mut has_punycode) = (text, false);
    for label in text.split(|byte| *byte == b'.') {
        check_label(label)?;
        has_punycode |= label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"xn--"));
        last = label;
    }
    let mut normal = std::str::from_utf8(text).map_err(|_| NameError::NotAscii)?.to_owned();
    normal.make_ascii_lowercase();
    if last[0].is_ascii_digit() {
        if let Ok(address) = normal.parse::<Ipv4Addr>() {
            return Ok(Host::Address(address.into()));
        }
        if normal.rsplit('.').next().is_some_and(is_number) {
            return Err(NameError::BadAddress);
        }
    }
    if has_punycode && normal.split('.').any(is_junk) {
        return Err(NameError::BadPunycode);
    }
    Ok(Host::Name(Name(normal.into())))
}

/// A label in lower case that begins like an A-label and stands for no text that is not ASCII.
/// Which code points IDNA allows is not judged.
fn is_junk(label: &str) -> bool {
    let decodes =
        |encoded| idna::punycode::decode_to_string(encoded).is_some_and(|text| !text.is_ascii());
    label.strip_prefix("xn--").is_some_and(|encoded| !decodes(encoded))
}

/// The bytes that a label may hold.
const IN_LABELS: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        bytes[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        byte += 1;
    }
    bytes
};

fn check_label(label: &[u8]) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > LABEL_BYTES_MAX {
        return Err(NameError::LabelTooLong);
    }
    // Underscores and hyphens at the edge are no host names by RFC 952, and are in use.
    match label.iter().find(|byte| !IN_LABELS[usize::from(**byte)]) {
        None => Ok(()),
        Some(128..) => Err(NameError::NotAscii),
        Some(_) => Err(NameError::BadByte),
    }
}

/// A last label that some parsers (inet_aton, browsers) read as a part of an IPv4 address.
fn is_number(label: &str) -> bool {
    let is_hex = label
        .strip_prefix("0x")
        .is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_hex || label.bytes().all(|byte| byte.is_ascii_digit())
}

fn ipv6(text: &[u8]) -> Option<IpAddr> {
    let address: Ipv6Addr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.into())
}

fn port(digits: &[u8]) -> Result<u16, NameError> {
    // Digits only: the standard parser would take a plus sign.
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NameError::BadPort);
    }
    let text = std::str::from_utf8(digits).map_err(|_| NameError::BadPort)?;
    match text.parse() {
        Ok(0) | Err(_) => Err(NameError::BadPort),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests;
