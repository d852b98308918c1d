//! One request's fields: what it asks for, of whom.
//!
//! The rules are those of RFC 9113 8.2 and 8.3 as far as they keep a request from meaning something
//! else to the upstream, or to an HTTP/1 server behind it, than it means here.

use super::{FrameError, METHOD_BYTES_MAX, PATH_BYTES_MAX, RawBinary};
use crate::http1::is_token;
use crate::sniff::{Authority, Host};

/// What one request claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The host in `:authority`, or in Host where there is no `:authority`.
    pub host: Host,
    /// `:authority` and Host disagree. A server that follows the RFC goes by `:authority`, or
    /// refuses; one that does not may go by Host.
    pub conflict: bool,
    /// The method, for the log: at most [`METHOD_BYTES_MAX`]. It is a token.
    pub method: Box<[u8]>,
    /// The path, for the log: at most [`PATH_BYTES_MAX`]. It may hold bytes above 127.
    pub path: Box<[u8]>,
    /// A call of gRPC, whose clients read a refusal from trailers.
    pub is_grpc: bool,
}

/// The fields of one header block, as they are decoded.
#[derive(Debug, Default)]
pub(super) struct Fields {
    method: Option<Box<[u8]>>,
    scheme: Option<Scheme>,
    path: Option<Box<[u8]>>,
    authority: Option<Authority>,
    host: Option<Authority>,
    protocol: Protocol,
    length: Length,
    is_grpc: bool,
    raw_binary: RawBinary,
    section: Section,
    pseudo_fields: usize,
    error: Option<FrameError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// Whether `:protocol` makes a CONNECT an extended one (RFC 8441).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    #[default]
    Absent,
    Given,
}

/// Whether a content-length announces a body.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Length {
    #[default]
    Absent,
    Given,
}

/// Pseudo-header fields come first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Section {
    #[default]
    Pseudo,
    Regular,
}

impl Fields {
    pub(super) fn new(raw_binary: RawBinary) -> Self {
        Self { raw_binary, ..Self::default() }
    }

    /// Whether a body may follow that nothing has announced.
    pub(super) fn may_have_body(&self) -> bool {
        let has_none = [&b"GET"[..], b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"];
        let is_among = self.method.as_deref().is_some_and(|method| has_none.contains(&method));
        self.length == Length::Given || !is_among
    }

    /// Takes the next field. The first error stays, and is told at the end: the whole block must be
    /// decoded in any case.
    pub(super) fn take(&mut self, name: &[u8], value: &[u8]) {
        if self.error.is_none() {
            self.error = self.check(name, value).err();
        }
    }

    /// The request that the fields make up.
    pub(super) fn into_request(self) -> Result<Claimed, FrameError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let (Some(method), Some(scheme), Some(path)) = (self.method, self.scheme, self.path) else {
            return Err(FrameError::MissingField);
        };
        if (&*method == b"CONNECT") != (self.protocol == Protocol::Given) {
            return Err(FrameError::Connect);
        }
        let is_conflict = match (&self.authority, &self.host) {
            (Some(authority), Some(host)) => !is_same(authority, host, scheme),
            _ => false,
        };
        let authority = self.authority.or(self.host).ok_or(FrameError::NoHost)?;
        let host = authority.host;
        Ok(Claimed { host, conflict: is_conflict, method, path, is_grpc: self.is_grpc })
    }

    /// The fields are the trailers of a request.
    pub(super) fn into_trailers(self) -> Result<(), FrameError> {
        match self.error {
            _ if self.pseudo_fields > 0 => Err(FrameError::PseudoInTrailers),
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn check(&mut self, name: &[u8], value: &[u8]) -> Result<(), FrameError> {
        let is_bad = |byte: &u8| matches!(byte, 0 | b'\r' | b'\n');
        let is_raw = self.raw_binary == RawBinary::Accepted && is_grpc_binary(name, value);
        if value.iter().any(is_bad) && !is_raw {
            return Err(FrameError::BadFieldValue);
        }
        if let Some(pseudo) = name.strip_prefix(b":") {
            return self.pseudo(pseudo, value);
        }
        self.section = Section::Regular;
        let is_name = |byte: &u8| is_token(*byte) && !byte.is_ascii_uppercase();
        if name.is_empty() || !name.iter().all(is_name) {
            return Err(FrameError::BadFieldName);
        }
        match name {
            b"host" => once(&mut self.host, host(value)?).map_err(|_| FrameError::SeveralHosts),
            // RFC 9113 8.2.2: their place is a connection of HTTP/1.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => Err(FrameError::ConnectionField),
            b"content-length" => {
                self.length = Length::Given;
                Ok(())
            }
            b"content-type" => {
                self.is_grpc = value.starts_with(b"application/grpc");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), FrameError> {
        self.pseudo_fields += 1;
        if self.section == Section::Regular {
            return Err(FrameError::BadPseudoField);
        }
        match name {
            b"method" => once(&mut self.method, method(value)?),
            b"scheme" => once(&mut self.scheme, scheme(value)?),
            b"path" => once(&mut self.path, path(value)?),
            b"authority" => once(&mut self.authority, host(value)?),
            // RFC 8441: the protocol that an extended CONNECT asks for.
            b"protocol" if self.protocol == Protocol::Absent => {
                self.protocol = Protocol::Given;
                Ok(())
            }
            _ => Err(FrameError::BadPseudoField),
        }
    }
}

/// gRPC metadata as raw octets, which gRPC's peers agree on in their SETTINGS (its proposal G1,
/// "true binary metadata"): the name ends in `-bin`, and the value begins with a NUL.
fn is_grpc_binary(name: &[u8], value: &[u8]) -> bool {
    name.ends_with(b"-bin") && value.first() == Some(&0)
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), FrameError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(FrameError::BadPseudoField),
    }
}

fn method(value: &[u8]) -> Result<Box<[u8]>, FrameError> {
    if value.is_empty() || !value.iter().copied().all(is_token) {
        return Err(FrameError::BadMethod);
    }
    Ok(beginning(value, METHOD_BYTES_MAX))
}

fn scheme(value: &[u8]) -> Result<Scheme, FrameError> {
    if value.eq_ignore_ascii_case(b"http") {
        Ok(Scheme::Http)
    } else if value.eq_ignore_ascii_case(b"https") {
        Ok(Scheme::Https)
    } else {
        Err(FrameError::BadScheme)
    }
}

/// A path. An absolute URI in its place could name another host to a server that takes it.
fn path(value: &[u8]) -> Result<Box<[u8]>, FrameError> {
    let is_printable = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    let has_form = value.first() == Some(&b'/') || value == b"*";
    if !has_form || !value.iter().all(is_printable) {
        return Err(FrameError::BadTarget);
    }
    Ok(beginning(value, PATH_BYTES_MAX))
}

fn host(value: &[u8]) -> Result<Authority, FrameError> {
    Authority::parse(value).map_err(FrameError::BadHost)
}

fn beginning(text: &[u8], bytes_max: usize) -> Box<[u8]> {
    text[..text.len().min(bytes_max)].into()
}

/// Whether two authorities are the same one; a port that is not written is the scheme's.
fn is_same(one: &Authority, other: &Authority, scheme: Scheme) -> bool {
    let default_port = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let parts = |authority: &Authority| -> (Host, u16) {
        (authority.host.clone(), authority.port.unwrap_or(default_port))
    };
    parts(one) == parts(other)
}
