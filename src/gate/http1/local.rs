//! What Egret itself answers a request: 502, 503, 400, 408, 431.

use std::rc::Rc;

use super::super::reply;
use super::super::{Answered, AnsweredBy, Exchange, Policy, Reply};
use super::{Http1, logged};
use crate::http1::HEAD_BYTES_MAX;
use crate::metrics::{CloseReason, ResponseFlags};

impl Http1 {
    /// See [`super::super::Gate::late_head`]: 408.
    pub(in crate::gate) fn late_head(
        &mut self,
        held: &[u8],
        policy: &Policy<'_>,
    ) -> Option<Box<Reply>> {
        self.head_since.take()?;
        let reply = self.local_reply(408, held, policy);
        let (flags, reason) = (ResponseFlags::DownstreamProtocol, CloseReason::HeadTimeout);
        Some(Box::new(Reply { flags, reason, ..reply }))
    }

    /// A reply to the request that `bytes` begin with, which every response before it has ended.
    pub(super) fn local_reply(&self, status: u16, bytes: &[u8], policy: &Policy<'_>) -> Reply {
        let words = reply::http1(status);
        let (route, head_len) = match (&self.pending, &self.route) {
            (Some(head), Some(route)) => (Rc::clone(route), head.head_len),
            // A malformed request names no host.
            (None, _) | (Some(_), None) => (self.nameless_route(policy), bytes.len()),
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

    /// No upstream connection could be made for the request that waits: 503.
    pub(in crate::gate) fn unreachable(
        &mut self,
        held: &[u8],
        policy: &Policy<'_>,
        reason: CloseReason,
    ) -> Option<Box<Reply>> {
        if self.pending.is_none() && self.requests.refusal().is_none() {
            return None;
        }
        let reply = self.local_reply(503, held, policy);
        let flags = match reply.answered.first() {
            Some(answered) => answered.request.route.unreachable_flags(reason),
            None => reply.flags,
        };
        self.pending = None;
        Some(Box::new(Reply { flags, reason, ..reply }))
    }
}
