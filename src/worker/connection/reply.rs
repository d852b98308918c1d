//! Local replies: what Egret itself says to a workload before the connection ends (a 502, a GOAWAY,
//! a TLS alert), and how it ends in peace.

use super::direction::Receive;
use super::{Connection, LINGER_US, Next, Phase, Then, Upstream};
use crate::gate::{Malformed, Reply};
use crate::http1::RequestError;
use crate::metrics::CloseReason;
use crate::relay::Side;
use crate::sys::kernel::{Kernel, Operation, StreamSocket};
use crate::worker::account::Account;
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// Sends a local reply, behind everything that has passed, and then ends.
    pub(super) fn reply(&mut self, reply: Reply, cx: &mut Context<K>) -> Next {
        let counters = &cx.metrics.counters;
        match reply.malformed {
            None => {}
            Some(Malformed::Frames(error)) => counters.refused_frames(error).add(1),
            Some(Malformed::Request(refusal)) => {
                counters.refused_requests(refusal).add(1);
                if refusal == RequestError::HostMismatch {
                    counters.name_conflicts.add(1);
                }
            }
        }
        self.gate.replied();
        if !reply.answered.is_empty() {
            self.account = Account::Requests;
        }
        for answered in reply.answered {
            self.account_answered(answered, reply.flags, cx);
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
        self.directions[Side::Upstream as usize].carry_cleared(bytes);
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
