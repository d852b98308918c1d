//! Multishot receives: one submission for many receives (IORING_RECV_MULTISHOT, Linux 6.0).
//!
//! A receive that is submitted again for each piece costs the kernel a request, a look at the
//! socket, and arming and disarming a wait. A multishot receive costs that once, but has no
//! back-pressure: it would receive as fast as the source sends. So it is given a credit (`optlen`,
//! Linux 6.17), and ends when that many bytes have come. Each ring tries once whether the kernel
//! keeps to the credit, since older ones ignore it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::{GROUP, POLL_FIRST, Uring};
use crate::sys::kernel::{Expect, Operation, RECEIVE_CREDIT_BYTES, Token};

/// IORING_RECV_MULTISHOT (linux/io_uring.h), in the entry's `ioprio`.
const MULTISHOT: u16 = 2;

/// What the kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MultishotReceives {
    /// Multishot receives with a credit.
    Supported,
    /// A receive ends with its first bytes.
    Unsupported,
}

/// Receives from `socket` until the credit is used up.
pub(super) fn entry(socket: RawFd, expect: Expect) -> squeue::Entry {
    entry_with_credit(socket, expect, RECEIVE_CREDIT_BYTES)
}

fn entry_with_credit(socket: RawFd, expect: Expect, credit_bytes: u32) -> squeue::Entry {
    /// Where `optlen` is in `struct io_uring_sqe`, and how long that is.
    const CREDIT_OFFSET: usize = 44;
    const _: () = assert!(size_of::<squeue::Entry>() == 64 && CREDIT_OFFSET + 4 <= 64);
    let first = if expect == Expect::Bytes { 0 } else { POLL_FIRST };
    let mut entry = opcode::Recv::new(Fd(socket), std::ptr::null_mut(), 0)
        .buf_group(GROUP)
        .ioprio(MULTISHOT | first)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
    // SAFETY: the field lies inside the entry, which is `struct io_uring_sqe` (repr(C), of the size
    // that is asserted above); the crate has no way to set it.
    let credit = unsafe { (&raw mut entry).byte_add(CREDIT_OFFSET) };
    // SAFETY: `credit` points to the 4 bytes of `optlen` in an entry that is ours, at a multiple of
    // 4 from its start, which is 8-aligned; every value is valid.
    unsafe { credit.cast::<u32>().write(credit_bytes) };
    entry
}

/// Receives the same bytes with a credit that is used up by them, and with one that is not.
pub(super) fn try_out(ring: &mut Uring) -> io::Result<MultishotReceives> {
    const BYTES: &[u8] = b"credit";
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let mut went_on = [false; 2];
    for (spare, went_on) in [0, 1].into_iter().zip(&mut went_on) {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        nix::unistd::write(&other, BYTES)?;
        let credit = u32::try_from(BYTES.len()).unwrap_or(0) + spare;
        ring.push(
            Operation::Receive,
            Token(0),
            entry_with_credit(one.as_raw_fd(), Expect::Bytes, credit),
        );
        ring.enter(0, None)?;
        *went_on = ring.took_one_that_goes_on();
        // Ends what goes on, and what an older kernel may have made of it.
        drop(other);
        ring.enter(0, None)?;
        ring.took_one_that_goes_on();
    }
    Ok(if went_on == [false, true] {
        MultishotReceives::Supported
    } else {
        MultishotReceives::Unsupported
    })
}

impl Uring {
    /// Takes all completions, gives their buffers back, and returns whether one has brought bytes
    /// and is not the last of its receive.
    fn took_one_that_goes_on(&mut self) -> bool {
        self.take_completions();
        let mut goes_on = false;
        while let Some(entry) = self.turn.pop_front() {
            let length = u32::try_from(entry.result()).unwrap_or(0);
            if let Some(id) = cqueue::buffer_select(entry.flags()) {
                let buffer = self.buffers.taken(id, length);
                self.buffers.release(buffer);
            }
            goes_on |= length > 0 && cqueue::more(entry.flags());
        }
        goes_on
    }
}
