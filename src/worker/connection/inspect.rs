//! Shows the gate what has come, and does what it says.

use super::direction::{Receive, Source};
use super::{Account, Connection, Next, Then, Upstream};
use crate::gate::{
    Action, Answered, HeldSnapshot, Inspected, Leg, Logging, Malformed, Micros, Note, Outcome,
    Policy, Reply,
};
use crate::judge::RequestError;
use crate::metrics::{CloseReason, Detected};
use crate::relay::{Side, State};
use crate::sys::kernel::{Expect, Kernel};
use crate::worker::context::Context;

/// Why the gate lets no more pass.
enum Stop {
    /// All has been decided.
    Nothing,
    /// The rest waits.
    Hold,
    /// So much of the rest is thrown away, and gives way to these bytes of Egret's own.
    Drop(usize, Vec<u8>),
    Act(Action),
}

/// Whether the gate is told of the upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    Leg,
    NoLeg,
}

impl<K: Kernel> Connection<K> {
    /// Decides what passes of the bytes that the half reading from `side` has in hand: those in its
    /// buffer, or else those that are carried.
    pub(super) fn inspect(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        match self.directions[side as usize].half.state() {
            State::Deciding { from, length } => {
                if self.gate.is_open() {
                    self.directions[side as usize].half.pass(length - from);
                    return self.advance(side, cx);
                }
                self.inspect_buffer(side, cx)
            }
            State::Receiving => self.inspect_carried(side, cx),
            State::Sending { .. }
            | State::Filling
            | State::Flushing
            | State::Finished
            | State::Broken => Next::Rest,
        }
    }

    fn inspect_buffer(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        let (passing, stop) = self.ask(side, cx);
        match stop {
            Stop::Act(Action::End(reason)) => return Next::End(reason),
            Stop::Nothing | Stop::Hold | Stop::Drop(..) | Stop::Act(_) if passing > 0 => {
                // The rest is inspected again when these have gone.
                let passing = u32::try_from(passing).unwrap_or(0);
                self.directions[side as usize].half.pass(passing);
                return self.advance(side, cx);
            }
            Stop::Nothing | Stop::Hold | Stop::Drop(..) | Stop::Act(_) => {}
        }
        let direction = &mut self.directions[side as usize];
        match &stop {
            Stop::Drop(bytes, instead) => {
                direction.carry_rest(*bytes, cx.kernel.pool());
                direction.insert_cleared(instead);
            }
            Stop::Nothing | Stop::Hold | Stop::Act(_) => direction.carry_rest(0, cx.kernel.pool()),
        }
        direction.half.set_aside();
        self.release_held(side, cx);
        self.stopped(side, stop, cx)
    }

    fn inspect_carried(&mut self, side: Side, cx: &mut Context<K>) -> Next {
        // A gate may have to say something to a client that has sent all that it sends unasked.
        if self.directions[side as usize].carried().is_empty() && !self.is_undecided() {
            return Next::Advance(side);
        }
        let (passing, stop) = self.ask(side, cx);
        let is_relaying = self.is_relaying();
        let direction = &mut self.directions[side as usize];
        direction.clear_next(passing);
        if let Stop::Drop(bytes, instead) = &stop {
            direction.drop_next(*bytes);
            direction.insert_cleared(instead);
        }
        match stop {
            Stop::Act(Action::End(reason)) => Next::End(reason),
            // What may pass passes first, if it can; then the rest is inspected again.
            Stop::Nothing | Stop::Hold | Stop::Act(_) if direction.is_cleared() && is_relaying => {
                Next::Advance(side)
            }
            Stop::Nothing | Stop::Hold | Stop::Drop(..) | Stop::Act(_) => {
                self.stopped(side, stop, cx)
            }
        }
    }

    /// The gate lets nothing more pass, and nothing of `side` is in a buffer.
    fn stopped(&mut self, side: Side, stop: Stop, cx: &mut Context<K>) -> Next {
        match stop {
            Stop::Nothing => Next::Advance(side),
            Stop::Hold if side == Side::Upstream && self.says_own_frames(cx) => Next::Rest,
            Stop::Hold => {
                let is_over = self.directions[side as usize].source == Source::Ended;
                let other_is_over = self.directions[side.peer() as usize].half.is_over();
                let waits = self.gate.waits(side) && !other_is_over;
                match is_over && !waits && !self.is_undecided() {
                    // What is held will never be whole.
                    true => Next::Ended(side),
                    false => Next::Advance(side),
                }
            }
            Stop::Drop(..) => {
                self.gate.dropped(side);
                if let Some(next) = self.between_frames(side, cx) {
                    return next;
                }
                match side {
                    _ if self.carries(side) => Next::Inspect(side),
                    Side::Upstream if self.carries(Side::Downstream) => Next::AdvanceAndResume,
                    Side::Downstream | Side::Upstream => Next::Advance(side),
                }
            }
            Stop::Act(action) => self.act(side, action, cx),
        }
    }

