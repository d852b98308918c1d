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
    /// Of the whole request as it came, and of its body alone.
    pub(crate) request_bytes: u64,
    pub(crate) body_bytes: u64,
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
    /// `grpc`: in words that a client of gRPC reads.
    Egret {
        why: Why,
        grpc: bool,
    },
}

/// Why Egret itself answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The policy blocks it.
    Blocked,
    /// No upstream connection could be made.
    Unreachable(CloseReason),
    /// It may not pass.
    Malformed(Malformed),
    /// Its head has not come in time.
    Late,
}

impl Why {
    /// The status that says so in HTTP/1, and to clients of HTTP/2 that get a response.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Blocked => 502,
            Self::Unreachable(_) => 503,
            Self::Malformed(Malformed::Request(error)) => error.status(),
            Self::Malformed(Malformed::Frames(_)) => 400,
            Self::Late => 408,
        }
    }
}

impl Exchange {
    /// A request that Egret answers itself.
    pub(super) fn answered_by_egret(why: Why, route: Rc<Route>, began: Micros) -> Self {
        let answered_by = AnsweredBy::Egret { why, grpc: false };
        let (request_bytes, body_bytes) = (0, 0);
        Self { route, began, responded: None, request_bytes, body_bytes, answered_by, logged: None }
    }

    /// The flags of a request that Egret has answered.
    pub(crate) fn local_flags(&self) -> ResponseFlags {
        match self.answered_by {
            AnsweredBy::Upstream | AnsweredBy::Egret { why: Why::Blocked, .. } => {
                ResponseFlags::None
            }
            AnsweredBy::Egret { why: Why::Unreachable(reason), .. } => {
                self.route.unreachable_flags(reason)
            }
            AnsweredBy::Egret { why: Why::Malformed(_) | Why::Late, .. } => {
                ResponseFlags::DownstreamProtocol
            }
        }
    }
}

/// What the access log says of a request: what it is read from.
#[derive(Debug)]
pub(crate) enum Logged {
    /// A head of HTTP/1, with its bytes.
    Head(Rc<RequestHead>, Box<[u8]>),
    /// The first bytes of a head of HTTP/1 that is malformed, or has not come whole.
    Unread(Box<[u8]>),
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
    /// The requests that it answers.
    pub(crate) answered: Vec<Answered>,
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
