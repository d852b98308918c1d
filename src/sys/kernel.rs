//! The kernel as a worker has it: every system call that a worker makes goes through this trait.
//!
//! io_uring ([`crate::sys::uring`]) is one implementation; a simulation can keep the same promises,
//! which are only these:
//!
//! - an operation is queued when it is called, reaches the kernel at the next [`Kernel::submit`] or
//!   [`Kernel::wait`], and completes exactly once (accept and the multishot receive: again and
//!   again, until `rearm`);
//! - completions of different operations come in any order;
//! - a cancelled operation still completes, with its result or with [`Errno::ECANCELED`];
//! - a descriptor is handed to [`Kernel::close`] only when no operation on it is in flight, because
//!   closing does not cancel (io_uring_cancelation(7));
//! - at most one send is in flight per socket: of two in one batch the second would overtake the
//!   tail of a partial first.
//!
//! What is done to a socket, a listener or a pipe at once, in one direct system call, is a method
//! of its own trait: [`StreamSocket`], [`ListenSocket`], [`SplicePipe`].

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

pub use nix::errno::Errno;

use crate::sys::buffers::{Buffer, BufferPool};
use crate::sys::pipe::Spliced;
use crate::sys::socket::Keepalive;
use crate::sys::waker::Waker;

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

/// Whether the completion of a send ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// It does.
    Prompt,
    /// It comes with the next completion of another operation, because nothing waits for it
    /// (IOSQE_CQE_SKIP_SUCCESS, Linux 5.17). A send that fails or is partial completes promptly.
    Skip,
}

