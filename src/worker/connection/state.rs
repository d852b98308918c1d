//! The values that a connection's life is made of: what happens to it, what is to happen next, and
//! where it stands.

use std::rc::Rc;
use std::sync::Arc;

use super::attempts::Connecting;
use super::direction::Arrived;
use super::resolve::Resolving;
use crate::admission::Flow;
use crate::commands::ConnectionFilter;
use crate::gate::{Micros, Reached, Route};
use crate::metrics::CloseReason;
use crate::questions::Found;
use crate::relay::Side;
use crate::sniff::Name;
use crate::sys::kernel::{Errno, Kernel, Operation};
use crate::worker::context::Context;
use crate::worker::shares::Share;
use crate::worker::token::AttemptNumber;

/// What happens to a connection.
#[derive(Debug)]
pub(in crate::worker) enum Event {
    /// An attempt at an upstream connection has succeeded, or not.
    Connected { number: AttemptNumber, result: Result<(), Errno> },
    /// A receive has completed, or brought something; `rearm`: it has ended.
    Received { side: Side, arrived: Arrived, rearm: bool },
    /// A send has completed.
    Sent { side: Side, result: Result<usize, Errno> },
    /// A wait has completed.
    Ready { side: Side, operation: Operation, result: Result<(), Errno> },
    /// A buffer is free, for which the half that reads from this side has waited.
    BufferFree(Side),
    /// The handshake's last segment has waited long enough for bytes to carry it.
    HandshakeAckDue,
    /// It is time to look at the clock.
    Visit,
    /// The addresses of a name that it waits for.
    Resolved { name: Name, found: Found },
    /// A deadline that it has set in [`Context::deadlines`] has passed.
    Due,
    /// Few connections are left: one that has asked for nothing yet gives way, if its source has
    /// more than that of the newcomer.
    GiveWay { newcomer: Share },
    /// The files have changed: does the policy that is in use now forbid it?
    Review,
    /// An operator ends it, if it is one of these.
    CloseIf(Arc<ConnectionFilter>),
    /// It ends, whatever is on its way.
    End(CloseReason),
}

impl Event {
    /// Its name, for the simulation.
    #[cfg(feature = "probe")]
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Received { .. } => "received",
            Self::Sent { .. } => "sent",
            Self::Ready { operation: Operation::Dead, .. } => "dead",
            Self::Ready { operation: Operation::Writable, .. } => "writable",
            Self::Ready { .. } => "readable",
            Self::BufferFree(_) => "buffer free",
            Self::HandshakeAckDue => "ack due",
            Self::Visit => "visit",
            Self::Due => "due",
            Self::GiveWay { .. } => "give way",
            Self::Resolved { .. } => "resolved",
            Self::Review => "review",
            Self::CloseIf(_) => "close if",
            Self::End(_) => "end",
        }
    }

    /// The connection is gone: what the event brings is given back.
    pub(in crate::worker) fn discard<K: Kernel>(self, cx: &mut Context<K>) {
        match self {
            Self::Received { arrived, .. } => cx.throw_away(arrived.result),
            Self::Connected { .. }
            | Self::Sent { .. }
            | Self::Ready { .. }
            | Self::BufferFree(_)
            | Self::HandshakeAckDue
            | Self::Visit
            | Self::Resolved { .. }
            | Self::Due
            | Self::GiveWay { .. }
            | Self::Review
            | Self::CloseIf(_)
            | Self::End(_) => {}
        }
    }
}

/// Whether a connection goes on after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Fate {
    Lives,
    /// Nothing of it is in flight: give everything back.
    Over,
}

