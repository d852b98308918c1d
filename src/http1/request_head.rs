//! One request's head: what it asks for, of whom, and how its body is framed.
//!
//! The syntax is `httparse`'s, in its strict form; what may stand together is said here, and what
//! each part may be by [`crate::judge`]. Whoever has a [`RequestHead`] knows exactly one Host and
//! exactly one end of the body.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{HEADERS_MAX, RequestError, list};
use crate::judge::{self, Objections};
use crate::sniff::{Authority, Host, NameError};

/// The port that an `http` target without one means.
const HTTP_PORT: u16 = 80;

/// What one request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The method is HEAD: the response has no body.
    pub is_head: bool,
    /// The host; `None`: an empty Host, or HTTP/1.0 without Host.
    pub host: Option<Host>,
    /// The version.
    pub version: Version,
    /// The bytes of the head, with the empty lines before it and the one that ends it.
    pub head_len: usize,
    /// How the body is framed.
    pub body: Body,
    /// The protocol that it wants to go on with.
    pub upgrade: Upgrade,
    /// It waits for 100 (Continue) before its body.
    pub expects_continue: bool,
    /// The connection can serve another request afterwards.
    pub keep_alive: bool,
    /// What there is against it.
    pub objections: Objections,
    /// Where in the head the method stands, for the log. It is not escaped.
    pub method_range: Range<usize>,
    /// Where in the head the target stands, for the log. It is not escaped.
    pub target_range: Range<usize>,
}

/// A version of HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How a request's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Body {
    /// There is none (or one of length 0).
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The protocol that a client wants to change to. `Connection: upgrade` is not asked for: an
/// upstream may be as lenient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Upgrade {
    /// None.
    No,
    /// HTTP/2 (`h2c`), in which later requests would go unseen.
    H2c,
    /// Another, such as `websocket`.
    Other,
}

/// The fields that matter, each as often as it came.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
    expectation: Option<&'a [u8]>,
    upgrade: bool,
    upgrade_h2c: bool,
    close: bool,
    keep_alive: bool,
    objections: Objections,
}

impl RequestHead {
    /// It has a body, be it an empty one in chunks.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.body != Body::None
    }

    /// Reads `head`, which [`super::head_end::HeadEnd`] has cut out.
    pub(super) fn parse(head: &[u8]) -> Result<Self, RequestError> {
        let mut storage = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(head, &mut storage).map_err(refusal)?;
        let (Some(method), Some(target), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(RequestError::BadRequestLine);
        };
        // The parser and the search for the end see the same end, or nobody knows where it is.
        if parsed != httparse::Status::Complete(head.len()) {
            return Err(RequestError::BareLineEnd);
        }
        let version = match version {
            0 => Version::Http10,
            _ => Version::Http11,
        };
        let mut fields = Fields::collect(request.headers)?;
        let body = fields.body(version)?;
        let objections = &mut fields.objections;
        let authority = authority((method, target), version, fields.host, objections)?;
        objections.note(judge::method(method.as_bytes()));
        objections.note_text(head);
        if body != Body::None {
            objections.note_body(method.as_bytes(), fields.upgrade);
        }
        let method_start = head.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let target_start = method_start + method.len() + 1;
        Ok(Self {
            is_head: method == "HEAD",
            host: authority.map(|authority| authority.host),
            version,
            head_len: head.len(),
            body,
            upgrade: fields.upgrade(),
            expects_continue: fields.expectation.is_some(),
            keep_alive: fields.keeps_alive(version),
            objections: fields.objections,
            method_range: method_start..method_start + method.len(),
            target_range: target_start..target_start + target.len(),
        })
    }
}

