//! The ring: the asynchronous operations that a proxy needs, each completing later with a token.
//!
//! [`Ring`] is narrow on purpose. io_uring ([`crate::sys::uring`]) is one implementation; readiness
//! (epoll) and a simulation can keep the same promises, which are only these:
//!
//! - an operation is queued when it is called, reaches the kernel at the next [`Ring::submit`] or
//!   [`Ring::wait`], and completes exactly once (accept and `receive_on`: again and again, until
//!   `rearm`);
//! - completions of different operations come in any order;
//! - a cancelled operation still completes, with its result or with [`Errno::ECANCELED`];
//! - a descriptor is handed to [`Ring::close`] only when no operation on it is in flight, because
//!   closing does not cancel (io_uring_cancelation(7));
//! - at most one send is in flight per socket: of two in one batch the second would overtake the
//!   tail of a partial first.
//!
//! [`Sockets`] is what happens beside the ring in one direct system call.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

pub use nix::errno::Errno;

use crate::sys::buffers::Buffer;
use crate::sys::socket::{Listener, Socket};

/// Names one submitted operation and comes back with its completion. The ring keeps the top
/// [`Token::RING_BITS`] bits for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// Bits that a caller must leave zero.
    pub const RING_BITS: u32 = 4;
}

/// What an operation waits for or does; with its token it is unique among those in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// Take connections from a listener, until told to rearm.
    Accept = 1,
    /// Connect a socket.
    Connect = 2,
    /// Receive into a buffer of the pool.
    Receive = 3,
    /// Send bytes of a buffer.
    Send = 4,
    /// Wait until there is something to read, or the end, or an error.
    Readable = 5,
    /// Wait until there is room to write, or an error.
    Writable = 6,
    /// Wait until the socket is dead (POLLERR: it was reset, or timed out); says nothing about
    /// data.
    Dead = 7,
}

impl Operation {
    /// The inverse of `self as u8`.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Accept,
            2 => Self::Connect,
            3 => Self::Receive,
            4 => Self::Send,
            5 => Self::Readable,
            6 => Self::Writable,
            7 => Self::Dead,
            _ => return None,
        })
    }
}

/// Whether a receive is likely to find bytes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Try to receive first.
    Bytes,
    /// Wait for readiness first; saves a receive that would find nothing.
    Nothing,
}

/// When whoever sends wants to know that all of it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// At once.
    Prompt,
    /// With whatever completes next, because nothing waits for it: it ends no wait of its own. A
    /// send that fails, or is taken in part only, is told promptly all the same.
    Lazy,
}

/// The end of one operation.
#[derive(Debug)]
pub enum Completion {
    /// A connection, or why there is none.
    Accepted {
        /// The accept's token.
        token: Token,
        /// The connection. Close it even if it is no longer wanted.
        result: Result<Socket, Errno>,
        /// The accept has ended: call [`Ring::accept`] again to go on.
        rearm: bool,
    },
    /// A socket is connected, or not.
    Connected {
        /// The connect's token.
        token: Token,
        /// How it went.
        result: Result<(), Errno>,
    },
    /// Bytes, or the end of them.
    Received {
        /// The receive's token.
        token: Token,
        /// The bytes; `None` is the peer's FIN. `ENOBUFS`: the pool had no buffer to offer.
        result: Result<Option<Buffer>, Errno>,
        /// The socket holds more bytes (a hint).
        expect: Expect,
        /// The receive has ended: call [`Ring::receive`] or [`Ring::receive_on`] to go on.
        rearm: bool,
    },
    /// Bytes are in the socket's send queue.
    Sent {
        /// The send's token.
        token: Token,
        /// How many; fewer than asked for is no error.
        result: Result<usize, Errno>,
    },
    /// A wait for readiness has ended.
    Ready {
        /// The operation's token.
        token: Token,
        /// Which wait: `Readable`, `Writable` or `Dead`.
        operation: Operation,
        /// `Ok` also when the readiness is an error: the next operation on the socket will tell.
        /// `Dead` may end early with `EAGAIN`, on a FIN for one: it is not dead, wait again.
        result: Result<(), Errno>,
    },
}

/// The bytes after which a receive that goes on ends, rounded up to what one receive brings: two
/// buffers full, so that one that nobody takes up costs little more than a single receive.
pub const RECEIVE_CREDIT_BYTES: u32 = 64 * 1024;

/// Whether unused memory was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trimmed {
    /// All of it.
    Fully,
    /// Some is left for the next calls.
    Partly,
}

