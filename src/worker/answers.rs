//! What passes from the upstream of an HTTP/1 connection: answers, each followed to its end.

use crate::access_log::Protocol;
use crate::http1::Lost;
use crate::registry::Verdict;
use crate::registry::snapshot::{Claim, Decision, Match, NameSource};
use crate::relay::{Side, State};
use crate::sys::ring::{Ring, Sockets};
use crate::worker::Worker;
use crate::worker::connection::{Account, Connection, Guide, Held};
use crate::worker::http1::{Answered, Waits};
use crate::worker::route::Way;
use crate::worker::token::Key;

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Passes answers as far as they have come. A head passes when it is whole.
    pub(super) fn gate_answers(&mut self, key: Key) {
        let mut pass = 0;
        let unasked = loop {
            match self.next_answer(key, pass) {
                Some(Answered::Pass(bytes)) => pass += bytes,
                Some(Answered::More) => break false,
                Some(Answered::Unasked) => break true,
                // What follows is told as bytes that pass.
                Some(Answered::Lost(lost)) => self.metrics.counters.unframed_answers(lost).add(1),
                None => return,
            }
        };
        self.account_finished(key);
        if pass > 0 {
            return self.pass(key, Side::Upstream, pass);
        }
        let rest = self.set_aside(key, Side::Upstream);
        if unasked {
            // A server that gives up an idle connection says so (408). It answers nobody, and the
            // connection can carry no answer any more: it is as if it had ended here.
            return self.on_end(key, Side::Upstream);
        }
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http1(http) = &mut connection.guide else { return };
        http.carry(Side::Upstream, &rest);
        self.advance(key, Side::Upstream);
    }

    /// What comes behind the first `pass` bytes that are to be decided.
    fn next_answer(&mut self, key: Key, pass: usize) -> Option<Answered> {
        let connection = self.connections.get_mut(key.slot)?;
        let Connection { guide: Guide::Http1(http), directions, .. } = connection else {
            return None;
        };
        let direction = &directions[Side::Upstream as usize];
        let (Held::Buffer(buffer), State::Deciding { from, .. }) =
            (&direction.held, direction.half.state())
        else {
            return None;
        };
        Some(http.next_answer(&self.ring.bytes(buffer)[from as usize + pass..]))
    }

    /// Reads the requests that are about to pass.
    pub(super) fn observe_requests(&mut self, key: Key) {
        let (now, logged) = (self.now_us, self.access_log.is_on());
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Connection { guide: Guide::Http1(http), directions, .. } = connection else { return };
        let direction = &directions[Side::Downstream as usize];
        let (Held::Buffer(buffer), State::Deciding { from, .. }) =
            (&direction.held, direction.half.state())
        else {
            return;
        };
        let bytes = &self.ring.bytes(buffer)[from as usize..];
        if let Err(why) = http.observe_requests(bytes, now, logged) {
            self.observe_no_more(key, why);
        }
    }

    /// Reads requests, `bytes` of which have passed or are about to.
    pub(super) fn observe_requests_in(&mut self, key: Key, bytes: &[u8]) {
        let (now, logged) = (self.now_us, self.access_log.is_on());
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http1(http) = &mut connection.guide else { return };
        if let Err(why) = http.observe_requests(bytes, now, logged) {
            self.observe_no_more(key, why);
        }
    }

    /// Reads the answers that are about to pass.
    pub(super) fn observe_answers(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Connection { guide: Guide::Http1(http), directions, .. } = connection else { return };
        let direction = &directions[Side::Upstream as usize];
        let (Held::Buffer(buffer), State::Deciding { from, .. }) =
            (&direction.held, direction.half.state())
        else {
            return;
        };
        let result = http.observe_answers(&self.ring.bytes(buffer)[from as usize..]);
        self.account_finished(key);
        if let Err(lost) = result {
            self.answers_lost(key, lost);
        }
    }

    fn answers_lost(&mut self, key: Key, lost: Option<Lost>) {
        if let Some(lost) = lost {
            self.metrics.counters.unframed_answers(lost).add(1);
        }
        self.observe_no_more(key, Waits::No);
    }

    /// An observed connection cannot be followed any further: from here on it is opaque bytes, which
    /// pass, and are accounted as TCP.
    fn observe_no_more(&mut self, key: Key, why: Waits) {
        if let Waits::Refused(refusal) = why {
            self.metrics.counters.refused_requests(refusal).add(1);
        }
        self.account_unseen(key);
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http1(http) = std::mem::take(&mut connection.guide) else { return };
        connection.account = Account::Unsettled;
        let Some(route) = http.route else { return };
        let verdict = match &route.way {
            Way::Service(service) => Verdict::Service(service, Match::Port),
            Way::Passthrough => Verdict::Passthrough,
            Way::BlackHole => Verdict::BlackHole,
        };
        let decision = Decision { verdict, standing: route.standing };
        let claim = route.name.as_ref().map(|name| Claim { name, by: NameSource::Host });
        let snapshot = self.snapshot();
        self.settle(key, &snapshot, decision, claim, Protocol::Http1);
    }
}
