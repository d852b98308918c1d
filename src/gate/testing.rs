//! A gate between two peers that have no sockets. [`Show`] plays the worker's part, as `gate.rs`
//! describes it, and keeps what came of every byte. For the unit tests, and for the property that
//! the fuzzer checks.

mod act;
pub(super) mod world;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use super::{
    Action, Answered, AnsweredBy, Detect, Gate, HeldSnapshot, Inspected, Leg, Logging, Micros,
    Outcome, Policy, Reached, Tables,
};
use crate::metrics::Detected;
use crate::relay::Side;
use world::DESTINATION;

/// Who asks.
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

/// When a connection begins.
const NOW: Micros = 7;

/// At the end, where no log is kept.
const OFF: (Micros, Logging) = (0, Logging::Off);

/// As much as a worker holds of one side.
pub(super) const ROOM: usize = 32 * 1024;

/// How bytes move that the gate need not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moves {
    Copied,
    Spliced,
}

/// Whether an upstream can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Up,
    Down,
}

/// What one side has sent, and how far that has come.
#[derive(Debug, Default)]
struct Sent {
    bytes: Vec<u8>,
    /// So many have come to the worker.
    arrived: usize,
    /// Of so many it is decided what becomes of them.
    decided: usize,
    /// What waits was held before.
    is_carried: bool,
    fin: Fin,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Fin {
    #[default]
    No,
    Sent,
    /// The other side was told.
    Told,
}

/// What came of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Each upstream connection, with what has passed to it.
    pub(super) upstreams: Vec<(SocketAddr, Vec<u8>)>,
    /// What the client has received.
    pub(super) client: Vec<u8>,
    /// What was counted.
    pub(super) notes: BTreeSet<String>,
    /// What was accounted, in order.
    pub(super) accounted: Vec<String>,
    /// What the connection has ended by.
    pub(super) end: Option<String>,
    /// Bytes that were dropped.
    pub(super) dropped: Vec<u8>,
    /// What has passed to an upstream in place of some of them.
    pub(super) instead: Vec<Vec<u8>>,
    /// Of that, what Egret has said itself, and what came from upstreams.
    pub(super) own: Vec<u8>,
    pub(super) relayed: Vec<u8>,
}

/// Whether the gate is told of the upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    Leg,
    NoLeg,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Show {
    pub(super) gate: Gate,
    tables: Tables,
    snapshot: HeldSnapshot,
    leg: Option<Reached>,
    /// There has been no decision yet.
    is_undecided: bool,
    sides: [Sent; 2],
    /// May pass, as soon as there is an upstream connection.
    cleared: Vec<u8>,
    pub(super) moves: Moves,
    pub(super) reach: Reach,
    now: Micros,
    /// When the gate wants to be asked again.
    due: Option<Micros>,
    pub(super) seen: Seen,
}

impl Show {
    pub(super) fn new(snapshot: &HeldSnapshot) -> Self {
        let snapshot = Rc::clone(snapshot);
        let is_gated = snapshot.awaits_name(DESTINATION);
        let detect = match is_gated {
            true => Detect::held(),
            false => Detect::observed(Rc::clone(&snapshot)),
        };
        let mut show = Self {
            gate: Gate::Detect(detect),
            tables: Tables::default(),
            snapshot,
            leg: None,
            is_undecided: is_gated,
            sides: [Sent::default(), Sent::default()],
            cleared: Vec::new(),
            moves: Moves::Copied,
            reach: Reach::Up,
            now: NOW,
            due: None,
            seen: Seen::default(),
        };
        if !is_gated {
            show.connect(DESTINATION, None);
        }
        show
    }

    /// `side` sends `bytes`, and the worker does what it can do then.
    pub(super) fn send(&mut self, side: Side, bytes: &[u8]) {
        self.sides[side as usize].bytes.extend_from_slice(bytes);
        self.turn();
    }

    /// `side` sends FIN, and the worker does what it can do then.
    pub(super) fn finish(&mut self, side: Side) {
        self.sides[side as usize].fin = Fin::Sent;
        self.turn();
    }

