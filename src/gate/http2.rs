//! HTTP/2 connections that a name decides: by the authority of their first request. Each later
//! request is judged by its own; one that may not go where the connection goes is answered 502, and
//! the connection ends with GOAWAY.

use std::rc::Rc;

use super::reply::Malformed;
use super::{
    Action, Answered, AnsweredBy, Attribution, DecidedBy, Exchange, HeldSnapshot, Leg, Logged,
    Logging, Note, Outcome, Policy, Reply, Route,
};
use crate::access_log::Protocol;
use crate::http2::{
    self, Claimed, EMPTY_SETTINGS, ErrorCode, FrameBoundary, FrameError, FrameStep, PREFACE,
    RequestFrames,
};
use crate::metrics::{CloseReason, ResponseFlags};
use crate::registry::snapshot::NameTrust;
use crate::relay::Side;

/// The most streams that are answered 503 at a time: as many as servers let a client open. Their
/// replies fit in one buffer. What is behind them stands above the GOAWAY's last stream, and may be
/// tried again.
const ANSWERED_MAX: usize = 100;

/// See the module.
#[derive(Debug)]
pub(crate) struct Http2 {
    frames: RequestFrames,
    /// Follows the responses, so that a frame of Egret's own is only put between two.
    boundary: FrameBoundary,
    greeting: Greeting,
    /// So many of the next bytes may pass without another look: the preface, a request's HEADERS.
    allowed: usize,
    /// So many of the next bytes are thrown away.
    swallowed: usize,
    /// The request that has decided, until the connection is accounted by it.
    first: Option<Box<First>>,
    refused: Option<Refused>,
    /// The reply to a first request that may not pass.
    reply: Option<Box<Reply>>,
    /// What is to be counted before anything else is said.
    notes: Vec<Note>,
}

/// The request that decides a connection.
#[derive(Debug)]
struct First {
    snapshot: HeldSnapshot,
    route: Rc<Route>,
    stream: u32,
    claimed: Claimed,
}

/// Whether Egret has sent SETTINGS of its own, whose acknowledgement it must swallow: some clients
/// send no request before they have seen the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    NotSent,
    Sent,
    Acknowledged,
}

/// What may not pass. The connection ends as soon as the present frame of the responses is over.
#[derive(Debug, Clone, Copy)]
enum Refused {
    /// One request: it is answered 502.
    Stream(u32),
    /// Everything that follows cannot be read.
    Connection(ErrorCode),
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            frames: RequestFrames::default(),
            boundary: FrameBoundary::default(),
            greeting: Greeting::NotSent,
            allowed: PREFACE.len(),
            swallowed: 0,
            first: None,
            refused: None,
            reply: None,
            notes: Vec::new(),
        }
    }
}