/// The end of one operation.
#[derive(Debug)]
pub enum Completion<S> {
    /// A connection, or why there is none.
    Accepted {
        /// The accept's token.
        token: Token,
        /// The connection. Close it even if it is no longer wanted.
        result: Result<S, Errno>,
        /// The accept has ended: call [`Kernel::accept`] again to go on.
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
        /// The receive has ended: call [`Kernel::receive`] or [`Kernel::receive_multishot`] to
        /// receive more.
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

/// The kernel, for one thread.
pub trait Kernel: std::fmt::Debug {
    /// A TCP connection.
    type Socket: StreamSocket;
    /// A listening socket.
    type Listener: ListenSocket<Socket = Self::Socket>;
    /// A pipe for splice(2).
    type Pipe: SplicePipe<Socket = Self::Socket>;

    /// Takes connections from `listener` until a completion says `rearm`.
    fn accept(&mut self, listener: &Self::Listener, token: Token);
    /// Connects `socket` to `address`.
    fn connect(&mut self, socket: &Self::Socket, address: &SocketAddr, token: Token);
    /// Receives at most `most` bytes (not 0) into a buffer that is chosen when they are there:
    /// waiting costs no memory.
    fn receive(&mut self, socket: &Self::Socket, most: u32, expect: Expect, token: Token);
    /// Receives as [`Kernel::receive`] does, without a bound on the bytes, again and again until a
    /// completion says `rearm`: when some [`RECEIVE_CREDIT_BYTES`] have come, at the latest. It may
    /// end earlier, even with the first bytes. Bytes may come before the caller wants them.
    fn receive_multishot(&mut self, socket: &Self::Socket, expect: Expect, token: Token);
    /// Sends these bytes of `buffer`, as far as there is room now; with none it completes with
    /// `EAGAIN`. The caller keeps the buffer until it completes.
    fn send(
        &mut self,
        socket: &Self::Socket,
        buffer: &Buffer,
        bytes: Range<u32>,
        notice: Notice,
        token: Token,
    );
    /// Waits once for `Readable`, `Writable` or `Dead`.
    fn poll(&mut self, socket: &Self::Socket, operation: Operation, token: Token);
    /// Waits once until `waker` is woken; completes as `Readable`.
    fn poll_waker(&mut self, waker: &Waker, token: Token);
    /// Asks for an early end of an operation. It completes all the same.
    fn cancel(&mut self, operation: Operation, token: Token);
    /// Closes a socket on which nothing is in flight.
    fn close(&mut self, socket: Self::Socket);
    /// Hands what is queued to the kernel, without waiting.
    ///
    /// # Errors
    /// The ring itself has failed; no operation can be relied on any more.
    fn submit(&mut self) -> io::Result<()>;
    /// The next wait does not sleep: something now waits for the end of a send whose notice is
    /// [`Notice::Skip`], or for what is queued to have been handed over.
    fn hurry(&mut self);
    /// Hands what is queued to the kernel and waits for a completion, at most until `deadline`. It
    /// may end earlier, without one.
    ///
    /// # Errors
    /// The ring itself has failed; no operation can be relied on any more.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<()>;
    /// The next completion of this turn; a turn is bounded, so that responses leave early.
    fn next_completion(&mut self) -> Option<Completion<Self::Socket>>;
    /// How often the completion queue was full.
    fn overflows(&self) -> u64;

    /// The buffers that receives fill. A receive that finds none completes with `ENOBUFS`.
    fn pool(&self) -> &BufferPool;
    /// As [`Kernel::pool`], to take buffers and to give them back.
    fn pool_mut(&mut self) -> &mut BufferPool;

    /// Gives memory of long unused buffers back to the system, a part at a time: to be called about
    /// once per second until all of it is.
    fn trim(&mut self) -> Trimmed;

    /// A socket that can be connected to `address`. The segment that ends its handshake waits for
    /// the first bytes ([`StreamSocket::quickack_on`]). With `mark`, netfilter and policy
    /// routing see that mark on its packets (SO_MARK).
    ///
    /// # Errors
    /// EMFILE, ENFILE: no descriptor left. EAFNOSUPPORT: the host has no IPv6. EPERM: the mark
    /// needs CAP_NET_RAW (Linux 5.17) or CAP_NET_ADMIN.
    fn open_socket(
        &mut self,
        address: &SocketAddr,
        mark: Option<u32>,
    ) -> Result<Self::Socket, Errno>;
    /// The address of the other end of `socket`.
    ///
    /// # Errors
    /// ENOTCONN: it is gone already.
    fn peer_address(&self, socket: &Self::Socket) -> Result<SocketAddr, Errno>;
    /// Where `peer`, the other end of `socket`, meant to connect.
    ///
    /// # Errors
    /// ENOENT: the connection was not redirected.
    fn original_destination(
        &self,
        socket: &Self::Socket,
        peer: &SocketAddr,
        by: Recorded,
    ) -> Result<SocketAddr, Errno>;
    /// An empty pipe that is large enough to be worth it.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no descriptor left. EPERM: the user's pipe memory is used up.
    fn open_pipe(&mut self) -> Result<Self::Pipe, Errno>;
    /// Takes a wake back, so that the next wait sleeps.
    fn clear_waker(&mut self, waker: &Waker);

    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// The wall clock.
    fn wall_time(&self) -> SystemTime;
    /// Processor time that this thread has used, user and kernel.
    fn processor_time(&self) -> Duration;
    /// A number that nobody outside can guess: the seed of every hash map and choice.
    fn seed(&self) -> u64;
}

/// How the original destination of an accepted socket is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Netfilter's REDIRECT: SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST.
    ByConntrack,
    /// Netfilter's TPROXY: the socket's local address.
    AsLocalAddress,
}

/// A TCP connection: what is done to it in one direct system call.
pub trait StreamSocket: std::fmt::Debug {
    /// This end's address; under TPROXY the one that the peer meant to reach.
    ///
    /// # Errors
    /// None that a TCP socket can meet, short of memory.
    fn local_address(&self) -> Result<SocketAddr, Errno>;
    /// Sends the last segment of the handshake now if no bytes have carried it, and later
    /// acknowledgements when bytes arrive, as a new connection does by itself: a server that waits
    /// for one between two small writes (RFC 896) must not wait longer. It must follow soon after
    /// the connect: the kernel would send the segment only after 200 ms, and until then a server
    /// does not accept the connection, let alone greet (TCP_QUICKACK, tcp(7)).
    fn quickack_on(&self);
    /// Turns keepalive on.
    ///
    /// # Errors
    /// EINVAL: a value out of the kernel's range.
    fn set_keepalive(&self, keepalive: Keepalive) -> Result<(), Errno>;
    /// Bytes that are sent have so long to be acknowledged, then the connection is dead
    /// (TCP_USER_TIMEOUT, tcp(7)).
    fn set_user_timeout(&self, timeout: Duration);
    /// The connection has not been reset. An end of input does not tell: a splice that moves some
    /// bytes and then meets the reset reports the bytes, and the kernel does not report the reset
    /// again. A connection that was closed from both ends is not connected either.
    #[must_use]
    fn is_connected(&self) -> bool;
    /// Whether a connect that the ring calls successful was: an ICMP error message in the socket's
    /// error queue ends IORING_OP_CONNECT without an error (observed on Linux 6.18).
    ///
    /// # Errors
    /// The socket's pending error; EHOSTUNREACH if none is recorded.
    fn verify_connected(&self) -> Result<(), Errno>;
    /// Sends FIN after the bytes that are queued; reading continues.
    ///
    /// # Errors
    /// ENOTCONN: the connection was reset.
    fn shutdown_write(&self) -> Result<(), Errno>;
    /// Makes the coming close send RST and throw away what is still in the send queue
    /// (SO_LINGER with a time of 0, socket(7)).
    fn reset_on_close(&self);
    /// Bytes in the send queue that the peer has not acknowledged (SIOCOUTQ, tcp(7)).
    #[must_use]
    fn unacknowledged_bytes(&self) -> usize;
    /// Reads and throws away what has arrived. Returns whether the peer has ended or is gone.
    #[must_use]
    fn discard_input(&self) -> bool;
}

/// A listening socket: what is done to it in one direct system call.
pub trait ListenSocket: std::fmt::Debug {
    /// What it accepts.
    type Socket;
    /// Takes one queued connection without waiting.
    ///
    /// # Errors
    /// EAGAIN: none is queued. EMFILE, ENFILE: no descriptor left. Else the connection's own error.
    fn accept_now(&self) -> Result<Self::Socket, Errno>;
    /// Lets no further handshake begin, while those under way complete and can be accepted: a
    /// socket filter (socket(7), SO_ATTACH_FILTER) drops SYN segments. A client whose SYN is
    /// dropped sends it again a second later, to another listener of the port. So closing this one
    /// resets no connection.
    ///
    /// # Errors
    /// ENOMEM. The listener then goes on as before.
    fn refuse_new_handshakes(&self) -> Result<(), Errno>;
}

/// A pipe between two sockets.
pub trait SplicePipe: std::fmt::Debug {
    /// What it moves bytes between.
    type Socket;
    /// Bytes in the pipe. May exceed its nominal capacity.
    #[must_use]
    fn pending_bytes(&self) -> usize;
    /// Moves at most `most` bytes (not 0) from `source` into the pipe.
    ///
    /// With an empty pipe, `NotReady` says that the socket is empty; with bytes in it, it may as
    /// well mean that the pipe is out of slots. So fill an empty pipe only.
    ///
    /// # Errors
    /// The socket's error; ECONNRESET if it was reset.
    fn fill(&mut self, source: &Self::Socket, most: u64) -> Result<Spliced, Errno>;
    /// Moves bytes from the pipe to `target`.
    ///
    /// # Errors
    /// The socket's error; EPIPE or ECONNRESET if it was reset. SIGPIPE must be ignored (Rust's
    /// runtime sees to that), since splice(2) has no MSG_NOSIGNAL.
    fn flush(&mut self, target: &Self::Socket) -> Result<Spliced, Errno>;
}
