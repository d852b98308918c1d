//! What time does to a connection: each is visited now and then, and has no timer of its own.

use super::direction::{Held, Receive};
use super::{Connection, Keepalive, Next, Phase, RESET_WAIT_US, Then, Upstream, Watched};
use crate::access_log::Protocol;
use crate::gate::{HeldSnapshot, Micros};
use crate::metrics::{CloseReason, Detected, Shed};
use crate::probe::planted;
use crate::registry::Verdict;
use crate::registry::snapshot::Shown;
use crate::relay::{Side, State};
use crate::sys::kernel::{Kernel, Operation, StreamSocket};
use crate::worker::KEEPALIVE;
use crate::worker::context::Context;
use crate::worker::shares::Share;
use crate::worker::sweep::{PERIOD_US_MAX, PERIOD_US_MIN};

/// A half that has been still for so long gives up its receive, and waits for readiness only: that
/// holds a third of the kernel's memory, and costs one more operation when bytes come again.
const PARK_US: Micros = 2_000_000;

impl<K: Kernel> Connection<K> {
    /// Does what is due by now.
    #[inline(never)]
    pub(super) fn visit(&mut self, cx: &mut Context<K>) -> Next {
        let still_us = cx.now.saturating_sub(self.moved_at);
        match (&self.phase, &self.upstream) {
            (Phase::Open, Upstream::Undecided { since }) => self.visit_undecided(*since, cx),
            (Phase::Open, Upstream::Resolving(resolving)) if resolving.is_late(cx) => {
                self.unresolved(cx)
            }
            (Phase::Open, Upstream::Resolving(_) | Upstream::Connecting(_)) => {
                let overdue = cx.now.saturating_sub(cx.limits.connect_us);
                self.cancel_attempts(overdue, cx);
                if cx.now.saturating_sub(self.accepted_at) > PERIOD_US_MIN {
                    // Most are connected before this is worth an operation.
                    self.watch(Side::Downstream, cx);
                }
                Next::Rest
            }
            (Phase::Open, Upstream::Up(_)) => self.visit_relaying(still_us, cx),
            (Phase::Open, Upstream::Closing(_)) if still_us >= RESET_WAIT_US => {
                Next::End(CloseReason::ConnectFailed)
            }
            // It does not read.
            (Phase::Replying { reason }, _) if still_us >= RESET_WAIT_US => Next::End(*reason),
            (Phase::Lingering { deadline, reason }, _) if *deadline <= cx.now => Next::End(*reason),
            (Phase::Resetting { .. }, _) => self.continue_reset(cx),
            (Phase::Open, Upstream::None | Upstream::Closing(_))
            | (Phase::Replying { .. } | Phase::Lingering { .. } | Phase::Closing, _) => Next::Rest,
        }
    }

    /// A short deadline has passed, for which the gate holds what the downstream has sent.
    #[inline(never)]
    pub(super) fn due(&mut self, cx: &mut Context<K>) -> Next {
        match (&self.phase, &self.upstream) {
            (Phase::Open, Upstream::Undecided { .. } | Upstream::Up(_)) => self.inspect_again(cx),
            (Phase::Open, Upstream::Connecting(_)) => self.next_attempt_due(cx),
            (&Phase::Replying { reason }, _) => self.part(reason),
            (Phase::Open, Upstream::None | Upstream::Resolving(_) | Upstream::Closing(_))
            | (Phase::Lingering { .. } | Phase::Resetting { .. } | Phase::Closing, _) => Next::Rest,
        }
    }

    /// What a connection waits for before it is decided has a bound of its own each.
    fn visit_undecided(&mut self, since: Micros, cx: &mut Context<K>) -> Next {
        let is_late = cx.now.saturating_sub(since) >= cx.limits.name_us;
        if let Some(next) = self.end_late_head(cx) {
            return next;
        }
        if cx.now.saturating_sub(self.moved_at) >= cx.limits.idle_us {
            return Next::End(CloseReason::Idle);
        }
        match (self.awaits_request(), self.gate.head_since()) {
            (true, _) => self.visit_silent(is_late, cx),
            (false, None) if is_late => self.give_up(Detected::Deadline, cx),
            (false, _) => Next::Rest,
        }
    }

    /// One that has sent nothing, or HTTP/2 without a request, is not late: pools and channels
    /// connect ahead. Where the address lets it pass it is connected meanwhile, so that the server
    /// may speak first. Where no name would let it pass either, there is nothing to wait for.
    fn visit_silent(&mut self, is_late: bool, cx: &mut Context<K>) -> Next {
        if cx.draining {
            return Next::Linger(CloseReason::Drained);
        }
        if !is_late || !self.gate.is_detecting() {
            return Next::Rest;
        }
        let snapshot = HeldSnapshot::clone(&cx.snapshot);
        let (source, destination) = (self.source.ip(), self.original_destination);
        let decision = snapshot.decide(source, destination, Shown::Nothing);
        if matches!(decision.verdict, Verdict::BlackHole) {
            return match snapshot.depends_on_name(destination) {
                true => Next::Rest,
                false => self.give_up(Detected::Deadline, cx),
            };
        }
        self.set_upstream(Upstream::None, cx);
        self.follow(&snapshot, decision, (None, Protocol::Tcp), cx)
    }

