//! What Egret itself says before it closes a connection (a 502, a TLS alert), and how an upstream
//! connection gives way: to the next one, or to these words.

use std::rc::Rc;

use crate::config::Action;
use crate::http1::HEAD_BYTES_MAX;
use crate::metrics::{CloseReason, ResponseFlags};
use crate::registry::Snapshot;
use crate::relay::Side;
use crate::sys::ring::{Expect, Operation, Ring, Sockets};
use crate::worker::connection::{End, Guide, Phase, Then};
use crate::worker::direction::{Direction, Held};
use crate::worker::route::{Asker, Exchange, Route, Way};
use crate::worker::token::{Key, Target};
use crate::worker::{LINGER_US, Worker};

/// A fatal `access_denied` (49) in a record of TLS 1.2, which any client reads before it knows the
/// version (RFC 8446 5.1, 6.2).
pub(super) const TLS_ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// An answer without a body, after which the connection ends.
fn answer(status: u16) -> String {
    let reason = match status {
        400 => "Bad Request",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        _ => "Service Unavailable",
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\
         server: egret\r\n\r\n"
    )
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Answers the request that was told, or is refused, and ends the connection. Every request
    /// before it has been answered.
    pub(super) fn answer_told(
        &mut self,
        key: Key,
        status: u16,
        flags: ResponseFlags,
        reason: CloseReason,
    ) {
        let words = answer(status).into_bytes();
        let logged = self.access_log.is_on();
        let snapshot = self.snapshot();
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http1(http) = &mut connection.guide else { return };
        let route = match (&http.told, &http.route) {
            (Some(_), Some(route)) => Rc::clone(route),
            // A refused request names nobody.
            _ => {
                let destination = connection.original_destination;
                let asker = Asker {
                    generation: snapshot.generation,
                    mode: http.mode,
                    source: connection.source.ip(),
                    destination,
                };
                Rc::new(Route::of(&snapshot, asker, snapshot.lookup(destination)))
            }
        };
        let mut line = if logged { http.told_line(http.held()) } else { None };
        if let Some(line) = &mut line {
            line.details = match status {
                502 => "direct_response",
                503 => "upstream_reset_before_response_started",
                _ => "codec_error",
            };
        }
        let head_len = http.told.as_ref().map_or(http.held().len(), |head| head.head_len);
        let exchange = Exchange {
            route,
            began: self.now_us,
            status,
            request_bytes: head_len.min(HEAD_BYTES_MAX) as u64,
            response_bytes: words.len() as u64,
            wants_h2c: false,
            line,
        };
        // Nothing that is held will pass.
        http.forget();
        self.account_exchange(key, exchange, flags);
        self.retire(key, Then::Say(words.into(), reason));
    }

    /// Closes the upstream connection, which is idle, if there is one; then goes on.
    pub(super) fn retire(&mut self, key: Key, then: Then) {
        self.recognition_over(key);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if connection.end(Side::Upstream).socket.is_some() && matches!(then, Then::Connect) {
            self.metrics.counters.upstream_switches.add(1);
        }
        connection.phase = Phase::Retiring { then };
        connection.moved_at = self.now_us;
        for (operation, side) in connection.in_flight() {
            if side == Side::Upstream {
                self.ring.cancel(operation, Target::Connection(key, side).encode());
            }
        }
        self.continue_retiring(key);
    }

    /// The upstream connection is closed when nothing of it is in flight.
    pub(super) fn continue_retiring(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if !matches!(connection.phase, Phase::Retiring { .. }) || connection.is_upstream_in_flight()
        {
            return;
        }
        if connection.direction(Side::Upstream).half.is_holding() {
            // Egret's greeting of HTTP/2, which has waited for room.
            return self.advance(key, Side::Upstream);
        }
        if let Some(flow) = connection.flow.take() {
            self.admission.forget_flow(&flow);
        }
        if let Some(socket) = connection.end(Side::Upstream).socket.take() {
            self.ring.close(socket);
        }
        self.drop_held(key, Side::Upstream);
        self.drop_early(key, Side::Upstream);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        *connection.end(Side::Upstream) = End::default();
        connection.upstream = None;
        connection.kept_alive = false;
        let direction = connection.direction(Side::Upstream);
        let (bytes, written) = (direction.bytes, direction.written);
        *direction = Direction { bytes, written, ..Direction::new(Expect::Nothing) };
        // Put back by what follows.
        let phase = std::mem::replace(&mut connection.phase, Phase::Relaying);
        match phase {
            Phase::Retiring { then: Then::Connect } => self.connect_told(key),
            Phase::Retiring { then: Then::Say(words, reason) } => self.say(key, words, reason),
            _ => {}
        }
    }

    /// Connects to where the request that was told goes.
    fn connect_told(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let destination = connection.original_destination;
        let Guide::Http1(http) = &mut connection.guide else { return };
        http.upstream_replaced();
        let Some(route) = http.route.clone() else { return };
        match &route.way {
            Way::Service(service) => self.connect_to_service(key, service, destination),
            Way::Passthrough => self.connect_to(key, destination, None),
            Way::BlackHole => {}
        }
    }

    /// No upstream connection could be made: whoever speaks HTTP is told so.
    pub(super) fn connect_failed(&mut self, key: Key, reason: CloseReason) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let flags = match reason {
            CloseReason::NoEndpoint => ResponseFlags::BlackHole,
            _ => ResponseFlags::UpstreamFailed,
        };
        match &connection.guide {
            Guide::Http1(http) if http.told.is_some() => {
                self.answer_told(key, 503, flags, reason);
            }
            Guide::Http2(http) if http.first.is_some() => {
                self.answer_waiting_streams(key, flags, reason);
            }
            _ => self.end(key, reason),
        }
    }

    /// Sends Egret's own words to the downstream, and then FIN.
    pub(super) fn say(&mut self, key: Key, words: Box<[u8]>, reason: CloseReason) {
        self.recognition_over(key);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.phase = Phase::Answering { words: Some(words), reason };
        connection.moved_at = self.now_us;
        self.speak(key);
    }

    /// Puts the words into a buffer, as soon as there is one.
    pub(super) fn speak(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Phase::Answering { words, .. } = &mut connection.phase else { return };
        let Some(bytes) = words.take() else { return };
        let Some(buffer) = self.ring.fill(&bytes) else {
            *words = Some(bytes);
            self.metrics.counters.buffers_starved.add(1);
            return self.starved.push_back((key, Side::Upstream));
        };
        let direction = &mut connection.directions[Side::Upstream as usize];
        direction.half.received(buffer.length());
        direction.half.pass(buffer.length());
        direction.held = Held::Buffer(buffer);
        self.advance(key, Side::Upstream);
    }

    /// The words are sent.
    pub(super) fn linger(&mut self, key: Key, reason: CloseReason) {
        let deadline = self.now_us + LINGER_US;
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Some(socket) = &connection.end(Side::Downstream).socket else { return };
        if socket.shutdown_write().is_err() {
            return self.end(key, reason);
        }
        connection.phase = Phase::Lingering { deadline, reason };
        if connection.direction(Side::Downstream).operation.is_none() {
            self.submit_poll(key, Side::Downstream, Operation::Readable, Side::Downstream);
        }
    }

    /// Ends a connection that the policy gives no way out, and never opens an upstream one.
    pub(super) fn blackhole(&mut self, key: Key, snapshot: &Snapshot, is_tls: bool) {
        let black_hole = &snapshot.config.black_hole;
        if is_tls && black_hole.tls_alert {
            return self.say(key, TLS_ACCESS_DENIED.into(), CloseReason::BlackHole);
        }
        match black_hole.action {
            Action::Reset => self.end(key, CloseReason::BlackHole),
            Action::Close => self.linger(key, CloseReason::BlackHole),
        }
    }
}
