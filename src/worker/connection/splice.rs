//! Moving bulk: through a pipe instead of a buffer, as far as no gate has to see the bytes.

use super::direction::Held;
use super::{Connection, LostBy, Next};
use crate::probe::planted;
use crate::relay::{BULK_BYTES, Side, State};
use crate::sys::kernel::{Expect, Kernel, SplicePipe};
use crate::sys::pipe::Spliced;
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// The source has bytes: into the pipe with them, and on.
    pub(super) fn fill(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        let unseen = self.gate.unseen(side);
        let direction = &mut self.directions[side as usize];
        let source = &self.ends[side as usize].socket;
        let (Held::Pipe(pipe), Some(source)) = (&mut direction.held, source) else {
            return Next::Rest;
        };
        match pipe.fill(source, unseen) {
            Ok(Spliced::Bytes(bytes)) => {
                direction.half.filled(bytes);
                if !planted!(SpliceUntold) {
                    self.gate.skipped(side, bytes as u64);
                }
                cx.metrics.counters.bytes_spliced.add(bytes as u64);
                let twice = if planted!(SplicedCountedTwice) { 2 } else { 1 };
                self.count_read(side, twice * bytes as u64, cx);
                self.flush(side, cx)
            }
            Ok(Spliced::End) => Next::Ended(side),
            Ok(Spliced::NotReady) => {
                // The socket is readable, but not for splice: an urgent byte is in the way, which
                // only a receive steps over (tcp_read_sock, net/ipv4/tcp.c).
                direction.half.put_pipe_back();
                direction.expect = Expect::Bytes;
                self.release_held(side, cx);
                Next::Advance(side)
            }
            Err(_) => Next::Lost(side, LostBy::Reading),
        }
    }

    /// The pipe holds bytes: to the target with them, as far as it takes them.
    pub(super) fn flush(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        loop {
            let direction = &mut self.directions[side as usize];
            let target = &self.ends[side.peer() as usize].socket;
            let (Held::Pipe(pipe), Some(target)) = (&mut direction.held, target) else {
                return Next::Rest;
            };
            match pipe.flush(target) {
                Ok(Spliced::Bytes(bytes)) => {
                    direction.half.flushed(pipe.pending_bytes());
                    self.count_written(side, bytes as u64, cx);
                }
                Ok(Spliced::End | Spliced::NotReady) => break,
                Err(_) => return Next::Lost(side.peer(), LostBy::Writing),
            }
            // What comes next must be inspected, or is small.
            let next_is_seen = self.gate.unseen(side) == 0;
            let half = &mut self.directions[side as usize].half;
            if half.state() == State::Flushing {
                continue;
            }
            if half.wants_buffers() || next_is_seen {
                half.put_pipe_back();
                self.release_held(side, cx);
                // Perhaps because a body has ended.
                self.account_ended(cx);
                return self.passed(side, cx);
            }
            break;
        }
        Next::Advance(side)
    }

    /// A half that moves bulk gets a pipe, if there is one.
    pub(super) fn consider_pipe(&mut self, side: Side, cx: &mut Context<K>) {
        let direction = &mut self.directions[side as usize];
        if !direction.half.wants_pipe()
            || direction.reads_on()
            || direction.carries()
            || self.gate.unseen(side) < u64::from(BULK_BYTES)
        {
            return;
        }
        let kernel = &mut cx.kernel;
        match cx.pipes.take(|| kernel.open_pipe()) {
            Some(pipe) => {
                direction.half.take_pipe();
                // Of what comes by the pipe the kernel does not tell.
                direction.expect = Expect::Nothing;
                direction.held = Held::Pipe(pipe);
                cx.metrics.counters.pipes_in_use.add(1);
            }
            None => {
                direction.half.go_without_pipe();
                cx.metrics.counters.pipe_fallbacks.add(1);
            }
        }
    }
}
