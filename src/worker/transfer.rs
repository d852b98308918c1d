//! Moving bytes: does what a half says is next, and tells it what came of it.

use crate::relay::{Sent, Side, State, Step};
use crate::sys::buffers::Buffer;
use crate::sys::ring::{Errno, Expect, Notice, Operation, Ring, Sockets};
use crate::worker::Worker;
use crate::worker::connection::{Account, Guide, Phase};
use crate::worker::direction::{Arrived, Held, StandingReceive};
use crate::worker::ending::LostBy;
use crate::worker::http1::Waits;
use crate::worker::token::{Key, Target};

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Submits the next operation of the half that reads from `side`.
    pub(super) fn advance(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let step = connection.directions[side as usize].half.next();
        if step == Step::Receive
            && let Some(arrived) = connection.direction(side).pop_early()
        {
            return self.on_arrived(key, side, arrived);
        }
        let room = connection.guide.room(side);
        let takes_all = step == Step::Receive && connection.takes_all(side);
        let notice = match step {
            Step::Send { until, .. } => connection.notice(side, until),
            _ => Notice::Prompt,
        };
        let direction = &mut connection.directions[side as usize];
        debug_assert_eq!(direction.operation, None, "a half waits for one operation");
        let source = &connection.ends[side as usize].socket;
        let target = &connection.ends[side.peer() as usize].socket;
        let token = Target::Connection(key, side).encode();
        direction.operation = match (step, &direction.held, source, target) {
            (Step::Receive, _, Some(source), _) => {
                match (direction.standing, takes_all) {
                    (StandingReceive::Yes, _) => {}
                    (StandingReceive::No, true) => {
                        self.ring.receive_on(source, direction.expect, token);
                        direction.standing = StandingReceive::Yes;
                    }
                    (StandingReceive::No, false) => {
                        self.ring.receive(source, room, direction.expect, token);
                    }
                }
                Some(Operation::Receive)
            }
            (Step::Send { from, until }, Held::Buffer(buffer), _, Some(target)) => {
                self.ring.send(target, buffer, from..until, notice, token);
                Some(Operation::Send)
            }
            (Step::Fill, _, Some(source), _) => {
                self.ring.poll(source, Operation::Readable, token);
                Some(Operation::Readable)
            }
            (Step::Flush, _, _, Some(target)) => {
                self.ring.poll(target, Operation::Writable, token);
                Some(Operation::Writable)
            }
            _ => None,
        };
    }

    /// Waits for `operation` on the socket of `socket_side`, for the half that reads from `side`.
    pub(super) fn submit_poll(
        &mut self,
        key: Key,
        side: Side,
        operation: Operation,
        socket_side: Side,
    ) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Some(socket) = &connection.ends[socket_side as usize].socket else { return };
        self.ring.poll(socket, operation, Target::Connection(key, side).encode());
        connection.direction(side).operation = Some(operation);
    }

    /// A receive has completed, or brought something and goes on.
    pub(super) fn on_received(&mut self, key: Key, side: Side, arrived: Arrived, rearm: bool) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let direction = connection.direction(side);
        if rearm {
            direction.standing = StandingReceive::No;
        }
        match direction.operation {
            Some(Operation::Receive) => {
                direction.operation = None;
                self.on_arrived(key, side, arrived);
            }
            _ => self.on_arrived_early(key, side, arrived),
        }
    }

    /// What the half waited for has come from its source.
    fn on_arrived(&mut self, key: Key, side: Side, arrived: Arrived) {
        let Arrived { result, expect } = arrived;
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        match (&connection.phase, &connection.guide) {
            (Phase::Relaying, Guide::Forward(_)) if side == Side::Downstream => {
                // It was asked for before its name was given up.
                self.hold_more(key, result);
                return self.resume(key);
            }
            (Phase::Relaying, _) => {}
            (Phase::Recognising { .. }, Guide::Http1(_)) if !matches!(result, Ok(None)) => {}
            (Phase::Recognising { .. }, _) => return self.on_first_bytes(key, result),
            (Phase::Retiring { .. }, _) => {
                self.throw_away(result);
                return self.continue_retiring(key);
            }
            (Phase::Lingering { .. }, _) => {
                self.throw_away(result);
                return self.on_linger_input(key);
            }
            _ => {
                self.hold_more(key, result);
                return self.reap(key);
            }
        }
        match result {
            Ok(Some(mut buffer)) => {
                let bytes = u64::from(buffer.length());
                if connection.guide.carries(side) {
                    let carried = connection.guide.take_carried(side);
                    self.ring.prepend(&mut buffer, &carried);
                }
                let direction = connection.direction(side);
                direction.half.received(buffer.length());
                direction.held = Held::Buffer(buffer);
                direction.expect = expect;
                direction.bytes += bytes;
                self.metrics.counters.bytes_copied.add(bytes);
                self.count_read(key, side, bytes);
                self.judge(key, side);
            }
            Ok(None) => self.on_end(key, side),
            Err(error) => self.on_receive_failed(key, side, error),
        }
    }

    /// A standing receive has brought something that the half cannot take up now, or ever.
    fn on_arrived_early(&mut self, key: Key, side: Side, arrived: Arrived) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let relays = matches!(connection.phase, Phase::Relaying);
        let direction = connection.direction(side);
        if !relays || direction.half.is_over() {
            // The target was lost, and what comes is lost with it.
            let source_lost = arrived.is_loss();
            self.throw_away(arrived.result);
            return match relays && source_lost {
                true => self.on_lost(key, side, LostBy::Reading),
                false => self.reap(key),
            };
        }
        if direction.operation == Some(Operation::Send) {
            // It has something to wait for now.
            self.ring.hurry();
        }
        let cancelled = matches!(arrived.result, Err(Errno::ECANCELED));
        if !cancelled && direction.push_early(arrived) && direction.standing == StandingReceive::Yes
        {
            let token = Target::Connection(key, side).encode();
            self.ring.cancel(Operation::Receive, token);
        }
    }

    /// A receive has brought nothing: again, or the end.
    pub(super) fn on_receive_failed(&mut self, key: Key, side: Side, error: Errno) {
        match error {
            Errno::ENOBUFS => {
                self.metrics.counters.buffers_starved.add(1);
                self.starved.push_back((key, side));
            }
            Errno::EAGAIN => self.submit_poll(key, side, Operation::Readable, side),
            // It was still for long: a wait for readiness costs the kernel less memory.
            Errno::ECANCELED => self.submit_poll(key, side, Operation::Readable, side),
            Errno::EINTR => self.advance(key, side),
            _ => self.on_lost(key, side, LostBy::Reading),
        }
    }

    /// Bytes that come while the upstream is being connected pass behind those that are held.
    fn hold_more(&mut self, key: Key, result: Result<Option<Buffer>, Errno>) {
        // An end, or an error, is met again by the next receive.
        let Ok(Some(buffer)) = result else { return };
        let bytes = u64::from(buffer.length());
        if let Some(connection) = self.connections.get_mut(key.slot)
            && let Guide::Forward(held) = &mut connection.guide
        {
            held.extend_from_slice(self.ring.bytes(&buffer));
            connection.directions[Side::Downstream as usize].bytes += bytes;
            self.metrics.counters.bytes_copied.add(bytes);
            self.count_read(key, Side::Downstream, bytes);
        }
        self.ring.release(buffer);
    }

    pub(super) fn throw_away(&mut self, result: Result<Option<Buffer>, Errno>) {
        if let Ok(Some(unwanted)) = result {
            self.ring.release(unwanted);
        }
    }

    /// A send has completed.
    pub(super) fn on_sent(&mut self, key: Key, side: Side, result: Result<usize, Errno>) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.direction(side).operation = None;
        if matches!(connection.phase, Phase::Closing | Phase::Resetting { .. }) {
            if let Ok(bytes) = result {
                self.count_written(key, side, bytes as u64);
            }
            return self.reap(key);
        }
        match result {
            Ok(bytes) => {
                self.count_written(key, side, bytes as u64);
                self.on_taken(key, side, bytes);
            }
            Err(Errno::EAGAIN) => self.submit_poll(key, side, Operation::Writable, side.peer()),
            Err(Errno::EINTR) => self.advance(key, side),
            Err(_) => self.on_lost(key, side.peer(), LostBy::Writing),
        }
    }

    /// The target took bytes of the buffer.
    fn on_taken(&mut self, key: Key, side: Side, bytes: usize) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let half = &mut connection.directions[side as usize].half;
        match half.sent(u32::try_from(bytes).unwrap_or(u32::MAX)) {
            Sent::Partly => self.advance(key, side),
            Sent::Piece => self.judge(key, side),
            Sent::All => {
                self.drop_held(key, side);
                self.on_passed(key, side);
            }
        }
    }

    /// Everything that the half reading from `side` held has passed.
    pub(super) fn on_passed(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        match connection.phase {
            Phase::Relaying => {}
            Phase::Answering { reason, .. } => return self.linger(key, reason),
            Phase::Retiring { .. } => return self.continue_retiring(key),
            // Egret's own greeting: there is no upstream to read from.
            _ => return,
        }
        self.consider_pipe(key, side);
        self.advance(key, side);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        match (&connection.guide, side) {
            (Guide::Http1(http), Side::Upstream) if http.waits != Waits::No => self.serve(key),
            (Guide::Http2(_), Side::Upstream) => self.end_streams(key),
            _ => {}
        }
    }

    /// A wait has completed: for a half, or for the death of a side.
    pub(super) fn on_poll(
        &mut self,
        key: Key,
        side: Side,
        operation: Operation,
        result: Result<(), Errno>,
    ) {
        match operation {
            Operation::Dead => self.on_dead(key, side, result),
            _ => self.on_ready(key, side),
        }
    }

    /// A wait for readiness, submitted for the half that reads from `side`, has completed.
    fn on_ready(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.direction(side).operation = None;
        match connection.phase {
            Phase::Relaying => {}
            Phase::Recognising { .. } | Phase::Answering { .. } => return self.advance(key, side),
            Phase::Lingering { .. } => return self.on_linger_input(key),
            Phase::Retiring { .. } => return self.continue_retiring(key),
            _ => return self.reap(key),
        }
        let direction = connection.direction(side);
        match direction.half.state() {
            State::Filling => self.fill(key, side),
            State::Flushing => self.flush(key, side),
            // A pipe was put back during the wait, or the receive was refused with EAGAIN.
            State::Receiving => {
                direction.expect = Expect::Bytes;
                match (&connection.guide, side) {
                    (Guide::Forward(_), Side::Downstream) => self.resume(key),
                    _ => self.advance(key, side),
                }
            }
            State::Sending { .. } => self.advance(key, side),
            State::Deciding { .. } | State::Finished | State::Broken => {
                unreachable!("nothing was in flight for this half")
            }
        }
    }

    /// Receives again for the halves that found no buffer, as far as there are buffers now.
    pub(super) fn retry_starved(&mut self) {
        let chances = self.starved.len().min(self.ring.free_buffers());
        for _ in 0..chances {
            let Some((key, side)) = self.starved.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(key.slot) else { continue };
            let direction = &connection.directions[side as usize];
            let waits = direction.half.state() == State::Receiving && direction.operation.is_none();
            if connection.generation != key.generation || !waits {
                continue;
            }
            match (&connection.phase, side) {
                (Phase::Relaying, Side::Downstream) if connection.guide.is_waiting() => {}
                (Phase::Relaying, Side::Downstream) => self.resume(key),
                (Phase::Recognising { .. }, Side::Upstream) => self.greet(key),
                (Phase::Relaying | Phase::Recognising { .. }, _) => self.advance(key, side),
                (Phase::Answering { .. }, Side::Upstream) => self.speak(key),
                _ => {}
            }
        }
    }

    /// Releases what came early, and will not pass.
    pub(super) fn drop_early(&mut self, key: Key, side: Side) {
        while let Some(connection) = self.connections.get_mut(key.slot)
            && let Some(arrived) = connection.direction(side).pop_early()
        {
            self.throw_away(arrived.result);
        }
    }

    /// Releases what the half holds, which nothing in flight refers to.
    pub(super) fn drop_held(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        match std::mem::take(&mut connection.direction(side).held) {
            Held::Nothing => {}
            Held::Buffer(buffer) => self.ring.release(buffer),
            Held::Pipe(pipe) => {
                self.pipes.give_back(pipe);
                self.metrics.counters.pipes_in_use.sub(1);
            }
        }
    }

    /// Accounts bytes that came from `side`.
    pub(super) fn count_read(&mut self, key: Key, side: Side, bytes: u64) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.moved_at = self.now_us;
        if let (Side::Downstream, Account::Tcp(series)) = (side, connection.account) {
            self.metrics.series.cells(series).received_bytes.add(bytes);
        }
    }

    /// Accounts bytes that the half reading from `side` has written to the other one.
    pub(super) fn count_written(&mut self, key: Key, side: Side, bytes: u64) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.moved_at = self.now_us;
        connection.directions[side as usize].written += bytes;
        if let (Side::Upstream, Account::Tcp(series)) = (side, connection.account) {
            self.metrics.series.cells(series).sent_bytes.add(bytes);
        }
    }
}
