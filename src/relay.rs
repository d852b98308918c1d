//! One half of a connection, a direction, as a state machine: bytes from its source side to its
//! target.
//!
//! A half says what is to be done next ([`Half::next`]); the worker does it and reports back. The
//! half holds no bytes and no descriptors, only how many bytes are where, so it can be read and
//! tested without a kernel. A connection is two halves, indexed by the [`Side`] that each one reads
//! from.
//!
//! ```text
//!              received(n)            pass(n)
//!   Receiving ------------> Deciding ---------> Sending
//!     ^  ^                    |    ^               |
//!     |  +--- set_aside ------+    +--sent, a rest-+
//!     +---------- sent, nothing left --------------+
//!
//!   Receiving --taken(pipe)--> Filling --filled(n)--> Flushing
//!       ^                       |   ^                    |
//!       +------- put_back ------+   +--- flushed, empty--+
//!
//!   Receiving, Filling --ended (FIN)--> Finished        any --target lost--> Broken
//! ```
//!
//! Whether bytes that have arrived may pass is not the half's decision: in `Deciding` it waits to
//! be told how many do. Where nobody looks at the bytes that is at once, and all of them.
//!
//! Three rules make it correct:
//! - The source is read only when the half holds nothing. So at most one buffer or pipe is held, a
//!   reader that does not read costs that much and no more, and the end of the source (FIN or
//!   reset) is seen only when everything before it has been passed on.
//! - FIN is passed on exactly once, when nothing is pending.
//! - A pipe is filled only when it is empty: then "nothing to splice" can only mean an empty
//!   socket.

use crate::probe::planted;

/// One of a connection's two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The workload's side: the accepted socket.
    Downstream = 0,
    /// The destination's side: the connected socket.
    Upstream = 1,
}

impl Side {
    /// Both sides.
    pub const BOTH: [Self; 2] = [Self::Downstream, Self::Upstream];

    /// The other side.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}

/// Bytes that a half must have moved in large pieces without pause before it asks for a pipe. After
/// each pipe that did not pay it is twice as much, up to 4 MiB.
pub const BULK_BYTES: u32 = 256 * 1024;

/// A buffer's piece from which on a half may be moving bulk: a record of TLS (RFC 8446, 5.1).
pub const LARGE_PIECE_BYTES: u32 = 16 * 1024;

/// What a pipe must move at once to be cheaper than a copy (see perf/README.md). Only a pipe shows
/// it: a source that is faster than its target has more waiting than a buffer holds, one that sends
/// a message at a time has not.
const PAYING_PIECE_BYTES: usize = 32 * 1024;

/// So many pieces in a row that do not pay send a half back from its pipe to copying.
const POOR_PIECES_MAX: u8 = 8;

/// A half whose pipes do not pay tries one for every 4 MiB that it moves: that costs next to
/// nothing, and a source may become faster.
const DOUBLINGS_MAX: u8 = 4;

/// Where the half stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits for the source's next bytes, holding none.
    Receiving,
    /// A buffer's bytes `from..length` have arrived, and it is not decided whether they pass.
    Deciding {
        /// Bytes of the buffer that have passed.
        from: u32,
        /// Bytes that the buffer was given.
        length: u32,
    },
    /// A buffer's bytes `sent..until` are on their way to the target.
    Sending {
        /// Bytes of the buffer that the target has taken.
        sent: u32,
        /// Where the bytes that may pass end.
        until: u32,
        /// Bytes that the buffer was given.
        length: u32,
    },
    /// Has an empty pipe and waits for the source's next bytes.
    Filling,
    /// The pipe's bytes are on their way to the target.
    Flushing,
    /// The source's FIN was passed on; nothing more will move.
    Finished,
    /// The target is gone: what was held is lost, and the source is not read any more.
    Broken,
}

/// What the worker does next for a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Receive from the source into a buffer.
    Receive,
    /// Send these bytes of the buffer.
    Send {
        /// Bytes of the buffer that were sent before.
        from: u32,
        /// Where the bytes that may pass end.
        until: u32,
    },
    /// Wait until the source is readable, then fill the pipe.
    Fill,
    /// Wait until the target is writable, then flush the pipe.
    Flush,
    /// Nothing: until it is decided what passes, or ever.
    Rest,
}