impl<'a> Fields<'a> {
    fn collect(headers: &[httparse::Header<'a>]) -> Result<Self, RequestError> {
        let mut fields = Self::default();
        for httparse::Header { name, value } in headers {
            // The length first: most fields are none of these.
            match name.len() {
                2 if name.eq_ignore_ascii_case("te") => {}
                4 if name.eq_ignore_ascii_case("host") => {
                    once(&mut fields.host, value, RequestError::SeveralHosts)?;
                }
                6 if name.eq_ignore_ascii_case("expect") => fields.expect(value),
                7 if name.eq_ignore_ascii_case("upgrade") => {
                    fields.upgrade = true;
                    fields.upgrade_h2c |= has(value, b"h2c");
                }
                7 if name.eq_ignore_ascii_case("trailer") => {}
                10 if name.eq_ignore_ascii_case("connection") => {
                    fields.close |= has(value, b"close");
                    fields.keep_alive |= has(value, b"keep-alive");
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    once(&mut fields.length, value, RequestError::SeveralLengths)?;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    once(&mut fields.coding, value, RequestError::BadCoding)?;
                }
                _ if judge::is_alias(name.as_bytes()) => {
                    fields.objections.note(Err(RequestError::AliasedField));
                }
                _ => {}
            }
        }
        Ok(fields)
    }

    fn expect(&mut self, value: &'a [u8]) {
        self.objections.note(judge::expectation(value));
        if self.expectation.replace(value).is_some() {
            self.objections.note(Err(RequestError::BadExpectation));
        }
    }

    fn body(&self, version: Version) -> Result<Body, RequestError> {
        match (self.coding, self.length, version) {
            (None, None, _) => Ok(Body::None),
            (None, Some(length), _) => match judge::content_length(length) {
                None => Err(RequestError::BadLength),
                Some(0) => Ok(Body::None),
                Some(length) => Ok(Body::Length(length)),
            },
            (Some(_), Some(_), _) => Err(RequestError::LengthWithCoding),
            (Some(_), None, Version::Http10) => Err(RequestError::CodingInHttp10),
            (Some(coding), None, Version::Http11) => {
                match coding.eq_ignore_ascii_case(b"chunked") {
                    true => Ok(Body::Chunked),
                    false => Err(RequestError::BadCoding),
                }
            }
        }
    }

    fn upgrade(&self) -> Upgrade {
        match (self.upgrade, self.upgrade_h2c) {
            (false, _) => Upgrade::No,
            (true, true) => Upgrade::H2c,
            (true, false) => Upgrade::Other,
        }
    }

    fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version == Version::Http11)
    }
}

fn once<'a>(
    slot: &mut Option<&'a [u8]>,
    value: &'a [u8],
    again: RequestError,
) -> Result<(), RequestError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(again),
    }
}

fn has(value: &[u8], member: &[u8]) -> bool {
    list(value).any(|listed| listed.eq_ignore_ascii_case(member))
}

/// Whom the request is for (RFC 9112 3.2). `None`: it does not say.
fn authority(
    (method, target): (&str, &str),
    version: Version,
    host: Option<&[u8]>,
    objections: &mut Objections,
) -> Result<Option<Authority>, RequestError> {
    if method.eq_ignore_ascii_case("connect") {
        return Err(RequestError::Connect);
    }
    let host = match (host, version) {
        (None, Version::Http11) => return Err(RequestError::NoHost),
        (None, Version::Http10) => None,
        (Some(host), _) => named(host)?,
    };
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        objections.note(judge::path(target.as_bytes(), host.as_ref(), HTTP_PORT));
        return Ok(host);
    }
    let (in_target, path) = judge::absolute_form(target.as_bytes())?;
    let in_target = Authority::parse(in_target).map_err(RequestError::BadHost)?;
    objections.note(judge::path(path, Some(&in_target), HTTP_PORT));
    match host {
        None if version == Version::Http10 => Ok(Some(in_target)),
        Some(host) if judge::is_same(&host, &in_target, HTTP_PORT) => Ok(Some(host)),
        _ => Err(RequestError::HostMismatch),
    }
}

/// The host that a Host field names; an empty one names none (RFC 9110 7.2).
fn named(value: &[u8]) -> Result<Option<Authority>, RequestError> {
    match Authority::parse(value) {
        Ok(authority) => Ok(Some(authority)),
        Err(NameError::Empty) if value.is_empty() => Ok(None),
        Err(error) => Err(RequestError::BadHost(error)),
    }
}

fn refusal(error: httparse::Error) -> RequestError {
    match error {
        httparse::Error::HeaderName => RequestError::BadFieldName,
        httparse::Error::HeaderValue => RequestError::BadFieldValue,
        httparse::Error::NewLine => RequestError::BareLineEnd,
        httparse::Error::Token | httparse::Error::Status => RequestError::BadRequestLine,
        httparse::Error::TooManyHeaders => RequestError::TooManyHeaders,
        httparse::Error::Version => RequestError::BadVersion,
    }
}
