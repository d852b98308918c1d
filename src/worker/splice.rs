//! Moving bulk: through a pipe instead of a buffer, as far as nobody has to look at the bytes.

use crate::relay::{BULK_BYTES, Side, State};
use crate::sys::pipe::Spliced;
use crate::sys::ring::{Expect, Ring, Sockets};
use crate::worker::Worker;
use crate::worker::direction::Held;
use crate::worker::ending::LostBy;
use crate::worker::token::Key;

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// The source has bytes: into the pipe with them, and on.
    pub(super) fn fill(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let unseen = connection.guide.unseen(side);
        let direction = &mut connection.directions[side as usize];
        let source = &connection.ends[side as usize].socket;
        let (Held::Pipe(pipe), Some(source)) = (&mut direction.held, source) else { return };
        match pipe.fill(source, unseen) {
            Ok(Spliced::Bytes(bytes)) => {
                direction.half.filled(bytes);
                direction.bytes += bytes as u64;
                connection.guide.skip(side, bytes as u64);
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
    pub(super) fn flush(&mut self, key: Key, side: Side) {
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
            // What comes next must be looked at, or is small.
            let next_is_seen = connection.guide.unseen(side) == 0;
            let half = &mut connection.directions[side as usize].half;
            if half.state() == State::Flushing {
                continue;
            }
            if half.wants_buffers() || next_is_seen {
                half.put_pipe_back();
                self.drop_held(key, side);
                return self.on_spliced(key, side);
            }
            break;
        }
        self.advance(key, side);
    }

    /// A half copies again, perhaps because a body has ended.
    fn on_spliced(&mut self, key: Key, side: Side) {
        self.account_finished(key);
        self.on_passed(key, side);
    }

    /// A half that moves bulk gets a pipe, if there is one.
    pub(super) fn consider_pipe(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let unseen = connection.guide.unseen(side);
        let direction = connection.direction(side);
        let wanted = direction.half.wants_pipe() && unseen >= u64::from(BULK_BYTES);
        if !wanted || direction.reads_on() {
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
}
