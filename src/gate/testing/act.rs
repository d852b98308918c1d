//! What the worker does when the gate has spoken, and when a side ends.

use std::rc::Rc;

use super::world::{DESTINATION, resolved};
use super::{Fin, OFF, ROOM, Reach, SOURCE, Sees, Sent, Show, policy, told};
use crate::gate::{
    Action, Attribution, DecidedBy, Leg, Note, Outcome, Reached, Reply, Route, RouteAction,
    Unfollowed,
};
use crate::metrics::{CloseReason, Detected};
use crate::registry::Verdict;
use crate::registry::snapshot::{Destination, Target};
use crate::relay::Side;
use crate::sniff::Name;
use std::net::SocketAddr;

impl Show {
    /// Does what the gate says; whether there is more to ask.
    pub(super) fn follow(&mut self, side: Side, outcome: Outcome, has_passed: &mut bool) -> bool {
        match outcome {
            Outcome::Pass(count) => {
                self.pass(side, count);
                *has_passed = true;
            }
            Outcome::Hold => {
                self.sides[side as usize].is_carried = true;
                return false;
            }
            Outcome::Drop(count) => self.drop_next(side, count),
            Outcome::Replace(count, instead) => {
                self.drop_next(side, count);
                let (_, passed) = self.seen.upstreams.last_mut().expect("it goes to an upstream");
                passed.extend_from_slice(&instead);
                self.seen.instead.push(instead);
            }
            Outcome::Inject(bytes) => {
                assert_eq!(side, Side::Downstream, "only clients are spoken to");
                self.say(&bytes);
            }
            Outcome::Note(note) => self.note(&note),
            Outcome::Act(action) => self.act(action),
        }
        true
    }

    fn drop_next(&mut self, side: Side, count: usize) {
        let sent = &mut self.sides[side as usize];
        let gone = &sent.bytes[sent.decided..sent.decided + count];
        self.seen.dropped.extend_from_slice(gone);
        sent.decided += count;
        self.gate.dropped(side);
    }