/// What is to happen next.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing, until an event.
    Rest,
    /// The half that reads from this side goes on.
    Advance(Side),
    /// The upstream half goes on, and then the downstream's bytes that may have waited for it.
    AdvanceAndResume,
    /// The half takes up what has come early from the side.
    TakeUpEarly(Side),
    /// The gate decides about what has come from the side.
    Inspect(Side),
    /// The side has sent FIN, and everything before it has passed.
    Ended(Side),
    /// The connection on the side was reset, or died.
    Lost(Side, LostBy),
    /// Nothing tells the protocol any more: the downstream has ended.
    GiveUp,
    /// Connect to where the route leads.
    Connect(Rc<Route>),
    /// This attempt to connect has failed.
    AttemptFailed(CloseReason),
    /// No upstream connection can be made.
    Unreachable(CloseReason),
    /// Close the upstream connection if nothing of it is in flight.
    ContinueClosing,
    /// All requests that have passed are over, and no other passes: the connection ends.
    Served(CloseReason),
    /// Tell the downstream the end, and wait for its own.
    Linger(CloseReason),
    /// The lingering downstream has sent something, or has ended.
    LingerInput,
    /// The connection ends.
    End(CloseReason),
}

/// How the loss of a side was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostBy {
    /// A receive or a splice out of it failed.
    Reading,
    /// A send, a splice into it or a shutdown failed.
    Writing,
}

/// Where a connection is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// Bytes pass, or wait for the gate or for the upstream connection.
    Open,
    /// A local reply is on its way to the downstream; the connection ends by this.
    Replying { reason: CloseReason },
    /// FIN was sent, and input is thrown away until the downstream closes too. Closing at once
    /// would turn the FIN into a reset as soon as the workload had sent anything.
    Lingering { deadline: Micros, reason: CloseReason },
    /// One side is gone; the other, `live`, is reset as soon as it has acknowledged what was sent
    /// before, because a reset throws away the send queue.
    Resetting { live: Side, deadline: Micros },
    /// Its end is accounted; only operations in flight hold it.
    Closing,
}

/// The upstream connection.
#[derive(Debug)]
pub(super) enum Upstream<S> {
    /// A name can decide. Since then the first byte is awaited, or the rest of what it begins.
    Undecided { since: Micros },
    /// There is none.
    None,
    /// The addresses of the name that is claimed are awaited.
    Resolving(Resolving),
    /// It is being made.
    Connecting(Connecting<S>),
    /// It is made.
    Up(UpstreamLeg),
    /// It is idle and of no more use: it is closed as soon as nothing of it is in flight.
    Closing(Then),
}

/// An upstream connection.
#[derive(Debug)]
pub(super) struct UpstreamLeg {
    pub(super) to: Reached,
    /// Its ends, if the self-call guard remembers them.
    pub(super) flow: Option<Box<Flow>>,
    pub(super) keepalive: Keepalive,
}

/// Whether keepalive was set on the upstream: it is, once a connection has lived for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keepalive {
    NotSet,
    Set,
}

/// What follows when an upstream connection is closed.
#[derive(Debug)]
pub(super) enum Then {
    /// The next one.
    Connect(Rc<Route>),
    /// The first bytes of the downstream, as if it had not been.
    Await,
    /// The local reply that is carried.
    Reply(CloseReason),
    /// The end, told by FIN.
    Linger(CloseReason),
}

/// One side's socket.
#[derive(Debug)]
pub(in crate::worker) struct End<S> {
    /// `None` for an upstream that does not exist.
    pub(in crate::worker) socket: Option<S>,
    /// Egret has sent FIN while the other side had not: the peer's FIN ends the connection then,
    /// and it only looks like a reset.
    pub(super) told_end: bool,
    /// The connection on this side was reset, or died. An end of input read afterwards is no FIN:
    /// the error was reported before and the kernel does not repeat it.
    pub(super) lost: Lost,
    /// An operation that waits for this side's death is in flight.
    pub(super) watched: Watched,
}

impl<S> Default for End<S> {
    fn default() -> Self {
        Self { socket: None, told_end: false, lost: Lost::No, watched: Watched::No }
    }
}

/// Whether a side is known to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    No,
    Yes,
}

/// Whether a side's death is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    No,
    Yes,
}
