//! What ends a direction, or a side: FIN, a reset, death. What becomes of the connection then,
//! `close` says.

use crate::metrics::CloseReason;
use crate::relay::{Side, State};
use crate::sys::ring::{Errno, Ring, Sockets};
use crate::sys::socket::Socket;
use crate::worker::Worker;
use crate::worker::connection::{Connection, Guide, Lost, Phase, Watched};
use crate::worker::http1::{Mode, Waits};
use crate::worker::token::Key;

/// How the loss of a side was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostBy {
    /// A receive or a splice out of it failed.
    Reading,
    /// A send, a splice into it or a shutdown failed.
    Writing,
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// The source has sent FIN, and everything before it was passed on.
    pub(super) fn on_end(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let written_to = !connection.direction(side.peer()).half.is_over()
            && !connection.ends[side as usize].told_end;
        let socket = connection.ends[side as usize].socket.as_ref();
        let reset_unseen = || !socket.is_some_and(Socket::is_connected);
        if connection.ends[side as usize].lost == Lost::Yes || (written_to && reset_unseen()) {
            // Not a FIN: the kernel reported the reset to an earlier write, or within one.
            return self.on_lost(key, side, LostBy::Reading);
        }
        connection.direction(side).half.ended();
        connection.moved_at = self.now_us;
        if let (Guide::Http1(http), Side::Upstream) = (&mut connection.guide, side) {
            http.upstream_ended();
        }
        self.drop_held(key, side);
        self.account_finished(key);
        if side == Side::Upstream {
            if self.gives_way(key) {
                return self.serve(key);
            }
            self.take_no_more_requests(key);
        }
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if connection.direction(side.peer()).half.is_over() {
            // Closing sends the second FIN.
            return self.end(key, CloseReason::Finished);
        }
        let target = &connection.ends[side.peer() as usize].socket;
        if target.as_ref().is_some_and(|socket| socket.shutdown_write().is_err()) {
            self.on_lost(key, side.peer(), LostBy::Writing);
        }
    }

    /// The upstream has ended, and a request waits that does not need it.
    fn gives_way(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key.slot) else { return false };
        match &connection.guide {
            Guide::Http1(http) => http.is_idle() && http.waits.is_for_rest(),
            _ => false,
        }
    }

    /// The downstream is about to be told the end of the answers: no request is served any more.
    fn take_no_more_requests(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http1(http) = &mut connection.guide else { return };
        if http.mode == Mode::Observed {
            return;
        }
        let waited = http.waits != Waits::No;
        http.answers_over();
        let direction = &connection.directions[Side::Downstream as usize];
        if waited && direction.operation.is_none() && direction.half.state() == State::Receiving {
            self.advance(key, Side::Downstream);
        }
    }

    /// The connection on `side` was reset, or died.
    ///
    /// Found by writing, bytes that it sent before may still wait in its receive queue: the half
    /// that reads from it goes on until they are passed on. Found by reading, nothing is left.
    pub(super) fn on_lost(&mut self, key: Key, side: Side, by: LostBy) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.end(side).lost = Lost::Yes;
        if !matches!(connection.phase, Phase::Relaying) {
            // Nothing waits behind it: these were Egret's own words.
            return self.end(key, Connection::loss_of(side));
        }
        if by == LostBy::Reading || connection.direction(side).half.is_over() {
            return self.end(key, Connection::loss_of(side));
        }
        // What the half that found it holds is lost, and what came early for it.
        connection.direction(side.peer()).half.break_off();
        self.drop_held(key, side.peer());
        self.drop_early(key, side.peer());
    }

    /// A side that was watched is dead.
    pub(super) fn on_dead(&mut self, key: Key, side: Side, result: Result<(), Errno>) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.end(side).watched = Watched::No;
        match connection.phase {
            Phase::Connecting { .. } | Phase::Relaying if result.is_ok() => {
                connection.end(side).lost = Lost::Yes;
                self.end(key, Connection::loss_of(side));
            }
            Phase::Retiring { .. } => self.continue_retiring(key),
            _ => self.reap(key),
        }
    }
}
