//! One direction of a connection as the worker has it: the half, what it holds, what it waits for,
//! and what came before the half could take it up.
//!
//! A half waits for one operation at a time. Beside it a receive may stand ([`StandingReceive`]):
//! it goes on by itself, so that a small piece costs no submission. What that brings while the half
//! has something else in hand is kept in order and taken up when the half receives again, so that
//! the half itself knows nothing of it.

use std::collections::VecDeque;

use crate::relay::{Half, State};
use crate::sys::buffers::Buffer;
use crate::sys::pipe::Pipe;
use crate::sys::ring::{Errno, Expect, Operation};

/// What a half holds of the bytes on their way, or for them.
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    Buffer(Buffer),
    Pipe(Pipe),
}

/// Whether a receive that goes on by itself is in flight. The half waits for it in `Receiving`, and
/// what it brings in other states is early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StandingReceive {
    No,
    Yes,
}

/// As much may come early until the standing receive is ended: the source is faster than the
/// target.
const EARLY_MAX: usize = 2;

/// What a receive has brought.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) result: Result<Option<Buffer>, Errno>,
    pub(super) expect: Expect,
}

impl Arrived {
    /// It tells that the source is gone.
    pub(super) fn is_loss(&self) -> bool {
        let passing = [Errno::ENOBUFS, Errno::EAGAIN, Errno::EINTR, Errno::ECANCELED];
        matches!(self.result, Err(error) if !passing.contains(&error))
    }
}

/// A half with what it holds and waits for.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) half: Half,
    pub(super) held: Held,
    /// The operation in flight that the half waits for.
    pub(super) operation: Option<Operation>,
    pub(super) standing: StandingReceive,
    /// What the standing receive brought while the half had something else in hand, in order.
    #[expect(clippy::box_collection, reason = "a connection is small while it is idle")]
    pub(super) early: Option<Box<VecDeque<Arrived>>>,
    /// Whether the source probably has bytes now.
    pub(super) expect: Expect,
    /// Bytes read from the source.
    pub(super) bytes: u64,
    /// Bytes that were written to the target.
    pub(super) written: u64,
}

impl Direction {
    pub(super) fn new(expect: Expect) -> Self {
        let half = Half::default();
        Self {
            half,
            held: Held::Nothing,
            operation: None,
            standing: StandingReceive::No,
            early: None,
            expect,
            bytes: 0,
            written: 0,
        }
    }

    /// A receive is in flight.
    pub(super) fn is_receiving(&self) -> bool {
        self.standing == StandingReceive::Yes || self.operation == Some(Operation::Receive)
    }

    /// The next arrival that came early.
    pub(super) fn pop_early(&mut self) -> Option<Arrived> {
        let arrived = self.early.as_mut()?.pop_front();
        if self.early.as_ref().is_some_and(|early| early.is_empty()) {
            self.early = None;
        }
        arrived
    }

    /// Something came early; returns whether that is enough of it.
    pub(super) fn push_early(&mut self, arrived: Arrived) -> bool {
        let early = self.early.get_or_insert_default();
        early.push_back(arrived);
        early.len() == EARLY_MAX
    }

    /// The source will be read on by what was asked for already.
    pub(super) fn reads_on(&self) -> bool {
        self.standing == StandingReceive::Yes || self.early.is_some()
    }

    /// The source is gone, as an early arrival tells; what it sent before is still held.
    pub(super) fn is_lost_early(&self) -> bool {
        let last = self.early.as_ref().and_then(|early| early.back());
        last.is_some_and(Arrived::is_loss)
    }

    /// The buffer with bytes that are not decided on yet, and where in it they begin.
    pub(super) fn undecided(&self) -> Option<(&Buffer, usize)> {
        match (&self.held, self.half.state()) {
            (Held::Buffer(buffer), State::Deciding { from, .. }) => Some((buffer, from as usize)),
            _ => None,
        }
    }
}
