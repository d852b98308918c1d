//! HTTP/2 connections that a name decides: by the authority of their first request. The later ones
//! are read, too: a request that may not go where the connection goes is answered 502 and the
//! connection ends with GOAWAY.

use std::rc::Rc;

use crate::access_log::{Protocol, Request};
use crate::http2::{
    self, Claimed, EMPTY_SETTINGS, ErrorCode, FrameBoundary, FrameError, FrameStep, PREFACE,
    RequestFrames,
};
use crate::metrics::{CloseReason, Recognised, ResponseFlags};
use crate::registry::snapshot::{Claim, NameSource, Standing};
use crate::relay::Side;
use crate::sniff::OpaqueReason;
use crate::sys::ring::{Ring, Sockets};
use crate::worker::Worker;
use crate::worker::connection::{Connection, Guide, Phase, Then};
use crate::worker::direction::Held;
use crate::worker::route::{Exchange, Route};
use crate::worker::token::Key;

/// What is known of an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Http2 {
    /// Bytes of the downstream that are held back; they pass before those that come.
    pub(super) held: Vec<u8>,
    /// So many of the first of them may pass.
    judged: usize,
    /// So many of the bytes to be decided next are thrown away.
    swallow: usize,
    frames: RequestFrames,
    /// Follows the answers, so that frames are only put in between two.
    boundary: FrameBoundary,
    /// Whether Egret has sent SETTINGS of its own, whose acknowledgement it must swallow: some
    /// clients send no request before they have seen the server's.
    greeted: Greeted,
    /// What may not pass: the connection ends as soon as the present frame is over.
    refused: Option<Refused>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeted {
    No,
    Sent,
    Acknowledged,
}

/// What is refused.
#[derive(Debug, Clone, Copy)]
enum Refused {
    /// One request: it is answered 502.
    Stream(u32),
    /// Whatever follows: nobody knows what it means.
    Connection(ErrorCode),
}

/// What comes next on the downstream.
enum Next {
    Pass(usize),
    Swallow(usize),
    Request(usize, u32, Claimed),
    More,
    Malformed(FrameError),
}

impl Http2 {
    /// A connection of which nothing but `held` has come, which begins with the preface.
    pub(super) fn new(held: Vec<u8>) -> Self {
        Self {
            held,
            judged: PREFACE.len(),
            swallow: 0,
            frames: RequestFrames::default(),
            boundary: FrameBoundary::default(),
            greeted: Greeted::No,
            refused: None,
        }
    }

    fn next(&mut self, bytes: &[u8]) -> Next {
        match self.frames.next(bytes) {
            FrameStep::NeedMore => Next::More,
            FrameStep::Pass { bytes } => Next::Pass(bytes),
            FrameStep::SettingsAck { bytes } if self.greeted == Greeted::Sent => {
                self.greeted = Greeted::Acknowledged;
                Next::Swallow(bytes)
            }
            FrameStep::SettingsAck { bytes } => Next::Pass(bytes),
            FrameStep::Request { bytes, stream, authority } => {
                Next::Request(bytes, stream, authority)
            }
            FrameStep::Refused(error) => Next::Malformed(error),
        }
    }

    fn next_held(&mut self) -> Next {
        let held = std::mem::take(&mut self.held);
        let next = self.next(&held[self.judged..]);
        self.held = held;
        next
    }
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Looks for the first request in what is held, and decides by it.
    pub(super) fn first_stream(&mut self, key: Key) {
        loop {
            let Some(connection) = self.connections.get_mut(key.slot) else { return };
            let Guide::Http2(http) = &mut connection.guide else { return };
            match http.next_held() {
                Next::Pass(bytes) => http.judged += bytes,
                Next::Swallow(bytes) => {
                    let from = http.judged;
                    http.held.drain(from..from + bytes);
                }
                Next::Request(bytes, stream, claimed) => {
                    http.judged += bytes;
                    return self.decide_by_stream(key, stream, claimed);
                }
                Next::More if connection.guide.room(Side::Downstream) == 0 => {
                    let why = Recognised::Opaque(OpaqueReason::TooLarge);
                    return self.decide_nameless(key, why);
                }
                Next::More => {
                    self.greet(key);
                    return self.advance(key, Side::Downstream);
                }
                Next::Malformed(error) => {
                    self.metrics.counters.refused_frames(error).add(1);
                    let why = Recognised::Opaque(OpaqueReason::NotRecognised);
                    return self.decide_nameless(key, why);
                }
            }
        }
    }

