//! Requests that do not pass, and what Egret itself answers them: 502, 503, a gRPC status, or a
//! reset.

use std::rc::Rc;

use super::{Course, First, Gone, Http2};
use crate::gate::reply::Malformed;
use crate::gate::{
    Answered, AnsweredBy, Exchange, Leg, Logged, Logging, Note, Policy, Reply, Route, Why,
};
use crate::http2::{self, Asked, Claimed, ErrorCode, FrameError, FrameStep};
use crate::metrics::CloseReason;

/// The most streams that are answered 503 at a time: as many as servers let a client open. Their
/// replies fit in one buffer. What is behind them stands above the GOAWAY's last stream, and may be
/// tried again.
const ANSWERED_MAX: usize = 100;

/// UNAVAILABLE, as Envoy answers a call that cannot be served.
const GRPC_UNAVAILABLE: &str = "14";

impl Http2 {
    /// A request that cannot be served, of `bytes` bytes, is next.
    pub(super) fn malformed(
        &mut self,
        bytes: usize,
        stream: u32,
        (error, asked): (Malformed, Asked),
        policy: &Policy<'_>,
    ) {
        let reset = http2::reset(stream, error.code());
        // A malformed request names no host, and gets no response.
        let answered = Answered { status: 0, ..nameless(Why::Malformed(error), asked, policy) };
        match policy.leg {
            Leg::None => {
                let frames = self.farewell(stream, reset);
                self.refuse_by(frames, error, vec![answered]);
            }
            Leg::Up(_) => {
                self.notes.push(Note::StreamAnswered(Box::new(answered)));
                self.notes.push(Note::Refused(error));
                self.refuse(bytes, stream, reset, CloseReason::BadRequest);
            }
        }
    }

    /// The next `bytes`, a request on `stream`, do not pass; this answers it.
    pub(super) fn refuse(
        &mut self,
        bytes: usize,
        stream: u32,
        answer: Vec<u8>,
        reason: CloseReason,
    ) {
        let frames = self.farewell(stream, answer);
        self.say(frames);
        self.requests.refuse();
        self.course = Course::Draining(reason);
        self.drop_next(bytes);
    }

    /// The next `bytes` end a stream that has passed, towards both sides.
    pub(super) fn reset(&mut self, bytes: usize, stream: u32, error: Option<Malformed>) {
        let code = error.map_or(ErrorCode::Cancel, Malformed::code);
        let mut frames = http2::reset(stream, code);
        if !self.requests.passes_blocks() && self.course == Course::Open {
            frames = self.farewell(self.requests.last_stream(), frames);
            self.course = Course::Draining(CloseReason::BadRequest);
        }
        self.notes.extend(error.map(Note::Refused));
        self.say(frames);
        self.gone = Some(Gone { bytes, instead: http2::reset(stream, ErrorCode::Cancel) });
    }

    /// Nothing that the client sends can be read any more.
    pub(super) fn refuse_all(&mut self, error: FrameError) {
        self.notes.push(Note::Refused(error.into()));
        self.say(http2::goaway(self.requests.last_stream(), error.code()));
        self.course = Course::Over(CloseReason::BadRequest);
    }

    /// The end of a connection on whose `stream` something was refused by `answer`.
    pub(super) fn farewell(&self, stream: u32, answer: Vec<u8>) -> Vec<u8> {
        [answer, http2::goaway(stream, ErrorCode::NoError)].concat()
    }

    /// What came before the first request cannot be served.
    pub(super) fn refuse_first(&mut self, error: FrameError) {
        let frames = http2::goaway(self.requests.last_stream(), error.code());
        self.refuse_by(frames, error.into(), Vec::new());
    }

    fn refuse_by(&mut self, frames: Vec<u8>, error: Malformed, answered: Vec<Answered>) {
        self.reply(frames, CloseReason::BadRequest, answered);
        if let Some(reply) = &mut self.reply {
            reply.malformed = Some(error);
        }
    }

    /// A reply on a connection that has no upstream.
    pub(super) fn reply(&mut self, frames: Vec<u8>, reason: CloseReason, answered: Vec<Answered>) {
        self.say(frames);
        let bytes = std::mem::take(&mut self.own);
        self.reply = Some(Box::new(Reply { bytes, reason, answered, malformed: None }));
    }

