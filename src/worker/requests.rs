//! What passes from the downstream: bytes that nobody looks at, and requests of HTTP/1, each judged
//! by its own host before a byte of it moves.

use crate::access_log::Request;
use crate::http1::Refusal;
use crate::metrics::{CloseReason, ResponseFlags};
use crate::relay::{Side, State};
use crate::sys::ring::{Ring, Sockets};
use crate::worker::Worker;
use crate::worker::connection::{Connection, Guide, Phase, Then};
use crate::worker::direction::Held;
use crate::worker::http1::{Mode, Next, Waits};
use crate::worker::token::Key;

/// Why gating has stopped.
enum Stop {
    /// More bytes are needed.
    More,
    /// The rest is thrown away.
    Drop,
    /// The rest waits.
    Wait(Waits),
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Decides what passes of the buffer that the half reading from `side` holds.
    pub(super) fn judge(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        match (&connection.guide, side) {
            (Guide::Nobody | Guide::Forward(_) | Guide::Recognition(_), _) => {}
            (Guide::Watch(_), _) => self.look_at(key, side),
            (Guide::Http2(_), Side::Downstream) => return self.gate_frames(key),
            (Guide::Http2(_), Side::Upstream) => return self.gate_stream_answers(key),
            (Guide::Http1(http), _) => match (http.mode, side) {
                (Mode::Gated, Side::Downstream) => return self.gate_requests(key),
                (Mode::Gated, Side::Upstream) => return self.gate_answers(key),
                (Mode::Observed, Side::Downstream) => self.observe_requests(key),
                (Mode::Observed, Side::Upstream) => self.observe_answers(key),
            },
        }
        self.pass_rest(key, side);
    }

    /// All of the buffer passes.
    fn pass_rest(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let half = &mut connection.directions[side as usize].half;
        if let State::Deciding { from, length } = half.state() {
            half.pass(length - from);
        }
        self.advance(key, side);
    }

