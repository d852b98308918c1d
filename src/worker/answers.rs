//! What passes from the upstream of an HTTP/1 connection: answers, each followed to its end.

use crate::http1::Lost;
use crate::metrics::CloseReason;
use crate::relay::Side;
use crate::sys::ring::{Ring, Sockets};
use crate::worker::Worker;
use crate::worker::connection::{Connection, Guide};
use crate::worker::http1::Answered;
use crate::worker::token::Key;

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Passes answers as far as they have come. A head passes when it is whole.
    pub(super) fn gate_answers(&mut self, key: Key) {
        let mut pass = 0;
        let unasked = loop {
            match self.next_answer(key, pass) {
                Some(Answered::Pass(bytes)) => pass += bytes,
                Some(Answered::More) => break false,
                Some(Answered::Unasked) => break true,
                Some(Answered::Hides) => return self.end(key, CloseReason::BadRequest),
                // What follows is told as bytes that pass.
                Some(Answered::Lost(lost)) => self.lose_framing(key, lost),
                None => return,
            }
        };
        self.account_finished(key);
        if pass > 0 {
            return self.pass(key, Side::Upstream, pass);
        }
        let rest = self.set_aside(key, Side::Upstream);
        if unasked {
            // A server that gives up an idle connection says so (408). It answers nobody, and the
            // connection can carry no answer any more: it is as if it had ended here.
            return self.on_end(key, Side::Upstream);
        }
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http1(http) = &mut connection.guide else { return };
        http.carry(Side::Upstream, &rest);
        self.advance(key, Side::Upstream);
    }

    /// Nobody knows where the answer ends. The upstream is told that no more requests come, so that
    /// it closes behind its answers, and those that wait get another connection.
    fn lose_framing(&mut self, key: Key, lost: Lost) {
        self.metrics.counters.unframed_answers(lost).add(1);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let passes = connection.directions[Side::Downstream as usize].half.is_holding();
        let between = matches!(&connection.guide, Guide::Http1(http) if http.is_between_requests());
        let end = connection.end(Side::Upstream);
        if let Some(socket) = &end.socket
            && between
            && !passes
        {
            // Its failure is met by the next receive.
            let _ = socket.shutdown_write();
            end.told_end = true;
        }
    }

    /// What comes behind the first `pass` bytes that are to be decided.
    fn next_answer(&mut self, key: Key, pass: usize) -> Option<Answered> {
        let connection = self.connections.get_mut(key.slot)?;
        let Connection { guide: Guide::Http1(http), directions, .. } = connection else {
            return None;
        };
        let (buffer, from) = directions[Side::Upstream as usize].undecided()?;
        Some(http.next_answer(&self.ring.bytes(buffer)[from + pass..], &mut self.known_heads))
    }
}
