//! What is told about the bytes of a client.

use super::{Asked, Claimed, ErrorCode, FrameError};
use crate::judge::RequestError;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameStep {
    /// It cannot be told before more have come.
    NeedMore,
    /// The first `bytes` ask for nothing: frames other than a request's HEADERS, or parts of them.
    Pass {
        /// How many; at least one.
        bytes: usize,
    },
    /// The first `bytes` are a SETTINGS frame that acknowledges the other side's. Who has sent
    /// SETTINGS of its own keeps the first one back: the upstream has not asked for it.
    SettingsAck {
        /// How many.
        bytes: usize,
    },
    /// The first `bytes` are SETTINGS before the first request.
    Settings {
        /// How many.
        bytes: usize,
    },
    /// The first `bytes` are a PING before the first request.
    Ping {
        /// How many.
        bytes: usize,
        /// What the reply must repeat.
        data: [u8; 8],
    },
    /// The first `bytes` are a request's HEADERS with its CONTINUATIONs, whole.
    Request {
        /// How many.
        bytes: usize,
        /// The stream that it opens.
        stream: u32,
        /// What it asks for.
        authority: Claimed,
    },
    /// The first `bytes` are a request's HEADERS, whole, and it is malformed.
    Malformed {
        /// How many.
        bytes: usize,
        /// The stream that it would open.
        stream: u32,
        /// Why.
        error: Malformed,
        /// What it asks for.
        asked: Asked,
    },
    /// The first `bytes` belong to a stream that was reset or refused.
    Drop {
        /// How many; at least one.
        bytes: usize,
        /// So many of them the client takes for sent, until it is given them back.
        credit: u32,
    },
    /// As [`FrameStep::Drop`]: a stream that has passed cannot go on. It is to be reset, towards
    /// both sides.
    Reset {
        /// How many; at least one.
        bytes: usize,
        /// Which.
        stream: u32,
        /// See [`FrameStep::Drop`].
        credit: u32,
        /// Why, if the client is to blame.
        error: Option<Malformed>,
    },
    /// Nothing from here on may pass.
    Refused(FrameError),
}

/// Why a request, a stream or a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A request is wrong, or what belongs to it.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The frames are.
    #[error(transparent)]
    Frames(#[from] FrameError),
}

impl Malformed {
    /// What the client is told.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Request(_) => ErrorCode::Protocol,
            Self::Frames(error) => error.code(),
        }
    }
}

/// Whether the server takes gRPC's metadata as raw octets ([`super::request`]).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum RawBinary {
    /// It has not said so.
    #[default]
    Refused,
    /// It has said so in its SETTINGS.
    Accepted,
}