    /// So many bytes of the buffer pass, for now.
    pub(super) fn pass(&mut self, key: Key, side: Side, bytes: usize) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.directions[side as usize].half.pass(u32::try_from(bytes).unwrap_or(0));
        self.advance(key, side);
    }

    /// Takes the rest of the buffer out of the half's hands, and gives the buffer back.
    pub(super) fn set_aside(&mut self, key: Key, side: Side) -> Vec<u8> {
        let Some(connection) = self.connections.get_mut(key.slot) else { return Vec::new() };
        let direction = &mut connection.directions[side as usize];
        let Some((buffer, from)) = direction.undecided() else { return Vec::new() };
        let rest = self.ring.bytes(buffer)[from..].to_vec();
        direction.half.set_aside();
        self.drop_held(key, side);
        rest
    }

    /// Goes on with the downstream's bytes: those that are held first.
    pub(super) fn resume(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let side = Side::Downstream;
        let direction = &connection.directions[side as usize];
        if direction.operation.is_some() || direction.half.state() != State::Receiving {
            // Its completion comes here; or nothing will pass any more.
            return;
        }
        let held = match &mut connection.guide {
            Guide::Forward(held) => std::mem::take(held),
            Guide::Http1(http) if http.mode == Mode::Gated => {
                http.waits = Waits::No;
                http.take_carried(side)
            }
            Guide::Http2(http) => std::mem::take(&mut http.held),
            _ => Vec::new(),
        };
        if held.is_empty() {
            if let Guide::Forward(_) = connection.guide {
                connection.guide = Guide::Nobody;
            }
            return self.advance(key, side);
        }
        let Some(buffer) = self.ring.fill(&held) else {
            match &mut connection.guide {
                Guide::Http1(http) => http.carry(side, &held),
                Guide::Http2(http) => http.held = held,
                guide => *guide = Guide::Forward(held),
            }
            self.metrics.counters.buffers_starved.add(1);
            return self.starved.push_back((key, side));
        };
        if let Guide::Forward(_) = connection.guide {
            connection.guide = Guide::Nobody;
        }
        let direction = &mut connection.directions[side as usize];
        direction.half.received(buffer.length());
        direction.held = Held::Buffer(buffer);
        self.judge(key, side);
    }

    /// Passes the requests that are allowed, as far as they have come and go to the present
    /// upstream.
    fn gate_requests(&mut self, key: Key) {
        let mut pass = 0;
        let stop = loop {
            match self.next_request(key, pass) {
                Some(Next::Pass(bytes)) => pass += bytes,
                Some(Next::Head) => match self.ask(key, pass) {
                    Some(head_len) => pass += head_len,
                    None => break Stop::Wait(Waits::Told),
                },
                Some(Next::More) => break Stop::More,
                Some(Next::Drop) => break Stop::Drop,
                Some(Next::Wait(waits)) => break Stop::Wait(waits),
                None => return,
            }
        };
        if pass > 0 {
            // The rest is judged again when these have gone.
            return self.pass(key, Side::Downstream, pass);
        }
        let rest = self.set_aside(key, Side::Downstream);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http1(http) = &mut connection.guide else { return };
        match stop {
            Stop::More => {
                http.carry(Side::Downstream, &rest);
                self.advance(key, Side::Downstream);
            }
            Stop::Drop => self.advance(key, Side::Downstream),
            Stop::Wait(waits) => {
                http.carry(Side::Downstream, &rest);
                http.waits = waits;
                self.serve(key);
            }
        }
    }

    /// What comes behind the first `pass` bytes that are to be decided.
    fn next_request(&mut self, key: Key, pass: usize) -> Option<Next> {
        let connection = self.connections.get_mut(key.slot)?;
        let Connection { guide: Guide::Http1(http), directions, .. } = connection else {
            return None;
        };
        let (buffer, from) = directions[Side::Downstream as usize].undecided()?;
        Some(http.next_request(&self.ring.bytes(buffer)[from + pass..], &mut self.known_heads))
    }

    /// Lets the head that was told pass, if it may pass now. Its length.
    fn ask(&mut self, key: Key, pass: usize) -> Option<usize> {
        let route = self.route(key)?;
        let line = self.line_behind(key, pass);
        let connection = self.connections.get_mut(key.slot)?;
        let destination = connection.original_destination;
        let here = matches!(connection.phase, Phase::Relaying)
            && connection.upstream.is_some_and(|upstream| route.leads_to(upstream, destination));
        let Guide::Http1(http) = &mut connection.guide else { return None };
        (here && http.takes_requests()).then(|| http.ask(self.now_us, line))
    }

    /// The line of the head behind the first `pass` bytes that are to be decided, if it is wanted.
    fn line_behind(&self, key: Key, pass: usize) -> Option<Box<Request>> {
        if !self.access_log.is_on() {
            return None;
        }
        let connection = self.connections.get(key.slot)?;
        let Connection { guide: Guide::Http1(http), directions, .. } = connection else {
            return None;
        };
        let (buffer, from) = directions[Side::Downstream as usize].undecided()?;
        http.told_line(&self.ring.bytes(buffer)[from + pass..])
    }

    /// What the downstream's bytes wait for, if that can be done now.
    pub(super) fn serve(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if !matches!(connection.phase, Phase::Relaying | Phase::Recognising { .. }) {
            return;
        }
        let (destination, upstream) = (connection.original_destination, connection.upstream);
        let at_rest = connection.is_upstream_at_rest();
        let Guide::Http1(http) = &mut connection.guide else { return };
        let idle = http.is_idle() && at_rest;
        match (http.waits, &http.route) {
            (Waits::No | Waits::Upgrade, _) => {}
            (Waits::Over, _) => self.resume(key),
            (Waits::Refused(refusal), _) if idle => self.refuse_request(key, refusal),
            (Waits::Told, Some(route)) => {
                let here = upstream.is_some_and(|upstream| route.leads_to(upstream, destination));
                if here && !http.is_lost() {
                    if http.takes_requests() {
                        self.resume(key);
                    }
                } else if idle && route.is_blocked() {
                    self.answer_told(key, 502, ResponseFlags::None, CloseReason::BlackHole);
                } else if idle {
                    self.retire(key, Then::Connect);
                }
            }
            (Waits::Refused(_) | Waits::Told, _) => {}
        }
    }

    /// The request is beyond serving: 400, or 431, and the end.
    fn refuse_request(&mut self, key: Key, refusal: Refusal) {
        self.metrics.counters.refused_requests(refusal).add(1);
        if refusal == Refusal::HostMismatch {
            self.metrics.counters.name_conflicts.add(1);
        }
        let flags = ResponseFlags::DownstreamProtocol;
        self.answer_told(key, refusal.status(), flags, CloseReason::BadRequest);
    }
}
