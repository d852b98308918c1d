//! One direction of a connection as the worker has it: the half, what it holds, what it waits for,
//! and what has come before the half could take it up.
//!
//! Bytes that may not pass yet are *carried*, in memory of their own ([`Backlog`]), so that a peer
//! which sends a byte per second does not keep a receive buffer from others. They pass before those
//! that come later. This is their only home.
//!
//! A half waits for one operation at a time. A receive may be in flight beside it: a multishot one,
//! so that a small piece costs no submission, or one that was armed while bytes were carried. What
//! it brings while the half has something else in hand is kept in order and taken up when the half
//! receives again, so that the half itself knows nothing of it.

use std::collections::VecDeque;

use crate::probe::planted;
use crate::relay::{Half, State};
use crate::sys::buffers::{BUFFER_BYTES, Buffer, BufferPool};
use crate::sys::kernel::{Errno, Expect, Operation};

/// What a half holds of the bytes on their way, or for them.
#[derive(Debug, Default)]
pub(in crate::worker) enum Held<P> {
    #[default]
    Nothing,
    Buffer(Buffer),
    Pipe(P),
}

/// Whether a receive is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Receive {
    No,
    Once,
    /// It goes on by itself.
    Multishot,
}

/// Whether the source has sent FIN, behind bytes that are still carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) enum Source {
    Open,
    Ended,
}

/// As much may come early until the multishot receive is ended: the source is faster than the
/// target.
const EARLY_MAX: usize = 2;

/// What a receive has brought.
#[derive(Debug)]
pub(in crate::worker) struct Arrived {
    pub(in crate::worker) result: Result<Option<Buffer>, Errno>,
    pub(in crate::worker) expect: Expect,
}

impl Arrived {
    /// It tells that the source is gone.
    pub(super) fn is_loss(&self) -> bool {
        let passing = [Errno::ENOBUFS, Errno::EAGAIN, Errno::EINTR, Errno::ECANCELED];
        matches!(self.result, Err(error) if !passing.contains(&error))
    }
}

/// What has come and not passed; there is one only while it is needed, so that an idle connection
/// stays small.
#[derive(Debug, Default)]
struct Backlog {
    /// Bytes that are held back, in the order in which they came.
    carried: Vec<u8>,
    /// So many of the first of them may pass.
    cleared: u32,
    /// What a receive has brought while the half had something else in hand, in order.
    early: VecDeque<Arrived>,
}

/// A half with what it holds and waits for.
#[derive(Debug)]
pub(in crate::worker) struct Direction<P> {
    pub(in crate::worker) half: Half,
    pub(in crate::worker) held: Held<P>,
    /// The operation in flight that the half waits for.
    pub(in crate::worker) operation: Option<Operation>,
    pub(in crate::worker) receive: Receive,
    pub(in crate::worker) source: Source,
    backlog: Option<Box<Backlog>>,
    /// Whether the source probably has bytes now.
    pub(in crate::worker) expect: Expect,
    /// Memory of what is carried, as counted in the worker's sum.
    pub(super) counted_kib: u16,
    /// Bytes read from the source.
    pub(in crate::worker) bytes: u64,
    /// Bytes that were written to the target.
    pub(in crate::worker) written: u64,
}

impl<P> Direction<P> {
    pub(super) fn new(expect: Expect) -> Self {
        Self {
            half: Half::default(),
            held: Held::Nothing,
            operation: None,
            receive: Receive::No,
            source: Source::Open,
            backlog: None,
            expect,
            counted_kib: 0,
            bytes: 0,
            written: 0,
        }
    }

    /// The same direction with another socket: what it has moved, and what it carries, stay.
    pub(super) fn renewed(mut self) -> Self {
        let (carried, cleared) = self.take_carried();
        let (bytes, written) = (self.bytes, self.written);
        let mut direction = Self::new(Expect::Nothing);
        (direction.bytes, direction.written) = (bytes, written);
        direction.counted_kib = self.counted_kib;
        if !carried.is_empty() {
            direction.put_back(carried, cleared);
        }
        direction
    }

