//! One connection: its two sockets, its two halves, and where it is in its life.
//!
//! ```text
//! accepted --+--verdict--> Connecting --connected--> Relaying --both finished--> Closing --> gone
//!    |       |               |   ^                    |   |                        ^
//!    |  Recognising          |   +---- Retiring <-----+   +-- reset, idle, late ---+
//!    |       |               |            |               +--> Resetting ----------+
//!    |       |               +--failed----+--> Answering --> Lingering ------------+
//!    |       +--a name that is blocked---------^                ^
//!    +--blackhole, FIN sent-------------------------------------+
//! ```
//!
//! Recognising, Retiring and Answering are for connections that a name decides: the first bytes are
//! awaited; an upstream connection gives way to the next one; Egret says something itself (a 502)
//! before it closes.
//!
//! A connection leaves the slab only when nothing of it is in flight in the ring. What is in flight
//! is recorded where it belongs ([`Direction::operation`], [`Direction::standing`],
//! [`Connection::connecting`], [`End::watched`]) and never counted separately.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::metrics::{CloseReason, SeriesIndex};
use crate::registry::snapshot::Service;
use crate::relay::{Side, State};
use crate::sys::buffers::BUFFER_BYTES;
use crate::sys::ring::{Expect, Notice, Operation};
use crate::sys::socket::Socket;
use crate::worker::account::Story;
use crate::worker::direction::{Direction, Held, StandingReceive};
use crate::worker::http1::{Http1, Mode, Waits};
use crate::worker::http2::Http2;
use crate::worker::recognise::Recognition;
use crate::worker::watch::Watch;

/// Microseconds since the worker began; coarse, read once per loop turn.
pub(super) type Micros = u64;

/// Where a connection is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// A name can decide: the downstream's first bytes are awaited, and held.
    Recognising {
        /// When the address decides without them.
        deadline: Micros,
    },
    /// The upstream connection is being made.
    Connecting {
        /// When this attempt is given up.
        deadline: Micros,
        /// The other endpoints to try; `None` if there is one destination only.
        attempts: Option<Box<Attempts>>,
    },
    /// Both sides are connected, and bytes move.
    Relaying,
    /// The upstream connection is idle and of no more use: it is closed as soon as nothing of it is
    /// in flight.
    Retiring {
        /// What comes then.
        then: Then,
    },
    /// Egret's own last words are on their way to the downstream.
    Answering {
        /// Not yet in a buffer, for want of one.
        words: Option<Box<[u8]>>,
        /// What the connection ends by.
        reason: CloseReason,
    },
    /// FIN was sent, and input is thrown away until the downstream closes too. Closing at once
    /// would turn the FIN into a reset as soon as the workload had sent anything.
    Lingering {
        /// When it is closed in any case.
        deadline: Micros,
        /// What the connection ends by.
        reason: CloseReason,
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
            Self::Recognising { .. } => "recognising",
            Self::Connecting { .. } => "connecting",
            Self::Relaying => "relaying",
            Self::Retiring { .. } => "retiring",
            Self::Answering { .. } => "answering",
            Self::Lingering { .. } => "lingering",
            Self::Resetting { .. } => "resetting",
            Self::Closing => "closing",
        }
    }
}

/// What follows when an upstream connection is closed.
#[derive(Debug)]
pub(super) enum Then {
    /// The next one, for the request that waits.
    Connect,
    /// These words to the downstream, and the end for this reason.
    Say(Box<[u8]>, CloseReason),
}

/// What a connection is accounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// Its labels are not known yet; what it moves meanwhile is accounted when they are.
    Unsettled,
    /// A series of the TCP metrics.
    Tcp(SeriesIndex),
    /// Its requests, one by one.
    Requests,
}

/// Who looks at a connection's bytes before they pass.
#[derive(Debug, Default)]
pub(super) enum Guide {
    /// Nobody.
    #[default]
    Nobody,
    /// A name can decide: recognition, which holds them.
    Recognition(Box<Recognition>),
    /// The address has decided: recognition, which lets them pass.
    Watch(Watch),
    /// Nobody any more, but these held bytes are to be passed on first.
    Forward(Vec<u8>),
    /// The requests and answers of HTTP/1.
    Http1(Box<Http1>),
    /// The frames of HTTP/2.
    Http2(Box<Http2>),
}

impl Guide {
    /// How many bytes may be received from `side`: those that are held and those that come must fit
    /// in one buffer.
    pub(super) fn room(&self, side: Side) -> u32 {
        let carried = match (self, side) {
            (Self::Recognition(recognition), Side::Downstream) => recognition.held.len(),
            (Self::Forward(held), Side::Downstream) => held.len(),
            (Self::Http1(http), _) => http.carried(side),
            (Self::Http2(http), Side::Downstream) => http.held.len(),
            _ => 0,
        };
        BUFFER_BYTES.saturating_sub(u32::try_from(carried).unwrap_or(BUFFER_BYTES))
    }

    /// Bytes from `side` that nobody needs to look at: they may be spliced.
    pub(super) fn unseen(&self, side: Side) -> u64 {
        match self {
            Self::Nobody => u64::MAX,
            Self::Http1(http) => http.unseen(side),
            _ => 0,
        }
    }