    /// Between two frames of the responses the gate has its say, and the connection may end.
    pub(super) fn speak(&mut self) {
        if self.leg.is_some() {
            if let Some(frames) = self.gate.own_frames() {
                self.say(&frames);
            }
            if let Some(reason) = self.gate.is_served() {
                self.end(reason.label());
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Decide(attribution) => self.decide(&attribution),
            Action::Attribute(attribution) => self.attribute(&attribution),
            Action::AttributeNameless(_, found) => {
                self.seen.accounted.push(format!("Address None Tcp Some({found:?}) None"));
            }
            Action::Unfollow(unfollowed) => self.unfollow(*unfollowed),
            Action::Go(route) => self.go(&route),
            Action::Disconnect => {
                self.discard(Side::Upstream);
                self.sides[Side::Upstream as usize] = Sent::default();
                self.leg = None;
                self.is_undecided = true;
            }
            Action::Reply(reply) => self.reply(&reply),
            Action::EndResponses => {
                self.discard(Side::Upstream);
                self.ended(Side::Upstream);
            }
            Action::End(reason) => self.end(reason.label()),
        }
    }

    fn unfollow(&mut self, unfollowed: Unfollowed) {
        let Unfollowed { mut requests, unjudged, refusal, unframed } = unfollowed;
        self.seen.notes.insert(match unjudged {
            Some(why) => format!("unjudged: {why:?}"),
            None => format!("unfollowed: {refusal:?} {unframed:?}"),
        });
        while let Some(answered) =
            requests.pop_ended().or_else(|| requests.pop_unanswered(&[], OFF))
        {
            self.seen.accounted.push(told(&answered));
        }
    }

    fn go(&mut self, route: &Route) {
        if self.leg.is_some() {
            self.discard(Side::Upstream);
            self.sides[Side::Upstream as usize] = Sent::default();
            self.gate.leg_replaced();
        }
        self.leg = None;
        let (address, name) = match &route.action {
            RouteAction::Passthrough => (Some(DESTINATION), None),
            RouteAction::Service(_, Destination::Named { .. }) => {
                let name = route.name().expect("it shows a name");
                (Some(resolved(name)), Some(name.clone()))
            }
            RouteAction::Service(service, _) => (endpoint(&service.target), None),
            RouteAction::BlackHole => panic!("no way leads there: {route:?}"),
        };
        self.connect_or_not(address, name);
    }

    fn connect_or_not(&mut self, address: Option<SocketAddr>, name: Option<Name>) {
        match (address, self.reach) {
            (Some(address), Reach::Up) => self.connect(address, name),
            (None, _) => self.unreachable(CloseReason::NoEndpoint),
            (_, Reach::Down) => self.unreachable(CloseReason::ConnectRefused),
        }
    }

    fn unreachable(&mut self, reason: CloseReason) {
        self.is_undecided = false;
        let sent = &self.sides[Side::Downstream as usize];
        let held = &sent.bytes[sent.decided..sent.arrived];
        let policy = policy(&self.snapshot, Leg::None, ROOM);
        match self.gate.unreachable(held, &policy, reason) {
            Some(reply) => self.reply(&reply),
            None => self.end(reason.label()),
        }
    }

    pub(in crate::gate) fn connect(&mut self, address: SocketAddr, name: Option<Name>) {
        self.is_undecided = false;
        self.leg = Some(Reached { address, name });
        self.seen.upstreams.push((address, std::mem::take(&mut self.cleared)));
        if let Some(attribution) = self.gate.take_attribution() {
            self.attribute(&attribution);
        }
    }

    fn decide(&mut self, attribution: &Attribution) {
        self.attribute(attribution);
        assert_eq!(attribution.decided_by, DecidedBy::Name, "it waits for a name");
        let snapshot = Rc::clone(&attribution.snapshot);
        match snapshot.decide(SOURCE, DESTINATION, attribution.shown()).verdict {
            Verdict::BlackHole => self.end(CloseReason::BlackHole.label()),
            Verdict::Passthrough => self.connect_or_not(Some(DESTINATION), None),
            Verdict::Service(service, _) => self.connect_or_not(endpoint(&service.target), None),
        }
    }

    pub(super) fn attribute(&mut self, attribution: &Attribution) {
        let Attribution { snapshot: _, decided_by, host, protocol, found, junk } = attribution;
        let labels = format!("{decided_by:?} {host:?} {protocol:?} {found:?} {junk:?}");
        self.seen.accounted.push(labels);
    }

    fn reply(&mut self, reply: &Reply) {
        self.say(&reply.bytes);
        let answers = reply
            .answered
            .iter()
            .map(|one| format!("{} {:?}", told(one), one.request.local_flags()));
        self.seen.accounted.extend(answers);
        // It is answered now.
        self.gate.replied();
        self.seen.notes.extend(reply.malformed.map(|what| format!("{what:?}")));
        self.end(reply.reason.label());
    }

    fn say(&mut self, bytes: &[u8]) {
        self.seen.client.extend_from_slice(bytes);
        self.seen.own.extend_from_slice(bytes);
    }

    fn end(&mut self, reason: &str) {
        self.is_undecided = false;
        self.leg = None;
        self.seen.end = Some(reason.to_owned());
    }

    fn note(&mut self, note: &Note) {
        self.seen.notes.insert(match note {
            Note::Due(at) => return self.due = Some(*at),
            // How much of its status has come is chance.
            Note::Unasked(_) => "unasked".to_owned(),
            Note::StreamAnswered(answered) => {
                self.seen.accounted.push(told(answered));
                "a stream answered".to_owned()
            }
            Note::Http1Detected
            | Note::Http2Detected
            | Note::UnverifiedName(_)
            | Note::NameConflict
            | Note::BlockedStream
            | Note::Refused(_)
            | Note::ResponseUnframed(_) => format!("{note:?}"),
        });
    }

    pub(super) fn account_ended(&mut self) {
        while let Some(answered) = self.gate.pop_ended() {
            self.seen.accounted.push(told(&answered));
        }
    }

    /// FIN of `side` has come, if all before it has, and something can be done about it.
    pub(super) fn meet_end(&mut self, side: Side) {
        let sent = &self.sides[side as usize];
        if sent.fin != Fin::Sent || sent.arrived < sent.bytes.len() || self.seen.end.is_some() {
            return;
        }
        if self.is_undecided && side == Side::Downstream {
            let policy = policy(&self.snapshot, Leg::None, ROOM);
            let attribution = self.gate.give_up(Detected::Ended, &policy);
            return self.decide(&attribution);
        }
        let is_over = self.held(side).is_empty() || !self.gate.waits(side);
        if self.upstream().is_some() && is_over {
            self.ended(side);
        }
    }

    fn discard(&mut self, side: Side) {
        let sent = &mut self.sides[side as usize];
        sent.decided = sent.arrived;
    }

    fn ended(&mut self, side: Side) {
        self.sides[side as usize].fin = Fin::Told;
        self.discard(side);
        self.gate.ended(side);
        self.account_ended();
        if side == Side::Upstream {
            if self.gives_way() {
                return;
            }
            if self.gate.end_responses() {
                self.discard(Side::Downstream);
            }
        }
        if self.sides[side.peer() as usize].fin == Fin::Told {
            self.end(CloseReason::Finished.label());
        }
    }

    /// The next request has come, and needs another upstream connection.
    fn gives_way(&mut self) -> bool {
        let is_held = !self.held(Side::Downstream).is_empty();
        while is_held && self.gate.is_between_exchanges() {
            match self.ask(Side::Downstream, Sees::NoLeg) {
                Outcome::Note(note) => self.note(&note),
                Outcome::Act(action @ (Action::Go(_) | Action::Reply(_))) => {
                    self.act(action);
                    return true;
                }
                Outcome::Pass(_)
                | Outcome::Hold
                | Outcome::Drop(_)
                | Outcome::Replace(..)
                | Outcome::Inject(_)
                | Outcome::Act(_) => return false,
            }
        }
        false
    }
}

fn endpoint(target: &Target) -> Option<SocketAddr> {
    match target {
        Target::Endpoints(endpoints) => endpoints.first().copied(),
        Target::OriginalDestination { .. } => Some(DESTINATION),
    }
}
