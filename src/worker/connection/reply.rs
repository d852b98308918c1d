//! Local replies: what Egret itself says to a workload before the connection ends (a 502, a GOAWAY,
//! a TLS alert), and how it ends in peace.

use super::direction::Receive;
use super::{Connection, LINGER_US, Next, PARTING_US, Phase, Then, Upstream};
use crate::gate::Reply;
use crate::metrics::CloseReason;
use crate::relay::{Side, State};
use crate::sys::kernel::{Kernel, Operation, StreamSocket};
use crate::worker::account::Account;
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// Sends a local reply, behind everything that has passed, and then ends.
    pub(super) fn reply(&mut self, reply: Reply, cx: &mut Context<K>) -> Next {
        if let Some(malformed) = reply.malformed {
            self.count_refused(malformed, cx);
        }
        self.gate.replied();
        if !reply.answered.is_empty() {
            self.account = Account::Requests;
        }
        for answered in reply.answered {
            let flags = answered.request.local_flags();
            self.account_answered(answered, flags, cx);
        }
        if let Upstream::Up(_) = self.upstream {
            // Bytes of the upstream that may not have passed yet never will.
            let direction = &mut self.directions[Side::Upstream as usize];
            direction.drop_next(direction.carried().len());
            self.carry_reply(&reply.bytes);
            return self.begin_closing(Then::Reply(reply.reason), cx);
        }
        self.say(&reply.bytes, reply.reason, cx);
        match self.directions[Side::Upstream as usize].operation {
            None => Next::Advance(Side::Upstream),
            // Egret's greeting is on its way; the reply follows it.
            Some(_) => Next::Rest,
        }
    }

    /// Sends `bytes` to the downstream, where there is no upstream connection, and then ends.
    pub(super) fn say(&mut self, bytes: &[u8], reason: CloseReason, cx: &mut Context<K>) {
        self.set_upstream(Upstream::None, cx);
        self.set_phase(Phase::Replying { reason }, cx);
        self.carry_reply(bytes);
        self.moved_at = cx.now;
    }

    fn carry_reply(&mut self, bytes: &[u8]) {
        // Nothing that the downstream has sent will pass any more.
        self.directions[Side::Downstream as usize].discard_carried();
        self.directions[Side::Upstream as usize].insert_cleared(bytes);
    }

    /// Everything is said. A client of HTTP/2 gets a moment to read it: some take a connection that
    /// ends for one that was lost, with all that has not been read.
    pub(super) fn all_said(&mut self, reason: CloseReason, cx: &mut Context<K>) -> Next {
        match self.gate.is_http2() {
            true => {
                cx.deadlines.set(cx.now + PARTING_US, self.key);
                Next::Rest
            }
            false => Next::Linger(reason),
        }
    }

    /// The moment after the last words is over.
    pub(super) fn part(&mut self, reason: CloseReason) -> Next {
        let direction = &self.directions[Side::Upstream as usize];
        match direction.half.state() {
            State::Receiving if !direction.carries() => Next::Linger(reason),
            // The deadline was an earlier one.
            State::Receiving
            | State::Deciding { .. }
            | State::Sending { .. }
            | State::Filling
            | State::Flushing
            | State::Finished
            | State::Broken => Next::Rest,
        }
    }

    /// Says what the gate has to say between two frames of the responses, if they are at such a
    /// place now; whether it has.
    pub(super) fn says_own_frames(&mut self, cx: &mut Context<K>) -> bool {
        let side = Side::Upstream;
        let direction = &mut self.directions[side as usize];
        if direction.half.state() != State::Receiving || !matches!(self.upstream, Upstream::Up(_)) {
            return false;
        }
        let Some(frames) = self.gate.own_frames() else { return false };
        direction.insert_cleared(&frames);
        match direction.operation {
            // What a receive brings comes behind these.
            None | Some(Operation::Receive) => {
                direction.operation = None;
                self.load(side, cx);
            }
            // Its end comes to what is carried.
            Some(wait) => cx.kernel.cancel(wait, self.key.token(side)),
        }
        true
    }

    /// The half reading from `side` is between two frames of HTTP/2, as far as is known: what Egret
    /// has to say, and whether that was all.
    pub(super) fn between_frames(&mut self, side: Side, cx: &mut Context<K>) -> Option<Next> {
        let speaks = self.says_own_frames(cx);
        match self.is_served() {
            Some(reason) => Some(Next::Served(reason)),
            None if speaks && side == Side::Upstream => Some(Next::Rest),
            None => None,
        }
    }

    /// What the connection ends by, if it carries no further request and the others are over.
    pub(super) fn is_served(&mut self) -> Option<CloseReason> {
        let direction = &self.directions[Side::Upstream as usize];
        let is_at_rest = direction.half.state() == State::Receiving && !direction.is_cleared();
        self.gate.is_served().filter(|_| is_at_rest && self.is_relaying())
    }

    /// All requests that have passed are over.
    pub(super) fn served(&mut self, reason: CloseReason, cx: &mut Context<K>) -> Next {
        self.reply(Reply { bytes: Vec::new(), reason, answered: Vec::new(), malformed: None }, cx)
    }

    /// Everything is said: FIN, and the wait for the downstream's own.
    #[inline(never)]
    pub(super) fn linger(&mut self, reason: CloseReason, cx: &mut Context<K>) -> Next {
        let side = Side::Downstream;
        let Some(socket) = &self.ends[side as usize].socket else { return Next::End(reason) };
        if socket.shutdown_write().is_err() {
            return Next::End(reason);
        }
        let deadline = cx.now + LINGER_US;
        self.set_phase(Phase::Lingering { deadline, reason }, cx);
        let direction = &self.directions[side as usize];
        if direction.operation.is_none() && direction.receive == Receive::No {
            self.poll(side, Operation::Readable, side, cx);
        }
        Next::Rest
    }

    /// A connection that lingers has sent something, which is thrown away, or has closed too.
    #[inline(never)]
    pub(super) fn linger_input(&mut self, cx: &mut Context<K>) -> Next {
        let side = Side::Downstream;
        let socket = self.ends[side as usize].socket.as_ref();
        if socket.is_none_or(K::Socket::discard_input) {
            return Next::End(CloseReason::BlackHole);
        }
        self.poll(side, Operation::Readable, side, cx);
        Next::Rest
    }
}