    fn act(&mut self, side: Side, action: Action, cx: &mut Context<K>) -> Next {
        match action {
            Action::Decide(attribution) => self.decide(&attribution, cx),
            // Done where they are met: bytes go on passing.
            Action::Attribute(_) | Action::AttributeNameless(..) | Action::Unfollow(_) => {
                Next::Inspect(side)
            }
            Action::Go(_) | Action::Reply(_) if !self.is_upstream_at_rest() => {
                // It is said again when the response has passed.
                Next::Advance(side)
            }
            Action::Go(route) => self.go(route, cx),
            Action::Disconnect => self.begin_closing(Then::Await, cx),
            Action::Reply(reply) => self.reply(*reply, cx),
            Action::EndResponses => {
                self.directions[Side::Upstream as usize].discard_carried();
                Next::Ended(Side::Upstream)
            }
            Action::End(reason) => Next::End(reason),
        }
    }

    /// Asks the gate until it lets no more pass: how many bytes pass, and why no more do.
    #[inline(always)]
    fn ask(&mut self, side: Side, cx: &mut Context<K>) -> (usize, Stop) {
        let mut passing = 0;
        let stop = loop {
            match self.outcome(side, &mut passing, Sees::Leg, cx) {
                // All of it.
                Outcome::Pass(_) => break Stop::Nothing,
                Outcome::Hold => break Stop::Hold,
                Outcome::Drop(bytes) => break Stop::Drop(bytes, Vec::new()),
                Outcome::Replace(bytes, instead) => break Stop::Drop(bytes, instead),
                Outcome::Inject(bytes) => {
                    let back = side.peer();
                    self.directions[back as usize].insert_cleared(&bytes);
                    self.load(back, cx);
                }
                Outcome::Note(note) => self.note(note, cx),
                Outcome::Act(Action::Attribute(attribution)) => {
                    self.attribute(&attribution, cx);
                }
                Outcome::Act(Action::AttributeNameless(snapshot, found)) => {
                    self.attribute_nameless(&snapshot, found, cx);
                }
                Outcome::Act(Action::Unfollow(unfollowed)) => self.unfollow(*unfollowed, cx),
                Outcome::Act(action) => break Stop::Act(action),
            }
        };
        if side == Side::Upstream {
            self.account_ended(cx);
        }
        (passing, stop)
    }

    /// Adds up what the gate lets pass of the bytes that are undecided, behind the first `passing`.
    /// Returns what it says then: [`Outcome::Pass`] if all may pass.
    #[inline(always)]
    fn outcome(
        &mut self,
        side: Side,
        passing: &mut usize,
        sees: Sees,
        cx: &mut Context<K>,
    ) -> Outcome {
        let is_undecided = self.is_undecided();
        let leg = match sees {
            Sees::Leg => Self::leg(&self.upstream),
            Sees::NoLeg => Leg::None,
        };
        let policy = self.policy(side, leg, &cx.snapshot, cx.moment());
        let direction = &self.directions[side as usize];
        let bytes = match direction.undecided() {
            Some((buffer, from)) => &cx.kernel.pool().bytes(buffer)[from..],
            None => direction.carried(),
        };
        self.gate.inspect(side, (bytes, passing), is_undecided, &policy, &mut cx.tables)
    }

