//! The ring on io_uring(7).
//!
//! One ring per thread, made on that thread. Operations that would run on kernel worker threads
//! (IORING_OP_SPLICE, IORING_OP_SHUTDOWN) are not used; everything here completes inline or by
//! poll.

mod completions;
mod entry;
mod quiet;
mod setup;
mod standing;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage};

use crate::sys::buffers::{BUFFER_BYTES, Buffer, BufferPool};
use crate::sys::ring::{Completion, Expect, Notice, Operation, Ring, Token, Trimmed};
use crate::sys::socket::{Listener, Socket, to_kernel};
use crate::sys::waker::Waker;
use crate::sys::writable::WritableWaits;

use entry::EntryPoint;
use quiet::{Crowd, QuietSends};
pub use setup::SetupError;
use setup::{check_operations, set_up};
use standing::StandingReceives;

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
    crowd: Crowd,
    hurried: bool,
    quiet: QuietSends,
    standing: StandingReceives,
    writable: WritableWaits,
    /// When a timeout in the ring will end a wait, if one is in flight.
    alarm: Option<Instant>,
    /// How long that is from when it is handed over, where the kernel reads it.
    alarm_time: Box<Timespec>,
    /// Completions that did not come through the completion queue.
    aside: VecDeque<Completion>,
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
        let quiet = QuietSends::new(&mut ring).map_err(SetupError::Resources)?;
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
            crowd: Crowd::Many,
            hurried: false,
            quiet,
            standing: StandingReceives::Unknown,
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
        uring.standing = standing::try_out(&mut uring).map_err(SetupError::Resources)?;
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

impl Ring for Uring {
    fn accept(&mut self, listener: &Listener, token: Token) {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(flags).build();
        self.push(Operation::Accept, token, entry);
    }

