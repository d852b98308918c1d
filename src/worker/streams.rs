//! What Egret itself says in HTTP/2: 502 or 503 on a stream, and the GOAWAY that ends the
//! connection. `http2` says which streams may pass.

use std::rc::Rc;

use crate::access_log::{Protocol, Request};
use crate::http2::{self, Claimed, EMPTY_SETTINGS, ErrorCode, FrameError};
use crate::metrics::{CloseReason, ResponseFlags};
use crate::registry::Snapshot;
use crate::registry::snapshot::{Claim, NameSource};
use crate::relay::Side;
use crate::sys::ring::{Ring, Sockets};
use crate::worker::connection::{Account, Guide, Phase, Then};
use crate::worker::http2::{Greeted, Next, Refused};
use crate::worker::route::{Exchange, Route};
use crate::worker::token::Key;
use crate::worker::{HeldSnapshot, Worker};

/// The most streams that are answered 503 at a time: as many as servers let a client open. Their
/// answers fit in one buffer. What is behind them stands above the GOAWAY's last stream, and may be
/// tried again.
const ANSWERED_MAX: usize = 100;

/// The request that has decided a connection.
#[derive(Debug)]
pub(super) struct First {
    /// What decided, and what the labels come from.
    pub(super) snapshot: HeldSnapshot,
    pub(super) stream: u32,
    pub(super) claimed: Claimed,
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// The upstream of a connection that its first request has decided is connected, or the
    /// connection ends before: from now on it counts as one, by that request's name.
    pub(super) fn settle_first_stream(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http2(http) = &mut connection.guide else { return };
        let Some(first) = http.first.take() else { return };
        let name = first.claimed.name.as_ref();
        let claim = name.map(|name| Claim { name, by: NameSource::Host });
        let decision = first.snapshot.decide(connection.original_destination, claim);
        self.settle(key, &first.snapshot, decision, claim, Protocol::Http2);
    }

    /// The first request may not pass: 502, and the end.
    pub(super) fn block_first_stream(&mut self, key: Key, stream: u32, claimed: Claimed) {
        let snapshot = self.snapshot();
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.account = Account::Requests;
        self.account_stream(key, &snapshot, claimed, 502, ResponseFlags::None);
        self.say_frames(key, farewell(stream), CloseReason::BlackHole);
    }

    /// What came before the first request is beyond serving, or is that request.
    pub(super) fn refuse_first_frames(&mut self, key: Key, error: FrameError) {
        self.metrics.counters.refused_frames(error).add(1);
        self.recognition_over(key);
        self.say_frames(key, http2::goaway(0, error.code()).into(), CloseReason::BadRequest);
    }

    /// No upstream connection could be made: the requests that wait for one are answered 503.
    pub(super) fn answer_waiting_streams(
        &mut self,
        key: Key,
        flags: ResponseFlags,
        reason: CloseReason,
    ) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let (source, destination) = (connection.source.ip(), connection.original_destination);
        connection.account = Account::Requests;
        let Guide::Http2(http) = &mut connection.guide else { return };
        let Some(first) = http.first.take() else { return };
        let First { snapshot, stream, claimed } = *first;
        let name = claimed.name.clone();
        let failed = Route::decide(&snapshot, source, destination, name);
        let mut waiting = vec![(stream, claimed)];
        while waiting.len() < ANSWERED_MAX {
            let Some((stream, claimed)) = self.next_waiting_stream(key) else { break };
            let name = claimed.name.clone();
            let route = Route::decide(&snapshot, source, destination, name);
            if claimed.conflict || !route.way.is_same(&failed.way) {
                // It does not wait for this upstream, and may be tried again.
                break;
            }
            waiting.push((stream, claimed));
        }
        let last_stream = waiting.last().map_or(0, |(stream, _)| *stream);
        let mut words = Vec::new();
        for (stream, claimed) in waiting {
            words.extend(http2::answer(stream, 503));
            self.account_stream(key, &snapshot, claimed, 503, flags);
        }
        words.extend(http2::goaway(last_stream, ErrorCode::NoError));
        self.say_frames(key, words, reason);
    }

    /// The next request that has come whole behind those that were told.
    fn next_waiting_stream(&mut self, key: Key) -> Option<(u32, Claimed)> {
        let connection = self.connections.get_mut(key.slot)?;
        let Guide::Http2(http) = &mut connection.guide else { return None };
        loop {
            let (bytes, told) = match http.next_held() {
                Next::Pass(bytes) | Next::Swallow(bytes) => (bytes, None),
                Next::Request(bytes, stream, claimed) => (bytes, Some((stream, claimed))),
                Next::More | Next::Malformed(_) => return None,
            };
            http.judged += bytes;
            if told.is_some() {
                return told;
            }
        }
    }

    /// Egret's last words on a connection that has no upstream.
    fn say_frames(&mut self, key: Key, last_words: Vec<u8>, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http2(http) = &mut connection.guide else { return };
        // Nothing that is held will pass.
        http.held.clear();
        http.judged = 0;
        let mut words = Vec::new();
        if http.greeted == Greeted::No {
            // A server's first frame.
            words.extend_from_slice(&EMPTY_SETTINGS);
        }
        words.extend(last_words);
        if connection.direction(Side::Upstream).operation.is_some() {
            // The greeting is still on its way.
            connection.phase = Phase::Retiring { then: Then::Say(words.into(), reason) };
            connection.moved_at = self.now_us;
            return;
        }
        self.say(key, words.into(), reason);
    }

    /// A request that Egret answers itself is counted, and logged.
    pub(super) fn account_stream(
        &mut self,
        key: Key,
        snapshot: &Snapshot,
        claimed: Claimed,
        status: u16,
        flags: ResponseFlags,
    ) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let (source, destination) = (connection.source.ip(), connection.original_destination);
        let line = self.access_log.is_on().then(|| {
            Box::new(Request {
                method: (&*claimed.method).into(),
                target: (&*claimed.path).into(),
                version: "HTTP/2",
                authority: claimed.name.as_ref().map(|name| name.as_str().into()),
                details: match status {
                    502 => "direct_response",
                    _ => "upstream_reset_before_response_started",
                },
                ..Request::default()
            })
        });
        let exchange = Exchange {
            route: Rc::new(Route::decide(snapshot, source, destination, claimed.name)),
            began: self.now_us,
            status,
            request_bytes: 0,
            response_bytes: 0,
            wants_h2c: false,
            line,
        };
        self.account_exchange(key, exchange, flags);
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
