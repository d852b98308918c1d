//! What is told about the bytes of a client.

use super::{Claimed, FrameError};

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
        error: FrameError,
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
        error: Option<FrameError>,
    },
    /// Nothing from here on may pass.
    Refused(FrameError),
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
