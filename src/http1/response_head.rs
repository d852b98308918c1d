//! One response's head: its status, and where its body ends.
//!
//! Lenient where servers are sloppy and the framing is still plain: bare LF, folded fields, space
//! before a colon, fields that are none. Where it is not plain, the body runs until the connection
//! closes, or the framing is lost ([`FramingError`]).

use std::mem::MaybeUninit;

use super::response_stream::{ExpectedResponse, FramingError};
use super::{HEADERS_MAX, Version, content_length, list};

/// What one response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status, 100 to 999.
    pub status: u16,
    /// The bytes of the head.
    pub head_len: usize,
    /// How the body is framed.
    pub body: ResponseBody,
    /// What it does to the connection.
    pub turn: Turn,
    /// If it changes the protocol: to what.
    pub agreed: Agreed,
}

/// The protocol that a 101 names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Agreed {
    /// HTTP/2, in one of the ways in which it has been spelt (`h2c`, `h2c-14`, `HTTP/2.0`).
    Http2,
    /// Another one, or none is named.
    #[default]
    Other,
}

/// What a response does to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Nothing: the request's own response is still to come (1xx).
    Interim,
    /// It is the response.
    Final,
    /// It is the response to a request that wanted another protocol, and declines:
    /// [`super::RequestStream::upgrade_declined`].
    Declined,
    /// The connection changes its protocol (101): [`super::RequestStream::upgraded`].
    Switched,
}

/// How a response's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseBody {
    /// There is none (or one of length 0).
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the upstream closes.
    UntilClose,
}

/// The fields that matter.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    coding: Coding,
    agreed: Agreed,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    Absent,
    /// Chunked, at last.
    Chunked,
    /// Another one at last.
    Other,
}

impl ResponseHead {
    /// Reads `head`, which [`super::head_end::HeadEnd`] has cut out, as the response to `asked`.
    pub(super) fn parse(head: &[u8], asked: ExpectedResponse) -> Result<Self, FramingError> {
        let mut storage = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_multiple_spaces_in_response_status_delimiters(true)
            .ignore_invalid_headers_in_responses(true)
            .parse_response_with_uninit_headers(&mut response, head, &mut storage);
        let (Ok(httparse::Status::Complete(parsed_len)), Some(status @ 100..), Some(version)) =
            (parsed, response.code, response.version)
        else {
            return Err(FramingError::BadHead);
        };
        if parsed_len != head.len() {
            return Err(FramingError::BadHead);
        }
        let version = match version {
            0 => Version::Http10,
            _ => Version::Http11,
        };
        let fields = Fields::collect(response.headers)?;
        let turn = turn(status, asked)?;
        let body = match (turn, status) {
            (Turn::Interim | Turn::Switched, _) | (_, 204 | 304) => ResponseBody::None,
            _ if asked.is_head => ResponseBody::None,
            _ => fields.body(version)?,
        };
        Ok(Self { status, head_len: head.len(), body, turn, agreed: fields.agreed })
    }
}

fn is_http2(protocol: &[u8]) -> bool {
    let begins_with = |name: &[u8]| {
        protocol.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
    };
    begins_with(b"h2") || begins_with(b"http/2")
}

fn turn(status: u16, asked: ExpectedResponse) -> Result<Turn, FramingError> {
    match (status, asked.wants_upgrade) {
        (101, true) => Ok(Turn::Switched),
        (101, false) => Err(FramingError::UnaskedSwitch),
        (100..200, _) => Ok(Turn::Interim),
        (_, true) => Ok(Turn::Declined),
        (_, false) => Ok(Turn::Final),
    }
}

impl Coding {
    /// The codings of `value` were applied behind this one. The last one delimits the body (RFC
    /// 9112 6.3); servers repeat `chunked`, and say `identity` for none.
    fn and(self, value: &[u8]) -> Self {
        let mut codings = list(value).peekable();
        if codings.peek().is_none() {
            return Self::Other;
        }
        codings.fold(self, |before, coding| match coding {
            _ if coding.eq_ignore_ascii_case(b"identity") => before,
            _ if coding.eq_ignore_ascii_case(b"chunked") => Self::Chunked,
            _ => Self::Other,
        })
    }
}

impl Fields {
    fn collect(headers: &[httparse::Header<'_>]) -> Result<Self, FramingError> {
        let mut fields = Self::default();
        for httparse::Header { name, value } in headers {
            if name.eq_ignore_ascii_case("content-length") {
                // Servers repeat it; as long as all agree there is one length.
                for listed in value.split(|byte| *byte == b',') {
                    let length =
                        content_length(listed.trim_ascii()).ok_or(FramingError::BadLength)?;
                    if fields.length.replace(length).is_some_and(|before| before != length) {
                        return Err(FramingError::BadLength);
                    }
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                fields.coding = fields.coding.and(value);
            } else if name.eq_ignore_ascii_case("upgrade") && list(value).any(is_http2) {
                fields.agreed = Agreed::Http2;
            }
        }
        Ok(fields)
    }

    fn body(&self, version: Version) -> Result<ResponseBody, FramingError> {
        match (self.coding, self.length, version) {
            (Coding::Chunked | Coding::Other, Some(_), _) => Err(FramingError::LengthWithCoding),
            (Coding::Chunked, None, Version::Http11) => Ok(ResponseBody::Chunked),
            // Clients disagree about chunks in HTTP/1.0. That the close ends it, all can agree on.
            (Coding::Chunked, None, Version::Http10) => Ok(ResponseBody::UntilClose),
            (Coding::Absent | Coding::Other, None, _) => Ok(ResponseBody::UntilClose),
            (Coding::Absent, Some(0), _) => Ok(ResponseBody::None),
            (Coding::Absent, Some(length), _) => Ok(ResponseBody::Length(length)),
        }
    }
}
