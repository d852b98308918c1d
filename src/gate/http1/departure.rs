//! How a connection ceases to be followed as HTTP/1.

use super::Switched;
use crate::http1::FramingError;
use crate::judge::RequestError;

/// The connection is HTTP/1 no longer.
#[derive(Debug)]
pub(in crate::gate) enum Departure {
    Unreadable(Unreadable),
    /// It goes on as HTTP/2.
    Http2(Box<Switched>),
}

impl From<Unreadable> for Departure {
    fn from(why: Unreadable) -> Self {
        Self::Unreadable(why)
    }
}

/// A connection that cannot be followed any further.
#[derive(Debug, Default)]
pub(in crate::gate) struct Unreadable {
    /// Gated: why what follows passes without judgement.
    pub(in crate::gate) unjudged: Option<RequestError>,
    /// Observed.
    pub(in crate::gate) refusal: Option<RequestError>,
    pub(in crate::gate) unframed: Option<FramingError>,
}
