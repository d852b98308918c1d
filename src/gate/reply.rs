//! Requests from their head to their accounting, and local replies: what Egret itself says to a
//! workload.

use std::rc::Rc;

use super::{Micros, Route};
use crate::http1::RequestHead;
pub(crate) use crate::http2::Malformed;
use crate::metrics::{CloseReason, ResponseFlags};

/// A fatal `access_denied` (49) in a record of TLS 1.2, which any client reads before it knows the
/// version (RFC 8446 5.1, 6.2).
pub(crate) const TLS_ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// A request that has passed, or is answered by Egret.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) route: Rc<Route>,
    /// When its head passed.
    pub(crate) began: Micros,
    /// When the first byte of its response came.
    pub(crate) responded: Option<Micros>,
    pub(crate) request_bytes: u64,
    pub(crate) answered_by: AnsweredBy,
    /// For the access log, if it is on.
    pub(crate) logged: Option<Box<Logged>>,
}

/// A request with the end of its response.
pub(crate) type Answered = crate::http1::Answered<Exchange>;

/// Where a response comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnsweredBy {
    Upstream,
    Egret,
}

/// What the access log says of a request: what it is read from.
#[derive(Debug)]
pub(crate) enum Logged {
    /// A head of HTTP/1, with its bytes.
    Head(Rc<RequestHead>, Box<[u8]>),
    /// A stream of HTTP/2: its method and its path.
    Stream(Box<[u8]>, Box<[u8]>),
}

/// A local reply, after which the connection ends.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Whole messages.
    pub(crate) bytes: Vec<u8>,
    /// What the connection ends by.
    pub(crate) reason: CloseReason,
    /// The requests that it answers, with the flags that they are accounted by.
    pub(crate) answered: Vec<Answered>,
    pub(crate) flags: ResponseFlags,
    /// What was malformed, to be counted.
    pub(crate) malformed: Option<Malformed>,
}

/// A response of HTTP/1 without a body, after which the connection ends.
pub(super) fn http1(status: u16) -> Vec<u8> {
    let reason = match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        _ => "Service Unavailable",
    };
    let fields = "content-length: 0\r\nconnection: close\r\nserver: egret";
    format!("HTTP/1.1 {status} {reason}\r\n{fields}\r\n\r\n").into_bytes()
}
