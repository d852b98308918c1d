//! HTTP/2 connections that a name decides: by the authority of their first request. Each later
//! request is judged by its own. One that may not go where the connection goes is answered by
//! Egret, and the client is told by GOAWAY that the connection carries no further ones; those that
//! have passed end by themselves.

mod greeting;
mod local;

use std::rc::Rc;

use super::{
    Action, Attribution, DecidedBy, HeldSnapshot, Http1, Leg, Note, Outcome, Policy, Reply, Route,
    Why,
};
use crate::access_log::Protocol;
use crate::http2::{
    self, Claimed, FrameError, FrameStep, NextFrame, PREFACE, RequestFrames, ResponseFrames,
};
use crate::judge::Rules;
use crate::metrics::CloseReason;
use crate::probe::planted;
use crate::registry::snapshot::NameTrust;
use crate::relay::Side;
use greeting::Greeting;
use local::{answer, answered};

/// See the module.
#[derive(Debug)]
pub(crate) struct Http2 {
    /// The connection of HTTP/1 that was upgraded, with its request.
    upgraded: Option<Box<Http1>>,
    requests: RequestFrames,
    /// Follows the responses, so that a frame of Egret's own is only put between two.
    responses: ResponseFrames,
    greeting: Greeting,
    /// So many of the next bytes may pass without another look: the preface, a request's HEADERS.
    allowed: usize,
    /// What the next bytes of the downstream give way to.
    gone: Option<Gone>,
    /// The request that has decided, until the connection is accounted by it.
    first: Option<Box<First>>,
    /// The reply to a first request that may not pass.
    reply: Option<Box<Reply>>,
    /// Frames of Egret's own, for the client.
    own: Vec<u8>,
    course: Course,
    /// What is to be counted before anything else is said.
    notes: Vec<Note>,
}

/// Bytes that are thrown away.
#[derive(Debug)]
struct Gone {
    bytes: usize,
    /// What passes in their place.
    instead: Vec<u8>,
}

/// The request that decides a connection.
#[derive(Debug)]
struct First {
    snapshot: HeldSnapshot,
    route: Rc<Route>,
    stream: u32,
    claimed: Claimed,
}

/// Whether the connection carries further requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Open,
    /// One has not passed. The connection ends, by this, when those that have are over.
    Draining(CloseReason),
    /// What the client sends cannot be read any more.
    Over(CloseReason),
}

impl Http2 {
    /// A connection that begins with the preface.
    pub(super) fn gated(rules: Rules) -> Self {
        Self::new(RequestFrames::opening(rules))
    }

    fn new(requests: RequestFrames) -> Self {
        Self {
            upgraded: None,
            requests,
            responses: ResponseFrames::default(),
            greeting: Greeting::default(),
            allowed: PREFACE.len(),
            gone: None,
            first: None,
            reply: None,
            own: Vec::new(),
            course: Course::Open,
            notes: Vec::new(),
        }
    }

    /// A connection that `http1` has agreed to go on with as HTTP/2, and of whose `responses` some
    /// may have passed.
    pub(super) fn upgraded(http1: Box<Http1>, agreed: http2::Upgraded) -> Self {
        Self { upgraded: Some(http1), responses: agreed.responses, ..Self::new(agreed.requests) }
    }

    pub(super) fn inspect(&mut self, side: Side, bytes: &[u8], policy: &Policy<'_>) -> Outcome {
        match side {
            Side::Downstream => self.request_frames(bytes, policy),
            Side::Upstream => self.response_frames(bytes),
        }
    }

    fn request_frames(&mut self, bytes: &[u8], policy: &Policy<'_>) -> Outcome {
        loop {
            if let Some(told) = self.told(bytes, policy.leg) {
                return told;
            }
            match self.requests.next(bytes) {
                FrameStep::NeedMore => {
                    if let Some(outcome) = self.need_more(policy) {
                        return outcome;
                    }
                }
                FrameStep::Pass { bytes } => return Outcome::Pass(bytes),
                FrameStep::SettingsAck { bytes } => match self.greeting.acknowledged() {
                    true => self.drop_next(bytes),
                    false => return Outcome::Pass(bytes),
                },
                FrameStep::Settings { bytes } => {
                    self.allowed = bytes;
                    self.own.extend(self.greeting.client_settings());
                }
                FrameStep::Ping { bytes, data } => {
                    self.allowed = bytes;
                    self.own.extend(self.greeting.client_ping(data));
                }
                FrameStep::Request { bytes, stream, authority } => {
                    self.request(bytes, stream, authority, policy);
                }
                FrameStep::Malformed { bytes, stream, error, asked } => {
                    self.malformed(bytes, stream, (error, asked), policy);
                }
                FrameStep::Drop { bytes, credit } => {
                    self.give_back(credit);
                    self.drop_next(bytes);
                }
                FrameStep::Reset { bytes, stream, credit, error } => {
                    self.reset(bytes, stream, error);
                    self.give_back(credit);
                }
                FrameStep::Refused(error) => match policy.leg {
                    Leg::None => self.refuse_first(error),
                    Leg::Up(_) => self.refuse_all(error),
                },
            }
        }
    }

