//! What may pass: bytes in, an outcome out.
//!
//! Every connection has a [`Gate`]. The worker shows it what a side has sent and does what the
//! [`Outcome`] says; the gate touches no socket and knows no clock. It decides by the [`Policy`] of
//! the moment: the snapshot, who asks for what, and whether an upstream connection exists.
//!
//! ```text
//!            +--- no name, or no protocol that is known ---> Open
//!  Detect ---+--- TLS with a name ---> Tls --- no other name can come ---> Open
//!            +--- HTTP/1 ---> Http1 --- cannot be followed ---> Open
//!            +--- HTTP/2 ---> Http2
//! ```
//!
//! Where a name can decide, a connection is *gated*: none of its bytes passes before the gate has
//! allowed it, and each request is judged by its own host. Where the address has decided, it is
//! *observed*: all bytes pass, and the gate only reads them for the labels of metrics and log.
//!
//! Three promises, which the tests in `gate/tests` hold for every cut of the bytes:
//! - no byte of a request passes to an upstream connection that its own host does not lead to;
//! - the same bytes in other pieces have the same outcome;
//! - a gate that has said [`Outcome::Hold`], or [`Outcome::Act`] with an action that the worker
//!   could not take yet, says the same again when it is shown the same bytes.

mod detect;
mod guard;
mod http1;
mod http2;
mod outcome;
mod reply;
mod route;
mod tls;
mod waits;

#[cfg(any(test, feature = "internals"))]
pub mod fuzzing;
#[cfg(any(test, feature = "internals"))]
mod testing;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use crate::access_log::Protocol;
use crate::http2::Upgraded;
use crate::metrics::{CloseReason, Detected};
use crate::registry::Snapshot;
use crate::relay::Side;

pub(crate) use detect::Detect;
#[cfg(any(test, feature = "probe"))]
pub use guard::planted;
pub(crate) use guard::{GuardedGate, is_inside};
pub(crate) use http1::{Http1, Mode};
pub(crate) use http2::Http2;
pub(crate) use outcome::{
    Action, Attribution, DecidedBy, Inspected, Leg, Logging, Note, Outcome, Policy, Reached,
    Tables, Unfollowed, shown,
};
pub(crate) use reply::{
    Answered, AnsweredBy, Exchange, Logged, Malformed, Reply, TLS_ACCESS_DENIED, Why,
};
pub(crate) use route::{Asker, Route, RouteAction, Routes};
pub(crate) use tls::Tls;

/// Microseconds since the worker began.
pub(crate) type Micros = u64;

/// A snapshot that decisions hold. The count of the `Arc` is one memory location for all workers,
/// so a worker shares its own copy.
pub(crate) type HeldSnapshot = Rc<Arc<Snapshot>>;

/// Who inspects a connection's bytes before they pass.
#[derive(Debug, Default)]
pub(crate) enum Gate {
    /// Nothing does: all bytes pass.
    #[default]
    Open,
    /// The first bytes tell the protocol.
    Detect(Detect),
    /// TLS, in which another name may come.
    Tls(Box<Tls>),
    /// Requests and responses of HTTP/1.
    Http1(Box<Http1>),
    /// Frames of HTTP/2.
    Http2(Box<Http2>),
}

