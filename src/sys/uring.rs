//! The ring on io_uring(7).
//!
//! One ring per thread, made on that thread. Operations that would run on kernel worker threads
//! (IORING_OP_SPLICE, IORING_OP_SHUTDOWN) are not used; everything here completes inline or by
//! poll.

mod completions;
mod entry;
mod multishot;
mod operations;
mod setup;
mod skip;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use io_uring::types::Timespec;
use io_uring::{IoUring, cqueue, squeue};
use nix::sys::socket::SockaddrStorage;

use crate::sys::buffers::BufferPool;
use crate::sys::kernel::{Completion, Operation, Token};
use crate::sys::socket::Socket;
use crate::sys::writable::WritableWaits;

use entry::EntryPoint;
use multishot::MultishotReceives;
pub use setup::SetupError;
use setup::{check_operations, set_up};
use skip::{Batch, SkipSends};

/// Submissions that fit before they must be handed to the kernel.
const SUBMISSIONS: u32 = 1024;

/// Completions that fit before the kernel has to keep them elsewhere (counted as overflow).
const COMPLETIONS: u32 = 16 * 1024;

/// Completions handled in one turn. A bound keeps the first answers of a large batch from waiting
/// for the last; what is left comes with the next turn, which does not sleep.
const COMPLETIONS_PER_TURN: usize = 64;

/// The buffer group; a ring has one.
const GROUP: u16 = 0;

/// Receive and accept only after the socket polled ready (IORING_RECVSEND_POLL_FIRST, Linux 5.19).
const POLL_FIRST: u16 = 1;

/// The event that says that a socket was reset. POLLHUP is no such sign: it also means that FIN
/// went both ways, perhaps with bytes still to be read.
const DEAD_EVENTS: u32 = libc::POLLERR.cast_unsigned() as u32;

/// Marks completions that nobody waits for: those of cancels and closes that failed.
const IGNORED: u64 = 0;

/// Marks the alarm.
const ALARM: u64 = 14;

/// Marks the wait for the epoll instance of [`WritableWaits`]; no operation has these bits.
const WRITABLE_WAITS: u64 = 15;

/// One thread's ring and its buffers. Not `Send`: the kernel ties the ring to its thread.
pub struct Uring {
    // Drop order: the way into the ring, the ring, then the memory that its operations write to.
    entry: EntryPoint,
    ring: IoUring,
    buffers: BufferPool,
    /// Addresses of connects that are queued but not handed over yet: the kernel reads them at
    /// submission (IORING_FEAT_SUBMIT_STABLE). Never grows beyond its capacity, so never moves.
    addresses: Vec<SockaddrStorage>,
    /// Completions that were taken from the queue and not handed out yet.
    turn: VecDeque<cqueue::Entry>,
    /// How many more may be handed out before the next wait.
    left_in_turn: usize,
    batch: Batch,
    hurried: bool,
    skip_sends: SkipSends,
    multishot: MultishotReceives,
    writable: WritableWaits,
    /// When a timeout in the ring will end a wait, if one is in flight.
    alarm: Option<Instant>,
    /// How long that is from when it is handed over, where the kernel reads it.
    alarm_time: Box<Timespec>,
    /// Completions that did not come through the completion queue.
    aside: VecDeque<Completion<Socket>>,
    /// Enters that left completions aside because the completion queue was full.
    overflows: u64,
    /// The ring waits for the epoll instance of `writable`.
    awaits_writable: bool,
    features: &'static str,
    /// The kernel does its part of receives only while this thread enters it (DEFER_TASKRUN).
    defers: bool,
    not_send: std::marker::PhantomData<*mut ()>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("features", &self.features).finish_non_exhaustive()
    }
}

impl Uring {
    /// A ring for the calling thread with a pool of `buffers` buffers.
    ///
    /// Set-up flags are chosen by trying: DEFER_TASKRUN with SINGLE_ISSUER (6.1) halves the
    /// wake-ups, COOP_TASKRUN (5.19) comes next, a plain ring last.
    ///
    /// # Errors
    /// The kernel has no io_uring, denies it, or is older than 5.19; see [`SetupError`].
    pub fn new(buffers: u16) -> Result<Self, SetupError> {
        let (mut ring, features) = set_up()?;
        check_operations(&ring)?;
        let skip_sends = SkipSends::new(&mut ring).map_err(SetupError::Resources)?;
        let buffers = BufferPool::new(buffers).map_err(SetupError::Resources)?;
        let (address, entries) = buffers.registration();
        // SAFETY: the ring memory is mapped, page aligned, of the stated number of entries, and is
        // unmapped only after `ring` was dropped (field order above).
        unsafe { ring.submitter().register_buf_ring_with_flags(address, entries, GROUP, 0) }
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => SetupError::TooOld("IORING_REGISTER_PBUF_RING"),
                _ => SetupError::Resources(error),
            })?;
        let writable = WritableWaits::new().map_err(|e| SetupError::Resources(e.into()))?;
        let entry = EntryPoint::of(&ring);
        let mut uring = Self {
            entry,
            ring,
            buffers,
            addresses: Vec::with_capacity(SUBMISSIONS as usize),
            turn: VecDeque::with_capacity(COMPLETIONS_PER_TURN),
            left_in_turn: 0,
            batch: Batch::Many,
            hurried: false,
            skip_sends,
            multishot: MultishotReceives::Unsupported,
            writable,
            alarm: None,
            alarm_time: Box::new(Timespec::new()),
            aside: VecDeque::new(),
            awaits_writable: false,
            overflows: 0,
            features,
            defers: features.contains("defer_taskrun"),
            not_send: std::marker::PhantomData,
        };
        uring.multishot = multishot::try_out(&mut uring).map_err(SetupError::Resources)?;
        Ok(uring)
    }

    /// The set-up flags that this kernel accepted.
    #[must_use]
    pub fn features(&self) -> &'static str {
        self.features
    }

    fn push(&mut self, operation: Operation, token: Token, entry: squeue::Entry) {
        debug_assert_eq!(token.0 >> (64 - Token::RING_BITS), 0, "the top bits are the ring's");
        self.push_raw(entry.user_data(user_data(operation, token)));
    }

    fn push_raw(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: what the entry points to outlives the operation: buffers live as long as the
            // ring, an address lives in `addresses` and the alarm's time in its box until they were
            // submitted, and descriptors are integers that stay open while an operation is in
            // flight (the trait's contract).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it over to make room. EBUSY, which is no error of `enter`,
            // clears when the completions are taken.
            self.enter(0, None).expect("a ring that fails cannot go on: its connections are lost");
            if self.ring.submission().is_full() {
                self.take_completions();
            }
        }
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.buffers.refill();
        let queued = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        self.entry.enter(queued, want, timeout)?;
        let queue = self.ring.submission();
        self.overflows += u64::from(queue.cq_overflow());
        if queue.is_empty() {
            self.addresses.clear();
        }
        Ok(())
    }

    fn take_completions(&mut self) {
        self.turn.extend(self.ring.completion());
    }
}

fn user_data(operation: Operation, token: Token) -> u64 {
    (token.0 << Token::RING_BITS) | operation as u64
}
