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

mod body;
mod departure;
mod local;
mod observed;
mod responses;
mod switched;
mod unjudged;
mod waits;

use std::rc::Rc;

use body::Body;

use super::{
    Action, Answered, AnsweredBy, Asker, Exchange, Inspected, Leg, Logged, Logging, Micros, Note,
    Outcome, Policy, Reply, Route, Tables, Why,
};
use crate::http1::{ExpectedResponse, RequestHead, RequestStep, RequestStream, ResponseStream};
use crate::judge::Rules;
use crate::metrics::CloseReason;
use crate::probe::planted;
use crate::registry::snapshot::NameTrust;
use crate::relay::Side;
pub(super) use departure::{Departure, Unreadable};
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
    /// Nothing: the downstream is told that the responses have ended.
    Nothing,
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
    /// Gated: since when a head is not whole.
    head_since: Option<Micros>,
    /// Where the last request goes.
    route: Option<Rc<Route>>,
    follows: Follows,
    switched: Option<Box<Switched>>,
    /// Gated: how the present body passes.
    body: Body,
    /// So many of the next bytes are thrown away.
    dropping: usize,
    /// The upstream connection carries no further request: nobody knows where the server reads.
    is_leg_spent: bool,
    /// Bytes have come that answer no request.
    unasked: Unasked,
    /// The last request that has passed has a body.
    last_has_body: bool,
}

/// Whether the upstream has sent what nothing asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unasked {
    No,
    Yes,
}

impl Http1 {
    /// A gated connection of which nothing has passed.
    pub(super) fn gated(rules: Rules) -> Self {
        Self::new(Mode::Gated, Some(rules))
    }

    fn new(mode: Mode, rules: Option<Rules>) -> Self {
        Self {
            mode,
            requests: RequestStream::new(rules),
            responses: ResponseStream::default(),
            kept: [Vec::new(), Vec::new()],
            pending: None,
            head_since: None,
            route: None,
            follows: Follows::Responses,
            switched: None,
            body: Body::Plain,
            dropping: 0,
            is_leg_spent: false,
            unasked: Unasked::No,
            last_has_body: false,
        }
    }

    /// A connection that `route` has decided, of which `passed` has passed.
    pub(super) fn observed(route: Rc<Route>, passed: Vec<u8>) -> Self {
        let kept = [passed, Vec::new()];
        Self { kept, route: Some(route), ..Self::new(Mode::Observed, None) }
    }

    #[inline]
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
                Ok(self.response(bytes, policy, &mut tables.heads))
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

