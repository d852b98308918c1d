//! Sends that complete in silence.
//!
//! A send never waits (MSG_DONTWAIT), so it has run when the enter that hands it over returns. If
//! nobody waits for its end, a completion of its own would only end a sleep: with
//! IOSQE_CQE_SKIP_SUCCESS (Linux 5.17) there is none, and the end is told with whatever completes
//! next. MSG_WAITALL makes a send that is taken in part a failed one, which is not silent
//! (io_uring_enter(2)). That the kernel keeps to this is tried out once per ring, because bytes
//! would be lost without a word if it did not.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::completions::{operation_of, token_of};
use crate::sys::kernel::{Completion, Notice, Operation};
use crate::sys::socket::Socket;

/// How many completions a turn has brought.
///
/// What is sent for one alone goes by send(2) at once: the peer that it wakes runs before this
/// thread goes to sleep, and the next bytes often need no wait. Sends for many go together, because
/// then the peers run when all of them have their bytes (see perf/README.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowd {
    Lone,
    Many,
}

/// Whether the kernel tells of a silent send that falls short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortfalls {
    Told,
    Untold,
}

#[derive(Debug, Clone, Copy)]
struct QuietSend {
    user_data: u64,
    length: u32,
}

/// The silent sends of one ring.
#[derive(Debug)]
pub(super) struct QuietSends {
    shortfalls: Shortfalls,
    /// Handed over, or about to be; in this order.
    queued: Vec<QuietSend>,
    /// Known to have been taken in full, and not told yet.
    taken: VecDeque<QuietSend>,
}

impl QuietSends {
    /// Tries out what the kernel does.
    pub(super) fn new(ring: &mut IoUring) -> io::Result<Self> {
        let shortfalls = try_out(ring)?;
        Ok(Self { shortfalls, queued: Vec::new(), taken: VecDeque::new() })
    }

    /// The notice that can be given for one that is wanted.
    pub(super) fn possible(&self, notice: Notice) -> Notice {
        match self.shortfalls {
            Shortfalls::Told => notice,
            Shortfalls::Untold => Notice::Prompt,
        }
    }

    /// A silent send was queued.
    pub(super) fn queued(&mut self, user_data: u64, length: u32) {
        self.queued.push(QuietSend { user_data, length });
    }

    /// All that were queued have run, and `told` holds all completions that there are: whichever is
    /// not among them has succeeded.
    pub(super) fn settle(&mut self, told: &VecDeque<cqueue::Entry>) {
        if self.queued.is_empty() {
            return;
        }
        let sends = told.iter().map(cqueue::Entry::user_data);
        for user_data in sends.filter(|&one| operation_of(one) == Some(Operation::Send)) {
            if let Some(at) = self.queued.iter().position(|send| send.user_data == user_data) {
                self.queued.remove(at);
            }
        }
        self.taken.extend(self.queued.drain(..));
    }

    /// The next one to be told.
    pub(super) fn next_sent(&mut self) -> Option<Completion<Socket>> {
        let QuietSend { user_data, length } = self.taken.pop_front()?;
        let token = token_of(user_data);
        Some(Completion::Sent { token, result: Ok(length as usize) })
    }
}

/// A send that takes what there is room for now.
pub(super) fn send_entry(
    socket: RawFd,
    start: *const u8,
    length: u32,
    notice: Notice,
) -> squeue::Entry {
    // Not to wait in the kernel, which it does badly after a FIN (see `sys/writable.rs`).
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let send = opcode::Send::new(Fd(socket), start, length);
    match notice {
        Notice::Prompt => send.flags(flags).build(),
        Notice::Skip => {
            send.flags(flags | libc::MSG_WAITALL).build().flags(squeue::Flags::SKIP_SUCCESS)
        }
    }
}

/// Sends more than there is room for, and then a little: the first must be told with how much was
/// taken, the second not.
fn try_out(ring: &mut IoUring) -> io::Result<Shortfalls> {
    const MORE_THAN_FITS: u32 = 4 << 20;
    const SHORT: u64 = 1;
    const WHOLE: u64 = 2;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    let bytes = vec![0_u8; MORE_THAN_FITS as usize];
    let short =
        send_entry(one.as_raw_fd(), bytes.as_ptr(), MORE_THAN_FITS, Notice::Skip).user_data(SHORT);
    let whole = send_entry(other.as_raw_fd(), bytes.as_ptr(), 1, Notice::Skip).user_data(WHOLE);
    for entry in [&short, &whole] {
        // SAFETY: push requires that what the entry points to outlives the operation: `bytes` and
        // both sockets live until this function returns, and a send that does not wait has run when
        // `submit` returns.
        let queued = unsafe { ring.submission().push(entry) };
        queued.map_err(|_| io::ErrorKind::OutOfMemory)?;
    }
    ring.submit()?;
    let told: Vec<(u64, i32)> =
        ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
    Ok(match told[..] {
        [(SHORT, taken)] if taken > 0 && taken.unsigned_abs() < MORE_THAN_FITS => Shortfalls::Told,
        _ => Shortfalls::Untold,
    })
}
