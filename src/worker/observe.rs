//! Requests and answers of HTTP/1 that pass as they come, and are only counted.

use crate::access_log::Protocol;
use crate::http1::{KnownHeads, Lost};
use crate::registry::Verdict;
use crate::registry::snapshot::{Claim, Decision, Match, NameSource};
use crate::relay::Side;
use crate::sys::ring::{Ring, Sockets};
use crate::worker::Worker;
use crate::worker::connection::{Account, Connection, Guide, Micros};
use crate::worker::http1::{Answered, Http1, Next, Waits};
use crate::worker::route::{Routes, Way};
use crate::worker::token::Key;

/// The most bytes that are kept of what has passed and could not be read yet, while observing.
/// Recognition and heads need less; a client that wants another protocol may send more at once.
const KEPT_BYTES_MAX: usize = 64 * 1024;

impl Http1 {
    /// Reads requests that pass. `logged`: their lines are wanted.
    ///
    /// # Errors
    /// The framing is beyond following: nothing more can be counted here.
    pub(super) fn observe_requests(
        &mut self,
        bytes: &[u8],
        (known_heads, routes): (&mut KnownHeads, &mut Routes),
        now: Micros,
        logged: bool,
    ) -> Result<(), Waits> {
        let kept = self.keep(Side::Downstream, bytes)?;
        let mut rest = kept.as_deref().unwrap_or(bytes);
        while !rest.is_empty() {
            match self.next_request(rest, known_heads) {
                Next::Pass(bytes) => rest = &rest[bytes..],
                Next::Head if self.is_full() => return Err(Waits::Told),
                Next::Head => {
                    self.rename_route(routes);
                    let line = if logged { self.told_line(rest) } else { None };
                    rest = &rest[self.ask(now, line)..];
                }
                Next::More | Next::Wait(Waits::Upgrade) => {
                    self.carried[Side::Downstream as usize] = rest.to_vec();
                    return Ok(());
                }
                Next::Drop => return Ok(()),
                Next::Wait(why) => return Err(why),
            }
        }
        Ok(())
    }

    /// The route of the head that was told, where the address alone has decided the way.
    fn rename_route(&mut self, routes: &mut Routes) {
        let (Some(head), Some(last)) = (&self.told, &self.route) else { return };
        if last.name != head.host {
            let rename = || last.renamed(head.host.clone());
            self.route = Some(routes.find(last.asker, head.host.as_ref(), rename));
        }
    }

    /// Reads answers that pass.
    ///
    /// # Errors
    /// The framing is beyond following: nothing more can be counted here.
    pub(super) fn observe_answers(
        &mut self,
        bytes: &[u8],
        known_heads: &mut KnownHeads,
    ) -> Result<(), Option<Lost>> {
        let kept = self.keep(Side::Upstream, bytes).map_err(|_| None)?;
        let mut rest = kept.as_deref().unwrap_or(bytes);
        while !rest.is_empty() {
            match self.next_answer(rest, known_heads) {
                Answered::Pass(bytes) => rest = &rest[bytes..],
                Answered::More => {
                    self.carried[Side::Upstream as usize] = rest.to_vec();
                    return Ok(());
                }
                Answered::Unasked | Answered::Hides => return Err(None),
                Answered::Lost(lost) => return Err(Some(lost)),
            }
        }
        Ok(())
    }

    /// What is kept of `side`, with `bytes` behind it; `None` if nothing was kept.
    fn keep(&mut self, side: Side, bytes: &[u8]) -> Result<Option<Vec<u8>>, Waits> {
        let kept = &mut self.carried[side as usize];
        if kept.is_empty() {
            return Ok(None);
        }
        if kept.len() + bytes.len() > KEPT_BYTES_MAX {
            return Err(Waits::Upgrade);
        }
        let mut kept = std::mem::take(kept);
        kept.extend_from_slice(bytes);
        Ok(Some(kept))
    }
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Reads the requests that are about to pass.
    pub(super) fn observe_requests(&mut self, key: Key) {
        let (now, logged) = (self.now_us, self.access_log.is_on());
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Connection { guide: Guide::Http1(http), directions, .. } = connection else { return };
        let undecided = directions[Side::Downstream as usize].undecided();
        let Some((buffer, from)) = undecided else { return };
        let bytes = &self.ring.bytes(buffer)[from..];
        let known = (&mut self.known_heads, &mut self.routes);
        if let Err(why) = http.observe_requests(bytes, known, now, logged) {
            self.observe_no_more(key, why);
        }
    }

    /// Reads requests, `bytes` of which have passed or are about to.
    pub(super) fn observe_requests_in(&mut self, key: Key, bytes: &[u8]) {
        let (now, logged) = (self.now_us, self.access_log.is_on());
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Guide::Http1(http) = &mut connection.guide else { return };
        let known = (&mut self.known_heads, &mut self.routes);
        if let Err(why) = http.observe_requests(bytes, known, now, logged) {
            self.observe_no_more(key, why);
        }
    }

    /// Reads the answers that are about to pass.
    pub(super) fn observe_answers(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Connection { guide: Guide::Http1(http), directions, .. } = connection else { return };
        let undecided = directions[Side::Upstream as usize].undecided();
        let Some((buffer, from)) = undecided else { return };
        let bytes = &self.ring.bytes(buffer)[from..];
        let result = http.observe_answers(bytes, &mut self.known_heads);
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

    /// An observed connection cannot be followed any further: from here on it is opaque bytes,
    /// which pass, and are accounted as TCP.
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