    /// Sends the SETTINGS that some clients wait for.
    pub(super) fn greet(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http2(http) = &mut connection.guide else { return };
        if http.greeted != Greeted::No {
            return;
        }
        let Some(buffer) = self.ring.fill(&EMPTY_SETTINGS) else {
            self.metrics.counters.buffers_starved.add(1);
            return self.starved.push_back((key, Side::Upstream));
        };
        http.greeted = Greeted::Sent;
        let direction = &mut connection.directions[Side::Upstream as usize];
        direction.half.received(buffer.length());
        direction.half.pass(buffer.length());
        direction.held = Held::Buffer(buffer);
        self.advance(key, Side::Upstream);
    }

    fn decide_by_stream(&mut self, key: Key, stream: u32, claimed: Claimed) {
        let snapshot = self.snapshot();
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let destination = connection.original_destination;
        self.metrics.counters.name_conflicts.add(u64::from(claimed.conflict));
        let name = claimed.name.clone();
        let claim = name.as_ref().map(|name| Claim { name, by: NameSource::Host });
        let decision = snapshot.decide(destination, claim);
        let blocked = matches!(decision.verdict, crate::registry::Verdict::BlackHole);
        // Of two names nobody knows which one the server takes.
        if !blocked && !claimed.conflict {
            return self.follow(key, &snapshot, decision, claim, Protocol::Http2);
        }
        self.recognition_over(key);
        if decision.standing == Standing::Unverified {
            self.metrics.counters.unverified_names.add(1);
        }
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.account = super::connection::Account::Requests;
        let Guide::Http2(http) = &mut connection.guide else { return };
        let mut words = Vec::new();
        if http.greeted == Greeted::No {
            words.extend_from_slice(&EMPTY_SETTINGS);
        }
        words.extend(farewell(stream));
        self.account_stream(key, claimed);
        if let Some(connection) = self.connections.get_mut(key.slot)
            && connection.directions[Side::Upstream as usize].operation.is_some()
        {
            // The greeting is still on its way.
            connection.phase =
                Phase::Retiring { then: Then::Say(words.into(), CloseReason::BlackHole) };
            return;
        }
        self.say(key, words.into(), CloseReason::BlackHole);
    }

    /// Passes the frames that are allowed.
    pub(super) fn gate_frames(&mut self, key: Key) {
        let mut pass = 0;
        loop {
            let Some(connection) = self.connections.get_mut(key.slot) else { return };
            let Connection { guide: Guide::Http2(http), directions, .. } = connection else {
                return;
            };
            let undecided = directions[Side::Downstream as usize].undecided();
            let Some((buffer, from)) = undecided else { return };
            if http.judged > 0 {
                pass = std::mem::take(&mut http.judged);
                break;
            }
            if http.refused.is_some() || http.swallow > 0 {
                break;
            }
            match http.next(&self.ring.bytes(buffer)[from + pass..]) {
                Next::Pass(bytes) => pass += bytes,
                Next::Swallow(bytes) => http.swallow = bytes,
                Next::More => break,
                Next::Malformed(error) => {
                    self.metrics.counters.refused_frames(error).add(1);
                    http.refused = Some(Refused::Connection(error.code()));
                }
                Next::Request(bytes, stream, claimed) => {
                    if self.may_join(key, stream, claimed) {
                        pass += bytes;
                    }
                }
            }
        }
        if pass > 0 {
            return self.pass(key, Side::Downstream, pass);
        }
        let rest = self.set_aside(key, Side::Downstream);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http2(http) = &mut connection.guide else { return };
        if http.refused.is_some() {
            return self.end_streams(key);
        }
        let swallow = std::mem::take(&mut http.swallow);
        http.held = rest[swallow..].to_vec();
        if swallow > 0 {
            return self.resume(key);
        }
        self.advance(key, Side::Downstream);
    }

