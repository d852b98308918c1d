//! HTTP/2 connections that a name decides: by the authority of their first request. The later ones
//! are read, too: a request that may not go where the connection goes is answered 502 and the
//! connection ends with GOAWAY (`streams` says so).

use crate::access_log::Protocol;
use crate::http2::{
    Claimed, EMPTY_SETTINGS, ErrorCode, FrameBoundary, FrameError, FrameStep, PREFACE,
    RequestFrames,
};
use crate::metrics::ResponseFlags;
use crate::registry::Verdict;
use crate::registry::snapshot::{Claim, NameSource, Standing};
use crate::relay::Side;
use crate::sys::ring::{Ring, Sockets};
use crate::worker::Worker;
use crate::worker::connection::{Connection, Guide};
use crate::worker::direction::Held;
use crate::worker::route::Route;
use crate::worker::streams::First;
use crate::worker::token::Key;

/// What is known of an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Http2 {
    /// Bytes of the downstream that are held back; they pass before those that come.
    pub(super) held: Vec<u8>,
    /// So many of the first of them may pass.
    pub(super) judged: usize,
    /// So many of the bytes to be decided next are thrown away.
    swallow: usize,
    pub(super) frames: RequestFrames,
    /// Follows the answers, so that frames are only put in between two.
    pub(super) boundary: FrameBoundary,
    /// Whether Egret has sent SETTINGS of its own, whose acknowledgement it must swallow: some
    /// clients send no request before they have seen the server's.
    pub(super) greeted: Greeted,
    /// The request that has decided, while the upstream is being connected.
    pub(super) first: Option<Box<First>>,
    /// What may not pass: the connection ends as soon as the present frame is over.
    pub(super) refused: Option<Refused>,
}

/// Whether Egret has sent SETTINGS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeted {
    No,
    Sent,
    Acknowledged,
}

/// What is refused.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refused {
    /// One request: it is answered 502.
    Stream(u32),
    /// Whatever follows: nobody knows what it means.
    Connection(ErrorCode),
}

/// What comes next on the downstream.
pub(super) enum Next {
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
            first: None,
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

    /// What comes next of the bytes that are held and not judged.
    pub(super) fn next_held(&mut self) -> Next {
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
                // Its HEADERS might fit alone, but not behind all that has come before them.
                Next::More if connection.guide.room(Side::Downstream) == 0 => {
                    return self.refuse_first_frames(key, FrameError::HeadTooLarge);
                }
                Next::More => {
                    self.greet(key);
                    return self.advance(key, Side::Downstream);
                }
                Next::Malformed(error) => return self.refuse_first_frames(key, error),
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
        self.recognition_over(key);
        if decision.standing == Standing::Unverified {
            self.metrics.counters.unverified_names.add(1);
        }
        // Of two names nobody knows which one the server takes.
        if matches!(decision.verdict, Verdict::BlackHole) || claimed.conflict {
            return self.block_first_stream(key, stream, claimed);
        }
        let first = First { snapshot: snapshot.clone(), stream, claimed };
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http2(http) = &mut connection.guide else { return };
        http.first = Some(Box::new(first));
        self.take_way(key, &snapshot, decision.verdict, Protocol::Http2);
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
        self.account_stream(key, &snapshot, claimed, 502, ResponseFlags::None);
        false
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
}