    /// `bytes` from `side` have passed unseen.
    pub(super) fn skip(&mut self, side: Side, bytes: u64) {
        if let Self::Http1(http) = self {
            http.skip(side, bytes);
        }
    }

    /// Whether bytes from `side` are held back, to pass before those that come.
    pub(super) fn carries(&self, side: Side) -> bool {
        matches!(self, Self::Http1(_) | Self::Http2(_)) && self.room(side) < BUFFER_BYTES
    }

    /// The bytes from `side` that are held back and pass before those that come.
    pub(super) fn take_carried(&mut self, side: Side) -> Vec<u8> {
        match self {
            Self::Http1(http) if http.mode == Mode::Gated => http.take_carried(side),
            Self::Http2(http) if side == Side::Downstream => std::mem::take(&mut http.held),
            _ => Vec::new(),
        }
    }

    /// Bytes of the downstream wait for something other than more of them.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Http1(http) if http.waits != Waits::No)
    }

    /// Bytes of the downstream are held back.
    pub(super) fn is_holding(&self) -> bool {
        match self {
            Self::Nobody | Self::Watch(_) => false,
            Self::Recognition(recognition) => !recognition.held.is_empty(),
            Self::Forward(held) => !held.is_empty(),
            Self::Http1(http) => http.is_holding(),
            Self::Http2(http) => !http.held.is_empty(),
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

/// One side's socket.
#[derive(Debug, Default)]
pub(super) struct End {
    /// `None` for an upstream that does not exist.
    pub(super) socket: Option<Socket>,
    /// Egret has sent FIN while the other side had not: the peer's FIN ends the connection then,
    /// and it only looks like a reset.
    pub(super) told_end: bool,
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
    pub(super) account: Account,
    pub(super) guide: Guide,
    /// For the access log, if there is one.
    pub(super) story: Option<Box<Story>>,
    pub(super) source: SocketAddr,
    pub(super) original_destination: SocketAddr,
    /// Where the upstream connection goes.
    pub(super) upstream: Option<SocketAddr>,
    pub(super) accepted_at: Micros,
    /// Since when an upstream connection is being made, failed attempts included.
    pub(super) connecting_since: Option<Micros>,
    pub(super) moved_at: Micros,
}

impl Connection {
    pub(super) fn new(
        socket: Socket,
        source: SocketAddr,
        original_destination: SocketAddr,
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
            account: Account::Unsettled,
            guide: Guide::Nobody,
            story: None,
            source,
            original_destination,
            upstream: None,
            accepted_at: now,
            connecting_since: None,
            moved_at: now,
        }
    }

    /// An upstream connection is being made.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. })
    }

    /// The half that reads from `side`.
    pub(super) fn direction(&mut self, side: Side) -> &mut Direction {
        &mut self.directions[side as usize]
    }

    /// The socket of `side`.
    pub(super) fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    /// Whether the half that reads from `side` takes whatever comes, so that a receive may go on by
    /// itself: nothing is held back, and no pipe is in sight.
    pub(super) fn takes_all(&self, side: Side) -> bool {
        let holds_nothing_back = match &self.guide {
            Guide::Nobody | Guide::Watch(_) => true,
            Guide::Http1(http) => http.mode == Mode::Observed,
            Guide::Recognition(_) | Guide::Forward(_) | Guide::Http2(_) => false,
        };
        matches!(self.phase, Phase::Relaying)
            && holds_nothing_back
            && !self.directions[side as usize].half.moves_bulk()
    }

    /// Whether anything waits for the end of a send of the half that reads from `side`.
    pub(super) fn notice(&self, side: Side, until: u32) -> Notice {
        let direction = &self.directions[side as usize];
        let whole = matches!(&direction.held, Held::Buffer(buffer) if buffer.length() == until);
        let is_last = direction.standing == StandingReceive::Yes && direction.early.is_none();
        match whole && is_last && self.takes_all(side) {
            true => Notice::Lazy,
            false => Notice::Prompt,
        }
    }

    /// The operations in flight, with the side that their tokens carry.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = (Operation, Side)> + '_ {
        let waited_for = |side: Side| self.directions[side as usize].operation;
        let halves = Side::BOTH.into_iter().filter_map(move |side| {
            waited_for(side).filter(|one| *one != Operation::Receive).map(|one| (one, side))
        });
        let receives = Side::BOTH.into_iter().filter_map(|side| {
            let receiving = self.directions[side as usize].is_receiving();
            receiving.then_some((Operation::Receive, side))
        });
        let watches = Side::BOTH.into_iter().filter_map(|side| {
            let watched = self.ends[side as usize].watched == Watched::Yes;
            watched.then_some((Operation::Dead, side))
        });
        let connect = self.connecting.then_some((Operation::Connect, Side::Upstream));
        halves.chain(receives).chain(watches).chain(connect)
    }

    /// An operation of the upstream side is in flight.
    pub(super) fn is_upstream_in_flight(&self) -> bool {
        self.in_flight().any(|(_, side)| side == Side::Upstream)
    }

    /// The upstream half is between two answers: it holds nothing of the last one.
    pub(super) fn is_upstream_at_rest(&self) -> bool {
        let direction = &self.directions[Side::Upstream as usize];
        matches!(direction.half.state(), State::Receiving | State::Filling | State::Finished)
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
