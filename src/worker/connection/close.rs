//! How a connection ends: FIN and reset as they are met, the end accounted once and told to the
//! side that lives, and everything given back when nothing is in flight.

use super::Lost;
use super::direction::{Direction, Held, Source};
use super::{Connection, LostBy, Next, Phase, RESET_WAIT_US, Upstream, Watched};
use crate::gate::{Micros, Tables};
use crate::metrics::CloseReason;
use crate::probe::planted;
use crate::relay::Side;
use crate::sys::kernel::{Errno, Kernel, StreamSocket};
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// The source has sent FIN, and everything before it was passed on.
    #[inline(never)]
    pub(super) fn ended(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        let end = &self.ends[side as usize];
        let written_to = !self.directions[side.peer() as usize].half.is_over() && !end.told_end;
        let is_reset = || !end.socket.as_ref().is_some_and(K::Socket::is_connected);
        if (end.lost == Lost::Yes || (written_to && is_reset())) && !planted!(ResetTakenForFin) {
            // Not a FIN: the kernel reported the reset to an earlier write, or within one.
            return Next::Lost(side, LostBy::Reading);
        }
        let direction = &mut self.directions[side as usize];
        direction.half.ended();
        // Of a message that is not whole nothing passes.
        direction.discard_carried();
        self.moved_at = cx.now;
        self.gate.ended(side);
        self.release_held(side, cx);
        self.account_ended(cx);
        let mut next = Next::Rest;
        if side == Side::Upstream {
            if let Some(next) = self.give_way(cx) {
                return next;
            }
            next = self.end_responses();
        }
        let downstream = &self.directions[Side::Downstream as usize];
        if side == Side::Upstream && downstream.source == Source::Ended && downstream.carries() {
            // What is carried waits for nothing any more.
            next = Next::Inspect(Side::Downstream);
        }
        if self.directions[side.peer() as usize].half.is_over() || planted!(HalfCloseEndsBoth) {
            // Closing sends the second FIN.
            return Next::End(CloseReason::Finished);
        }
        let target = &self.ends[side.peer() as usize].socket;
        let finish = |socket: &K::Socket| planted!(FinForgotten) || socket.shutdown_write().is_ok();
        if !target.as_ref().is_none_or(finish) {
            return Next::Lost(side.peer(), LostBy::Writing);
        }
        next
    }

    /// The downstream is about to be told the end of the responses. What it has sent behind the
    /// present request, and sends from here on, is thrown away; what may pass passes.
    fn end_responses(&mut self) -> Next {
        if !self.gate.end_responses() {
            return Next::Rest;
        }
        let direction = &mut self.directions[Side::Downstream as usize];
        let waited = direction.carries();
        direction.discard_undecided();
        match waited && direction.operation.is_none() && !direction.half.is_holding() {
            true => Next::Advance(Side::Downstream),
            false => Next::Rest,
        }
    }

    /// The connection on `side` was reset, or died.
    ///
    /// Found by writing, bytes that it sent before may still wait in its receive queue: the half
    /// that reads from it goes on until they are passed on. Found by reading, nothing is left.
    #[inline(never)]
    pub(super) fn lost(&mut self, side: Side, by: LostBy, cx: &mut Context<K>) -> Next {
        self.ends[side as usize].lost = Lost::Yes;
        let is_over = self.directions[side as usize].half.is_over();
        if !self.is_relaying() || by == LostBy::Reading || is_over {
            return Next::End(Self::loss_of(side));
        }
        // What the half that found it holds is lost, and what has come for it.
        let half = &mut self.directions[side.peer() as usize];
        half.half.break_off();
        half.discard_carried();
        self.release_held(side.peer(), cx);
        self.release_early(side.peer(), cx);
        Next::Rest
    }

    /// The wait for the death of `side` has completed.
    #[inline(never)]
    pub(super) fn dead(&mut self, side: Side, result: Result<(), Errno>) -> Next {
        let end = &mut self.ends[side as usize];
        end.watched = Watched::No;
        match (&self.phase, &self.upstream) {
            (Phase::Open, Upstream::Closing(_)) => Next::ContinueClosing,
            (Phase::Open, Upstream::Resolving(_) | Upstream::Connecting(_) | Upstream::Up(_))
                if result.is_ok() =>
            {
                end.lost = Lost::Yes;
                Next::End(Self::loss_of(side))
            }
            (
                Phase::Open
                | Phase::Replying { .. }
                | Phase::Lingering { .. }
                | Phase::Resetting { .. }
                | Phase::Closing,
                _,
            ) => Next::Rest,
        }
    }

    /// Ends the connection. Its operations in flight are cancelled; what is left of it is closed
    /// when they have completed, because closing a descriptor does not end what the kernel does
    /// with it.
    #[inline(never)]
    pub(super) fn end(&mut self, reason: CloseReason, cx: &mut Context<K>) -> Next {
        // Whatever ends the wait for its FIN, it ends by what Egret has told it.
        let reason = match self.phase {
            Phase::Closing | Phase::Resetting { .. } => return Next::Rest,
            Phase::Lingering { reason, .. } | Phase::Replying { reason } => reason,
            Phase::Open => reason,
        };
        // What it was about to end by comes of the failure.
        let has_failed = self.gate.has_failed();
        let reason = if has_failed { CloseReason::InternalError } else { reason };
        tracing::debug!(
            downstream.addr = %self.source,
            original.dst = %self.original_destination,
            reason = reason.label(),
            bytes.received = self.directions[Side::Downstream as usize].bytes,
            bytes.sent = self.directions[Side::Upstream as usize].written,
            "connection closed"
        );
        // The account takes the requests that are not answered.
        let phase = self.last_phase(reason, cx);
        cx.metrics.counters.closed(reason).add(1 + u64::from(planted!(CloseCountedTwice)));
        self.account_end(reason, cx);
        if self.gate.has_failed() {
            cx.tables = Tables::default();
        }
        for (operation, side) in self.in_flight() {
            cx.kernel.cancel(operation, self.key.token(side));
        }
        self.cancel_attempts(Micros::MAX, cx);
        self.set_phase(phase, cx);
        // What is held back will not pass.
        self.directions.iter_mut().for_each(Direction::discard_carried);
        Next::Rest
    }

    /// Decides who is reset, and whether that has to wait.
    fn last_phase(&mut self, reason: CloseReason, cx: &Context<K>) -> Phase {
        let is_holding = |side: Side| {
            let direction = &self.directions[side as usize];
            direction.half.is_holding() || direction.carries()
        };
        let holding = Side::BOTH.into_iter().any(is_holding);
        // A plain close would make what was cut off look complete.
        let is_whole = !holding
            && match reason {
                CloseReason::Idle | CloseReason::HalfClose => !self.is_cut(reason),
                CloseReason::DrainDeadline => self.is_settled(),
                _ => false,
            };
        let reset: &[Side] = match (reason, &self.phase) {
            (CloseReason::Finished, _) | (_, Phase::Lingering { .. }) => &[],
            _ if planted!(ResetClosedPlainly) => &[],
            (CloseReason::BlackHole, _) => &[Side::Downstream],
            (_, Phase::Open) if is_whole => &[],
            (
                _,
                Phase::Open | Phase::Replying { .. } | Phase::Resetting { .. } | Phase::Closing,
            ) => &Side::BOTH,
        };
        let socket = |side: Side| self.ends[side as usize].socket.as_ref();
        if let Some(live) = Self::lost_side(reason).map(Side::peer)
            && socket(live).is_some_and(|socket| socket.unacknowledged_bytes() > 0)
        {
            return Phase::Resetting { live, deadline: cx.now + RESET_WAIT_US };
        }
        reset.iter().filter_map(|&side| socket(side)).for_each(K::Socket::reset_on_close);
        Phase::Closing
    }

    /// Something is outstanding that the downstream would take for whole after a FIN.
    fn is_cut(&mut self, reason: CloseReason) -> bool {
        let has_ended = self.directions[Side::Upstream as usize].half.is_over();
        self.gate.owes_response() || (reason == CloseReason::HalfClose && !has_ended)
    }

    /// Everything that was sent is acknowledged, and no response is owed.
    fn is_settled(&mut self) -> bool {
        let sockets = self.ends.iter().filter_map(|end| end.socket.as_ref());
        let mut unacknowledged = sockets.map(K::Socket::unacknowledged_bytes);
        self.is_relaying() && unacknowledged.all(|bytes| bytes == 0) && !self.gate.owes_response()
    }

    /// A reset that waits: is everything that was sent before acknowledged, or the time up?
    pub(super) fn continue_reset(&mut self, cx: &mut Context<K>) -> Next {
        let Phase::Resetting { live, deadline } = self.phase else { return Next::Rest };
        let socket = self.ends[live as usize].socket.as_ref();
        // Of a side that is gone by now, too, the kernel says that bytes are unacknowledged.
        let has_unacknowledged =
            |socket: &K::Socket| socket.unacknowledged_bytes() > 0 && socket.is_connected();
        if !socket.is_some_and(has_unacknowledged) || deadline <= cx.now {
            let sockets = self.ends.iter().filter_map(|end| end.socket.as_ref());
            sockets.for_each(K::Socket::reset_on_close);
            self.set_phase(Phase::Closing, cx);
        }
        Next::Rest
    }

    /// Ends the connection; not even a reset waits any longer.
    #[inline(never)]
    pub(super) fn end_at_once(&mut self, reason: CloseReason, cx: &mut Context<K>) -> Next {
        self.end(reason, cx);
        if let Phase::Resetting { deadline, .. } = &mut self.phase {
            *deadline = 0;
        }
        self.continue_reset(cx)
    }

    /// Gives everything back that it has. Nothing of it is in flight.
    pub(in crate::worker) fn give_back(&mut self, cx: &mut Context<K>) {
        for side in Side::BOTH {
            self.release_held(side, cx);
            self.release_early(side, cx);
            debug_assert!(matches!(self.directions[side as usize].held, Held::Nothing));
        }
        if let Some(flow) = self.take_flow() {
            cx.admission.forget_flow(&flow);
        }
        for socket in self.ends.iter_mut().filter_map(|end| end.socket.take()) {
            match planted!(DescriptorLeaked) {
                true => std::mem::forget(socket),
                false => cx.kernel.close(socket),
            }
        }
        cx.change_held(self.held_kib(), 0);
        cx.shares.leave(self.key.slot);
        if !planted!(SlotLeaked) {
            cx.admission.leave();
        }
        cx.metrics.counters.connections_active.sub(1);
    }

    /// The side whose loss `reason` names; the other one is told by a reset.
    fn lost_side(reason: CloseReason) -> Option<Side> {
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