    /// Time passes up to the gate's deadline, if it has one.
    pub(super) fn wait_out(&mut self) {
        if let Some(due) = self.due {
            self.wait(due.saturating_sub(self.now));
        }
    }

    /// Time passes, and the gate is asked at its deadline.
    pub(super) fn wait(&mut self, time: Micros) {
        self.now += time;
        if self.due.take_if(|due| *due <= self.now).is_some() {
            self.ask_again();
            self.turn();
        }
    }

    /// The connection ends: what is left is accounted.
    pub(super) fn close(mut self) -> Seen {
        let attribution = self.gate.stop_observing(Detected::Ended);
        if let Some(attribution) = attribution.or_else(|| self.gate.take_attribution()) {
            self.attribute(&attribution);
        }
        while let Some(answered) = self.gate.pop_unanswered(&[], OFF) {
            self.seen.accounted.push(format!("unanswered: {}", told(&answered)));
        }
        self.seen
    }

    /// What waits of `side`.
    pub(super) fn held(&self, side: Side) -> &[u8] {
        let sent = &self.sides[side as usize];
        &sent.bytes[sent.decided..sent.arrived]
    }

    /// Where the upstream connection goes.
    pub(super) fn upstream(&self) -> Option<SocketAddr> {
        self.leg.as_ref().map(|leg| leg.address)
    }

    fn turn(&mut self) {
        loop {
            let before = self.progress();
            for side in [Side::Upstream, Side::Downstream] {
                self.receive(side);
                self.inspect(side);
                self.speak();
                self.meet_end(side);
            }
            if self.progress() == before || self.seen.end.is_some() {
                return;
            }
        }
    }

    /// All that a turn can change.
    fn progress(&self) -> impl PartialEq + use<> {
        let [down, up] = self.sides.each_ref().map(|sent| (sent.arrived, sent.decided, sent.fin));
        (down, up, self.seen.upstreams.len(), self.seen.own.len(), self.is_undecided)
    }

    /// Takes what has come from `side`, as far as there is room.
    fn receive(&mut self, side: Side) {
        self.splice(side);
        let room = ROOM - self.held(side).len() - self.cleared_of(side);
        let is_carried = room < ROOM || self.is_undecided;
        let sent = &mut self.sides[side as usize];
        let piece = room.min(sent.bytes.len() - sent.arrived);
        if piece > 0 {
            sent.arrived += piece;
            sent.is_carried = is_carried;
        }
    }

    fn cleared_of(&self, side: Side) -> usize {
        if side == Side::Downstream { self.cleared.len() } else { 0 }
    }

    /// Moves what the gate need not see.
    fn splice(&mut self, side: Side) {
        let sent = &self.sides[side as usize];
        let left = sent.bytes.len() - sent.decided;
        let unseen = usize::try_from(self.gate.unseen(side)).unwrap_or(usize::MAX).min(left);
        let can = self.moves == Moves::Spliced && self.upstream().is_some();
        if can && self.held(side).is_empty() && unseen > 0 {
            self.gate.skipped(side, unseen as u64);
            self.pass(side, unseen);
            self.account_ended();
        }
    }

    /// The next `count` bytes of `side` pass.
    fn pass(&mut self, side: Side, count: usize) {
        let sent = &mut self.sides[side as usize];
        let bytes = &sent.bytes[sent.decided..sent.decided + count];
        match (side, &self.leg, self.seen.upstreams.last_mut()) {
            (Side::Upstream, _, _) => {
                self.seen.client.extend_from_slice(bytes);
                self.seen.relayed.extend_from_slice(bytes);
            }
            (Side::Downstream, Some(_), Some((_, passed))) => passed.extend_from_slice(bytes),
            (Side::Downstream, _, _) => self.cleared.extend_from_slice(bytes),
        }
        sent.decided += count;
        sent.arrived = sent.arrived.max(sent.decided);
    }

