//! How a connection ends: accounted once, told to the side that lives, closed when nothing is in
//! flight.

use crate::metrics::CloseReason;
use crate::relay::Side;
use crate::sys::ring::{Operation, Ring, Sockets};
use crate::sys::socket::Socket;
use crate::worker::connection::{Connection, Phase};
use crate::worker::token::{Key, Target};
use crate::worker::{RESET_WAIT_US, Worker};

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Ends a connection. Its operations in flight are cancelled; what is left of it is closed when
    /// they have completed, because closing a descriptor does not end what the kernel does with it.
    pub(super) fn end(&mut self, key: Key, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if matches!(connection.phase, Phase::Closing | Phase::Resetting { .. }) {
            return;
        }
        // Whatever ends the wait for its FIN, it ends by what Egret has told it.
        let reason = match connection.phase {
            Phase::Lingering { reason, .. } | Phase::Answering { reason, .. } => reason,
            _ => reason,
        };
        tracing::debug!(
            downstream.addr = %connection.source,
            original.dst = %connection.original_destination,
            reason = reason.label(),
            bytes.received = connection.directions[0].bytes,
            bytes.sent = connection.directions[1].bytes,
            "connection closed"
        );
        self.metrics.counters.closed(reason).add(1);
        self.account_end(key, reason);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        for (operation, side) in connection.in_flight() {
            self.ring.cancel(operation, Target::Connection(key, side).encode());
        }
        let phase = self.closing_phase(key, reason);
        if let Some(connection) = self.connections.get_mut(key.slot) {
            connection.phase = phase;
        }
        self.reap(key);
    }

    /// Decides who is reset, and whether that has to wait.
    fn closing_phase(&mut self, key: Key, reason: CloseReason) -> Phase {
        let Some(connection) = self.connections.get_mut(key.slot) else { return Phase::Closing };
        let holding = connection.guide.is_holding()
            || connection.directions.iter().any(|direction| direction.half.is_holding());
        let reset: &[Side] = match reason {
            CloseReason::Finished => &[],
            _ if matches!(connection.phase, Phase::Lingering { .. }) => &[],
            CloseReason::BlackHole => &[Side::Downstream],
            // A plain close would make what was cut off look complete.
            CloseReason::Idle | CloseReason::HalfClose if !holding => &[],
            _ => &Side::BOTH,
        };
        let socket = |side: Side| connection.ends[side as usize].socket.as_ref();
        if let Some(live) = Connection::lost_side(reason).map(Side::peer)
            && socket(live).is_some_and(|socket| socket.unacknowledged_bytes() > 0)
        {
            return Phase::Resetting { live, deadline: self.now_us + RESET_WAIT_US };
        }
        reset.iter().filter_map(|&side| socket(side)).for_each(Socket::reset_on_close);
        Phase::Closing
    }

    /// A reset that waits: is everything that was sent before acknowledged, or the time up?
    pub(super) fn continue_reset(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Phase::Resetting { live, deadline } = connection.phase else { return };
        let socket = connection.ends[live as usize].socket.as_ref();
        // Of a side that is gone by now, too, the kernel says that bytes are unacknowledged.
        let has_unacknowledged =
            |socket: &Socket| socket.unacknowledged_bytes() > 0 && socket.is_connected();
        if !socket.is_some_and(has_unacknowledged) || deadline <= self.now_us {
            let sockets = connection.ends.iter().filter_map(|end| end.socket.as_ref());
            sockets.for_each(Socket::reset_on_close);
            connection.phase = Phase::Closing;
            self.reap(key);
        }
    }

    /// Removes a connection that is over, once nothing of it is in flight.
    pub(super) fn reap(&mut self, key: Key) {
        let Some(connection) = self.connections.get(key.slot) else { return };
        let over = matches!(connection.phase, Phase::Closing);
        if !over || connection.in_flight().next().is_some() {
            return;
        }
        for side in Side::BOTH {
            self.drop_held(key, side);
            self.drop_early(key, side);
        }
        let connection = self.connections.remove(key.slot);
        for socket in connection.ends.into_iter().filter_map(|end| end.socket) {
            self.ring.close(socket);
        }
        if let Some(flow) = connection.flow {
            self.admission.forget_flow(&flow);
        }
        self.admission.leave();
        self.metrics.counters.connections_active.sub(1);
        // A descriptor is free again: accepts that ran out of them can go on.
        self.resume_accepts(u64::MAX);
    }

    /// A connection that lingers sent something, which is thrown away, or has closed too.
    pub(super) fn on_linger_input(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let socket = connection.ends[Side::Downstream as usize].socket.as_ref();
        if socket.is_none_or(Socket::discard_input) {
            return self.end(key, CloseReason::BlackHole);
        }
        self.submit_poll(key, Side::Downstream, Operation::Readable, Side::Downstream);
    }

    /// Ends every connection.
    pub(super) fn end_all(&mut self, reason: CloseReason) {
        for key in self.keys() {
            self.end(key, reason);
            // Not even a reset waits any longer.
            if let Some(connection) = self.connections.get_mut(key.slot)
                && let Phase::Resetting { deadline, .. } = &mut connection.phase
            {
                *deadline = 0;
            }
            self.continue_reset(key);
        }
    }
}
