//! Requests that do not pass, and what Egret itself answers them: 502, 503, a gRPC status, or a
//! reset.

use std::rc::Rc;

use super::{Course, First, Gone, Http2};
use crate::gate::reply::Malformed;
use crate::gate::{
    Answered, AnsweredBy, Exchange, Leg, Logged, Logging, Note, Policy, Reply, Route,
};
use crate::http2::{self, Claimed, ErrorCode, FrameError, FrameStep};
use crate::metrics::{CloseReason, ResponseFlags};

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
        error: Malformed,
        policy: &Policy<'_>,
    ) {
        let reset = http2::reset(stream, error.code());
        match policy.leg {
            Leg::None => {
                let frames = self.farewell(stream, reset);
                self.refuse_by(frames, error);
            }
            Leg::Up(_) => {
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
        self.refuse_by(http2::goaway(self.requests.last_stream(), error.code()), error.into());
    }

    pub(super) fn refuse_by(&mut self, frames: Vec<u8>, error: Malformed) {
        self.reply(frames, CloseReason::BadRequest, Vec::new(), ResponseFlags::None);
        if let Some(reply) = &mut self.reply {
            reply.malformed = Some(error);
        }
    }

    /// A reply on a connection that has no upstream.
    pub(super) fn reply(
        &mut self,
        frames: Vec<u8>,
        reason: CloseReason,
        answered: Vec<Answered>,
        flags: ResponseFlags,
    ) {
        self.say(frames);
        let bytes = std::mem::take(&mut self.own);
        self.reply = Some(Box::new(Reply { bytes, reason, answered, flags, malformed: None }));
    }

    /// See [`crate::gate::Gate::unreachable`]: the requests that wait are answered 503.
    pub(in crate::gate) fn unreachable(
        &mut self,
        held: &[u8],
        policy: &Policy<'_>,
        reason: CloseReason,
    ) -> Option<Box<Reply>> {
        let First { route, stream, claimed, .. } = *self.first.take()?;
        let flags = route.unreachable_flags(reason);
        let mut held = &held[self.allowed.min(held.len())..];
        let failed = Rc::clone(&route);
        let mut waiting = vec![(stream, route, claimed)];
        while waiting.len() < ANSWERED_MAX {
            let Some((stream, claimed)) = self.next_waiting(&mut held) else { break };
            let host = Some(claimed.host.clone());
            let route = Route::decide(policy.snapshot, policy.source, policy.destination, host);
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
            frames.extend(answer(stream, 503, &claimed));
            answers.push(answered(route, claimed, 503, policy));
        }
        frames.extend(http2::goaway(last_stream, ErrorCode::NoError));
        self.reply(frames, reason, answers, flags);
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
pub(super) fn answer(stream: u32, status: u16, claimed: &Claimed) -> Vec<u8> {
    let message = match status {
        502 => "blocked by egret: no policy lets this host pass",
        _ => "egret: no upstream connection to this host",
    };
    match claimed.is_grpc {
        false => http2::answer(stream, status, &[]),
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
    status: u16,
    policy: &Policy<'_>,
) -> Answered {
    let logged = match policy.logging {
        Logging::Off => None,
        Logging::On => Some(Box::new(Logged::Stream(claimed.method, claimed.path))),
    };
    let exchange = Exchange {
        route,
        began: policy.now,
        responded: None,
        request_bytes: 0,
        answered_by: AnsweredBy::Egret,
        logged,
    };
    let status = if claimed.is_grpc { 200 } else { status };
    Answered { request: exchange, status, bytes: 0 }
}