/// Asynchronous operations on sockets, for one thread.
pub trait Ring {
    /// Takes connections from `listener` until a completion says `rearm`.
    fn accept(&mut self, listener: &Listener, token: Token);
    /// Connects `socket` to `address`.
    fn connect(&mut self, socket: &Socket, address: &SocketAddr, token: Token);
    /// Receives at most `most` bytes (not 0) into a buffer that is chosen when they are there:
    /// waiting costs no memory.
    fn receive(&mut self, socket: &Socket, most: u32, expect: Expect, token: Token);
    /// Receives as [`Ring::receive`] does, without a bound on the bytes, and goes on until a
    /// completion says `rearm`: when some [`RECEIVE_CREDIT_BYTES`] have come, at the latest. A ring
    /// may end it earlier, even with the first bytes. Nothing keeps the bytes from coming before
    /// the caller wants them.
    fn receive_on(&mut self, socket: &Socket, expect: Expect, token: Token);
    /// Sends these bytes of `buffer`, as far as there is room now; with none it completes with
    /// `EAGAIN`. The caller keeps the buffer until it completes.
    fn send(
        &mut self,
        socket: &Socket,
        buffer: &Buffer,
        bytes: Range<u32>,
        notice: Notice,
        token: Token,
    );
    /// Waits once for `Readable`, `Writable` or `Dead`.
    fn poll(&mut self, socket: &Socket, operation: Operation, token: Token);
    /// Waits once until `waker` is woken; completes as `Readable`.
    fn poll_waker(&mut self, waker: &crate::sys::waker::Waker, token: Token);
    /// Asks for an early end of an operation. It completes all the same.
    fn cancel(&mut self, operation: Operation, token: Token);
    /// Closes a socket on which nothing is in flight.
    fn close(&mut self, socket: Socket);

    /// The bytes in `buffer`.
    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8];
    /// A buffer that holds `bytes` (not none, and no more than a buffer takes); `None` while the
    /// pool is empty.
    fn fill(&mut self, bytes: &[u8]) -> Option<Buffer>;
    /// Puts `bytes` in front of those in `buffer`. Together they must fit in a buffer.
    fn prepend(&mut self, buffer: &mut Buffer, bytes: &[u8]);
    /// Gives a buffer back to the pool.
    fn release(&mut self, buffer: Buffer);
    /// Buffers that receives can be given now; one more would complete with `ENOBUFS`.
    fn free_buffers(&self) -> usize;
    /// Gives memory of long unused buffers back to the system, a part at a time: to be called about
    /// once per second until all of it is.
    fn trim(&mut self) -> Trimmed;

    /// Hands what is queued to the kernel, without waiting.
    ///
    /// # Errors
    /// The ring itself has failed; no operation can be relied on any more.
    fn submit(&mut self) -> io::Result<()>;
    /// The next wait does not sleep: somebody now waits for the end of a send whose notice is
    /// [`Notice::Lazy`], or for what is queued to have been handed over.
    fn hurry(&mut self);
    /// Hands what is queued to the kernel and waits for a completion, at most until `deadline`. It
    /// may end earlier, without one.
    ///
    /// # Errors
    /// The ring itself has failed; no operation can be relied on any more.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()>;
    /// The next completion of this turn; a turn is bounded, so that answers leave early.
    fn next_completion(&mut self) -> Option<Completion>;
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// How often the completion queue was full.
    fn overflows(&self) -> u64;
}

/// How the original destination of an accepted socket is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Netfilter's REDIRECT: SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST.
    ByConntrack,
    /// Netfilter's TPROXY: the socket's local address.
    AsLocalAddress,
}

/// What is done to a socket in one direct system call, beside the ring.
pub trait Sockets {
    /// The other end's address.
    ///
    /// # Errors
    /// The peer is gone already (ENOTCONN).
    fn peer_address(&self, socket: &Socket) -> Result<SocketAddr, Errno>;
    /// Where `peer`, the other end, meant to go.
    ///
    /// # Errors
    /// ENOENT: the connection was not redirected.
    fn original_destination(
        &self,
        socket: &Socket,
        peer: &SocketAddr,
        by: Recorded,
    ) -> Result<SocketAddr, Errno>;
}

/// The kernel's sockets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Sockets for Kernel {
    fn peer_address(&self, socket: &Socket) -> Result<SocketAddr, Errno> {
        socket.peer_address()
    }

    fn original_destination(
        &self,
        socket: &Socket,
        peer: &SocketAddr,
        by: Recorded,
    ) -> Result<SocketAddr, Errno> {
        match by {
            Recorded::ByConntrack => socket.original_destination(peer),
            Recorded::AsLocalAddress => socket.local_address(),
        }
    }
}