    /// The upstream connection, as the gate is told of it.
    #[inline(always)]
    fn leg<S>(upstream: &Upstream<S>) -> Leg<'_> {
        match upstream {
            Upstream::Up(leg) => Leg::Up(&leg.to),
            Upstream::Undecided { .. }
            | Upstream::None
            | Upstream::Resolving(_)
            | Upstream::Connecting(_)
            | Upstream::Closing(_) => Leg::None,
        }
    }

    /// Whether the gate has seen all that the upstream has sent, as far as the kernel has told.
    #[inline(always)]
    fn upstream_inspected(&self) -> Inspected {
        let direction = &self.directions[Side::Upstream as usize];
        let comes_next = direction.receive != Receive::No || direction.half.is_holding();
        match direction.expect == Expect::Bytes && comes_next || !direction.is_in_step() {
            true => Inspected::Partly,
            false => Inspected::All,
        }
    }

    /// Counts what the gate has noted.
    fn note(&mut self, note: Note, cx: &mut Context<K>) {
        let counters = &cx.metrics.counters;
        match note {
            Note::Http1Detected => {
                counters.detected(Detected::Http1).add(1);
                self.account = Account::Requests;
                self.detected(cx);
            }
            Note::Http2Detected => {
                counters.detected(Detected::Http2).add(1);
                self.detected(cx);
            }
            Note::UnverifiedName(route) => self.note_unverified(route.name(), cx),
            Note::NameConflict => counters.name_conflicts.add(1),
            Note::BlockedStream => counters.blocked_streams.add(1),
            Note::StreamAnswered(answered) => {
                let flags = answered.request.local_flags();
                self.account_answered(*answered, flags, cx);
            }
            Note::Refused(malformed) => self.count_refused(malformed, cx),
            Note::Unasked(status) => counters.unasked_answers(status).add(1),
            Note::Due(at) => cx.deadlines.set(at, self.key),
            Note::ResponseUnframed(lost) => {
                counters.unframed_answers(lost).add(1);
            }
        }
    }

    /// Detection is over: what is carried is no longer counted as waiting for it.
    pub(super) fn detected(&self, cx: &Context<K>) {
        if self.is_undecided() {
            let bytes = self.directions[Side::Downstream as usize].carried_bytes();
            cx.metrics.counters.detecting_bytes.sub(u64::from(bytes));
        }
    }

    /// No name has come, and none will.
    #[inline(never)]
    pub(super) fn give_up(&mut self, why: Detected, cx: &mut Context<K>) -> Next {
        if let Some(wait) = self.directions[Side::Downstream as usize].operation {
            // Nothing is received until there is an upstream connection.
            cx.kernel.cancel(wait, self.key.token(Side::Downstream));
        }
        let policy = self.policy(Side::Downstream, Leg::None, &cx.snapshot, cx.moment());
        let Some(attribution) = self.gate.give_up(why, &policy) else { return Next::Rest };
        self.account = Account::Unsettled;
        self.decide(&attribution, cx)
    }

    /// What the gate decides by about what `side` has sent.
    #[inline(always)]
    fn policy<'a>(
        &self,
        side: Side,
        leg: Leg<'a>,
        snapshot: &'a HeldSnapshot,
        (now, logging): (Micros, Logging),
    ) -> Policy<'a> {
        Policy {
            snapshot,
            source: self.source.ip(),
            destination: self.original_destination,
            leg,
            upstream: self.upstream_inspected(),
            room: self.directions[side as usize].room() as usize,
            now,
            logging,
        }
    }

    /// Counts what is refused because it is malformed.
    #[cold]
    pub(super) fn count_refused(&self, malformed: Malformed, cx: &Context<K>) {
        let counters = &cx.metrics.counters;
        tracing::debug!(downstream.addr = %self.source, %malformed, "refused");
        match malformed {
            Malformed::Frames(error) => counters.refused_frames(error).add(1),
            Malformed::Request(error) => {
                counters.refused_requests(error).add(1);
                if error == RequestError::HostMismatch {
                    counters.name_conflicts.add(1);
                }
            }
        }
    }

    /// The rest of a request's head has not come in time: what the downstream is told.
    pub(super) fn late_head(&mut self, cx: &Context<K>) -> Option<Box<Reply>> {
        let policy = self.policy(Side::Downstream, Leg::None, &cx.snapshot, cx.moment());
        let held = self.directions[Side::Downstream as usize].carried();
        self.gate.late_head(held, &policy)
    }

    /// The next request that gets no whole response.
    pub(in crate::worker) fn pop_unanswered(&mut self, cx: &Context<K>) -> Option<Answered> {
        let held = self.directions[Side::Downstream as usize].carried();
        self.gate.pop_unanswered(held, cx.moment())
    }

    /// No upstream connection could be made: requests that wait for one are told so.
    #[inline(never)]
    pub(super) fn unreachable(&mut self, reason: CloseReason, cx: &mut Context<K>) -> Next {
        let policy = self.policy(Side::Downstream, Leg::None, &cx.snapshot, cx.moment());
        let held = self.directions[Side::Downstream as usize].carried();
        match self.gate.unreachable(held, &policy, reason) {
            Some(reply) => self.reply(*reply, cx),
            None => Next::End(reason),
        }
    }

    /// The upstream has ended between two requests. If the next one has come whole, the upstream
    /// connection gives way to another one, or to a reply; else the downstream is told the end.
    pub(super) fn give_way(&mut self, cx: &mut Context<K>) -> Option<Next> {
        let direction = &self.directions[Side::Downstream as usize];
        let is_held = direction.half.state() == State::Receiving
            && !direction.is_cleared()
            && direction.carries();
        if !is_held || !self.gate.is_between_exchanges() {
            return None;
        }
        loop {
            match self.outcome(Side::Downstream, &mut 0, Sees::NoLeg, cx) {
                Outcome::Note(note) => self.note(note, cx),
                Outcome::Act(action @ (Action::Go(_) | Action::Reply(_))) => {
                    return Some(self.act(Side::Downstream, action, cx));
                }
                Outcome::Pass(_)
                | Outcome::Hold
                | Outcome::Drop(_)
                | Outcome::Replace(..)
                | Outcome::Inject(_)
                | Outcome::Act(_) => return None,
            }
        }
    }

    /// The upstream half is between two responses: it holds nothing of the last one.
    fn is_upstream_at_rest(&self) -> bool {
        match self.directions[Side::Upstream as usize].half.state() {
            State::Receiving | State::Filling | State::Finished => true,
            // Egret's greeting: more may be said behind it.
            State::Deciding { .. } | State::Sending { .. } | State::Flushing | State::Broken => {
                !self.is_relaying()
            }
        }
    }
}
