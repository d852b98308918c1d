//! One connection: its two sockets, its two halves, and where it is in its life.
//!
//! ```text
//! accepted --verdict--> Connecting --connected--> Relaying --both finished--> Closing --> gone
//!    |                     |                         |                           ^
//!    |                     +--- refused, late -------+--- reset, idle, deadline -+
//!    |                                               +--> Resetting (RST waits) -+
//!    +--blackhole, FIN sent--> Lingering ----------------------------------------+
//! ```
//!
//! A connection leaves the slab only when nothing of it is in flight in the ring. What is in flight
//! is recorded where it belongs ([`Direction::operation`], [`Connection::connecting`],
//! [`End::watched`]) and never counted separately.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::metrics::{CloseReason, SeriesIndex};
use crate::registry::snapshot::Service;
use crate::relay::{Half, Side};
use crate::sys::buffers::Buffer;
use crate::sys::pipe::Pipe;
use crate::sys::ring::{Expect, Operation};
use crate::sys::socket::Socket;

/// Microseconds since the worker began; coarse, read once per loop turn.
pub(super) type Micros = u64;

/// Where a connection is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// The upstream connection is being made.
    Connecting {
        /// When this attempt is given up.
        deadline: Micros,
        /// The other endpoints to try; `None` if there is one destination only.
        attempts: Option<Box<Attempts>>,
    },
    /// Both sides are connected, and bytes move.
    Relaying,
    /// Blackholed: FIN was sent, and input is thrown away until the downstream closes too. Closing
    /// at once would turn the FIN into a reset as soon as the workload had sent anything.
    Lingering {
        /// When it is closed in any case.
        deadline: Micros,
    },
    /// One side is gone; the other is reset as soon as it has acknowledged what was sent before,
    /// because a reset throws away the send queue.
    Resetting {
        /// The side that lives.
        live: Side,
        /// When it is reset in any case.
        deadline: Micros,
    },
    /// Its end is accounted; only operations in flight hold it.
    Closing,
}

impl Phase {
    /// Its name in the list of connections.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Connecting { .. } => "connecting",
            Self::Relaying => "relaying",
            Self::Lingering { .. } => "lingering",
            Self::Resetting { .. } => "resetting",
            Self::Closing => "closing",
        }
    }
}

/// The endpoints of a STATIC service that a connection may still try.
#[derive(Debug)]
pub(super) struct Attempts {
    pub(super) service: Arc<Service>,
    /// Index of the next endpoint.
    pub(super) next: usize,
    /// Endpoints not tried yet.
    pub(super) left: usize,
}

/// What a half holds of the bytes on their way, or for them.
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    Buffer(Buffer),
    Pipe(Pipe),
}

/// A half with what it holds and waits for.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) half: Half,
    pub(super) held: Held,
    /// The one operation that is in flight for this half.
    pub(super) operation: Option<Operation>,
    /// Whether the source probably has bytes now.
    pub(super) expect: Expect,
    /// Bytes read from the source.
    pub(super) bytes: u64,
}

impl Direction {
    fn new(expect: Expect) -> Self {
        let half = Half::default();
        Self { half, held: Held::Nothing, operation: None, expect, bytes: 0 }
    }
}

/// One side's socket.
#[derive(Debug, Default)]
pub(super) struct End {
    /// `None` for an upstream that does not exist.
    pub(super) socket: Option<Socket>,
    /// The connection on this side was reset, or died. An end of input read afterwards is no FIN:
    /// the error was reported before and the kernel does not repeat it.
    pub(super) lost: Lost,
    /// An operation that waits for this side's death is in flight.
    pub(super) watched: Watched,
}

/// Whether a side is known to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Lost {
    #[default]
    No,
    Yes,
}

/// Whether a side's death is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Watched {
    #[default]
    No,
    Yes,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) phase: Phase,
    pub(super) ends: [End; 2],
    /// By source side.
    pub(super) directions: [Direction; 2],
    /// A connect is in flight.
    pub(super) connecting: bool,
    /// Keepalive was set on the upstream; it is, once a connection has lived for a while.
    pub(super) kept_alive: bool,
    /// The upstream socket's ends are remembered by the self-call guard.
    pub(super) flow: Option<Box<crate::admission::Flow>>,
    /// What it is accounted to while it is open.
    pub(super) series: SeriesIndex,
    pub(super) source: SocketAddr,
    pub(super) original_destination: SocketAddr,
    pub(super) accepted_at: Micros,
    pub(super) moved_at: Micros,
}

impl Connection {
    pub(super) fn new(
        socket: Socket,
        source: SocketAddr,
        original_destination: SocketAddr,
        series: SeriesIndex,
        now: Micros,
    ) -> Self {
        Self {
            generation: 0,
            phase: Phase::Connecting { deadline: Micros::MAX, attempts: None },
            ends: [End { socket: Some(socket), ..End::default() }, End::default()],
            // The workload usually speaks first, and has by the time the upstream is connected.
            directions: [Direction::new(Expect::Bytes), Direction::new(Expect::Nothing)],
            connecting: false,
            kept_alive: false,
            flow: None,
            series,
            source,
            original_destination,
            accepted_at: now,
            moved_at: now,
        }
    }

    /// The half that reads from `side`.
    pub(super) fn direction(&mut self, side: Side) -> &mut Direction {
        &mut self.directions[side as usize]
    }

    /// The socket of `side`.
    pub(super) fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    /// The operations in flight, with the side that their tokens carry.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = (Operation, Side)> + '_ {
        let halves = Side::BOTH
            .into_iter()
            .filter_map(|side| Some((self.directions[side as usize].operation?, side)));
        let watches = Side::BOTH.into_iter().filter_map(|side| {
            let watched = self.ends[side as usize].watched == Watched::Yes;
            watched.then_some((Operation::Dead, side))
        });
        let connect = self.connecting.then_some((Operation::Connect, Side::Upstream));
        halves.chain(watches).chain(connect)
    }

    /// The side whose loss `reason` names; the other one is told by a reset.
    pub(super) fn lost_side(reason: CloseReason) -> Option<Side> {
        match reason {
            CloseReason::DownstreamReset => Some(Side::Downstream),
            CloseReason::UpstreamReset => Some(Side::Upstream),
            _ => None,
        }
    }

    /// The reason that says that `side` was lost.
    pub(super) fn loss_of(side: Side) -> CloseReason {
        match side {
            Side::Downstream => CloseReason::DownstreamReset,
            Side::Upstream => CloseReason::UpstreamReset,
        }
    }
}
