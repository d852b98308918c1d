//! One request's fields: what it asks for, of whom.
//!
//! The rules are those of RFC 9113 8.2 and 8.3, and those of [`crate::judge`], as far as they keep
//! a request from meaning something else to the upstream, or to an HTTP/1 server behind it, than
//! it means here.

use super::{METHOD_BYTES_MAX, PATH_BYTES_MAX, RawBinary};
use crate::judge::{self, Objections, RequestError, Rules, Value, is_token};
use crate::sniff::{Authority, Host};

/// What one request claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The host in `:authority`, or in Host where there is no `:authority`.
    pub host: Host,
    /// `:authority` and Host disagree. A server that follows the RFC goes by `:authority`, or
    /// refuses; one that does not may go by Host.
    pub conflict: bool,
    /// For the log.
    pub asked: Asked,
    /// A call of gRPC, whose clients read a refusal from trailers.
    pub is_grpc: bool,
}

/// The beginnings of a request's method and path, for the log; empty if it has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The method: a token of at most [`METHOD_BYTES_MAX`].
    pub method: Box<[u8]>,
    /// The path: at most [`PATH_BYTES_MAX`]. It may hold bytes above 127.
    pub path: Box<[u8]>,
}

/// The fields of one header block, as they are decoded.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// What they are judged by; `None`: they only have to be read.
    rules: Option<Rules>,
    method: Option<Box<[u8]>>,
    scheme: Option<Scheme>,
    path: Option<Box<[u8]>>,
    authority: Option<Authority>,
    host: Option<Authority>,
    protocol: Protocol,
    length: Option<u64>,
    expects: Option<()>,
    is_grpc: bool,
    raw_binary: RawBinary,
    section: Section,
    pseudo_fields: usize,
    objections: Objections,
    error: Option<RequestError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// The port that an authority without one means.
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Whether `:protocol` makes a CONNECT an extended one (RFC 8441).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Protocol {
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
    pub(super) fn new(rules: Option<Rules>, raw_binary: RawBinary) -> Self {
        Self { rules, raw_binary, ..Self::default() }
    }

    /// Whether a body may follow, because it is announced, or by the method.
    pub(super) fn may_have_body(&self) -> bool {
        let has_none = [&b"GET"[..], b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"];
        let is_among = self.method.as_deref().is_some_and(|method| has_none.contains(&method));
        self.announces_body() || !is_among
    }

    fn announces_body(&self) -> bool {
        self.length.is_some_and(|length| length > 0)
    }

    /// Takes the next field. The first error stays, and is told at the end: the whole block must be
    /// decoded in any case.
    pub(super) fn take(&mut self, name: &[u8], value: &[u8]) {
        if self.error.is_none() {
            self.error = self.check(name, value).err();
        }
    }

    /// The request that the fields make up; else what is wrong, and what it has asked for.
    pub(super) fn into_request(mut self) -> Result<Claimed, (RequestError, Asked)> {
        self.claim().map_err(|error| (error, self.asked()))
    }

    fn asked(&self) -> Asked {
        let part = |field: &Option<Box<[u8]>>, bytes_max| {
            field.as_deref().map_or_else(Box::default, |field| beginning(field, bytes_max))
        };
        Asked {
            method: part(&self.method, METHOD_BYTES_MAX),
            path: part(&self.path, PATH_BYTES_MAX),
        }
    }

    fn claim(&mut self) -> Result<Claimed, RequestError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let (Some(method), Some(scheme), Some(path)) = (&self.method, self.scheme, &self.path)
        else {
            return Err(RequestError::MissingField);
        };
        if (&**method == b"CONNECT") != (self.protocol == Protocol::Given) {
            return Err(RequestError::Connect);
        }
        let port = scheme.port();
        let is_conflict = match (&self.authority, &self.host) {
            (Some(authority), Some(host)) => !judge::is_same(authority, host, port),
            _ => false,
        };
        let authority = self.authority.take().or(self.host.take()).ok_or(RequestError::NoHost)?;
        self.objections.note(judge::path(path, Some(&authority), port));
        if &**path == b"*" && &**method != b"OPTIONS" {
            self.objections.note(Err(RequestError::BadTarget));
        }
        if self.length.is_some_and(|length| length > 0) {
            self.objections.note_body(method, false);
        }
        self.judge()?;
        Ok(Claimed {
            host: authority.host,
            conflict: is_conflict,
            asked: self.asked(),
            is_grpc: self.is_grpc,
        })
    }

    /// The fields are the trailers of a request.
    pub(super) fn into_trailers(self) -> Result<(), RequestError> {
        match self.error {
            _ if self.pseudo_fields > 0 => Err(RequestError::PseudoInTrailers),
            Some(error) => Err(error),
            None => self.judge(),
        }
    }

    /// Takes down what there is against a field, if it is a trailer.
    pub(super) fn take_trailer(&mut self, name: &[u8], value: &[u8]) {
        self.objections.note(judge::trailer(name, value));
        self.take(name, value);
    }

    fn judge(&self) -> Result<(), RequestError> {
        match self.rules.and_then(|rules| self.objections.refusal(rules)) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    fn check(&mut self, name: &[u8], value: &[u8]) -> Result<(), RequestError> {
        let may_hold = match self.raw_binary {
            RawBinary::Accepted if is_grpc_binary(name, value) => Value::Octets,
            RawBinary::Accepted | RawBinary::Refused => Value::Text,
        };
        judge::value(value, may_hold)?;
        if may_hold == Value::Text {
            self.objections.note_text(value);
        }
        if let Some(pseudo) = name.strip_prefix(b":") {
            return self.pseudo(pseudo, value);
        }
        self.section = Section::Regular;
        let is_name = |byte: &u8| is_token(*byte) && !byte.is_ascii_uppercase();
        if name.is_empty() || !name.iter().all(is_name) {
            return Err(RequestError::BadFieldName);
        }
        match name {
            b"host" => once(&mut self.host, host(value)?, RequestError::SeveralHosts),
            b"content-length" => {
                let length = judge::content_length(value).ok_or(RequestError::BadLength)?;
                once(&mut self.length, length, RequestError::SeveralLengths)
            }
            b"expect" => {
                self.objections.note(judge::expectation(value));
                once(&mut self.expects, (), RequestError::BadExpectation)
            }
            // RFC 9113 8.2.2: their place is a connection of HTTP/1.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => Err(RequestError::ConnectionField),
            b"te" if !value.eq_ignore_ascii_case(b"trailers") => Err(RequestError::ConnectionField),
            b"te" | b"trailer" => Ok(()),
            b"content-type" => {
                self.is_grpc = value.starts_with(b"application/grpc");
                Ok(())
            }
            _ if judge::is_alias(name) => {
                self.objections.note(Err(RequestError::AliasedField));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), RequestError> {
        self.pseudo_fields += 1;
        if self.section == Section::Regular {
            return Err(RequestError::BadPseudoField);
        }
        match name {
            b"method" => {
                self.objections.note(judge::method(value));
                once(&mut self.method, method(value)?.into(), RequestError::BadPseudoField)
            }
            b"scheme" => once(&mut self.scheme, scheme(value)?, RequestError::BadPseudoField),
            b"path" => once(&mut self.path, path(value)?.into(), RequestError::BadPseudoField),
            b"authority" => once(&mut self.authority, host(value)?, RequestError::BadPseudoField),
            // RFC 8441: the protocol that an extended CONNECT asks for.
            b"protocol" if self.protocol == Protocol::Absent => {
                self.protocol = Protocol::Given;
                Ok(())
            }
            _ => Err(RequestError::BadPseudoField),
        }
    }
}

/// gRPC metadata as raw octets, which gRPC's peers agree on in their SETTINGS (its proposal G1,
/// "true binary metadata"): the name ends in `-bin`, and the value begins with a NUL.
fn is_grpc_binary(name: &[u8], value: &[u8]) -> bool {
    name.ends_with(b"-bin") && value.first() == Some(&0)
}

fn once<T>(place: &mut Option<T>, value: T, again: RequestError) -> Result<(), RequestError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(again),
    }
}

fn method(value: &[u8]) -> Result<&[u8], RequestError> {
    if value.is_empty() || !value.iter().copied().all(is_token) {
        return Err(RequestError::BadMethod);
    }
    Ok(value)
}

fn scheme(value: &[u8]) -> Result<Scheme, RequestError> {
    if value.eq_ignore_ascii_case(b"http") {
        Ok(Scheme::Http)
    } else if value.eq_ignore_ascii_case(b"https") {
        Ok(Scheme::Https)
    } else {
        Err(RequestError::BadScheme)
    }
}

/// A path. An absolute URI in its place could name another host to a server that takes it.
fn path(value: &[u8]) -> Result<&[u8], RequestError> {
    let is_printable = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    let has_form = value.first() == Some(&b'/') || value == b"*";
    if !has_form || !value.iter().all(is_printable) {
        return Err(RequestError::BadTarget);
    }
    Ok(value)
}

fn host(value: &[u8]) -> Result<Authority, RequestError> {
    Authority::parse(value).map_err(RequestError::BadHost)
}

fn beginning(text: &[u8], bytes_max: usize) -> Box<[u8]> {
    text[..text.len().min(bytes_max)].into()
}
