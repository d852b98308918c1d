//! Notices exchanges without an end: a sweep instead of a timer for each of them.
//!
//! A timer per request would cost more than the request. Every connection writes down when its
//! present operation began; a sweep shuts down the sockets that have waited for too long, which
//! ends their operations, and the connection finds out why.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use nix::sys::socket::{Shutdown, shutdown};

/// A timeout is noticed late by at most this share of it, or by [`SWEEP_MIN`].
const SWEEPS_PER_TIMEOUT: u32 = 8;
const SWEEP_MIN: Duration = Duration::from_millis(10);

/// The connections of one thread.
#[derive(Debug)]
pub(crate) struct Watch {
    timeout: Duration,
    slots: RefCell<Vec<Rc<Slot>>>,
}

/// What one connection waits for.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    waiting: Cell<Option<(RawFd, Instant)>>,
    expired: Cell<bool>,
}

impl Watch {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, slots: RefCell::default() }
    }

    /// A place for one more connection.
    pub(crate) fn slot(&self) -> Rc<Slot> {
        let slot = Rc::new(Slot::default());
        self.slots.borrow_mut().push(slot.clone());
        slot
    }

    /// Sweep for ever.
    pub(crate) async fn run(&self) {
        let pause = (self.timeout / SWEEPS_PER_TIMEOUT).max(SWEEP_MIN);
        loop {
            monoio::time::sleep(pause).await;
            let now = Instant::now();
            for slot in self.slots.borrow().iter() {
                slot.expire(now, self.timeout);
            }
        }
    }
}

impl Slot {
    /// An operation on the stream begins. It must be ended before the stream is dropped.
    pub(crate) fn begin(&self, stream: &TcpStream, now: Instant) {
        self.expired.set(false);
        self.waiting.set(Some((stream.as_raw_fd(), now)));
    }

    /// The operation has ended; whether that was the sweep's doing.
    pub(crate) fn end(&self) -> Expired {
        self.waiting.set(None);
        if self.expired.get() { Expired::Yes } else { Expired::No }
    }

    fn expire(&self, now: Instant, timeout: Duration) {
        if let Some((descriptor, since)) = self.waiting.get()
            && now.saturating_duration_since(since) > timeout
        {
            self.waiting.set(None);
            self.expired.set(true);
            // A socket that is no longer connected has ended the operation by itself.
            let _ = shutdown(descriptor, Shutdown::Both);
        }
    }
}

/// Why an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    Yes,
    No,
}
