//! An eventfd that ends a thread's wait in its ring.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one ring from any thread. Clones wake the same ring.
#[derive(Debug, Clone)]
pub struct Waker {
    event: Arc<EventFd>,
}

impl Waker {
    /// A waker that nobody has woken yet.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self { event: Arc::new(EventFd::from_flags(flags)?) })
    }

    /// Ends the present or next wait. Several wakes before that wait are one.
    pub fn wake(&self) {
        // EAGAIN means that the counter is at its maximum: the waker is awake.
        let _ = self.event.write(1);
    }

    /// Takes the wake back, so that the next wait sleeps.
    pub fn clear(&self) {
        // EAGAIN means that it was not woken.
        let _ = self.event.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_fd().as_raw_fd()
    }
}