impl Gate {
    /// What becomes of `bytes`, which `side` has sent. They begin where the last bytes ended that
    /// passed or were dropped, and are none only when all has passed and no upstream connection
    /// exists.
    #[inline]
    pub(crate) fn inspect(
        &mut self,
        side: Side,
        bytes: &[u8],
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Outcome {
        match self {
            Self::Open => Outcome::Pass(bytes.len()),
            Self::Http1(http) => match http.inspect(side, bytes, policy, tables) {
                Ok(outcome) => outcome,
                Err(departure) => self.depart(departure, side, bytes, policy, tables),
            },
            Self::Http2(http) => http.inspect(side, bytes, policy),
            Self::Tls(tls) => {
                let watched = match side {
                    Side::Downstream => tls.requested(bytes),
                    Side::Upstream => tls.responded(bytes),
                };
                self.watch(watched, bytes.len())
            }
            Self::Detect(detect) => {
                let found = detect.inspect(side, bytes, policy, tables);
                self.found(found)
            }
        }
    }

    /// The connection is not followed as HTTP/1 any more.
    #[cold]
    fn depart(
        &mut self,
        departure: http1::Departure,
        side: Side,
        bytes: &[u8],
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Outcome {
        match departure {
            http1::Departure::Unreadable(why) => self.unfollow(why),
            http1::Departure::Http2(switched) => {
                self.upgrade(switched.frames);
                self.inspect(side, bytes, policy, tables)
            }
        }
    }

    /// What detection has come to.
    #[inline(never)]
    fn found(&mut self, found: detect::Found) -> Outcome {
        match found {
            detect::Found::Nothing(outcome) => outcome,
            detect::Found::Labels(action) => {
                *self = Self::Open;
                Outcome::Act(action)
            }
            detect::Found::Tls(tls, decide) => {
                *self = Self::Tls(tls);
                Outcome::Act(decide)
            }
            detect::Found::Http1(http) => {
                *self = Self::Http1(http);
                Outcome::Note(Note::Http1Detected)
            }
            detect::Found::Http2(http) => {
                *self = Self::Http2(http);
                Outcome::Note(Note::Http2Detected)
            }
        }
    }

    fn upgrade(&mut self, agreed: Upgraded) {
        match std::mem::take(self) {
            Self::Http1(http1) => *self = Self::Http2(Box::new(Http2::upgraded(http1, agreed))),
            other @ (Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_)) => *self = other,
        }
    }

    fn watch(&mut self, watched: tls::Watched, length: usize) -> Outcome {
        match watched {
            tls::Watched::Outcome(outcome) => outcome,
            tls::Watched::Over => {
                *self = Self::Open;
                Outcome::Pass(length)
            }
        }
    }

    fn unfollow(&mut self, why: http1::Unreadable) -> Outcome {
        let http1::Unreadable { unjudged, refusal, unframed } = why;
        match std::mem::take(self) {
            Self::Http1(requests) => {
                let unfollowed = Unfollowed { requests, unjudged, refusal, unframed };
                Outcome::Act(Action::Unfollow(Box::new(unfollowed)))
            }
            other @ (Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_)) => {
                *self = other;
                Outcome::Hold
            }
        }
    }

    /// The bytes of `side` that [`Outcome::Drop`] has named are gone.
    pub(crate) fn dropped(&mut self, side: Side) {
        match (self, side) {
            (Self::Http1(http), Side::Downstream) => http.dropped(),
            (Self::Http2(http), _) => http.dropped(side),
            (Self::Http1(_), Side::Upstream) | (Self::Open | Self::Detect(_) | Self::Tls(_), _) => {
            }
        }
    }

    /// Nothing is known that could change the decision any more (the downstream has ended, or the
    /// time is up): the address decides, and all that is held may pass.
    pub(crate) fn give_up(&mut self, why: Detected, policy: &Policy<'_>) -> Box<Attribution> {
        // Others were detected before, and did not come to a name. What has begun as HTTP stays
        // HTTP for the registry.
        let found = matches!(self, Self::Detect(_)).then_some(why);
        let protocol = match matches!(self, Self::Http1(_)) {
            true => Protocol::Http1,
            false => self.protocol(),
        };
        *self = Self::Open;
        Box::new(Attribution {
            snapshot: Rc::clone(policy.snapshot),
            decided_by: DecidedBy::Name,
            host: None,
            protocol,
            found,
            junk: None,
        })
    }

    /// As [`Gate::give_up`], for an observed connection whose protocol is not known yet.
    pub(crate) fn stop_observing(&mut self, why: Detected) -> Option<Box<Attribution>> {
        let Self::Detect(detect) = self else { return None };
        let attribution = detect.nameless(why)?;
        *self = Self::Open;
        Some(attribution)
    }

