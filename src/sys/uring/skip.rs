//! CQE-skip sends: sends whose success posts no completion.
//!
//! A send never waits (MSG_DONTWAIT), so it has run when the enter that hands it over returns. If
//! nothing waits for its end, a completion of its own would only end a sleep. With
//! IOSQE_CQE_SKIP_SUCCESS (Linux 5.17) the kernel posts none, and the ring reports the success with
//! the completion that comes next. MSG_WAITALL turns a partial send into a failed one, which does
//! post a completion (io_uring_enter(2)). Each ring tries once whether the kernel does so, because
//! bytes would be lost unnoticed if it did not.

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
/// In a batch of one, bytes are sent by send(2) at once: the peer that they wake runs before this
/// thread goes to sleep, and the next bytes often need no wait. In a larger batch, sends go through
/// the ring together, so that the peers run when all of them have their bytes (perf/README.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    One,
    Many,
}

/// Whether the kernel posts a completion for a CQE-skip send that is partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortfalls {
    Posted,
    NotPosted,
}

#[derive(Debug, Clone, Copy)]
struct SkipSend {
    user_data: u64,
    length: u32,
}

/// The CQE-skip sends of one ring.
#[derive(Debug)]
pub(super) struct SkipSends {
    shortfalls: Shortfalls,
    /// Handed over, or about to be; in this order.
    queued: Vec<SkipSend>,
    /// They have succeeded, and are not reported yet.
    taken: VecDeque<SkipSend>,
}

impl SkipSends {
    /// Finds out what the kernel does.
    pub(super) fn new(ring: &mut IoUring) -> io::Result<Self> {
        let shortfalls = try_out(ring)?;
        Ok(Self { shortfalls, queued: Vec::new(), taken: VecDeque::new() })
    }

    /// The notice that this kernel can give.
    pub(super) fn possible(&self, notice: Notice) -> Notice {
        match self.shortfalls {
            Shortfalls::Posted => notice,
            Shortfalls::NotPosted => Notice::Prompt,
        }
    }

    /// A CQE-skip send was queued.
    pub(super) fn queued(&mut self, user_data: u64, length: u32) {
        self.queued.push(SkipSend { user_data, length });
    }

    /// All queued sends have run, and `posted` holds every completion that the kernel has posted: a
    /// send that is not among them has succeeded.
    pub(super) fn settle(&mut self, posted: &VecDeque<cqueue::Entry>) {
        if self.queued.is_empty() {
            return;
        }
        let sends = posted.iter().map(cqueue::Entry::user_data);
        for user_data in sends.filter(|&one| operation_of(one) == Some(Operation::Send)) {
            if let Some(at) = self.queued.iter().position(|send| send.user_data == user_data) {
                self.queued.remove(at);
            }
        }
        self.taken.extend(self.queued.drain(..));
    }

    /// The next success to be reported.
    pub(super) fn next_sent(&mut self) -> Option<Completion<Socket>> {
        let SkipSend { user_data, length } = self.taken.pop_front()?;
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
        [(SHORT, taken)] if taken > 0 && taken.unsigned_abs() < MORE_THAN_FITS => {
            Shortfalls::Posted
        }
        _ => Shortfalls::NotPosted,
    })
}