    fn connect(&mut self, socket: &Socket, address: &SocketAddr, token: Token) {
        if self.addresses.len() == self.addresses.capacity() {
            // As many connects as the queue has entries: hand them over, which empties the list.
            let _ = self.enter(0, None);
            if self.addresses.len() == self.addresses.capacity() {
                self.take_completions();
                let _ = self.enter(0, None);
            }
        }
        let (storage, length) = to_kernel(address);
        let room = self.addresses.len() < self.addresses.capacity();
        assert!(room, "queued connects point into the list: it must not move");
        self.addresses.push(storage);
        let pointer = self.addresses.last().map_or(std::ptr::null(), std::ptr::from_ref).cast();
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), pointer, length).build();
        self.push(Operation::Connect, token, entry);
    }

    fn receive(&mut self, socket: &Socket, most: u32, expect: Expect, token: Token) {
        let priority = if expect == Expect::Bytes { 0 } else { POLL_FIRST };
        // The kernel chooses the address. Length 0 would mean the whole buffer only from 6.0 on.
        let most = most.clamp(1, BUFFER_BYTES);
        let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), std::ptr::null_mut(), most)
            .buf_group(GROUP)
            .ioprio(priority)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(Operation::Receive, token, entry);
    }

    fn receive_on(&mut self, socket: &Socket, expect: Expect, token: Token) {
        match self.standing {
            StandingReceives::Known => {
                let entry = standing::entry(socket.as_raw_fd(), expect);
                self.push(Operation::Receive, token, entry);
            }
            StandingReceives::Unknown => self.receive(socket, BUFFER_BYTES, expect, token),
        }
    }

    fn send(
        &mut self,
        socket: &Socket,
        buffer: &Buffer,
        bytes: Range<u32>,
        notice: Notice,
        token: Token,
    ) {
        let length = bytes.end - bytes.start;
        let bytes = self.buffers.range(buffer, bytes);
        if self.crowd == Crowd::Lone {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            let result = nix::sys::socket::send(socket.as_raw_fd(), bytes, flags);
            return self.aside.push_back(Completion::Sent { token, result });
        }
        let start = bytes.as_ptr();
        let notice = self.quiet.possible(notice);
        let entry = quiet::send_entry(socket.as_raw_fd(), start, length, notice);
        self.push(Operation::Send, token, entry);
        if notice == Notice::Lazy {
            self.quiet.queued(user_data(Operation::Send, token), length);
        }
    }

    fn poll(&mut self, socket: &Socket, operation: Operation, token: Token) {
        let events = match operation {
            Operation::Readable => libc::POLLIN,
            Operation::Writable => libc::POLLOUT,
            // POLLERR and POLLHUP are always reported.
            _ => 0,
        };
        let events = u32::from(events.cast_unsigned());
        let entry = opcode::PollAdd::new(Fd(socket.as_raw_fd()), events).build();
        if operation == Operation::Writable {
            self.writable.begin(user_data(operation, token), socket.as_raw_fd());
        }
        self.push(operation, token, entry);
    }

    fn poll_waker(&mut self, waker: &Waker, token: Token) {
        let events = u32::from(libc::POLLIN.cast_unsigned());
        let entry = opcode::PollAdd::new(Fd(waker.as_raw_fd()), events).build();
        self.push(Operation::Readable, token, entry);
    }

    fn cancel(&mut self, operation: Operation, token: Token) {
        let target = user_data(operation, token);
        if operation == Operation::Writable && self.writable.cancel(target) {
            let result = Err(Errno::ECANCELED);
            return self.aside.push_back(Completion::Ready { token, operation, result });
        }
        let entry = opcode::AsyncCancel::new(target)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(IGNORED);
        self.push_raw(entry);
    }

    fn close(&mut self, socket: Socket) {
        let entry = opcode::Close::new(Fd(socket.into_raw()))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(IGNORED);
        self.push_raw(entry);
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.buffers.bytes(buffer)
    }

    fn fill(&mut self, bytes: &[u8]) -> Option<Buffer> {
        self.buffers.fill(bytes)
    }

    fn prepend(&mut self, buffer: &mut Buffer, bytes: &[u8]) {
        self.buffers.prepend(buffer, bytes);
    }

    fn release(&mut self, buffer: Buffer) {
        self.buffers.release(buffer);
    }

    fn free_buffers(&self) -> usize {
        self.buffers.free()
    }

    fn trim(&mut self) -> Trimmed {
        let free = self.buffers.trim();
        // With DEFER_TASKRUN the kernel receives into offered buffers only within an enter of this
        // thread; and if no completion is left to be read, none of them holds bytes.
        let (overflowed, completions) = {
            let (_, mut submission, completion) = self.ring.split();
            submission.sync();
            (submission.cq_overflow(), completion.len())
        };
        let told = self.turn.is_empty() && self.aside.is_empty() && completions == 0;
        if !self.defers || overflowed || !told {
            return free;
        }
        match self.buffers.trim_offered() {
            Trimmed::Fully => free,
            Trimmed::Partly => Trimmed::Partly,
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        self.enter(0, None)
    }

    fn hurry(&mut self) {
        self.hurried = true;
    }

    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let may_sleep = !std::mem::take(&mut self.hurried);
        let want = u32::from(may_sleep && self.turn.is_empty() && self.aside.is_empty());
        self.enter_until(want, deadline)?;
        self.take_completions();
        self.left_in_turn = COMPLETIONS_PER_TURN;
        self.crowd = if self.turn.len() > 1 { Crowd::Many } else { Crowd::Lone };
        let all_ran = self.ring.submission().is_empty();
        if all_ran && !self.ring.submission().cq_overflow() {
            self.quiet.settle(&self.turn);
        }
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion> {
        if let Some(sent) = self.quiet.next_sent() {
            return Some(sent);
        }
        while self.left_in_turn > 0
            && let Some(entry) = self.turn.pop_front()
        {
            self.left_in_turn -= 1;
            if let Some(completion) = self.decode(&entry) {
                return Some(completion);
            }
        }
        self.aside.pop_front()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn overflows(&self) -> u64 {
        self.overflows
    }
}
