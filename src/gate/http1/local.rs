//! What Egret itself answers a request: 502, 503, 400, 408, 431.

use std::rc::Rc;

use super::super::reply;
use super::super::{Answered, Exchange, Logged, Logging, Policy, Reply, Why};
use super::{Http1, logged};
use crate::http1::HEAD_BYTES_MAX;
use crate::metrics::CloseReason;

/// The most bytes that are kept of a head that cannot be read, for the access log: as much as a
/// line shows of it.
const UNREAD_BYTES_MAX: usize = 2048;

impl Http1 {
    /// See [`super::super::Gate::late_head`]: 408.
    pub(in crate::gate) fn late_head(
        &mut self,
        held: &[u8],
        policy: &Policy<'_>,
    ) -> Option<Box<Reply>> {
        self.head_since.take()?;
        let reply = self.local_reply(Why::Late, held, policy);
        Some(Box::new(Reply { reason: CloseReason::HeadTimeout, ..reply }))
    }

    /// A reply to the request that `bytes` begin with, which every response before it has ended.
    pub(super) fn local_reply(&self, why: Why, bytes: &[u8], policy: &Policy<'_>) -> Reply {
        let status = why.status();
        let words = reply::http1(status);
        let (route, head_len, logged) = match (&self.pending, &self.route) {
            (Some(head), Some(route)) => {
                (Rc::clone(route), head.head_len, logged(head, bytes, policy.logging))
            }
            // A malformed request names no host.
            (None, _) | (Some(_), None) => {
                (self.nameless_route(policy), bytes.len(), unread(bytes, policy.logging))
            }
        };
        let exchange = Exchange {
            request_bytes: head_len.min(HEAD_BYTES_MAX) as u64,
            logged,
            ..Exchange::answered_by_egret(why, route, policy.now)
        };
        let bytes = words.len() as u64;
        let answered = Answered { request: exchange, status, bytes, body_bytes: 0 };
        Reply {
            bytes: words,
            reason: CloseReason::Finished,
            answered: vec![answered],
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
        let reply = self.local_reply(Why::Unreachable(reason), held, policy);
        self.pending = None;
        Some(Box::new(Reply { reason, ..reply }))
    }
}

/// What the access log says of a head that cannot be read, which `bytes` begin with.
fn unread(bytes: &[u8], logging: Logging) -> Option<Box<Logged>> {
    match logging {
        Logging::Off => None,
        Logging::On => {
            let bytes = &bytes[..bytes.len().min(UNREAD_BYTES_MAX)];
            Some(Box::new(Logged::Unread(bytes.into())))
        }
    }
}
