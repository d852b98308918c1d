//! One connection: its two sockets, its two directions, its gate, and where it is in its life.
//!
//! ```text
//!              +-- Open --------------------------------------+
//!  accepted -->| Undecided -> [Resolving ->] Connecting -> Up |-- both ended --> Closing --> gone
//!              |                 ^                        |   |                     ^
//!              |                 +------- Closing --------+   |-- one is lost -> Resetting
//!              +----------------------------------------------+                     |
//!                 | a local reply                  | blocked                        |
//!                 v                                v                                |
//!              Replying ---- all is sent ----> Lingering ---- it closes, or 1 s ----+
//! ```
//!
//! The worker hands over one event at a time: [`Connection::on`]. A handler does its part and
//! returns what is to happen next ([`Next`]); none calls another one that could come back to it.
//!
//! A connection is over when nothing of it is in flight in the ring. What is in flight is recorded
//! where it belongs ([`Direction::operation`], [`Direction::receive`], [`Connecting::attempts`],
//! [`End::watched`]) and never counted separately.

mod attempts;
mod candidates;
mod close;
mod direction;
mod inspect;
mod receive;
mod reply;
mod resolve;
mod review;
mod splice;
mod state;
mod time;
mod transfer;
mod upstream;

use std::net::SocketAddr;

use crate::gate::{Attribution, Gate, GuardedGate, Micros};
use crate::metrics::{CloseReason, Detected};
use crate::probe::{met, planted};
use crate::relay::Side;
use crate::sys::kernel::{Expect, Kernel, Operation};
use crate::worker::account::Account;
use crate::worker::context::Context;
use crate::worker::listener::Admitted;
use crate::worker::token::Key;
use attempts::Attempt;
pub(super) use direction::Arrived;
use direction::{Direction, Receive};
pub(super) use state::{End, Event, Fate};
use state::{Keepalive, Lost, LostBy, Next, Phase, Then, Upstream, UpstreamLeg, Watched};

/// How long a blackholed downstream has to close after it was sent FIN.
const LINGER_US: Micros = 1_000_000;

/// How long a client of HTTP/2 has to read the last frames before FIN.
const PARTING_US: Micros = 100_000;

/// How long a reset waits for the other side to acknowledge what was sent before, and a local reply
/// for the downstream to read it.
const RESET_WAIT_US: Micros = 5_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Connection<K: Kernel> {
    pub(super) key: Key,
    phase: Phase,
    upstream: Upstream<K::Socket>,
    /// An attempt that another one has beaten, until its connect has completed.
    loser: Option<Box<Attempt<K::Socket>>>,
    pub(super) ends: [End<K::Socket>; 2],
    /// By source side.
    pub(super) directions: [Direction<K::Pipe>; 2],
    pub(super) gate: GuardedGate,
    pub(super) account: Account,
    pub(super) source: SocketAddr,
    pub(super) original_destination: SocketAddr,
    pub(super) accepted_at: Micros,
    pub(super) moved_at: Micros,
}

impl<K: Kernel> Connection<K> {
    /// A connection that was accepted, and is not decided.
    pub(super) fn new(key: Key, admitted: Admitted<K::Socket>, now: Micros) -> Self {
        let Admitted { socket, source, destination, share: _ } = admitted;
        Self {
            key,
            phase: Phase::Open,
            upstream: Upstream::None,
            loser: None,
            ends: [End { socket: Some(socket), ..End::default() }, End::default()],
            // The workload usually speaks first, and has by the time the upstream is connected.
            directions: [Direction::new(Expect::Bytes), Direction::new(Expect::Nothing)],
            gate: Gate::Open.into(),
            account: Account::Unsettled,
            source,
            original_destination: destination,
            accepted_at: now,
            moved_at: now,
        }
    }

    /// Something has happened.
    pub(super) fn on(&mut self, event: Event, cx: &mut Context<K>) -> Fate {
        met!(self.phase_name(), event.name(), self.gate.name());
        let next = match event {
            Event::Connected { number, result } => self.connected(number, result, cx),
            Event::Received { side, arrived, rearm } => self.received(side, arrived, rearm, cx),
            Event::Sent { side, result } => self.sent(side, result, cx),
            Event::Ready { side, operation: Operation::Dead, result } => self.dead(side, result),
            Event::Ready { side, .. } => self.ready(side, cx),
            Event::BufferFree(side) => self.buffer_free(side, cx),
            Event::HandshakeAckDue => self.quickack_on(),
            Event::Visit => self.visit(cx),
            Event::Resolved { name, found } => self.resolved(&name, found, cx),
            Event::Due => self.due(cx),
            Event::GiveWay { newcomer } => self.give_way_to(newcomer, cx),
            Event::Review => self.review(cx),
            Event::CloseIf(filter) => self.close_if(&filter, cx),
            Event::End(reason) => self.end_at_once(reason, cx),
        };
        match next {
            // Most events end here.
            Next::Rest if !self.gate.has_failed() => {}
            next => self.go_on(next, cx),
        }
        self.count_held(cx);
        self.fate()
    }

