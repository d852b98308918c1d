//! From a completion queue entry to what it means.

use io_uring::{cqueue, opcode, types::Fd};
use nix::errno::Errno;

use super::{ALARM, DEAD_EVENTS, Uring, WRITABLE_WAITS};
use crate::sys::kernel::{Completion, Expect, Operation, Token};
use crate::sys::socket::Socket;

/// The token in an entry's user data.
pub(super) fn token_of(user_data: u64) -> Token {
    Token(user_data >> Token::RING_BITS)
}

/// The operation in an entry's user data; `None` for what the ring marks for itself.
pub(super) fn operation_of(user_data: u64) -> Option<Operation> {
    let bits = user_data & ((1 << Token::RING_BITS) - 1);
    u8::try_from(bits).ok().and_then(Operation::from_bits)
}

impl Uring {
    pub(super) fn decode(&mut self, entry: &cqueue::Entry) -> Option<Completion<Socket>> {
        let user_data = entry.user_data();
        if user_data == ALARM {
            self.alarm = None;
            return None;
        }
        if user_data == WRITABLE_WAITS {
            self.on_writable_waits();
            return None;
        }
        let operation = operation_of(user_data)?;
        let token = token_of(user_data);
        let result = match entry.result() {
            failed if failed < 0 => Err(Errno::from_raw(-failed)),
            done => Ok(done.unsigned_abs()),
        };
        Some(match operation {
            Operation::Accept => Completion::Accepted {
                token,
                result: result.map(|fd| Socket::from_accepted(fd.cast_signed())),
                rearm: !cqueue::more(entry.flags()),
            },
            Operation::Connect => Completion::Connected { token, result: result.map(drop) },
            Operation::Receive => self.decode_received(token, result, entry.flags()),
            Operation::Send => Completion::Sent { token, result: result.map(|n| n as usize) },
            Operation::Writable => {
                if !self.writable.ended_in_ring(user_data, result.unwrap_or(u32::MAX)) {
                    self.await_writable_waits();
                    return None;
                }
                Completion::Ready { token, operation, result: result.map(drop) }
            }
            Operation::Readable => Completion::Ready { token, operation, result: result.map(drop) },
            Operation::Dead => {
                let is_dead =
                    |events| (events & DEAD_EVENTS != 0).then_some(()).ok_or(Errno::EAGAIN);
                Completion::Ready { token, operation, result: result.and_then(is_dead) }
            }
        })
    }

    /// Waits for the epoll instance, unless that wait is in flight already.
    fn await_writable_waits(&mut self) {
        if !self.awaits_writable {
            self.awaits_writable = true;
            let events = u32::from(libc::POLLIN.cast_unsigned());
            let entry = opcode::PollAdd::new(Fd(self.writable.descriptor()), events).build();
            self.push_raw(entry.user_data(WRITABLE_WAITS));
        }
    }

    fn on_writable_waits(&mut self) {
        self.awaits_writable = false;
        for user_data in self.writable.take_over() {
            let token = token_of(user_data);
            let operation = Operation::Writable;
            self.aside.push_back(Completion::Ready { token, operation, result: Ok(()) });
        }
        if self.writable.is_waiting() {
            self.await_writable_waits();
        }
    }

    fn decode_received(
        &mut self,
        token: Token,
        result: Result<u32, Errno>,
        flags: u32,
    ) -> Completion<Socket> {
        let length = result.unwrap_or(0);
        let buffer = cqueue::buffer_select(flags).map(|id| self.buffers.taken(id, length));
        let result = match (result, buffer) {
            (Ok(0) | Err(_), Some(unused)) => {
                self.buffers.release(unused);
                result.map(|_| None)
            }
            (Ok(0), None) => Ok(None),
            (Ok(bytes), None) => panic!("{bytes} bytes were received into no buffer"),
            (Ok(_), buffer) => Ok(buffer),
            (Err(error), None) => {
                if error == Errno::ENOBUFS {
                    self.buffers.starved();
                }
                Err(error)
            }
        };
        let more = cqueue::sock_nonempty(flags);
        let expect = if more { Expect::Bytes } else { Expect::Nothing };
        let rearm = !cqueue::more(flags);
        Completion::Received { token, result, expect, rearm }
    }
}