    /// What was found out before, and is said before another frame is read.
    fn told(&mut self, bytes: &[u8], leg: Leg<'_>) -> Option<Outcome> {
        if let Some(note) = self.notes.pop() {
            return Some(Outcome::Note(note));
        }
        if let Some(reply) = self.reply.take() {
            return Some(Outcome::Act(Action::Reply(reply)));
        }
        if leg == Leg::None && !self.own.is_empty() {
            return Some(Outcome::Inject(std::mem::take(&mut self.own)));
        }
        if let (Some(first), Leg::None) = (&self.first, leg) {
            return Some(Outcome::Act(Action::Go(Rc::clone(&first.route))));
        }
        if self.allowed > 0 && !bytes.is_empty() {
            let passing = self.allowed.min(bytes.len());
            self.allowed -= passing;
            return Some(Outcome::Pass(passing));
        }
        if let Some(Gone { bytes, instead }) = &self.gone {
            return Some(match instead.is_empty() {
                true => Outcome::Drop(*bytes),
                false => Outcome::Replace(*bytes, instead.clone()),
            });
        }
        match self.course {
            Course::Over(_) if !bytes.is_empty() => Some(Outcome::Drop(bytes.len())),
            Course::Over(_) | Course::Open | Course::Draining(_) => None,
        }
    }

    /// Nothing can be said of what has come; `None` if there is something to tell the client.
    fn need_more(&mut self, policy: &Policy<'_>) -> Option<Outcome> {
        if policy.leg != Leg::None {
            return Some(Outcome::Hold);
        }
        if policy.room == 0 {
            // Its HEADERS might fit alone, but not behind all that has come before them.
            self.refuse_first(FrameError::HeadTooLarge);
            return None;
        }
        match self.greeting.wait(policy.now) {
            greeting::Wait::SetsDue(at) => Some(Outcome::Note(Note::Due(at))),
            greeting::Wait::NotDue => Some(Outcome::Hold),
            greeting::Wait::Greets(frames) => {
                self.own.extend(frames);
                None
            }
        }
    }

    /// A request's HEADERS, of `bytes` bytes, are next.
    fn request(&mut self, bytes: usize, stream: u32, claimed: Claimed, policy: &Policy<'_>) {
        let route = Rc::new(policy.route(Some(claimed.host.clone())));
        if claimed.conflict {
            self.notes.push(Note::NameConflict);
        }
        if route.standing == NameTrust::Unverified {
            self.notes.push(Note::UnverifiedName(Rc::clone(&route)));
        }
        match policy.leg {
            // Of two names it is unknown which one the server takes.
            Leg::None if route.is_blocked() || claimed.conflict => {
                let frames = self.farewell(stream, answer(stream, Why::Blocked, &claimed));
                let answer = answered(route, claimed, Why::Blocked, policy);
                self.reply(frames, CloseReason::BlackHole, vec![answer]);
            }
            Leg::None => {
                let snapshot = Rc::clone(policy.snapshot);
                self.first = Some(Box::new(First { snapshot, route, stream, claimed }));
                self.allowed = bytes;
            }
            Leg::Up(upstream)
                if (route.leads_to(upstream, policy.destination)
                    || planted!(StreamByFirstRoute))
                    && !claimed.conflict =>
            {
                self.allowed = bytes;
            }
            Leg::Up(_) => {
                if route.is_blocked() {
                    self.notes.push(Note::BlockedStream);
                }
                let frames = answer(stream, Why::Blocked, &claimed);
                self.refuse(bytes, stream, frames, CloseReason::BlackHole);
                let answer = answered(route, claimed, Why::Blocked, policy);
                self.notes.push(Note::StreamAnswered(Box::new(answer)));
            }
        }
    }