    /// What becomes of the first bytes of the downstream.
    fn request(
        &mut self,
        bytes: &[u8],
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Result<Outcome, Departure> {
        if self.dropping > 0 {
            return Ok(Outcome::Drop(self.dropping));
        }
        if self.pending.is_none() {
            if self.body != Body::Plain && self.requests.is_in_body() {
                return Ok(self.open_body(bytes, policy, tables)?);
            }
            let is_answered = self.responses.is_idle() || planted!(ResponseNotAwaited);
            if self.requests.is_at_head() && !is_answered {
                return Ok(self.behind_unanswered(bytes, policy)?);
            }
            match self.requests.next_known(bytes, &mut tables.heads) {
                // What is behind an upgrade that is not answered is neither that protocol nor a
                // request.
                RequestStep::NeedMore if planted!(HeadPassedEarly) && !bytes.is_empty() => {
                    return Ok(Outcome::Pass(bytes.len()));
                }
                RequestStep::NeedMore | RequestStep::AwaitUpgrade => {
                    self.head_is_short_of(bytes, policy.now);
                    return Ok(Outcome::Hold);
                }
                RequestStep::Head(head) => {
                    self.head_since = None;
                    self.pending = Some(head);
                }
                RequestStep::Body { bytes, ends } => {
                    if ends {
                        self.request_ends();
                    }
                    return Ok(Outcome::Pass(bytes));
                }
                RequestStep::Opaque { .. } => return self.switched(bytes),
                RequestStep::Discard { bytes: count } => {
                    return Ok(self.behind_the_last(count, bytes, policy)?);
                }
                RequestStep::Refused(refusal) => {
                    return Ok(self.unjudged(refusal, bytes, policy)?);
                }
            }
        }
        Ok(self.decide(bytes, policy, tables))
    }

    /// The upstream connection, as far as it can carry a further request.
    fn leg<'a>(&self, policy: &Policy<'a>) -> Leg<'a> {
        if self.is_leg_spent { Leg::None } else { policy.leg }
    }

    /// What becomes of the pending head, with which `bytes` begin.
    fn decide(&mut self, bytes: &[u8], policy: &Policy<'_>, tables: &mut Tables) -> Outcome {
        let Some(head) = &self.pending else { return Outcome::Hold };
        let leg = self.leg(policy);
        let host = head.host.as_ref();
        let generation = policy.snapshot.generation;
        let route = match &self.route {
            Some(last) if planted!(LastRouteKept) => last,
            // Who asks is the same on one connection.
            Some(last) if last.asker.generation == generation && last.host.as_ref() == host => last,
            _ => {
                let (source, destination) = (policy.source, policy.destination);
                let asker = Asker { generation, mode: Mode::Gated, source, destination };
                let decide = || policy.route(host.cloned());
                let route = self.route.insert(tables.routes.find(asker, host, decide));
                if route.standing == NameTrust::Unverified {
                    return Outcome::Note(Note::UnverifiedName(Rc::clone(route)));
                }
                route
            }
        };
        match leg {
            Leg::Up(upstream) if route.leads_to(upstream, policy.destination) => {
                if policy.upstream == Inspected::Partly {
                    return Outcome::Hold;
                }
                let route = Rc::clone(route);
                let logged = logged(head, bytes, policy.logging);
                let head_len = head.head_len;
                self.ask(route, logged, policy.now);
                Outcome::Pass(head_len)
            }
            Leg::Up(_) | Leg::None if route.is_blocked() => {
                let reply = self.local_reply(Why::Blocked, bytes, policy);
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
        self.body = Body::of(&head);
        self.last_has_body = head.has_body();
        let exchange = Exchange {
            route,
            began: now,
            responded: None,
            request_bytes: head.head_len as u64,
            body_bytes: 0,
            answered_by: AnsweredBy::Upstream,
            logged,
        };
        self.responses.asked(ExpectedResponse::from(&*head), exchange);
    }

    fn request_ends(&mut self) {
        let (request_bytes, body_bytes) = self.requests.request_bytes();
        if let Some(exchange) = self.responses.last_mut() {
            exchange.request_bytes = request_bytes;
            exchange.body_bytes = body_bytes;
        }
    }

    /// See [`super::Gate::replied`].
    pub(super) fn replied(&mut self) {
        self.pending = None;
    }

    /// See [`super::Gate::dropped`].
    pub(super) fn dropped(&mut self) {
        self.dropping = 0;
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
        self.follows = Follows::Nothing;
        match self.pending.take() {
            // The request stream is behind this head: the body that it sees next has no head.
            Some(_) => self.requests.end(),
            None => self.requests.end_behind_body(),
        }
        // The beginning of a chunk, or of trailers, is part of the body that passes.
        !self.requests.is_in_body() || self.body != Body::Plain
    }

    /// See [`super::Gate::leg_replaced`].
    pub(super) fn leg_replaced(&mut self) {
        self.responses.upstream_replaced();
        self.follows = Follows::Responses;
        self.is_leg_spent = false;
        self.unasked = Unasked::No;
    }

    /// See [`super::Gate::holds_nothing`].
    pub(super) fn is_observing(&self) -> bool {
        self.mode == Mode::Observed
    }

    /// See [`super::Gate::unseen`].
    pub(super) fn unseen(&self, side: Side) -> u64 {
        match side {
            // What is left of the body may be that of a head that has not passed.
            Side::Downstream if self.pending.is_some() || self.body != Body::Plain => 0,
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
    pub(crate) fn pop_unanswered(
        &mut self,
        held: &[u8],
        (now, logging): (Micros, Logging),
    ) -> Option<Answered> {
        if let Some(unanswered) = self.responses.pop_unanswered() {
            return Some(unanswered);
        }
        let (head, route) = (self.pending.take()?, self.route.as_ref()?);
        let exchange = Exchange {
            route: Rc::clone(route),
            began: now,
            responded: None,
            request_bytes: head.head_len as u64,
            body_bytes: 0,
            answered_by: AnsweredBy::Upstream,
            logged: logged(&head, held, logging),
        };
        Some(Answered { request: exchange, status: 0, bytes: 0, body_bytes: 0 })
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