    /// Does what is next, until that is nothing.
    #[inline(never)]
    fn go_on(&mut self, mut next: Next, cx: &mut Context<K>) {
        let mut resumes = false;
        loop {
            next = match next {
                Next::Rest if resumes => {
                    resumes = false;
                    self.resume(cx)
                }
                Next::Rest if self.must_end_by_failure() => Next::End(CloseReason::InternalError),
                Next::Rest => break,
                Next::Advance(side) => self.advance(side, cx),
                Next::AdvanceAndResume => {
                    resumes = true;
                    self.advance(Side::Upstream, cx)
                }
                Next::TakeUpEarly(side) => self.take_up_early(side, cx),
                Next::Inspect(side) => self.inspect(side, cx),
                Next::Ended(side) => self.ended(side, cx),
                Next::Lost(side, by) => self.lost(side, by, cx),
                Next::GiveUp => self.give_up(Detected::Ended, cx),
                Next::Connect(route) => self.connect(&route, cx),
                Next::AttemptFailed(error) => self.attempt_failed(error, cx),
                Next::Unreachable(reason) => self.unreachable(reason, cx),
                Next::ContinueClosing => self.continue_closing(cx),
                Next::Served(reason) => self.served(reason, cx),
                Next::Linger(reason) => self.linger(reason, cx),
                Next::LingerInput => self.linger_input(cx),
                Next::End(reason) => self.end(reason, cx),
            };
        }
    }

    /// The memory of what it holds back, in KiB.
    pub(super) fn held_kib(&self) -> u16 {
        self.directions.iter().map(|direction| direction.counted_kib).sum()
    }

    /// Buffers that it keeps, if nothing has moved since `still_since`.
    pub(super) fn stuck_buffers(&self, still_since: Micros) -> u16 {
        let kept = self.directions.iter().map(Direction::kept_buffers).sum::<usize>();
        let is_stuck = self.moved_at <= still_since;
        if is_stuck { u16::try_from(kept).unwrap_or(u16::MAX) } else { 0 }
    }

    /// Keeps the worker's sum of what its connections hold back.
    fn count_held(&mut self, cx: &mut Context<K>) {
        for direction in &mut self.directions {
            let now = direction.held_kib();
            if now != direction.counted_kib {
                cx.change_held(direction.counted_kib, now);
                direction.counted_kib = now;
            }
        }
    }

    /// The gate has failed, and the connection has not ended yet.
    fn must_end_by_failure(&self) -> bool {
        match self.phase {
            Phase::Open | Phase::Replying { .. } | Phase::Lingering { .. } => {
                self.gate.has_failed()
            }
            Phase::Resetting { .. } | Phase::Closing => false,
        }
    }

    fn fate(&self) -> Fate {
        match self.phase {
            Phase::Closing if !self.is_in_flight() || planted!(ClosedInFlight) => Fate::Over,
            Phase::Open
            | Phase::Replying { .. }
            | Phase::Lingering { .. }
            | Phase::Resetting { .. }
            | Phase::Closing => Fate::Lives,
        }
    }

    /// Begins: goes where the address leads, or waits for the first bytes.
    pub(super) fn begin(&mut self, cx: &mut Context<K>) -> Fate {
        match self.first_step(cx) {
            Next::Rest => {}
            next => self.go_on(next, cx),
        }
        self.fate()
    }

    /// The only place that changes the phase.
    fn set_phase(&mut self, phase: Phase, cx: &Context<K>) {
        debug_assert!(!matches!(self.phase, Phase::Closing), "nothing follows the end: {phase:?}");
        self.leave_undecided(cx);
        self.phase = phase;
    }

    /// The only place that changes the upstream connection's state.
    fn set_upstream(&mut self, upstream: Upstream<K::Socket>, cx: &Context<K>) {
        self.leave_undecided(cx);
        if let Upstream::Undecided { .. } = upstream {
            cx.metrics.counters.detecting.add(1);
        }
        self.upstream = upstream;
    }

    /// What follows the upstream connection that is being closed: there is none from here on.
    fn take_closing(&mut self) -> Option<Then> {
        match std::mem::replace(&mut self.upstream, Upstream::None) {
            Upstream::Closing(then) => Some(then),
            other @ (Upstream::Undecided { .. }
            | Upstream::None
            | Upstream::Resolving(_)
            | Upstream::Connecting(_)
            | Upstream::Up(_)) => {
                self.upstream = other;
                None
            }
        }
    }