    /// The upstream connection is made, or the connection ends: what it is accounted by from here
    /// on, if that had to wait.
    pub(crate) fn take_attribution(&mut self) -> Option<Box<Attribution>> {
        match self {
            Self::Http2(http) => http.take_attribution(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http1(_) => None,
        }
    }

    /// Another upstream connection takes the place of the last one.
    pub(crate) fn leg_replaced(&mut self) {
        match self {
            Self::Http1(http) => http.leg_replaced(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => {}
        }
    }

    /// No upstream connection could be made: what the requests that wait for one are told. `held`
    /// are the bytes that the gate has not let pass.
    pub(crate) fn unreachable(
        &mut self,
        held: &[u8],
        policy: &Policy<'_>,
        reason: CloseReason,
    ) -> Option<Box<Reply>> {
        match self {
            Self::Http1(http) => http.unreachable(held, policy, reason),
            Self::Http2(http) => http.unreachable(held, policy, reason),
            Self::Open | Self::Detect(_) | Self::Tls(_) => None,
        }
    }

    /// The reply of [`Action::Reply`] is being sent: its requests are accounted with it.
    pub(crate) fn replied(&mut self) {
        match self {
            Self::Http1(http) => http.replied(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => {}
        }
    }

    /// `side` has ended, and everything before it has passed.
    pub(crate) fn ended(&mut self, side: Side) {
        match (self, side) {
            (Self::Http1(http), Side::Upstream) => http.upstream_ended(),
            (Self::Http2(http), Side::Upstream) => {
                http.http1().into_iter().for_each(Http1::upstream_ended);
            }
            (Self::Http1(_) | Self::Http2(_), Side::Downstream)
            | (Self::Open | Self::Detect(_) | Self::Tls(_), _) => {}
        }
    }

    /// The downstream is told that the responses have ended: what it sends from here on belongs to
    /// nobody, but for the rest of a body that is passing. Whether what is held belongs to nobody.
    pub(crate) fn end_responses(&mut self) -> bool {
        match self {
            Self::Http1(http) => http.end_responses(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => false,
        }
    }

    /// Frames of Egret's own, which the downstream is to get next: the responses that have passed
    /// end with a whole frame.
    pub(crate) fn own_frames(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Http2(http) => http.own_frames(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http1(_) => None,
        }
    }

    /// The connection carries no further request, and those that have passed are over: what it ends
    /// by.
    pub(crate) fn is_served(&mut self) -> Option<CloseReason> {
        match self {
            Self::Http2(http) => http.is_served(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http1(_) => None,
        }
    }

    /// The connection carries no further request.
    pub(crate) fn is_draining(&self) -> bool {
        match self {
            Self::Http2(http) => http.is_draining(),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http1(_) => false,
        }
    }

    /// Whether all bytes pass, whatever they are.
    pub(crate) fn holds_nothing(&self) -> bool {
        match self {
            Self::Open => true,
            Self::Detect(detect) => detect.is_observing(),
            Self::Http1(http) => http.is_observing(),
            Self::Http2(_) | Self::Tls(_) => false,
        }
    }

    /// Bytes from `side` that need no inspection: they may be spliced.
    pub(crate) fn unseen(&self, side: Side) -> u64 {
        match self {
            Self::Open => u64::MAX,
            Self::Detect(detect) => detect.unseen(side),
            Self::Http1(http) => http.unseen(side),
            Self::Tls(_) | Self::Http2(_) => 0,
        }
    }

    /// `bytes` from `side` have passed without inspection.
    pub(crate) fn skipped(&mut self, side: Side, bytes: u64) {
        match self {
            Self::Http1(http) => http.skipped(side, bytes),
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http2(_) => {}
        }
    }

    /// The next request whose response has ended, to be accounted.
    pub(crate) fn pop_ended(&mut self) -> Option<Answered> {
        match self {
            Self::Http1(http) => http.pop_ended(),
            Self::Http2(http) => http.http1()?.pop_ended(),
            Self::Open | Self::Detect(_) | Self::Tls(_) => None,
        }
    }

    /// The next request that gets no whole response. `held` are the bytes that the gate has not
    /// let pass.
    pub(crate) fn pop_unanswered(
        &mut self,
        held: &[u8],
        moment: (Micros, Logging),
    ) -> Option<Answered> {
        match self {
            Self::Http1(http) => http.pop_unanswered(held, moment),
            Self::Http2(http) => http.http1()?.pop_unanswered(&[], moment),
            Self::Open | Self::Detect(_) | Self::Tls(_) => None,
        }
    }

    /// Where the last request went.
    pub(crate) fn route(&self) -> Option<&Rc<Route>> {
        match self {
            Self::Http1(http) => http.route(),
            Self::Http2(http) => http.route(),
            Self::Open | Self::Detect(_) | Self::Tls(_) => None,
        }
    }

    /// The protocol that a connection is accounted as whose attribution has not come.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Http2(_) => Protocol::Http2,
            Self::Open | Self::Detect(_) | Self::Tls(_) | Self::Http1(_) => Protocol::Tcp,
        }
    }
}