    /// A request's head that does not become whole in its time is answered 408.
    fn end_late_head(&mut self, cx: &mut Context<K>) -> Option<Next> {
        let since = self.gate.head_since()?;
        if cx.now.saturating_sub(since) < cx.limits.head_us {
            return None;
        }
        let reply = self.late_head(cx)?;
        Some(self.reply(*reply, cx))
    }

    /// Few connections are left. One that has asked for nothing yet has nothing to lose.
    pub(super) fn give_way_to(&mut self, newcomer: Share, cx: &mut Context<K>) -> Next {
        let has_more =
            cx.shares.connections(cx.shares.of(self.key.slot)) > cx.shares.connections(newcomer);
        if cx.giving_way == 0 || !has_more || !self.awaits_request() {
            return Next::Rest;
        }
        cx.giving_way -= 1;
        cx.metrics.counters.shed(Shed::Waiting).add(1);
        Next::End(CloseReason::GaveWay)
    }

    /// Nothing is outstanding on either side, and a drain has begun: both are told the end.
    fn end_in_peace(&mut self, cx: &mut Context<K>) -> Next {
        self.begin_closing(Then::Linger(CloseReason::Drained), cx)
    }

    /// Between two requests: nothing is on its way, or held back.
    fn is_at_rest(&mut self) -> bool {
        let is_empty = |side: Side| {
            let direction = &self.directions[side as usize];
            direction.half.state() == State::Receiving && direction.is_in_step()
        };
        is_empty(Side::Downstream) && is_empty(Side::Upstream) && self.gate.is_at_rest()
    }

    fn visit_relaying(&mut self, still_us: Micros, cx: &mut Context<K>) -> Next {
        let is_half_closed = self.directions.iter().any(|direction| direction.has_ended());
        let carries = self.directions[Side::Downstream as usize].carries();
        if cx.draining && (self.is_at_rest() || planted!(DrainCutsShort)) {
            return self.end_in_peace(cx);
        }
        // Its end could not be seen behind what it has sent already.
        let is_full = self.directions[Side::Downstream as usize].room() == 0;
        let waits = is_full && self.gate.waits(Side::Downstream);
        let is_stuck = waits || (self.gate.is_unframed() && carries) || self.gate.is_draining();
        if (is_half_closed || is_stuck) && still_us >= cx.limits.half_close_us {
            return Next::End(CloseReason::HalfClose);
        }
        if still_us >= cx.limits.idle_us && !planted!(IdleKept) {
            return Next::End(CloseReason::Idle);
        }
        if let Some(next) = self.end_late_head(cx) {
            return next;
        }
        self.keep_upstream_alive();
        if cx.now.saturating_sub(self.accepted_at) >= cx.limits.name_us
            && let Some(attribution) = self.gate.stop_observing(Detected::Deadline)
        {
            self.attribute(&attribution, cx);
        }
        for side in Side::BOTH {
            self.take_idle_pipe(side, still_us, cx);
            let direction = &self.directions[side as usize];
            if direction.operation == Some(Operation::Receive)
                && direction.receive != Receive::No
                && still_us >= PARK_US
            {
                cx.kernel.cancel(Operation::Receive, self.key.token(side));
            }
            if direction.is_lost_early() && still_us >= PERIOD_US_MAX {
                // The kernel does not tell it to a watch again.
                return Next::End(Self::loss_of(side));
            }
            let unread = direction.half.is_holding() || direction.operation.is_none();
            if direction.half.is_over() || (unread && still_us >= PERIOD_US_MAX) {
                // Nothing is read from this side (any more, or for now): only a watch finds its
                // reset.
                self.watch(side, cx);
            }
        }
        Next::Rest
    }

    /// Not at connect: most connections do not live long enough to need it.
    fn keep_upstream_alive(&mut self) {
        let Upstream::Up(leg) = &mut self.upstream else { return };
        if leg.keepalive == Keepalive::Set {
            return;
        }
        leg.keepalive = Keepalive::Set;
        if let Some(socket) = &self.ends[Side::Upstream as usize].socket
            && let Err(error) = socket.set_keepalive(KEEPALIVE)
        {
            tracing::debug!(%error, "keepalive was refused");
        }
    }

    /// A half that has been still for a while does not keep a pipe from others.
    fn take_idle_pipe(&mut self, side: Side, still_us: Micros, cx: &mut Context<K>) {
        let direction = &mut self.directions[side as usize];
        if still_us >= cx.limits.slice_us()
            && direction.half.state() == State::Filling
            && matches!(direction.held, Held::Pipe(_))
        {
            direction.half.put_pipe_back();
            self.release_held(side, cx);
        }
    }

    /// Waits for the death of `side`, unless that is in flight already.
    fn watch(&mut self, side: Side, cx: &mut Context<K>) {
        let end = &mut self.ends[side as usize];
        if end.watched == Watched::Yes {
            return;
        }
        let Some(socket) = &end.socket else { return };
        cx.kernel.poll(socket, Operation::Dead, self.key.token(side));
        end.watched = Watched::Yes;
    }
}