/// How far the sending of a buffer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Bytes that may pass are left.
    Partly,
    /// What may pass has passed; what else the buffer holds is to be decided on.
    Piece,
    /// All of it: the buffer is free.
    All,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Half {
    state: State,
    /// Copying: bytes moved in large pieces since the last small one.
    streak_bytes: u32,
    /// Splicing: pieces since the last one that paid.
    poor_pieces: u8,
    /// How often [`BULK_BYTES`] is doubled before it asks for its next pipe.
    doublings: u8,
}

impl Default for Half {
    fn default() -> Self {
        Self { state: State::Receiving, streak_bytes: 0, poor_pieces: 0, doublings: 0 }
    }
}

impl Half {
    /// Where it stands.
    #[must_use]
    #[inline]
    pub fn state(&self) -> State {
        self.state
    }

    /// What is to be done next.
    #[must_use]
    #[inline]
    pub fn next(&self) -> Step {
        match self.state {
            State::Receiving => Step::Receive,
            State::Sending { sent, until, .. } => Step::Send { from: sent, until },
            State::Filling => Step::Fill,
            State::Flushing => Step::Flush,
            State::Deciding { .. } | State::Finished | State::Broken => Step::Rest,
        }
    }

    /// Bytes are held that the target has not taken.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        matches!(self.state, State::Deciding { .. } | State::Sending { .. } | State::Flushing)
    }

    /// The source will not be read again.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Finished | State::Broken)
    }

    /// `bytes` (not 0) came from the source into a buffer.
    #[inline]
    pub fn received(&mut self, bytes: u32) {
        assert_eq!(self.state, State::Receiving, "bytes arrive only when they were asked for");
        self.streak_bytes = match bytes {
            LARGE_PIECE_BYTES.. => self.streak_bytes.saturating_add(bytes),
            _ => 0,
        };
        self.state = State::Deciding { from: 0, length: bytes };
    }

    /// The next `bytes` (not 0) of the buffer may pass.
    #[inline]
    pub fn pass(&mut self, bytes: u32) {
        let State::Deciding { from, length } = self.state else {
            panic!("nothing is to be decided in state {:?}", self.state);
        };
        let until = from + bytes;
        assert!(bytes > 0 && until <= length, "{until} of {length} bytes may pass");
        self.state = State::Sending { sent: from, until, length };
    }

    /// What the buffer still holds was taken out of the half's hands: it is kept elsewhere, or
    /// thrown away. The buffer is free.
    pub fn set_aside(&mut self) {
        assert!(matches!(self.state, State::Deciding { .. }), "only what is held is set aside");
        self.state = State::Receiving;
    }

    /// The target took `bytes` of the buffer.
    #[inline]
    pub fn sent(&mut self, bytes: u32) -> Sent {
        let State::Sending { sent, until, length } = self.state else {
            panic!("bytes were sent in state {:?}", self.state);
        };
        let sent = if planted!(PartialSendForgotten) { until } else { sent + bytes };
        assert!(sent <= until, "the target took {sent} of {until} bytes");
        if sent < until {
            self.state = State::Sending { sent, until, length };
            Sent::Partly
        } else if until < length {
            self.state = State::Deciding { from: until, length };
            Sent::Piece
        } else {
            self.state = State::Receiving;
            Sent::All
        }
    }

    /// Its last piece was a large one: it may come to ask for a pipe.
    #[must_use]
    #[inline]
    pub fn moves_bulk(&self) -> bool {
        self.streak_bytes > 0
    }

    /// It moves bulk, and a pipe would be cheaper than buffers.
    #[must_use]
    #[inline]
    pub fn wants_pipe(&self) -> bool {
        self.state == State::Receiving && self.streak_bytes >= BULK_BYTES << self.doublings
    }

    /// It was given an empty pipe.
    pub fn take_pipe(&mut self) {
        assert_eq!(self.state, State::Receiving, "a pipe is taken only between two buffers");
        self.poor_pieces = 0;
        self.state = State::Filling;
    }

    /// There was no pipe: it goes on copying, and asks again after as many bytes as before.
    pub fn go_without_pipe(&mut self) {
        self.streak_bytes = 0;
    }

    /// `bytes` (not 0) came from the source into the pipe.
    pub fn filled(&mut self, bytes: usize) {
        assert_eq!(self.state, State::Filling, "a pipe is filled only when it is empty");
        self.poor_pieces = match bytes >= PAYING_PIECE_BYTES {
            true => 0,
            false => self.poor_pieces.saturating_add(1),
        };
        self.state = State::Flushing;
    }

    /// The target took bytes out of the pipe, which now holds `pending_bytes`.
    pub fn flushed(&mut self, pending_bytes: usize) {
        assert_eq!(self.state, State::Flushing, "only a filled pipe is flushed");
        if pending_bytes == 0 {
            self.state = State::Filling;
        }
    }

    /// Its pieces do not pay: the pipe is better used elsewhere.
    #[must_use]
    pub fn wants_buffers(&self) -> bool {
        self.state == State::Filling && self.poor_pieces >= POOR_PIECES_MAX
    }

    /// Its empty pipe was taken away, because it idles or moves little.
    pub fn put_pipe_back(&mut self) {
        assert_eq!(self.state, State::Filling, "a pipe is put back only when it is empty");
        self.doublings = match self.poor_pieces {
            0 => 0,
            POOR_PIECES_MAX.. => DOUBLINGS_MAX.min(self.doublings + 1),
            _ => self.doublings,
        };
        self.streak_bytes = 0;
        self.state = State::Receiving;
    }

    /// The source sent FIN. Everything before it was passed on; now FIN must be.
    pub fn ended(&mut self) {
        assert!(
            matches!(self.state, State::Receiving | State::Filling),
            "the end was read in state {:?}",
            self.state
        );
        self.state = State::Finished;
    }

    /// The target is gone.
    pub fn break_off(&mut self) {
        if self.state != State::Finished {
            self.state = State::Broken;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// One buffer from end to end.
    fn relayed(half: &mut Half, bytes: u32) {
        half.received(bytes);
        half.pass(bytes);
        assert_eq!(half.sent(bytes), Sent::All);
    }

    #[test]
    fn a_partial_send_goes_on_where_it_stopped() {
        let mut half = Half::default();
        half.received(100);
        half.pass(100);
        assert_eq!(half.sent(30), Sent::Partly);
        assert_eq!(half.next(), Step::Send { from: 30, until: 100 });
        assert_eq!(half.sent(70), Sent::All);
        assert_eq!(half.next(), Step::Receive);
    }

    #[test]
    fn only_what_may_pass_is_sent() {
        let mut half = Half::default();
        half.received(100);
        assert_eq!(half.next(), Step::Rest);
        half.pass(60);
        assert_eq!(half.next(), Step::Send { from: 0, until: 60 });
        assert_eq!(half.sent(60), Sent::Piece);
        assert_eq!(half.state(), State::Deciding { from: 60, length: 100 });
        half.set_aside();
        assert_eq!(half.next(), Step::Receive);
    }

    #[test]
    fn small_pieces_never_ask_for_a_pipe() {
        let mut half = Half::default();
        for _ in 0..1000 {
            relayed(&mut half, LARGE_PIECE_BYTES - 1);
            assert!(!half.wants_pipe());
        }
    }

    #[test]
    fn a_small_piece_ends_a_streak() {
        let mut half = Half::default();
        for _ in 0..BULK_BYTES / LARGE_PIECE_BYTES - 1 {
            relayed(&mut half, LARGE_PIECE_BYTES);
        }
        relayed(&mut half, 1);
        relayed(&mut half, LARGE_PIECE_BYTES);
        assert!(!half.wants_pipe());
    }

    /// Bytes that it copies, in pieces, before it asks for a pipe; which it then has.
    fn copied_until_pipe(half: &mut Half) -> u32 {
        let mut bytes = 0;
        while !half.wants_pipe() {
            relayed(half, LARGE_PIECE_BYTES);
            bytes += LARGE_PIECE_BYTES;
        }
        half.take_pipe();
        bytes
    }

    fn spliced(half: &mut Half, bytes: usize) {
        half.filled(bytes);
        half.flushed(0);
    }

    #[test]
    fn bulk_asks_for_a_pipe_and_pieces_that_do_not_pay_give_it_back() {
        let mut half = Half::default();
        copied_until_pipe(&mut half);
        for _ in 0..POOR_PIECES_MAX {
            assert!(!half.wants_buffers());
            spliced(&mut half, PAYING_PIECE_BYTES - 1);
        }
        assert!(half.wants_buffers());
        half.put_pipe_back();
        assert_eq!(half.next(), Step::Receive);
        assert!(!half.wants_pipe());
    }

    #[test]
    fn the_next_pipe_comes_ever_later_until_one_pays() {
        let mut half = Half::default();
        for doublings in (0..=DOUBLINGS_MAX).chain([DOUBLINGS_MAX, DOUBLINGS_MAX]) {
            assert_eq!(copied_until_pipe(&mut half), BULK_BYTES << doublings);
            while !half.wants_buffers() {
                spliced(&mut half, LARGE_PIECE_BYTES as usize);
            }
            half.put_pipe_back();
        }
        // Whether this one would have paid was not seen before it was taken away.
        copied_until_pipe(&mut half);
        spliced(&mut half, LARGE_PIECE_BYTES as usize);
        half.put_pipe_back();
        assert_eq!(copied_until_pipe(&mut half), BULK_BYTES << DOUBLINGS_MAX);
        spliced(&mut half, PAYING_PIECE_BYTES);
        half.put_pipe_back();
        assert_eq!(copied_until_pipe(&mut half), BULK_BYTES);
    }

    #[test]
    fn a_finished_half_stays_finished_when_its_target_dies() {
        let mut half = Half::default();
        half.ended();
        half.break_off();
        assert_eq!(half.state(), State::Finished);
    }

    /// A source, a pipe and a target in memory, driven by the half's own steps. `choices` decides
    /// how many bytes each step moves, so that every order of partial moves is met.
    fn drive(source: &[u8], choices: &[u16]) -> (Vec<u8>, u32) {
        let mut half = Half::default();
        let mut unread: VecDeque<u8> = source.iter().copied().collect();
        let (mut buffer, mut pipe) = (Vec::new(), VecDeque::new());
        let (mut target, mut ends) = (Vec::new(), 0);
        let mut choices = choices.iter().cycle().map(|&c| usize::from(c) * 4 + 1);
        let mut choose = move || choices.next().unwrap_or(1);
        loop {
            if half.wants_pipe() && choose() % 2 == 0 {
                half.take_pipe();
            } else if half.wants_buffers() {
                half.put_pipe_back();
            }
            match half.next() {
                Step::Receive | Step::Fill if unread.is_empty() => half.ended(),
                Step::Receive => {
                    buffer = unread.drain(..choose().min(32 * 1024).min(unread.len())).collect();
                    half.received(u32::try_from(buffer.len()).unwrap());
                }
                Step::Rest if matches!(half.state(), State::Deciding { .. }) => {
                    let State::Deciding { from, length } = half.state() else { unreachable!() };
                    let most = usize::try_from(length - from).unwrap();
                    half.pass(u32::try_from(choose().min(most)).unwrap());
                }
                Step::Send { from, until } => {
                    let rest = &buffer[from as usize..until as usize];
                    let taken = choose().min(rest.len());
                    target.extend_from_slice(&rest[..taken]);
                    half.sent(u32::try_from(taken).unwrap());
                }
                Step::Fill => {
                    pipe.extend(unread.drain(..choose().min(unread.len())));
                    half.filled(pipe.len());
                }
                Step::Flush => {
                    target.extend(pipe.drain(..choose().min(pipe.len())));
                    half.flushed(pipe.len());
                }
                Step::Rest => return (target, ends),
            }
            ends += u32::from(half.state() == State::Finished);
        }
    }

    proptest! {
        #[test]
        fn bytes_out_are_bytes_in_and_the_end_comes_once(
            length in 0_usize..2_000_000,
            choices in prop::collection::vec(0_u16..u16::MAX, 1..40),
        ) {
            let source: Vec<u8> = (0..=250).cycle().take(length).collect();
            let (target, ends) = drive(&source, &choices);
            prop_assert!(target == source, "{} bytes of {}", target.len(), source.len());
            prop_assert_eq!(ends, 1);
        }
    }
}
