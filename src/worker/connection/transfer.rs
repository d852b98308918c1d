//! Moving bytes: does what a half says is next, and tells it what came of it.

use super::direction::{Held, Receive, Source};
use super::{Connection, LostBy, Next, Phase, Upstream};
use crate::probe::planted;
use crate::relay::{Sent, Side, State, Step};
use crate::sys::kernel::{Errno, Expect, Kernel, Notice, Operation};
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// Submits the next operation of the half that reads from `side`.
    pub(super) fn advance(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        let direction = &mut self.directions[side as usize];
        debug_assert_eq!(direction.operation, None, "a half waits for one operation");
        match direction.half.next() {
            Step::Receive => return self.receive(side, cx),
            Step::Send { from, until } => self.send(side, (from, until), cx),
            Step::Fill => self.poll(side, Operation::Readable, side, cx),
            Step::Flush => self.poll(side, Operation::Writable, side.peer(), cx),
            Step::Rest => {}
        }
        Next::Rest
    }

    /// Takes up what comes next from `side`: what is carried and may pass, what came early, or a
    /// receive.
    fn receive(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        let direction = &self.directions[side as usize];
        if !direction.is_in_step() {
            let has_target = side == Side::Upstream || self.is_relaying();
            if has_target && direction.is_cleared() {
                self.load(side, cx);
                return Next::Rest;
            }
            if direction.has_early() {
                return Next::TakeUpEarly(side);
            }
        }
        if direction.source == Source::Ended {
            return if !direction.carries() { Next::Ended(side) } else { Next::Rest };
        }
        let Some(source) = &self.ends[side as usize].socket else { return Next::Rest };
        let receive = match direction.receive {
            Receive::No => self.arm(side, source, cx),
            armed @ (Receive::Once | Receive::Multishot) => armed,
        };
        if receive != Receive::No {
            let direction = &mut self.directions[side as usize];
            direction.receive = receive;
            direction.operation = Some(Operation::Receive);
        }
        Next::Rest
    }

    /// Submits a receive from `source`, if there is room for what it brings.
    fn arm(&self, side: Side, source: &K::Socket, cx: &mut Context<K>) -> Receive {
        let direction = &self.directions[side as usize];
        let token = self.key.token(side);
        if self.takes_all(side) {
            cx.kernel.receive_multishot(source, direction.expect, token);
            return Receive::Multishot;
        }
        match direction.room() {
            // Until some of what is carried has passed.
            0 => Receive::No,
            room => {
                cx.kernel.receive(source, room, direction.expect, token);
                Receive::Once
            }
        }
    }

    /// Puts what is carried into a buffer, and sends as much of it as may pass.
    pub(super) fn load(&mut self, side: Side, cx: &mut Context<K>) {
        let direction = &mut self.directions[side as usize];
        if direction.half.state() != State::Receiving {
            // What it holds passes first; then it comes here again.
            return;
        }
        let (bytes, cleared) = direction.take_carried();
        let Some(buffer) = cx.kernel.pool_mut().fill(&bytes) else {
            direction.put_back(bytes, cleared);
            return cx.starve(self.key, side);
        };
        direction.half.received(buffer.length());
        direction.half.pass(cleared);
        direction.held = Held::Buffer(buffer);
        self.send(side, (0, cleared), cx);
    }

    fn send(&mut self, side: Side, (from, until): (u32, u32), cx: &mut Context<K>) {
        let notice = self.notice(side, until);
        let direction = &mut self.directions[side as usize];
        let target = &self.ends[side.peer() as usize].socket;
        if let (Held::Buffer(buffer), Some(target)) = (&direction.held, target) {
            cx.kernel.send(target, buffer, from..until, notice, self.key.token(side));
            direction.operation = Some(Operation::Send);
        }
    }

    /// Waits for `operation` on the socket of `socket_side`, for the half that reads from `side`.
    pub(super) fn poll(
        &mut self,
        side: Side,
        operation: Operation,
        socket_side: Side,
        cx: &mut Context<K>,
    ) {
        let Some(socket) = &self.ends[socket_side as usize].socket else { return };
        cx.kernel.poll(socket, operation, self.key.token(side));
        self.directions[side as usize].operation = Some(operation);
    }

    /// Whether the half that reads from `side` takes whatever comes, so that a receive may go on by
    /// itself: nothing is held back, and no pipe is in sight.
    fn takes_all(&self, side: Side) -> bool {
        let direction = &self.directions[side as usize];
        self.is_relaying()
            && self.gate.holds_nothing()
            && !direction.carries()
            && !direction.half.moves_bulk()
    }

    /// Whether anything waits for the end of a send of the half that reads from `side`.
    fn notice(&self, side: Side, until: u32) -> Notice {
        let direction = &self.directions[side as usize];
        let whole = matches!(&direction.held, Held::Buffer(buffer) if buffer.length() == until);
        let is_last = direction.receive == Receive::Multishot && direction.is_in_step();
        match whole && is_last && self.takes_all(side) {
            true => Notice::Skip,
            false => Notice::Prompt,
        }
    }

    /// A send has completed.
    pub(super) fn sent(
        &mut self,
        side: Side,
        result: Result<usize, Errno>,
        cx: &mut Context<K>,
    ) -> Next {
        let direction = &mut self.directions[side as usize];
        direction.operation = None;
        let is_over = matches!(self.phase, Phase::Closing | Phase::Resetting { .. });
        if let Ok(bytes) = result {
            self.count_written(side, bytes as u64, cx);
        }
        if is_over {
            return Next::Rest;
        }
        let direction = &mut self.directions[side as usize];
        match result {
            Ok(bytes) => match direction.half.sent(u32::try_from(bytes).unwrap_or(u32::MAX)) {
                Sent::All => {
                    self.release_held(side, cx);
                    self.passed(side, cx)
                }
                Sent::Partly | Sent::Piece if self.goes_nowhere(side) => Next::ContinueClosing,
                Sent::Partly => self.advance(side, cx),
                Sent::Piece => self.inspect(side, cx),
            },
            Err(_) if self.goes_nowhere(side) => Next::ContinueClosing,
            Err(Errno::EAGAIN) if !planted!(FullQueueTakenForLoss) => {
                self.poll(side, Operation::Writable, side.peer(), cx);
                Next::Rest
            }
            Err(Errno::EINTR) => Next::Advance(side),
            Err(_) => Next::Lost(side.peer(), LostBy::Writing),
        }
    }

    /// What the half that reads from `side` holds has no target any more: the upstream is closed.
    fn goes_nowhere(&self, side: Side) -> bool {
        side == Side::Downstream && matches!(self.upstream, Upstream::Closing(_))
    }

    /// Everything that the half reading from `side` held has passed.
    pub(super) fn passed(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        match (&self.phase, &self.upstream, side) {
            (Phase::Open, Upstream::Up(_), _) => {
                if self.gate.is_http2()
                    && let Some(next) = self.between_frames(side, cx)
                {
                    return next;
                }
                self.consider_pipe(side, cx);
                match side {
                    Side::Upstream if self.carries(Side::Downstream) => Next::AdvanceAndResume,
                    Side::Downstream | Side::Upstream => self.advance(side, cx),
                }
            }
            (Phase::Open, Upstream::Closing(_), _) => Next::ContinueClosing,
            // Egret's own greeting. There is no upstream to read from, but perhaps more to say.
            (
                Phase::Open,
                Upstream::Undecided { .. }
                | Upstream::None
                | Upstream::Resolving(_)
                | Upstream::Connecting(_),
                _,
            ) => Next::Advance(side),
            (&Phase::Replying { reason }, _, Side::Upstream) => {
                match self.directions[side as usize].carries() {
                    true => Next::Advance(side),
                    false => self.all_said(reason, cx),
                }
            }
            (Phase::Replying { .. }, _, Side::Downstream)
            | (Phase::Lingering { .. } | Phase::Resetting { .. } | Phase::Closing, _, _) => {
                Next::Rest
            }
        }
    }

    /// Whether bytes from `side` are held back.
    pub(super) fn carries(&self, side: Side) -> bool {
        self.directions[side as usize].carries()
    }

    /// Goes on with the downstream's bytes: those that are carried first.
    pub(super) fn resume(&mut self, cx: &mut Context<K>) -> Next {
        match self.is_relaying() {
            true => self.inspect_again(cx),
            // Nothing will pass any more.
            false => Next::Rest,
        }
    }

    /// Shows the gate again what it holds of the downstream; if that is nothing, reads on.
    pub(super) fn inspect_again(&mut self, cx: &mut Context<K>) -> Next {
        let side = Side::Downstream;
        let direction = &mut self.directions[side as usize];
        if direction.half.state() != State::Receiving {
            // Its completion comes here.
            return Next::Rest;
        }
        match (direction.carries(), direction.operation) {
            (true, Some(Operation::Receive) | None) => {
                // A receive that is in flight brings what comes behind these.
                direction.operation = None;
                self.inspect(side, cx)
            }
            // Its end comes here again.
            (true, Some(wait)) => {
                cx.kernel.cancel(wait, self.key.token(side));
                Next::Rest
            }
            (false, None) => self.advance(side, cx),
            (false, Some(_)) => Next::Rest,
        }
    }

    /// A wait for readiness, submitted for the half that reads from `side`, has completed.
    pub(super) fn ready(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        let direction = &mut self.directions[side as usize];
        direction.operation = None;
        match (&self.phase, &self.upstream) {
            (Phase::Open, Upstream::Up(_)) => {}
            (Phase::Open, Upstream::Closing(_)) => return Next::ContinueClosing,
            (Phase::Open, Upstream::Undecided { .. }) if direction.carries() => {
                return Next::Inspect(side);
            }
            (Phase::Open, Upstream::Undecided { .. }) | (Phase::Replying { .. }, _) => {
                return Next::Advance(side);
            }
            (Phase::Lingering { .. }, _) if side == Side::Downstream => return Next::LingerInput,
            (Phase::Open, Upstream::None | Upstream::Resolving(_) | Upstream::Connecting(_))
            | (Phase::Lingering { .. } | Phase::Resetting { .. } | Phase::Closing, _) => {
                return Next::Rest;
            }
        }
        match direction.half.state() {
            State::Filling => self.fill(side, cx),
            State::Flushing => self.flush(side, cx),
            // A pipe was put back during the wait, or the receive was refused with EAGAIN.
            State::Receiving => {
                direction.expect = Expect::Bytes;
                match direction.carries() {
                    true => Next::Inspect(side),
                    false => Next::Advance(side),
                }
            }
            State::Sending { .. } => Next::Advance(side),
            State::Deciding { .. } | State::Finished | State::Broken => {
                unreachable!("nothing was in flight for this half")
            }
        }
    }

    /// A buffer is free for the half that reads from `side`.
    #[inline(never)]
    pub(super) fn buffer_free(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        let direction = &self.directions[side as usize];
        let waits = direction.half.state() == State::Receiving && direction.operation.is_none();
        match (&self.phase, &self.upstream) {
            (Phase::Open, Upstream::Undecided { .. } | Upstream::Up(_))
            | (Phase::Replying { .. }, _)
                if waits =>
            {
                self.advance(side, cx)
            }
            (Phase::Open | Phase::Replying { .. }, _)
            | (Phase::Lingering { .. } | Phase::Resetting { .. } | Phase::Closing, _) => Next::Rest,
        }
    }

    /// Releases what came early, and will not pass.
    pub(super) fn release_early(&mut self, side: Side, cx: &mut Context<K>) {
        while let Some(arrived) = self.directions[side as usize].pop_early() {
            cx.throw_away(arrived.result);
        }
    }

    /// Releases what the half holds, which nothing in flight refers to.
    pub(super) fn release_held(&mut self, side: Side, cx: &mut Context<K>) {
        match std::mem::take(&mut self.directions[side as usize].held) {
            Held::Nothing => {}
            Held::Buffer(_) if planted!(BufferLeaked) => {}
            Held::Buffer(buffer) => cx.kernel.pool_mut().release(buffer),
            Held::Pipe(pipe) => {
                cx.pipes.give_back(pipe);
                cx.metrics.counters.pipes_in_use.sub(1);
            }
        }
    }
}