impl Http2 {
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
            match self.frames.next(bytes) {
                FrameStep::NeedMore => return self.need_more(policy),
                FrameStep::Pass { bytes } => return Outcome::Pass(bytes),
                FrameStep::SettingsAck { bytes } if self.greeting == Greeting::Sent => {
                    self.greeting = Greeting::Acknowledged;
                    self.swallowed = bytes;
                }
                FrameStep::SettingsAck { bytes } => return Outcome::Pass(bytes),
                FrameStep::Request { bytes, stream, authority } => {
                    self.request(bytes, stream, authority, policy);
                }
                FrameStep::Refused(error) => match policy.leg {
                    Leg::None => self.refuse_first(error),
                    Leg::Up(_) => {
                        self.notes.push(Note::FramesRefused(error));
                        self.refused = Some(Refused::Connection(error.code()));
                    }
                },
            }
        }
    }

    /// What was found out before, and is said before another frame is read.
    fn told(&mut self, bytes: &[u8], leg: Leg) -> Option<Outcome> {
        if let Some(note) = self.notes.pop() {
            return Some(Outcome::Note(note));
        }
        if let Some(reply) = self.reply.take() {
            return Some(Outcome::Act(Action::Reply(reply)));
        }
        if let (Some(first), Leg::None) = (&self.first, leg) {
            return Some(Outcome::Act(Action::Go(Rc::clone(&first.route))));
        }
        if self.allowed > 0 && !bytes.is_empty() {
            let passing = self.allowed.min(bytes.len());
            self.allowed -= passing;
            return Some(Outcome::Pass(passing));
        }
        if self.swallowed > 0 {
            return Some(Outcome::Drop(self.swallowed));
        }
        self.refused.map(|refused| self.refusal(refused))
    }

    fn need_more(&mut self, policy: &Policy<'_>) -> Outcome {
        match (policy.leg, self.greeting) {
            // Its HEADERS might fit alone, but not behind all that has come before them.
            (Leg::None, _) if policy.room == 0 => {
                self.refuse_first(FrameError::HeadTooLarge);
                self.reply.take().map_or(Outcome::Hold, |reply| Outcome::Act(Action::Reply(reply)))
            }
            (Leg::None, Greeting::NotSent) => {
                self.greeting = Greeting::Sent;
                Outcome::Inject(EMPTY_SETTINGS.to_vec())
            }
            (Leg::None, Greeting::Sent | Greeting::Acknowledged) | (Leg::Up(_), _) => Outcome::Hold,
        }
    }

    /// A request's HEADERS, of `bytes` bytes, are next.
    fn request(&mut self, bytes: usize, stream: u32, claimed: Claimed, policy: &Policy<'_>) {
        let host = Some(claimed.host.clone());
        let route = Route::decide(policy.snapshot, policy.source, policy.destination, host);
        if claimed.conflict {
            self.notes.push(Note::NameConflict);
        }
        if route.standing == NameTrust::Unverified {
            self.notes.push(Note::UnverifiedName);
        }
        match policy.leg {
            // Of two names it is unknown which one the server takes.
            Leg::None if route.is_blocked() || claimed.conflict => {
                let answered = answered(Rc::new(route), claimed, 502, policy);
                let flags = ResponseFlags::None;
                self.reply(farewell(stream), CloseReason::BlackHole, vec![answered], flags);
            }
            Leg::None => {
                let (snapshot, route) = (Rc::clone(policy.snapshot), Rc::new(route));
                self.first = Some(Box::new(First { snapshot, route, stream, claimed }));
                self.allowed = bytes;
            }
            Leg::Up(upstream)
                if route.leads_to(upstream, policy.destination) && !claimed.conflict =>
            {
                self.allowed = bytes;
            }
            Leg::Up(_) => {
                self.refused = Some(Refused::Stream(stream));
                if route.is_blocked() {
                    self.notes.push(Note::BlockedStream);
                }
                let answered = answered(Rc::new(route), claimed, 502, policy);
                self.notes.push(Note::StreamAnswered(Box::new(answered)));
            }
        }
    }

    /// What came before the first request cannot be served, or is that request.
    fn refuse_first(&mut self, error: FrameError) {
        let goaway = http2::goaway(0, error.code()).to_vec();
        self.reply(goaway, CloseReason::BadRequest, Vec::new(), ResponseFlags::None);
        if let Some(reply) = &mut self.reply {
            reply.malformed = Some(Malformed::Frames(error));
        }
    }

    /// A reply on a connection that has no upstream.
    fn reply(
        &mut self,
        frames: Vec<u8>,
        reason: CloseReason,
        answered: Vec<Answered>,
        flags: ResponseFlags,
    ) {
        let mut bytes = Vec::new();
        if self.greeting == Greeting::NotSent {
            // A server's first frame.
            bytes.extend_from_slice(&EMPTY_SETTINGS);
        }
        bytes.extend(frames);
        self.reply = Some(Box::new(Reply { bytes, reason, answered, flags, malformed: None }));
    }

    /// The end of a connection on which something was refused: between two frames of the responses.
    fn refusal(&self, refused: Refused) -> Outcome {
        if self.boundary.to_boundary() > 0 {
            return Outcome::Hold;
        }
        let mut bytes = Vec::new();
        if self.boundary.is_at_start() && self.greeting == Greeting::NotSent {
            bytes.extend_from_slice(&EMPTY_SETTINGS);
        }
        let reason = match refused {
            Refused::Stream(stream) => {
                bytes.extend(farewell(stream));
                CloseReason::BlackHole
            }
            Refused::Connection(code) => {
                bytes.extend(http2::goaway(self.frames.last_stream(), code));
                CloseReason::BadRequest
            }
        };
        let flags = ResponseFlags::None;
        let reply = Reply { bytes, reason, answered: Vec::new(), flags, malformed: None };
        Outcome::Act(Action::Reply(Box::new(reply)))
    }

    /// Responses pass; once something is refused, up to the end of the present frame.
    fn response_frames(&mut self, bytes: &[u8]) -> Outcome {
        let passing = match self.refused {
            None => bytes,
            Some(_) => &bytes[..bytes.len().min(self.boundary.to_boundary())],
        };
        if passing.is_empty() {
            return Outcome::Drop(bytes.len());
        }
        self.boundary.passed(passing);
        Outcome::Pass(passing.len())
    }

    /// See [`super::Gate::dropped`].
    pub(super) fn dropped(&mut self) {
        self.swallowed = 0;
    }

    /// See [`super::Gate::waits`]: for the end of a frame of the responses.
    pub(super) fn waits(&self) -> bool {
        self.refused.is_some()
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

    /// See [`super::Gate::unreachable`]: the requests that wait are answered 503.
    pub(super) fn unreachable(
        &mut self,
        held: &[u8],
        policy: &Policy<'_>,
        flags: ResponseFlags,
        reason: CloseReason,
    ) -> Option<Box<Reply>> {
        let First { route, stream, claimed, .. } = *self.first.take()?;
        let mut held = &held[self.allowed.min(held.len())..];
        let failed = route.action.clone();
        let mut waiting = vec![(stream, route, claimed)];
        while waiting.len() < ANSWERED_MAX {
            let Some((stream, claimed)) = self.next_waiting(&mut held) else { break };
            let host = Some(claimed.host.clone());
            let route = Route::decide(policy.snapshot, policy.source, policy.destination, host);
            if claimed.conflict || !route.action.is_same(&failed) {
                // It does not wait for this upstream, and may be tried again.
                break;
            }
            waiting.push((stream, Rc::new(route), claimed));
        }
        let last_stream = waiting.last().map_or(0, |(stream, ..)| *stream);
        let mut frames = Vec::new();
        let mut answered_requests = Vec::new();
        for (stream, route, claimed) in waiting {
            frames.extend(http2::answer(stream, 503));
            answered_requests.push(answered(route, claimed, 503, policy));
        }
        frames.extend(http2::goaway(last_stream, ErrorCode::NoError));
        self.reply(frames, reason, answered_requests, flags);
        self.reply.take()
    }

    /// The next request that has come whole.
    fn next_waiting(&mut self, held: &mut &[u8]) -> Option<(u32, Claimed)> {
        loop {
            let (bytes, request) = match self.frames.next(held) {
                FrameStep::Pass { bytes } | FrameStep::SettingsAck { bytes } => (bytes, None),
                FrameStep::Request { bytes, stream, authority } => {
                    (bytes, Some((stream, authority)))
                }
                FrameStep::NeedMore | FrameStep::Refused(_) => return None,
            };
            *held = &held[bytes..];
            if request.is_some() {
                return request;
            }
        }
    }
}

/// The reply to a request that may not pass, and the end of the connection.
fn farewell(stream: u32) -> Vec<u8> {
    let mut frames = http2::answer(stream, 502);
    frames.extend_from_slice(&http2::goaway(stream, ErrorCode::NoError));
    frames
}

/// A request that Egret answers itself, to be accounted.
fn answered(route: Rc<Route>, claimed: Claimed, status: u16, policy: &Policy<'_>) -> Answered {
    let logged = match policy.logging {
        Logging::Off => None,
        Logging::On => Some(Box::new(Logged::Stream(claimed.method, claimed.path))),
    };
    let exchange = Exchange {
        route,
        began: policy.now,
        responded: None,
        request_bytes: 0,
        offers_h2c: false,
        answered_by: AnsweredBy::Egret,
        logged,
    };
    Answered { request: exchange, status, bytes: 0 }
}