    /// Whether a later request may pass on the present upstream connection.
    fn may_join(&mut self, key: Key, stream: u32, claimed: Claimed) -> bool {
        let snapshot = self.snapshot();
        let Some(connection) = self.connections.get_mut(key.slot) else { return false };
        let destination = connection.original_destination;
        self.metrics.counters.name_conflicts.add(u64::from(claimed.conflict));
        let source = connection.source.ip();
        let route = Route::decide(&snapshot, source, destination, claimed.name.clone());
        if route.standing == Standing::Unverified {
            self.metrics.counters.unverified_names.add(1);
        }
        let here = connection.upstream.is_some_and(|up| route.leads_to(up, destination));
        if here && !claimed.conflict {
            return true;
        }
        let Guide::Http2(http) = &mut connection.guide else { return false };
        http.refused = Some(Refused::Stream(stream));
        if route.is_blocked() {
            self.metrics.counters.blocked_streams.add(1);
        }
        self.account_stream(key, claimed);
        false
    }

    /// A request that Egret answers itself is counted, and logged.
    fn account_stream(&mut self, key: Key, claimed: Claimed) {
        let snapshot = self.snapshot();
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let (source, destination) = (connection.source.ip(), connection.original_destination);
        let line = self.access_log.is_on().then(|| {
            Box::new(Request {
                method: (&*claimed.method).into(),
                target: (&*claimed.path).into(),
                version: "HTTP/2",
                authority: claimed.name.as_ref().map(|name| name.as_str().into()),
                details: "direct_response",
                ..Request::default()
            })
        });
        let exchange = Exchange {
            route: Rc::new(Route::decide(&snapshot, source, destination, claimed.name)),
            began: self.now_us,
            status: 502,
            request_bytes: 0,
            response_bytes: 0,
            wants_h2c: false,
            line,
        };
        self.account_exchange(key, exchange, ResponseFlags::None);
    }

    /// Passes the answers; once a stream is refused, no more than the present frame.
    pub(super) fn gate_stream_answers(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Connection { guide: Guide::Http2(http), directions, .. } = connection else { return };
        let undecided = directions[Side::Upstream as usize].undecided();
        let Some((buffer, from)) = undecided else { return };
        let mut bytes = &self.ring.bytes(buffer)[from..];
        if http.refused.is_some() {
            bytes = &bytes[..bytes.len().min(http.boundary.to_boundary())];
        }
        if bytes.is_empty() {
            self.set_aside(key, Side::Upstream);
            return self.end_streams(key);
        }
        http.boundary.passed(bytes);
        let count = bytes.len();
        self.pass(key, Side::Upstream, count);
    }

    /// Ends a connection of which a stream was refused, between two frames of the answers.
    pub(super) fn end_streams(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        // Bytes that may pass are still on their way to the upstream: their end comes here again.
        let passes = connection.direction(Side::Downstream).operation.is_some();
        if passes || !matches!(connection.phase, Phase::Relaying) {
            return;
        }
        let at_rest = connection.is_upstream_at_rest();
        let Guide::Http2(http) = &mut connection.guide else { return };
        let Some(refused) = http.refused else { return };
        if at_rest && http.boundary.to_boundary() == 0 {
            let last_stream = http.frames.last_stream();
            let (last_words, reason) = match refused {
                Refused::Stream(stream) => (farewell(stream), CloseReason::BlackHole),
                Refused::Connection(code) => {
                    (http2::goaway(last_stream, code).to_vec(), CloseReason::BadRequest)
                }
            };
            let mut words = Vec::new();
            if http.boundary.is_at_start() && http.greeted == Greeted::No {
                // A server's first frame.
                words.extend_from_slice(&EMPTY_SETTINGS);
            }
            words.extend(last_words);
            self.retire(key, Then::Say(words.into(), reason));
        }
    }
}

/// The answer to a request that may not pass, and the end of the connection.
fn farewell(stream: u32) -> Vec<u8> {
    let mut words = http2::answer(stream, 502);
    words.extend_from_slice(&http2::goaway(stream, ErrorCode::NoError));
    words
}
