//! What a connection waits for: the rest of a head, the end of a response, or nothing.

use super::{Gate, Micros, Policy, Reply};
use crate::relay::Side;

impl Gate {
    /// Since when the rest of a request's head is awaited, if it is.
    pub(crate) fn head_since(&self) -> Option<Micros> {
        match self {
            Self::Http1(http) => http.head_since(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => None,
        }
    }

    /// The rest of a request's head has not come in time: what the downstream is told. `held` are
    /// the bytes that the gate has not let pass.
    pub(crate) fn late_head(&mut self, held: &[u8], policy: &Policy<'_>) -> Option<Box<Reply>> {
        match self {
            Self::Http1(http) => http.late_head(held, policy),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => None,
        }
    }

    /// A request has passed whose response has not come whole.
    pub(crate) fn owes_response(&self) -> bool {
        match self {
            Self::Http1(http) => http.owes_response(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => false,
        }
    }

    /// Nothing is outstanding: the connection is between two requests.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self {
            Self::Http1(http) => http.is_at_rest(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => false,
        }
    }

    /// The next request, if it has come whole, does not need the present upstream connection.
    pub(crate) fn is_between_exchanges(&self) -> bool {
        match self {
            Self::Http1(http) => http.is_between_exchanges(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => false,
        }
    }

    /// What is held of `side` waits for something else than more bytes from that side.
    pub(crate) fn waits(&self, side: Side) -> bool {
        match (self, side) {
            (Self::Http1(http), Side::Downstream) => http.waits(),
            (Self::Http1(_), Side::Upstream)
            | (Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_), _) => false,
        }
    }

    /// The end of the present response is known by the upstream's end only.
    pub(crate) fn is_unframed(&self) -> bool {
        match self {
            Self::Http1(http) => http.is_unframed(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => false,
        }
    }
}