    /// What the gate says of what waits of `side`; a second time if it said that this changes
    /// nothing.
    fn ask(&mut self, side: Side, sees: Sees) -> Outcome {
        let leg = match (&self.leg, sees) {
            (Some(leg), Sees::Leg) => Leg::Up(leg),
            (None, _) | (_, Sees::NoLeg) => Leg::None,
        };
        let is_up = leg != Leg::None;
        let sent = &self.sides[side as usize];
        let bytes = &sent.bytes[sent.decided..sent.arrived];
        let taken = if sent.is_carried { bytes.len() + self.cleared_of(side) } else { 0 };
        let policy = Policy { now: self.now, ..policy(&self.snapshot, leg, ROOM - taken) };
        let outcome = self.gate.inspect(side, bytes, &policy, &mut self.tables);
        let is_steady = match &outcome {
            Outcome::Pass(count) => {
                assert!((1..=bytes.len()).contains(count), "{count} of {} pass", bytes.len());
                let is_early = !is_up && side == Side::Downstream;
                assert!(!is_early || matches!(self.gate, Gate::Http2(_)), "nobody to pass to");
                false
            }
            Outcome::Drop(count) | Outcome::Replace(count, _) => {
                assert!((1..=bytes.len()).contains(count), "{count} of {} drop", bytes.len());
                true
            }
            Outcome::Inject(said) => {
                assert!(!said.is_empty(), "nothing is said");
                false
            }
            Outcome::Hold => true,
            Outcome::Note(_) => false,
            // Without an upstream connection nothing is in a reply's way.
            Outcome::Act(Action::Reply(_)) => is_up,
            Outcome::Act(action) => matches!(action, Action::Go(_)),
        };
        if is_steady {
            let again = self.gate.inspect(side, bytes, &policy, &mut self.tables);
            assert_eq!(said(&again), said(&outcome), "another outcome for the same bytes");
        }
        outcome
    }

    fn inspect(&mut self, side: Side) {
        self.inspect_behind(side, false);
    }

    /// Shows the gate what is held of the client, be it nothing.
    fn ask_again(&mut self) {
        self.inspect_behind(Side::Downstream, true);
    }

    fn inspect_behind(&mut self, side: Side, mut has_passed: bool) {
        while self.seen.end.is_none() {
            let is_asked = self.is_undecided && has_passed;
            if (self.held(side).is_empty() && !is_asked) || !self.may_ask(side) {
                return;
            }
            let outcome = self.ask(side, Sees::Leg);
            let goes_on = self.follow(side, outcome, &mut has_passed);
            self.account_ended();
            if !goes_on {
                return;
            }
        }
    }

    /// There is no upstream to hear of, or no way to hold a byte of it.
    fn may_ask(&self, side: Side) -> bool {
        side == Side::Downstream || self.upstream().is_some()
    }
}

pub(super) fn policy<'a>(snapshot: &'a HeldSnapshot, leg: Leg<'a>, room: usize) -> Policy<'a> {
    Policy {
        snapshot,
        source: SOURCE,
        destination: DESTINATION,
        leg,
        upstream: Inspected::All,
        room,
        now: NOW,
        logging: Logging::On,
    }
}

/// What is accounted of a request.
fn told(answered: &Answered) -> String {
    let Answered { request: exchange, status, bytes: response_bytes, .. } = answered;
    let answered_by = match exchange.answered_by {
        AnsweredBy::Upstream => "Upstream",
        AnsweredBy::Egret { .. } => "Egret",
    };
    // Of a malformed request it is chance how much has come.
    let name = exchange.route.name();
    let is_malformed = answered_by == "Egret" && name.is_none();
    let sent = if is_malformed { 0 } else { exchange.request_bytes };
    format!("{name:?} {status} {sent} up {response_bytes} down by {answered_by}")
}

/// An outcome that changes nothing, to be compared.
fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Act(Action::Go(route)) => format!("go {:?} {:?}", route.name(), route.action),
        Outcome::Act(Action::Reply(reply)) => {
            let answers: Vec<String> = reply.answered.iter().map(told).collect();
            format!("reply {:?} {:?} {answers:?}", reply.bytes, reply.reason)
        }
        Outcome::Pass(_)
        | Outcome::Hold
        | Outcome::Drop(_)
        | Outcome::Replace(..)
        | Outcome::Inject(_)
        | Outcome::Note(_)
        | Outcome::Act(_) => format!("{outcome:?}"),
    }
}