    fn drop_next(&mut self, bytes: usize) {
        self.gone = Some(Gone { bytes, instead: Vec::new() });
    }

    /// The client takes so many bytes for sent that go no further.
    fn give_back(&mut self, credit: u32) {
        if credit > 0 {
            self.say(http2::credit(credit));
        }
    }

    /// Frames for the client, behind those that it has.
    fn say(&mut self, frames: Vec<u8>) {
        if self.responses.is_at_start() {
            self.own.extend(self.greeting.before_others());
        }
        self.own.extend(frames);
    }

    /// Responses pass; where Egret has something to say, up to the end of the present frame.
    fn response_frames(&mut self, bytes: &[u8]) -> Outcome {
        let to_boundary = self.responses.to_boundary();
        let passing = match self.course {
            Course::Over(_) if to_boundary == 0 && self.own.is_empty() => {
                return Outcome::Drop(bytes.len());
            }
            _ if !self.own.is_empty() && to_boundary == 0 => return Outcome::Hold,
            Course::Over(_) => to_boundary,
            Course::Open | Course::Draining(_) if !self.own.is_empty() => to_boundary,
            Course::Open | Course::Draining(_) if self.greeting.swallows() && to_boundary > 0 => {
                to_boundary
            }
            Course::Open | Course::Draining(_) if self.greeting.swallows() => {
                let next = ResponseFrames::next_frame(bytes);
                match next {
                    NextFrame::Unknown => return Outcome::Hold,
                    NextFrame::SettingsAck(length) | NextFrame::Pong(length)
                        if self.greeting.swallows_next(next) =>
                    {
                        return match bytes.len() < length {
                            true => Outcome::Hold,
                            false => Outcome::Drop(length),
                        };
                    }
                    NextFrame::SettingsAck(length)
                    | NextFrame::Pong(length)
                    | NextFrame::Other(length) => length,
                }
            }
            Course::Open | Course::Draining(_) => bytes.len(),
        };
        let passing = &bytes[..passing.min(bytes.len())];
        self.responses.passed(passing, &mut self.requests);
        if let Some(http1) = &mut self.upgraded {
            http1.skipped(Side::Upstream, passing.len() as u64);
        }
        Outcome::Pass(passing.len())
    }

    /// See [`super::Gate::own_frames`].
    pub(super) fn own_frames(&mut self) -> Option<Vec<u8>> {
        let is_between = self.responses.to_boundary() == 0 || planted!(FrameInFrame);
        let is_now = !self.own.is_empty() && is_between;
        is_now.then(|| std::mem::take(&mut self.own))
    }

    /// See [`super::Gate::is_served`].
    pub(super) fn is_served(&mut self) -> Option<CloseReason> {
        match self.course {
            Course::Open => None,
            Course::Draining(_) if planted!(StreamsCutShort) => Some(CloseReason::BlackHole),
            Course::Draining(_) if !self.requests.streams().are_over() => None,
            Course::Draining(reason) | Course::Over(reason) => {
                let is_all_said = self.own.is_empty() && self.responses.to_boundary() == 0;
                is_all_said.then_some(reason)
            }
        }
    }

    /// See [`super::Gate::dropped`].
    pub(super) fn dropped(&mut self, side: Side) {
        match side {
            Side::Downstream => self.gone = None,
            Side::Upstream => self.greeting.swallowed(),
        }
    }

    /// See [`super::Gate::is_draining`].
    pub(super) fn is_draining(&self) -> bool {
        self.course != Course::Open
    }

    /// The request of HTTP/1 that became the first stream, for its account.
    pub(super) fn http1(&mut self) -> Option<&mut Http1> {
        self.upgraded.as_deref_mut()
    }

    /// See [`super::Gate::route`].
    pub(super) fn route(&self) -> Option<&Rc<Route>> {
        match &self.first {
            Some(first) => Some(&first.route),
            None => self.upgraded.as_ref()?.route(),
        }
    }

    /// See [`super::Gate::take_attribution`].
    pub(super) fn take_attribution(&mut self) -> Option<Box<Attribution>> {
        let First { snapshot, claimed, .. } = *self.first.take()?;
        Some(Box::new(Attribution {
            snapshot,
            decided_by: DecidedBy::Name,
            host: Some(claimed.host),
            protocol: Protocol::Http2,
            found: None,
            junk: None,
        }))
    }
}
