//! What Egret itself answers a request: 502, 503, 400, 431.

use std::rc::Rc;

use super::super::reply::{self, Malformed};
use super::super::{Action, Answered, AnsweredBy, Asker, Exchange, Outcome, Policy, Reply, Route};
use super::{Http1, logged};
use crate::http1::{HEAD_BYTES_MAX, RequestError};
use crate::metrics::{CloseReason, ResponseFlags};
use crate::registry::snapshot::Shown;

impl Http1 {
    /// The request is malformed: 400 or 431, behind the responses before it.
    pub(super) fn refuse(
        &self,
        refusal: RequestError,
        bytes: &[u8],
        policy: &Policy<'_>,
    ) -> Outcome {
        if !self.responses.is_idle() {
            return Outcome::Hold;
        }
        let reply = self.local_reply(refusal.status(), bytes, policy);
        Outcome::Act(Action::Reply(Box::new(Reply {
            flags: ResponseFlags::DownstreamProtocol,
            reason: CloseReason::BadRequest,
            malformed: Some(Malformed::Request(refusal)),
            ..reply
        })))
    }

    /// A reply to the request that `bytes` begin with, which every response before it has ended.
    pub(super) fn local_reply(&self, status: u16, bytes: &[u8], policy: &Policy<'_>) -> Reply {
        let words = reply::http1(status);
        let (route, head_len) = match (&self.pending, &self.route) {
            (Some(head), Some(route)) => (Rc::clone(route), head.head_len),
            // A malformed request names no host: the address tells where it was going.
            (None, _) | (Some(_), None) => {
                let asker = Asker {
                    generation: policy.snapshot.generation,
                    mode: self.mode,
                    source: policy.source,
                    destination: policy.destination,
                };
                let (source, destination) = (policy.source, policy.destination);
                let shown = Shown::Http(None);
                let verdict = policy.snapshot.decide(source, destination, shown).verdict;
                (Rc::new(Route::of(policy.snapshot, asker, verdict)), bytes.len())
            }
        };
        let pending = self.pending.as_ref();
        let exchange = Exchange {
            route,
            began: policy.now,
            responded: None,
            request_bytes: head_len.min(HEAD_BYTES_MAX) as u64,
            answered_by: AnsweredBy::Egret,
            logged: pending.and_then(|head| logged(head, bytes, policy.logging)),
        };
        let answered = Answered { request: exchange, status, bytes: words.len() as u64 };
        Reply {
            bytes: words,
            reason: CloseReason::Finished,
            answered: vec![answered],
            flags: ResponseFlags::None,
            malformed: None,
        }
    }

    /// No upstream connection could be made for the pending request: 503.
    pub(in crate::gate) fn unreachable(
        &mut self,
        held: &[u8],
        policy: &Policy<'_>,
        flags: ResponseFlags,
        reason: CloseReason,
    ) -> Option<Box<Reply>> {
        self.pending.as_ref()?;
        let reply = self.local_reply(503, held, policy);
        self.pending = None;
        Some(Box::new(Reply { flags, reason, ..reply }))
    }
}
