//! Waiting for room to write on a socket whose peer has sent FIN.
//!
//! io_uring adds POLLRDHUP to every poll (IO_POLL_UNMASK, io_uring/poll.c), so once the peer has
//! sent FIN each wait on the socket ends at once, writable or not; a send that waits by itself
//! would try 128 times and then block on a kernel worker thread (observed on Linux 6.18). epoll(7)
//! does not add it, so such waits are kept in an epoll instance, and the ring waits for that one.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Waits that end in one call; the others end in the next.
const BATCH: usize = 32;

/// The waits for room to write of one ring, by the user data of their operations.
#[derive(Debug)]
pub(in crate::sys) struct WritableWaits {
    epoll: Epoll,
    /// In the ring: every wait begins there, for most end there.
    in_ring: HashMap<u64, RawFd, foldhash::fast::RandomState>,
    /// In the epoll instance.
    in_epoll: HashMap<u64, RawFd, foldhash::fast::RandomState>,
}

impl WritableWaits {
    pub(in crate::sys) fn new() -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, in_ring: HashMap::default(), in_epoll: HashMap::default() })
    }

    /// A wait on `descriptor` was given to the ring.
    pub(in crate::sys) fn begin(&mut self, user_data: u64, descriptor: RawFd) {
        self.in_ring.insert(user_data, descriptor);
    }

    /// A wait has ended in the ring with these events; returns whether it is over. Else it goes on
    /// in the epoll instance.
    pub(in crate::sys) fn ended_in_ring(&mut self, user_data: u64, events: u32) -> bool {
        const OVER: u32 = (libc::POLLOUT | libc::POLLERR | libc::POLLHUP).cast_unsigned() as u32;
        let Some(descriptor) = self.in_ring.remove(&user_data) else { return true };
        if events & OVER != 0 {
            return true;
        }
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, user_data);
        // Without memory or watches left (epoll(7)) the caller tries to write again at once.
        if self.epoll.add(borrow(descriptor), event).is_err() {
            return true;
        }
        self.in_epoll.insert(user_data, descriptor);
        false
    }

    /// Ends a wait early; returns whether it was in the epoll instance.
    pub(in crate::sys) fn cancel(&mut self, user_data: u64) -> bool {
        // A wait that is still in the ring, or has ended there unseen, must not move on to here.
        self.in_ring.remove(&user_data);
        let Some(descriptor) = self.in_epoll.remove(&user_data) else { return false };
        let _ = self.epoll.delete(borrow(descriptor));
        true
    }

    /// The waits in the epoll instance that are over.
    pub(in crate::sys) fn take_over(&mut self) -> Vec<u64> {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let over: Vec<u64> = events[..count].iter().map(EpollEvent::data).collect();
        for user_data in &over {
            self.cancel(*user_data);
        }
        over
    }

    /// Whether the epoll instance holds any wait.
    pub(in crate::sys) fn is_waiting(&self) -> bool {
        !self.in_epoll.is_empty()
    }

    /// The epoll instance, for the ring to wait on.
    pub(in crate::sys) fn descriptor(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

fn borrow<'a>(descriptor: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the descriptor must be open while it is borrowed. It belongs to a socket with an
    // operation in flight, this wait, and such a socket is not closed (the contract of
    // `Kernel::close`).
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}
