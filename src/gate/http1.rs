//! The requests and responses of one HTTP/1 connection.
//!
//! *Gated*: a name can decide. The connection has one request at a time: the next head is read only
//! when the body of the request before it and the response to that have ended. So there is never
//! an allowed request in flight whose response a request behind it could take, and the upstream
//! connection is idle whenever it is changed. A client that pipelines has its requests served one
//! after the other.
//!
//! *Observed*: the address has decided. All bytes pass as they come and are only counted; requests
//! may be pipelined.

mod local;
mod observed;
mod switched;

use std::rc::Rc;

use super::{
    Action, Answered, AnsweredBy, Asker, Exchange, Leg, Logged, Logging, Micros, Note, Outcome,
    Policy, Reply, Route, Tables,
};
use crate::http1::{
    ExpectedResponse, FramingError, KnownHeads, RequestError, RequestHead, RequestStep,
    RequestStream, ResponseBody, ResponseHead, ResponseStep, ResponseStream, Turn,
};
use crate::metrics::CloseReason;
use crate::registry::snapshot::NameTrust;
use crate::relay::Side;
pub(super) use switched::Switched;

/// The most bytes that are kept of what has passed and could not be read yet, while observing.
/// Detection and heads need less; a client that wants another protocol may send more at once.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Whether requests wait to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They do.
    Gated,
    /// They are only counted.
    Observed,
}

/// What follows the present response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// Responses, as long as there are requests.
    Responses,
    /// Only the upstream's end tells where the present one ends, because its framing is in error.
    Unframed,
    /// Nothing: the client, too, takes all bytes up to the end for the present one's body.
    End,
    /// Another protocol, which has been agreed.
    OtherProtocol,
}

/// The connection is HTTP/1 no longer.
#[derive(Debug)]
pub(super) enum Departure {
    Unreadable(Unreadable),
    /// It goes on as HTTP/2.
    Http2(Box<Switched>),
}

impl From<Unreadable> for Departure {
    fn from(why: Unreadable) -> Self {
        Self::Unreadable(why)
    }
}

/// An observed connection that cannot be followed any further.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    pub(super) refusal: Option<RequestError>,
    pub(super) unframed: Option<FramingError>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Http1 {
    mode: Mode,
    requests: RequestStream,
    responses: ResponseStream<Exchange>,
    /// Observed: copies of bytes that have passed and could not be read yet, by source side.
    kept: [Vec<u8>; 2],
    /// Gated: the head that was read and has not passed.
    pending: Option<Rc<RequestHead>>,
    /// Where the last request goes.
    route: Option<Rc<Route>>,
    follows: Follows,
    switched: Option<Box<Switched>>,
}

impl Http1 {
    /// A gated connection of which nothing has passed.
    pub(super) fn gated() -> Self {
        Self {
            mode: Mode::Gated,
            requests: RequestStream::default(),
            responses: ResponseStream::default(),
            kept: [Vec::new(), Vec::new()],
            pending: None,
            route: None,
            follows: Follows::Responses,
            switched: None,
        }
    }

    /// A connection that `route` has decided, of which `passed` has passed.
    pub(super) fn observed(route: Rc<Route>, passed: Vec<u8>) -> Self {
        let kept = [passed, Vec::new()];
        Self { mode: Mode::Observed, kept, route: Some(route), ..Self::gated() }
    }