    /// Keeps the gauges of connections whose first bytes are awaited, and of what they hold.
    fn leave_undecided(&mut self, cx: &Context<K>) {
        if self.is_undecided() {
            cx.metrics.counters.detecting.sub(u64::from(!planted!(GaugeForgotten)));
            if self.gate.is_detecting() {
                self.detected(cx);
            }
            self.upstream = Upstream::None;
        }
    }

    /// Whether the first bytes are awaited.
    fn is_undecided(&self) -> bool {
        matches!((&self.phase, &self.upstream), (Phase::Open, Upstream::Undecided { .. }))
    }

    /// Whether the first byte is awaited, or, in HTTP/2, the first request.
    fn awaits_request(&self) -> bool {
        let direction = &self.directions[Side::Downstream as usize];
        self.is_undecided() && direction.carried().is_empty()
    }

    /// Whether both sides are connected and bytes may pass.
    pub(super) fn is_relaying(&self) -> bool {
        matches!((&self.phase, &self.upstream), (Phase::Open, Upstream::Up(_)))
    }

    /// Where the upstream connection goes, or was last tried.
    pub(super) fn upstream_address(&self) -> Option<SocketAddr> {
        match &self.upstream {
            Upstream::Up(leg) => Some(leg.to.address),
            Upstream::Connecting(connecting) => Some(connecting.address),
            Upstream::Undecided { .. }
            | Upstream::None
            | Upstream::Resolving(_)
            | Upstream::Closing(_) => None,
        }
    }

    /// Its phase, in the list of connections.
    pub(super) fn phase_name(&self) -> &'static str {
        match (&self.phase, &self.upstream) {
            (Phase::Open, Upstream::Undecided { .. }) if self.awaits_request() => "waiting",
            (Phase::Open, Upstream::Undecided { .. }) => "recognising",
            (Phase::Open, Upstream::Resolving(_)) => "resolving",
            (Phase::Open, Upstream::None | Upstream::Connecting(_)) => "connecting",
            (Phase::Open, Upstream::Up(_)) => "relaying",
            (Phase::Open, Upstream::Closing(_)) => "retiring",
            (Phase::Replying { .. }, _) => "answering",
            (Phase::Lingering { .. }, _) => "lingering",
            (Phase::Resetting { .. }, _) => "resetting",
            (Phase::Closing, _) => "closing",
        }
    }

    /// Whether [`Self::in_flight`] has any.
    fn is_in_flight(&self) -> bool {
        let receives = |direction: &Direction<K::Pipe>| direction.receive != Receive::No;
        let waits = |direction: &Direction<K::Pipe>| direction.operation.is_some();
        self.directions.iter().any(|direction| receives(direction) || waits(direction))
            || self.ends.iter().any(|end| end.watched == Watched::Yes)
            || self.connects()
    }

    /// A connect is in flight.
    fn connects(&self) -> bool {
        let connecting = match &self.upstream {
            Upstream::Connecting(connecting) => connecting.is_in_flight(),
            Upstream::Undecided { .. }
            | Upstream::None
            | Upstream::Resolving(_)
            | Upstream::Up(_)
            | Upstream::Closing(_) => false,
        };
        connecting || self.loser.is_some()
    }

    /// The operations in flight but for connects, with the side that their tokens carry.
    fn in_flight(&self) -> impl Iterator<Item = (Operation, Side)> + '_ {
        let waited_for = |side: Side| self.directions[side as usize].operation;
        let halves = Side::BOTH.into_iter().filter_map(move |side| {
            waited_for(side).filter(|one| *one != Operation::Receive).map(|one| (one, side))
        });
        let receives = Side::BOTH.into_iter().filter_map(|side| {
            let receives = self.directions[side as usize].receive != Receive::No;
            receives.then_some((Operation::Receive, side))
        });
        let watches = Side::BOTH.into_iter().filter_map(|side| {
            let watched = self.ends[side as usize].watched == Watched::Yes;
            watched.then_some((Operation::Dead, side))
        });
        halves.chain(receives).chain(watches)
    }

    /// The decision is there: the connection is accounted by it, and goes where it leads.
    fn decide(&mut self, attribution: &Attribution, cx: &mut Context<K>) -> Next {
        if attribution.found.is_some() {
            self.detected(cx);
        }
        self.set_upstream(Upstream::None, cx);
        let decision = self.attribute(attribution, cx);
        let (host, protocol) = (attribution.host.as_ref(), attribution.protocol);
        self.follow(&attribution.snapshot, decision, (host, protocol), cx)
    }
}
