//! What a receive has brought: into the half's hands, or kept until it can be taken up.

use super::direction::{Arrived, Held, Receive, Source};
use super::{Connection, LostBy, Next, Phase, Upstream};
use crate::probe::planted;
use crate::relay::{Side, State};
use crate::sys::buffers::Buffer;
use crate::sys::kernel::{Errno, Kernel, Operation};
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// A receive has completed, or brought something and goes on.
    pub(super) fn received(
        &mut self,
        side: Side,
        arrived: Arrived,
        rearm: bool,
        cx: &mut Context<K>,
    ) -> Next {
        let direction = &mut self.directions[side as usize];
        let was_single = direction.receive == Receive::Once;
        if rearm {
            direction.receive = Receive::No;
        }
        // A half that was about to send what it carries, and could not, waits for nothing: what
        // comes then is what it would have received next.
        let is_free = direction.operation.is_none() && direction.half.state() == State::Receiving;
        if direction.operation == Some(Operation::Receive) || (was_single && is_free) {
            direction.operation = None;
            return self.take_up(side, arrived, cx);
        }
        self.came_early(side, arrived, cx)
    }

    /// What the half waited for has come from its source.
    pub(super) fn take_up(&mut self, side: Side, arrived: Arrived, cx: &mut Context<K>) -> Next {
        if !self.is_relaying() && !self.is_undecided() {
            return self.take_up_elsewhere(side, arrived.result, cx);
        }
        let Arrived { result, expect } = arrived;
        match result {
            Ok(Some(buffer)) => {
                let bytes = u64::from(buffer.length());
                cx.metrics.counters.bytes_copied.add(bytes);
                self.count_read(side, bytes, cx);
                let is_undecided = self.is_undecided();
                let direction = &mut self.directions[side as usize];
                direction.expect = expect;
                if let Upstream::Undecided { since } = &mut self.upstream
                    && direction.carried().is_empty()
                {
                    // The first byte that leaves the question open.
                    *since = cx.now;
                }
                if !direction.carries() && !is_undecided {
                    direction.half.received(buffer.length());
                    direction.held = Held::Buffer(buffer);
                } else {
                    if self.gate.is_detecting() {
                        cx.metrics.counters.detecting_bytes.add(bytes);
                    }
                    direction.carry(cx.kernel.pool().bytes(&buffer));
                    cx.kernel.pool_mut().release(buffer);
                }
                self.inspect(side, cx)
            }
            Ok(None) => {
                let is_undecided = self.is_undecided();
                let direction = &mut self.directions[side as usize];
                direction.source = Source::Ended;
                match direction.carries() {
                    _ if is_undecided => Next::GiveUp,
                    true => Next::Inspect(side),
                    false => Next::Ended(side),
                }
            }
            Err(error) => self.receive_failed(side, error, cx),
        }
    }

    /// The half takes up what has come early.
    pub(super) fn take_up_early(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        match self.directions[side as usize].pop_early() {
            Some(arrived) => self.take_up(side, arrived, cx),
            None => Next::Rest,
        }
    }

    /// Something has come that cannot pass now, or ever.
    #[inline(never)]
    fn take_up_elsewhere(
        &mut self,
        side: Side,
        result: Result<Option<Buffer>, Errno>,
        cx: &mut Context<K>,
    ) -> Next {
        match (&self.phase, &self.upstream, side) {
            (Phase::Open, Upstream::Undecided { .. } | Upstream::Up(_), _) => Next::Rest,
            (
                Phase::Open,
                Upstream::Resolving(_) | Upstream::Connecting(_) | Upstream::Closing(_),
                Side::Downstream,
            ) => self.hold_for_next_leg(result, cx),
            (Phase::Open, Upstream::Closing(_), Side::Upstream) => {
                cx.throw_away(result);
                Next::ContinueClosing
            }
            (Phase::Lingering { .. }, _, _) => {
                cx.throw_away(result);
                Next::LingerInput
            }
            (Phase::Open, Upstream::None, _)
            | (Phase::Open, Upstream::Resolving(_) | Upstream::Connecting(_), Side::Upstream)
            | (Phase::Replying { .. } | Phase::Resetting { .. } | Phase::Closing, _, _) => {
                cx.throw_away(result);
                Next::Rest
            }
        }
    }

    /// Bytes of the downstream that come while there is no upstream connection pass behind those
    /// that are carried. An end, or an error, is met again by the next receive.
    fn hold_for_next_leg(
        &mut self,
        result: Result<Option<Buffer>, Errno>,
        cx: &mut Context<K>,
    ) -> Next {
        if let Ok(Some(buffer)) = result {
            let bytes = u64::from(buffer.length());
            cx.metrics.counters.bytes_copied.add(bytes);
            self.count_read(Side::Downstream, bytes, cx);
            let direction = &mut self.directions[Side::Downstream as usize];
            if !planted!(HeldBytesLost) {
                direction.carry(cx.kernel.pool().bytes(&buffer));
            }
            cx.kernel.pool_mut().release(buffer);
        }
        Next::Rest
    }

    /// A receive has brought something that the half cannot take up now, or ever.
    #[inline(never)]
    fn came_early(&mut self, side: Side, arrived: Arrived, cx: &mut Context<K>) -> Next {
        let is_open = matches!(self.phase, Phase::Open);
        let is_closing = matches!(self.upstream, Upstream::Closing(_));
        let direction = &mut self.directions[side as usize];
        if !is_open || direction.half.is_over() || (is_closing && side == Side::Upstream) {
            // The target was lost, and what comes is lost with it.
            let source_lost = arrived.is_loss();
            cx.throw_away(arrived.result);
            return match (is_open, is_closing) {
                (true, true) => Next::ContinueClosing,
                (true, false) if source_lost => Next::Lost(side, LostBy::Reading),
                (true, false) | (false, _) => Next::Rest,
            };
        }
        if direction.operation == Some(Operation::Send) {
            // It has something to wait for now.
            cx.kernel.hurry();
        }
        let cancelled = matches!(arrived.result, Err(Errno::ECANCELED));
        if !cancelled && direction.push_early(arrived) && direction.receive == Receive::Multishot {
            cx.kernel.cancel(Operation::Receive, self.key.token(side));
        }
        Next::Rest
    }

    /// A receive has brought nothing: again, or the end.
    fn receive_failed(&mut self, side: Side, error: Errno, cx: &mut Context<K>) -> Next {
        match error {
            Errno::ENOBUFS => cx.starve(self.key, side),
            Errno::ECANCELED if planted!(DeafAfterCancel) => {}
            // ECANCELED: it was still for long; a wait for readiness costs the kernel less memory.
            Errno::EAGAIN | Errno::ECANCELED => self.poll(side, Operation::Readable, side, cx),
            Errno::EINTR => return Next::Advance(side),
            _ => return Next::Lost(side, LostBy::Reading),
        }
        Next::Rest
    }
}
