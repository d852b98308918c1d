//! Moving bytes: does what a half says is next, and tells it what came of it.

use crate::metrics::CloseReason;
use crate::relay::{Side, State, Step};
use crate::sys::buffers::Buffer;
use crate::sys::pipe::Spliced;
use crate::sys::ring::{Errno, Expect, Operation, Ring, Sockets};
use crate::sys::socket::Socket;
use crate::worker::Worker;
use crate::worker::connection::{Connection, Held, Lost, Phase, Watched};
use crate::worker::token::{Key, Target};

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Submits the next operation of the half that reads from `side`.
    pub(super) fn advance(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let room = connection.guide.room(side);
        let direction = &mut connection.directions[side as usize];
        debug_assert_eq!(direction.operation, None, "a half has one operation in flight");
        let source = &connection.ends[side as usize].socket;
        let target = &connection.ends[side.peer() as usize].socket;
        let token = Target::Connection(key, side).encode();
        direction.operation = match (direction.half.next(), &direction.held, source, target) {
            (Step::Receive, _, Some(source), _) => {
                self.ring.receive(source, room, direction.expect, token);
                Some(Operation::Receive)
            }
            (Step::Send { from, until }, Held::Buffer(buffer), _, Some(target)) => {
                self.ring.send(target, buffer, from..until, token);
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

    /// A receive has completed.
    pub(super) fn on_received(
        &mut self,
        key: Key,
        side: Side,
        result: Result<Option<Buffer>, Errno>,
        expect: Expect,
    ) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.direction(side).operation = None;
        if !matches!(connection.phase, Phase::Relaying) {
            if let Ok(Some(unwanted)) = result {
                self.ring.release(unwanted);
            }
            return self.reap(key);
        }
        match result {
            Ok(Some(buffer)) => {
                let direction = connection.direction(side);
                direction.half.received(buffer.length());
                let bytes = u64::from(buffer.length());
                direction.held = Held::Buffer(buffer);
                direction.expect = expect;
                direction.bytes += bytes;
                self.metrics.counters.bytes_copied.add(bytes);
                self.count_read(key, side, bytes);
                self.advance(key, side);
            }
            Ok(None) => self.on_end(key, side),
            Err(Errno::ENOBUFS) => {
                self.metrics.counters.buffers_starved.add(1);
                self.starved.push_back((key, side));
            }
            Err(Errno::EAGAIN) => self.submit_poll(key, side, Operation::Readable, side),
            Err(Errno::EINTR) => self.advance(key, side),
            Err(_) => self.on_lost(key, side, LostBy::Reading),
        }
    }

    /// A send has completed.
    pub(super) fn on_sent(&mut self, key: Key, side: Side, result: Result<usize, Errno>) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.direction(side).operation = None;
        let relaying = matches!(connection.phase, Phase::Relaying);
        if let Ok(bytes) = result {
            self.count_written(key, side, bytes as u64);
        }
        if !relaying {
            return self.reap(key);
        }
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let direction = connection.direction(side);
        match result {
            Ok(bytes) => {
                if direction.half.sent(u32::try_from(bytes).unwrap_or(u32::MAX)) {
                    self.drop_held(key, side);
                    self.consider_pipe(key, side);
                }
                self.advance(key, side);
            }
            Err(Errno::EAGAIN) => self.submit_poll(key, side, Operation::Writable, side.peer()),
            Err(Errno::EINTR) => self.advance(key, side),
            Err(_) => self.on_lost(key, side.peer(), LostBy::Writing),
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
            Phase::Lingering { .. } => return self.on_linger_input(key),
            _ => return self.reap(key),
        }
        let direction = connection.direction(side);
        match direction.half.state() {
            State::Filling => self.fill(key, side),
            State::Flushing => self.flush(key, side),
            // A pipe was put back during the wait, or the receive was refused with EAGAIN.
            State::Receiving => {
                direction.expect = Expect::Bytes;
                self.advance(key, side);
            }
            State::Sending { .. } => self.advance(key, side),
            State::Finished | State::Broken => unreachable!("nothing was in flight for this half"),
        }
    }

    /// The source has bytes: into the pipe with them, and on.
    fn fill(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let direction = &mut connection.directions[side as usize];
        let source = &connection.ends[side as usize].socket;
        let (Held::Pipe(pipe), Some(source)) = (&mut direction.held, source) else { return };
        match pipe.fill(source) {
            Ok(Spliced::Bytes(bytes)) => {
                direction.half.filled(bytes);
                direction.bytes += bytes as u64;
                self.metrics.counters.bytes_spliced.add(bytes as u64);
                self.count_read(key, side, bytes as u64);
                self.flush(key, side);
            }
            Ok(Spliced::End) => self.on_end(key, side),
            Ok(Spliced::NotReady) => {
                // The socket is readable, but not for splice: an urgent byte is in the way, which
                // only a receive steps over (tcp_read_sock, net/ipv4/tcp.c).
                direction.half.put_pipe_back();
                direction.expect = Expect::Bytes;
                self.drop_held(key, side);
                self.advance(key, side);
            }
            Err(_) => self.on_lost(key, side, LostBy::Reading),
        }
    }

    /// The pipe holds bytes: to the target with them, as far as it takes them.
    fn flush(&mut self, key: Key, side: Side) {
        loop {
            let Some(connection) = self.connections.get_mut(key.slot) else { return };
            let direction = &mut connection.directions[side as usize];
            let target = &connection.ends[side.peer() as usize].socket;
            let (Held::Pipe(pipe), Some(target)) = (&mut direction.held, target) else { return };
            match pipe.flush(target) {
                Ok(Spliced::Bytes(bytes)) => {
                    direction.half.flushed(pipe.pending_bytes());
                    self.count_written(key, side, bytes as u64);
                }
                Ok(Spliced::End | Spliced::NotReady) => break,
                Err(_) => return self.on_lost(key, side.peer(), LostBy::Writing),
            }
            let Some(connection) = self.connections.get_mut(key.slot) else { return };
            let half = &mut connection.directions[side as usize].half;
            if half.wants_buffers() {
                half.put_pipe_back();
                self.drop_held(key, side);
            } else if half.state() == State::Flushing {
                continue;
            }
            break;
        }
        self.advance(key, side);
    }

    /// A half that moves bulk gets a pipe, if there is one.
    fn consider_pipe(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let direction = connection.direction(side);
        if !direction.half.wants_pipe() {
            return;
        }
        match self.pipes.take() {
            Some(pipe) => {
                direction.half.take_pipe();
                direction.held = Held::Pipe(pipe);
                self.metrics.counters.pipes_in_use.add(1);
            }
            None => {
                direction.half.go_without_pipe();
                self.metrics.counters.pipe_fallbacks.add(1);
            }
        }
    }

    /// The source has sent FIN, and everything before it was passed on.
    fn on_end(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let written_to = !connection.direction(side.peer()).half.is_over();
        let socket = connection.ends[side as usize].socket.as_ref();
        let reset_unseen = || !socket.is_some_and(Socket::is_connected);
        if connection.ends[side as usize].lost == Lost::Yes || (written_to && reset_unseen()) {
            // Not a FIN: the kernel reported the reset to an earlier write, or within one.
            return self.on_lost(key, side, LostBy::Reading);
        }
        connection.direction(side).half.ended();
        connection.moved_at = self.now_us;
        self.drop_held(key, side);
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

    /// The connection on `side` was reset, or died.
    ///
    /// Found by writing, bytes that it sent before may still wait in its receive queue: the half
    /// that reads from it goes on until they are passed on. Found by reading, nothing is left.
    fn on_lost(&mut self, key: Key, side: Side, by: LostBy) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.end(side).lost = Lost::Yes;
        if by == LostBy::Reading || connection.direction(side).half.is_over() {
            return self.end(key, Connection::loss_of(side));
        }
        // The half that found it has nothing in flight: what it holds is lost.
        connection.direction(side.peer()).half.break_off();
        self.drop_held(key, side.peer());
    }

    /// A side that was watched is dead.
    fn on_dead(&mut self, key: Key, side: Side, result: Result<(), Errno>) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.end(side).watched = Watched::No;
        match connection.phase {
            Phase::Connecting { .. } | Phase::Relaying if result.is_ok() => {
                connection.end(side).lost = Lost::Yes;
                self.end(key, Connection::loss_of(side));
            }
            _ => self.reap(key),
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
            let same = connection.generation == key.generation;
            if same && waits && matches!(connection.phase, Phase::Relaying) {
                self.advance(key, side);
            }
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
    fn count_read(&mut self, key: Key, side: Side, bytes: u64) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.moved_at = self.now_us;
        if side == Side::Downstream {
            self.metrics.series.cells(connection.series).received_bytes.add(bytes);
        }
    }

    /// Accounts bytes that the half reading from `side` has written to the other one.
    fn count_written(&mut self, key: Key, side: Side, bytes: u64) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.moved_at = self.now_us;
        if side == Side::Upstream {
            self.metrics.series.cells(connection.series).sent_bytes.add(bytes);
        }
    }
}

/// How the loss of a side was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LostBy {
    /// A receive or a splice out of it failed.
    Reading,
    /// A send, a splice into it or a shutdown failed.
    Writing,
}