    /// Whether bytes are held back.
    pub(super) fn carries(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| !backlog.carried.is_empty())
    }

    /// Whether bytes are carried that may pass.
    pub(super) fn is_cleared(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.cleared > 0)
    }

    /// How many bytes are carried.
    pub(super) fn carried_bytes(&self) -> u32 {
        let length = self.backlog.as_ref().map_or(0, |backlog| backlog.carried.len());
        u32::try_from(length).unwrap_or(BUFFER_BYTES)
    }

    /// The memory of what is carried, in KiB: at most two buffers full.
    pub(super) fn held_kib(&self) -> u16 {
        let capacity = self.backlog.as_ref().map_or(0, |backlog| backlog.carried.capacity());
        u16::try_from(capacity.div_ceil(1024)).unwrap_or(u16::MAX / 2)
    }

    /// Buffers that it keeps.
    pub(super) fn kept_buffers(&self) -> usize {
        let is_buffer = |arrived: &&Arrived| matches!(arrived.result, Ok(Some(_)));
        let early = self.backlog.as_ref();
        let early = early.map_or(0, |backlog| backlog.early.iter().filter(is_buffer).count());
        usize::from(matches!(self.held, Held::Buffer(_))) + early
    }

    /// How many more bytes can be carried: all of them must fit in one buffer.
    pub(super) fn room(&self) -> u32 {
        BUFFER_BYTES.saturating_sub(self.carried_bytes())
    }

    /// What is carried and may not pass yet.
    pub(super) fn carried(&self) -> &[u8] {
        match &self.backlog {
            Some(backlog) => &backlog.carried[backlog.cleared as usize..],
            None => &[],
        }
    }

    /// Carries more bytes.
    pub(super) fn carry(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.backlog.get_or_insert_default().carried.extend_from_slice(bytes);
        }
    }

    /// Carries bytes of Egret's own, which may pass behind those that may.
    pub(super) fn insert_cleared(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let backlog = self.backlog.get_or_insert_default();
            let at = backlog.cleared as usize;
            backlog.carried.splice(at..at, bytes.iter().copied());
            self.clear_next(bytes.len());
        }
    }

    /// Carries what the buffer holds undecided, without the first `dropped` bytes of it.
    pub(super) fn carry_rest(&mut self, dropped: usize, pool: &BufferPool) {
        if let (Held::Buffer(buffer), State::Deciding { from, .. }) =
            (&self.held, self.half.state())
        {
            let rest = &pool.bytes(buffer)[from as usize + dropped..];
            if !rest.is_empty() {
                self.backlog.get_or_insert_default().carried.extend_from_slice(rest);
            }
        }
    }

    /// The next `bytes` of what is carried may pass.
    pub(super) fn clear_next(&mut self, bytes: usize) {
        if let Some(backlog) = &mut self.backlog {
            backlog.cleared += u32::try_from(bytes).unwrap_or(0);
            debug_assert!(backlog.cleared as usize <= backlog.carried.len(), "it is carried");
        }
    }

    /// Throws away the next `bytes` of what is carried.
    pub(super) fn drop_next(&mut self, bytes: usize) {
        if let Some(backlog) = &mut self.backlog {
            let from = backlog.cleared as usize;
            backlog.carried.drain(from..from + bytes);
            self.free_backlog();
        }
    }

    /// Throws away what is carried and may not pass yet.
    pub(super) fn discard_undecided(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.carried.truncate(backlog.cleared as usize);
            self.free_backlog();
        }
    }

    /// Throws away all that is carried.
    pub(super) fn discard_carried(&mut self) {
        self.take_carried();
    }

    /// All that is carried, and how much of it may pass; both are the caller's now.
    pub(super) fn take_carried(&mut self) -> (Vec<u8>, u32) {
        let Some(backlog) = &mut self.backlog else { return (Vec::new(), 0) };
        let carried = std::mem::take(&mut backlog.carried);
        let cleared = std::mem::take(&mut backlog.cleared);
        self.free_backlog();
        (carried, cleared)
    }

    /// Carries again what could not be put into a buffer.
    pub(super) fn put_back(&mut self, carried: Vec<u8>, cleared: u32) {
        let backlog = self.backlog.get_or_insert_default();
        (backlog.carried, backlog.cleared) = (carried, cleared);
    }

    fn free_backlog(&mut self) {
        let is_needed =
            |backlog: &Backlog| !backlog.carried.is_empty() || !backlog.early.is_empty();
        if !self.backlog.as_ref().is_some_and(|backlog| is_needed(backlog)) {
            self.backlog = None;
        }
    }

    /// Whether anything has come early.
    pub(super) fn has_early(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| !backlog.early.is_empty())
    }

    /// The next arrival that came early.
    pub(super) fn pop_early(&mut self) -> Option<Arrived> {
        let early = &mut self.backlog.as_mut()?.early;
        let arrived = if planted!(EarlyReversed) { early.pop_back() } else { early.pop_front() };
        self.free_backlog();
        arrived
    }

    /// Something came early; returns whether that is enough of it.
    pub(super) fn push_early(&mut self, arrived: Arrived) -> bool {
        let early = &mut self.backlog.get_or_insert_default().early;
        early.push_back(arrived);
        early.len() == EARLY_MAX
    }

    /// The source has sent FIN, or its bytes go nowhere any more.
    pub(super) fn has_ended(&self) -> bool {
        self.half.is_over() || self.source == Source::Ended
    }

    /// Nothing is carried, and nothing has come early.
    pub(super) fn is_in_step(&self) -> bool {
        self.backlog.is_none()
    }

    /// The source will be read on by what was asked for already.
    pub(super) fn reads_on(&self) -> bool {
        self.receive != Receive::No || self.backlog.is_some()
    }

    /// The source is gone, as an early arrival tells; what it sent before is still held.
    pub(super) fn is_lost_early(&self) -> bool {
        let last = self.backlog.as_ref().and_then(|backlog| backlog.early.back());
        last.is_some_and(Arrived::is_loss)
    }

    /// The buffer with bytes that are not decided on yet, and where in it they begin.
    pub(super) fn undecided(&self) -> Option<(&Buffer, usize)> {
        match (&self.held, self.half.state()) {
            (Held::Buffer(buffer), State::Deciding { from, .. }) => Some((buffer, from as usize)),
            (Held::Nothing | Held::Buffer(_) | Held::Pipe(_), _) => None,
        }
    }
}
