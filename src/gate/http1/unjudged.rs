//! What no judgement can be passed on: it is refused, or it passes to where it meant to go.
//!
//! Under `REGISTRY_ONLY` it is refused, at once. Under `ALLOW_ANY` it belongs to no entry: it goes
//! to the original destination, as if no entry were there, and the connection is TCP from there on.
//! It never goes down a connection that another name has chosen.

use std::rc::Rc;

use super::super::reply::Malformed;
use super::super::{Action, Asker, Leg, Outcome, Policy, Reply, Route, Why};
use super::{Follows, Http1, Unreadable};
use crate::judge::RequestError;
use crate::metrics::CloseReason;
use crate::probe::planted;
use crate::registry::snapshot::Shown;
use crate::sniff::{Sniff, Sniffer};

impl Http1 {
    /// What `bytes` begin with cannot be judged.
    pub(super) fn unjudged(
        &mut self,
        why: RequestError,
        bytes: &[u8],
        policy: &Policy<'_>,
    ) -> Result<Outcome, Unreadable> {
        if !policy.passes_unjudged() {
            return Ok(self.refuse(why, bytes, policy));
        }
        let route = self.nameless_route(policy);
        match self.leg(policy) {
            Leg::Up(upstream) if route.leads_to(upstream, policy.destination) => {
                Err(Unreadable { unjudged: Some(why), ..Unreadable::default() })
            }
            Leg::Up(_) | Leg::None if self.responses.is_idle() && !route.is_blocked() => {
                self.route = Some(Rc::clone(&route));
                Ok(Outcome::Act(Action::Go(route)))
            }
            Leg::Up(_) | Leg::None => Ok(self.refuse(why, bytes, policy)),
        }
    }

    /// `bytes` stand behind a request whose response has not ended: the next request, which waits;
    /// or what the response waits for.
    #[inline(never)]
    pub(super) fn behind_unanswered(
        &mut self,
        bytes: &[u8],
        policy: &Policy<'_>,
    ) -> Result<Outcome, Unreadable> {
        match self.requests.refusal() {
            // The body before them was refused.
            Some(refusal) => self.unjudged(refusal, bytes, policy),
            None if begin_no_request(bytes) => {
                self.unjudged(RequestError::BadRequestLine, bytes, policy)
            }
            None => Ok(Outcome::Hold),
        }
    }

    /// The first `count` of `bytes` stand behind a request that said it was the last one.
    pub(super) fn behind_the_last(
        &mut self,
        count: usize,
        bytes: &[u8],
        policy: &Policy<'_>,
    ) -> Result<Outcome, Unreadable> {
        let is_over = self.responses.is_idle() || self.follows == Follows::Nothing;
        if is_over || self.responses.is_within_framed() {
            return Ok(Outcome::Drop(count));
        }
        // Some clients end a body with an empty line more than there should be.
        let is_blank = bytes[..count].iter().all(|byte| matches!(byte, b'\r' | b'\n'));
        match is_blank {
            true => Ok(Outcome::Hold),
            // The response may wait for them: a stream goes up behind the head.
            false => self.unjudged(RequestError::ExtraBytes, bytes, policy),
        }
    }

    /// The route of a request that names no host: the address tells where it was going.
    pub(super) fn nameless_route(&self, policy: &Policy<'_>) -> Rc<Route> {
        let asker = Asker {
            generation: policy.snapshot.generation,
            mode: self.mode,
            source: policy.source,
            destination: policy.destination,
        };
        let (source, destination) = (policy.source, policy.destination);
        let verdict = policy.snapshot.decide(source, destination, Shown::Http(None)).verdict;
        Rc::new(Route::of(policy.snapshot, asker, verdict))
    }

    /// It is refused: with an answer, unless one has begun.
    fn refuse(&self, refusal: RequestError, bytes: &[u8], policy: &Policy<'_>) -> Outcome {
        if self.responses.is_heard() && !planted!(RefusedInResponse) {
            return Outcome::Act(Action::End(CloseReason::BadRequest));
        }
        let malformed = Malformed::Request(refusal);
        let mut reply = self.local_reply(Why::Malformed(malformed), bytes, policy);
        if !self.responses.is_idle() {
            // The request that has passed is accounted when the connection ends.
            reply.answered.clear();
        }
        Outcome::Act(Action::Reply(Box::new(Reply {
            reason: CloseReason::BadRequest,
            malformed: Some(malformed),
            ..reply
        })))
    }
}

/// Whether `bytes` cannot be the beginning of a request.
fn begin_no_request(bytes: &[u8]) -> bool {
    match Sniffer::default().feed(bytes) {
        Sniff::NeedMore | Sniff::Http1 | Sniff::Http2Preface => false,
        Sniff::Tls(_) | Sniff::Opaque(_) => true,
    }
}
