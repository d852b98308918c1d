//! Pipes for splice(2), and the small pool that a thread keeps of them.
//!
//! A pipe moves bytes between two sockets without copying them into user memory. It is worth its 1
//! MiB only for bulk: for 16 KiB at a time a copy is faster. Kernel facts it rests on (Linux 6.18):
//!
//! - `SPLICE_F_NONBLOCK` covers the pipe only; both sockets must be O_NONBLOCK or the thread
//!   blocks;
//! - `SPLICE_F_MORE` would hold a short reply back for 200 ms; it is never set;
//! - an unprivileged user's pipes beyond `fs.pipe-user-pages-soft` are silently made of two pages,
//!   and growing them is refused (EPERM): the size is read back, and a short pipe is not used;
//! - a pipe that holds bytes must never serve another pair of sockets: it is destroyed.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use crate::sys::kernel::SplicePipe;
use crate::sys::socket::Socket;

/// What a pipe is asked to hold: the default of `fs.pipe-max-size`, the most an unprivileged user
/// gets.
pub const PIPE_CAPACITY_BYTES: usize = 1 << 20;

/// The least a pipe must hold to be better than a copy.
const PIPE_CAPACITY_BYTES_MIN: usize = 1 << 18;

/// How a splice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spliced {
    /// So many bytes were moved.
    Bytes(usize),
    /// The source has ended (FIN).
    End,
    /// Nothing can be moved now: wait for the socket.
    NotReady,
}

/// A pipe between two sockets.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    pending_bytes: usize,
}

impl Pipe {
    /// Makes a pipe that is large enough to be worth it.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no descriptor left. EPERM: the user's pipe memory is used up.
    pub(in crate::sys) fn new() -> Result<Self, Errno> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let asked = i32::try_from(PIPE_CAPACITY_BYTES).map_err(|_| Errno::EINVAL)?;
        // A refusal is judged by the size that the pipe then has.
        let _ = fcntl(write.as_fd(), FcntlArg::F_SETPIPE_SZ(asked));
        let capacity = fcntl(write.as_fd(), FcntlArg::F_GETPIPE_SZ)?;
        if usize::try_from(capacity).unwrap_or(0) < PIPE_CAPACITY_BYTES_MIN {
            return Err(Errno::EPERM);
        }
        Ok(Self { read, write, pending_bytes: 0 })
    }

    fn moved(result: Result<usize, Errno>) -> Result<Spliced, Errno> {
        match result {
            Ok(0) => Ok(Spliced::End),
            Ok(bytes) => Ok(Spliced::Bytes(bytes)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Spliced::NotReady),
            Err(error) => Err(error),
        }
    }
}

impl SplicePipe for Pipe {
    type Socket = Socket;

    fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    fn fill(&mut self, source: &Socket, most: u64) -> Result<Spliced, Errno> {
        debug_assert_eq!(self.pending_bytes, 0, "a pipe is filled only when it is empty");
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(PIPE_CAPACITY_BYTES);
        let moved = Self::moved(splice(source, None, &self.write, None, most, FLAGS))?;
        if let Spliced::Bytes(bytes) = moved {
            self.pending_bytes += bytes;
        }
        Ok(moved)
    }

    fn flush(&mut self, target: &Socket) -> Result<Spliced, Errno> {
        let moved = Self::moved(splice(&self.read, None, target, None, self.pending_bytes, FLAGS))?;
        if let Spliced::Bytes(bytes) = moved {
            self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
        }
        Ok(moved)
    }
}

const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

/// A bounded stock of empty pipes.
#[derive(Debug)]
pub struct PipePool<P> {
    free: Vec<P>,
    lent: usize,
    lent_max: usize,
}

impl<P: SplicePipe> PipePool<P> {
    /// A pool that lends at most `lent_max` pipes at a time; they are made when first needed.
    #[must_use]
    pub fn new(lent_max: usize) -> Self {
        Self { free: Vec::new(), lent: 0, lent_max }
    }

    /// An empty pipe, made by `open` if none is free. `None`: all are lent, or the system has
    /// none; then the caller copies.
    pub fn take(&mut self, open: impl FnOnce() -> Result<P, Errno>) -> Option<P> {
        if self.lent >= self.lent_max {
            return None;
        }
        let pipe = match self.free.pop() {
            Some(pipe) => pipe,
            None => open().ok()?,
        };
        self.lent += 1;
        Some(pipe)
    }

    /// Takes a pipe back. One that still holds bytes is destroyed: they are another connection's.
    pub fn give_back(&mut self, pipe: P) {
        self.lent -= 1;
        if pipe.pending_bytes() == 0 {
            self.free.push(pipe);
        }
    }

    /// Pipes lent out now.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Pipes that exist, lent or free.
    #[must_use]
    pub fn open(&self) -> usize {
        self.lent + self.free.len()
    }
}