    /// See [`crate::gate::Gate::unreachable`]: the requests that wait are answered 503.
    pub(in crate::gate) fn unreachable(
        &mut self,
        held: &[u8],
        policy: &Policy<'_>,
        reason: CloseReason,
    ) -> Option<Box<Reply>> {
        let First { route, stream, claimed, .. } = *self.first.take()?;
        let mut held = &held[self.allowed.min(held.len())..];
        let failed = Rc::clone(&route);
        let mut waiting = vec![(stream, route, claimed)];
        while waiting.len() < ANSWERED_MAX {
            let Some((stream, claimed)) = self.next_waiting(&mut held) else { break };
            let route = policy.route(Some(claimed.host.clone()));
            if claimed.conflict || !route.is_same_way(&failed) {
                // It does not wait for this upstream, and may be tried again.
                break;
            }
            waiting.push((stream, Rc::new(route), claimed));
        }
        let last_stream = waiting.last().map_or(0, |(stream, ..)| *stream);
        let mut frames = Vec::new();
        let mut answers = Vec::new();
        for (stream, route, claimed) in waiting {
            let why = Why::Unreachable(reason);
            frames.extend(answer(stream, why, &claimed));
            answers.push(answered(route, claimed, why, policy));
        }
        frames.extend(http2::goaway(last_stream, ErrorCode::NoError));
        self.reply(frames, reason, answers);
        self.reply.take()
    }

    /// The next request that has come whole.
    fn next_waiting(&mut self, held: &mut &[u8]) -> Option<(u32, Claimed)> {
        loop {
            let (bytes, request) = match self.requests.next(held) {
                FrameStep::Pass { bytes }
                | FrameStep::SettingsAck { bytes }
                | FrameStep::Settings { bytes }
                | FrameStep::Ping { bytes, .. } => (bytes, None),
                FrameStep::Request { bytes, stream, authority } => {
                    (bytes, Some((stream, authority)))
                }
                FrameStep::NeedMore
                | FrameStep::Malformed { .. }
                | FrameStep::Drop { .. }
                | FrameStep::Reset { .. }
                | FrameStep::Refused(_) => return None,
            };
            *held = &held[bytes..];
            if request.is_some() {
                return request;
            }
        }
    }
}

/// What `stream` is answered instead of by an upstream: a call of gRPC in trailers, which its
/// client reads, as Envoy does it.
pub(super) fn answer(stream: u32, why: Why, claimed: &Claimed) -> Vec<u8> {
    let message = match why {
        Why::Blocked => "blocked by egret: no policy lets this host pass",
        Why::Unreachable(_) | Why::Malformed(_) | Why::Late => {
            "egret: no upstream connection to this host"
        }
    };
    match claimed.is_grpc {
        false => http2::answer(stream, why.status(), &[]),
        true => http2::answer(
            stream,
            200,
            &[
                ("content-type", "application/grpc"),
                ("grpc-status", GRPC_UNAVAILABLE),
                ("grpc-message", message),
            ],
        ),
    }
}

/// A request that Egret answers itself, to be accounted.
pub(super) fn answered(
    route: Rc<Route>,
    claimed: Claimed,
    why: Why,
    policy: &Policy<'_>,
) -> Answered {
    let exchange = Exchange::answered_by_egret(why, route, policy.now);
    let exchange = Exchange {
        answered_by: AnsweredBy::Egret { why, grpc: claimed.is_grpc },
        logged: logged(claimed.asked, policy.logging),
        ..exchange
    };
    let status = if claimed.is_grpc { 200 } else { why.status() };
    Answered { request: exchange, status, bytes: 0, body_bytes: 0 }
}

/// The same, of a request that names no host.
fn nameless(why: Why, asked: Asked, policy: &Policy<'_>) -> Answered {
    let route = Rc::new(policy.route(None));
    let exchange = Exchange::answered_by_egret(why, route, policy.now);
    let exchange = Exchange { logged: logged(asked, policy.logging), ..exchange };
    Answered { request: exchange, status: why.status(), bytes: 0, body_bytes: 0 }
}

fn logged(asked: Asked, logging: Logging) -> Option<Box<Logged>> {
    match logging {
        Logging::Off => None,
        Logging::On => Some(Box::new(Logged::Stream(asked.method, asked.path))),
    }
}