    pub(super) fn inspect(
        &mut self,
        side: Side,
        bytes: &[u8],
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Result<Outcome, Departure> {
        match (self.mode, side) {
            (Mode::Gated, Side::Downstream) => self.request(bytes, policy, tables),
            (Mode::Gated, Side::Upstream) => {
                self.responses_begin(policy.now);
                Ok(self.response(bytes, &mut tables.heads))
            }
            (Mode::Observed, Side::Downstream) => {
                self.observe_requests(bytes, policy, tables)?;
                Ok(Outcome::Pass(bytes.len()))
            }
            (Mode::Observed, Side::Upstream) => {
                self.responses_begin(policy.now);
                self.observe_responses(bytes, &mut tables.heads)?;
                Ok(Outcome::Pass(bytes.len()))
            }
        }
    }

    /// Bytes of a response have come.
    fn responses_begin(&mut self, now: Micros) {
        if let Some(first) = self.responses.first_mut() {
            first.responded.get_or_insert(now);
        }
    }

    /// What becomes of the first bytes of the downstream.
    fn request(
        &mut self,
        bytes: &[u8],
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Result<Outcome, Departure> {
        if self.pending.is_none() {
            if self.requests.is_at_head() && !self.responses.is_idle() {
                return Ok(Outcome::Hold);
            }
            match self.requests.next_known(bytes, &mut tables.heads) {
                // What is behind an upgrade that is not answered is neither that protocol nor a
                // request.
                RequestStep::NeedMore | RequestStep::AwaitUpgrade => return Ok(Outcome::Hold),
                RequestStep::Head(head) => self.pending = Some(head),
                RequestStep::Body { bytes, ends } => {
                    if ends {
                        self.request_ends();
                    }
                    return Ok(Outcome::Pass(bytes));
                }
                RequestStep::Opaque { .. } => return self.switched(bytes),
                RequestStep::Discard { bytes } => return Ok(Outcome::Drop(bytes)),
                RequestStep::Refused(refusal) => return Ok(self.refuse(refusal, bytes, policy)),
            }
        }
        Ok(self.decide(bytes, policy, tables))
    }

    /// What becomes of the pending head, with which `bytes` begin.
    fn decide(&mut self, bytes: &[u8], policy: &Policy<'_>, tables: &mut Tables) -> Outcome {
        let Some(head) = &self.pending else { return Outcome::Hold };
        let asker = Asker {
            generation: policy.snapshot.generation,
            mode: Mode::Gated,
            source: policy.source,
            destination: policy.destination,
        };
        let host = head.host.as_ref();
        let route = match &self.route {
            Some(last) if last.asker == asker && last.host.as_ref() == host => last,
            _ => {
                let decide = || {
                    let (source, destination) = (policy.source, policy.destination);
                    Route::decide(policy.snapshot, source, destination, host.cloned())
                };
                let route = self.route.insert(tables.routes.find(asker, host, decide));
                if route.standing == NameTrust::Unverified {
                    return Outcome::Note(Note::UnverifiedName);
                }
                route
            }
        };
        match policy.leg {
            Leg::Up(upstream) if route.leads_to(upstream, policy.destination) => {
                let route = Rc::clone(route);
                let logged = logged(head, bytes, policy.logging);
                let head_len = head.head_len;
                self.ask(route, logged, policy.now);
                Outcome::Pass(head_len)
            }
            Leg::Up(_) | Leg::None if route.is_blocked() => {
                let reply = self.local_reply(502, bytes, policy);
                Outcome::Act(Action::Reply(Box::new(Reply {
                    reason: CloseReason::BlackHole,
                    ..reply
                })))
            }
            Leg::Up(_) | Leg::None => Outcome::Act(Action::Go(Rc::clone(route))),
        }
    }

    /// The pending head passes.
    fn ask(&mut self, route: Rc<Route>, logged: Option<Box<Logged>>, now: Micros) {
        let Some(head) = self.pending.take() else { return };
        let exchange = Exchange {
            route,
            began: now,
            responded: None,
            request_bytes: head.head_len as u64,
            answered_by: AnsweredBy::Upstream,
            logged,
        };
        self.responses.asked(ExpectedResponse::from(&*head), exchange);
    }

    /// What becomes of the first bytes of the upstream.
    fn response(&mut self, bytes: &[u8], known: &mut KnownHeads) -> Outcome {
        match self.responses.next_known(bytes, known) {
            ResponseStep::NeedMore => Outcome::Hold,
            ResponseStep::Head(head) => {
                self.response_begins(&head);
                if head.turn == Turn::Switched {
                    self.switched = Some(Box::new(Switched::to(head.agreed)));
                }
                Outcome::Pass(head.head_len)
            }
            ResponseStep::Opaque { bytes: count } => {
                if let Some(switched) = &mut self.switched {
                    switched.frames.responded(&bytes[..count]);
                }
                Outcome::Pass(count)
            }
            ResponseStep::Body { bytes, ends: _ } => Outcome::Pass(bytes),
            // A server that gives up an idle connection says so (408). That answers no request, and
            // the connection can carry no response any more: it is as if it had ended here.
            ResponseStep::Unasked => Outcome::Act(Action::EndResponses),
            // What follows is told as bytes that pass.
            ResponseStep::Unframed(lost) => {
                self.follows = Follows::Unframed;
                Outcome::Note(Note::ResponseUnframed(lost))
            }
        }
    }

    fn response_begins(&mut self, head: &ResponseHead) {
        if head.body == ResponseBody::UntilClose {
            self.follows = Follows::End;
        }
        match head.turn {
            Turn::Switched => {
                self.follows = Follows::OtherProtocol;
                self.requests.upgraded();
            }
            Turn::Declined => self.requests.upgrade_declined(),
            Turn::Interim | Turn::Final => {}
        }
    }

    fn request_ends(&mut self) {
        let request_bytes = self.requests.request_bytes();
        if let Some(exchange) = self.responses.last_mut() {
            exchange.request_bytes = request_bytes;
        }
    }

    /// See [`super::Gate::replied`].
    pub(super) fn replied(&mut self) {
        self.pending = None;
    }

    /// See [`super::Gate::ended`].
    pub(super) fn upstream_ended(&mut self) {
        self.responses.upstream_ended();
    }

    /// See [`super::Gate::end_responses`].
    pub(super) fn end_responses(&mut self) -> bool {
        if self.mode == Mode::Observed || self.follows == Follows::OtherProtocol {
            return false;
        }
        match self.pending.take() {
            // The request stream is behind this head: the body that it sees next has no head.
            Some(_) => self.requests.end(),
            None => self.requests.end_behind_body(),
        }
        true
    }

    /// See [`super::Gate::leg_replaced`].
    pub(super) fn leg_replaced(&mut self) {
        self.responses.upstream_replaced();
        self.follows = Follows::Responses;
    }

    /// See [`super::Gate::is_between_exchanges`].
    pub(super) fn is_between_exchanges(&self) -> bool {
        let is_at_head = self.pending.is_some() || self.requests.is_at_head();
        // Behind a response that the end delimits, what Egret says would be more of its body.
        let is_framed = self.follows == Follows::Responses;
        self.mode == Mode::Gated && is_framed && self.responses.is_idle() && is_at_head
    }

    /// See [`super::Gate::waits`]: for the end of a response.
    pub(super) fn waits(&self) -> bool {
        self.mode == Mode::Gated && !self.responses.is_idle()
    }

    /// See [`super::Gate::is_unframed`].
    pub(super) fn is_unframed(&self) -> bool {
        self.follows == Follows::Unframed
    }

    /// See [`super::Gate::is_between_requests`].
    pub(super) fn is_between_requests(&self) -> bool {
        self.requests.is_between_requests()
    }

    /// See [`super::Gate::holds_nothing`].
    pub(super) fn is_observing(&self) -> bool {
        self.mode == Mode::Observed
    }

    /// See [`super::Gate::unseen`].
    pub(super) fn unseen(&self, side: Side) -> u64 {
        match side {
            // What is left of the body may be that of a head that has not passed.
            Side::Downstream if self.pending.is_some() => 0,
            // It may be HTTP/2.
            Side::Upstream if self.switched.is_some() => 0,
            Side::Downstream => self.requests.body_left(),
            Side::Upstream => self.responses.body_left(),
        }
    }

    /// See [`super::Gate::skipped`].
    pub(super) fn skipped(&mut self, side: Side, bytes: u64) {
        match side {
            Side::Downstream => {
                if self.requests.skip_body(bytes) {
                    self.request_ends();
                }
            }
            Side::Upstream => {
                self.responses.skip_body(bytes);
            }
        }
    }

    /// See [`super::Gate::pop_ended`].
    pub(crate) fn pop_ended(&mut self) -> Option<Answered> {
        self.responses.pop_ended()
    }

    /// See [`super::Gate::pop_unanswered`]: also a head that was read and has not passed.
    pub(crate) fn pop_unanswered(&mut self, now: Micros) -> Option<Answered> {
        if let Some(unanswered) = self.responses.pop_unanswered() {
            return Some(unanswered);
        }
        let (head, route) = (self.pending.take()?, self.route.as_ref()?);
        let exchange = Exchange {
            route: Rc::clone(route),
            began: now,
            responded: None,
            request_bytes: head.head_len as u64,
            answered_by: AnsweredBy::Upstream,
            logged: None,
        };
        Some(Answered { request: exchange, status: 0, bytes: 0 })
    }

    /// See [`super::Gate::route`].
    pub(crate) fn route(&self) -> Option<&Rc<Route>> {
        self.route.as_ref()
    }
}

/// What the access log says of `head`, with which `bytes` begin.
fn logged(head: &Rc<RequestHead>, bytes: &[u8], logging: Logging) -> Option<Box<Logged>> {
    match logging {
        Logging::Off => None,
        Logging::On => {
            let bytes = &bytes[..head.head_len.min(bytes.len())];
            Some(Box::new(Logged::Head(Rc::clone(head), bytes.into())))
        }
    }
}
