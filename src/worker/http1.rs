//! The requests and answers of one HTTP/1 connection: what passes, what waits, who is asked.
//!
//! Two modes. *Gated*: a name can decide, so no byte of a request passes before its host is known
//! and allowed, and an answer passes piece by piece, so that the end of the last one is known.
//! *Observed*: the address has decided; all bytes pass as they come, and are only counted.
//!
//! This is the part without I/O; `requests` and `answers` move the bytes.

use std::rc::Rc;

use crate::access_log::Request;
use crate::http1::{
    Asked, KnownHeads, Lost, Queue, Refusal, RequestHead, RequestStep, RequestStream, ResponseStep,
    ResponseStream, Turn, Upgrade,
};
use crate::relay::Side;

use crate::worker::connection::Micros;
use crate::worker::line;
use crate::worker::route::{Exchange, Route};

/// Whether requests wait to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// They do.
    Gated,
    /// They are only counted.
    Observed,
}

/// Why the downstream's bytes do not pass now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Waits {
    /// They do.
    #[default]
    No,
    /// The head that was told is blocked, or goes elsewhere, or the upstream has enough to answer.
    Told,
    /// It is not known yet which protocol they are.
    Upgrade,
    /// The request is refused.
    Refused(Refusal),
    /// For nothing any more: what they waited for is known.
    Over,
}

impl Waits {
    /// For every answer before them, no more.
    pub(super) fn is_for_rest(self) -> bool {
        matches!(self, Self::Told | Self::Refused(_))
    }
}

/// What the first of the downstream's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// So many may pass.
    Pass(usize),
    /// A head, which is in `told`.
    Head,
    /// More are needed.
    More,
    /// They are thrown away.
    Drop,
    /// They wait.
    Wait(Waits),
}

/// What the first of the upstream's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    /// So many may pass.
    Pass(usize),
    /// More are needed.
    More,
    /// Nobody has asked for them.
    Unasked,
    /// They must not pass: what would follow could not be looked at.
    Hides,
    /// From here on nobody knows where an answer ends.
    Lost(Lost),
}

/// What follows the present answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// Answers, as long as there are requests.
    Answers,
    /// Nobody knows where it ends.
    Lost,
    /// Another protocol, which has been agreed.
    OtherProtocol,
    /// The upstream's end, which the downstream was told.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) mode: Mode,
    requests: RequestStream,
    responses: ResponseStream,
    /// By source side. Gated: bytes that are held back. Observed: copies of bytes that have passed.
    pub(super) carried: [Vec<u8>; 2],
    /// The head that was told and has not passed.
    pub(super) told: Option<Rc<RequestHead>>,
    pub(super) waits: Waits,
    /// Where the last request goes.
    pub(super) route: Option<Rc<Route>>,
    unanswered: Queue<Exchange>,
    follows: Follows,
    /// What the downstream sends is thrown away.
    drops: bool,
    /// Answered, and to be accounted.
    finished: Queue<Exchange>,
}

impl Http1 {
    /// A connection of which nothing but `held` has come.
    pub(super) fn new(mode: Mode, held: Vec<u8>) -> Self {
        Self {
            mode,
            requests: RequestStream::default(),
            responses: ResponseStream::default(),
            carried: [held, Vec::new()],
            told: None,
            waits: Waits::No,
            route: None,
            unanswered: Queue::default(),
            follows: Follows::Answers,
            drops: false,
            finished: Queue::default(),
        }
    }

    /// Bytes from `side` that are held back; they pass before those that come.
    pub(super) fn carried(&self, side: Side) -> usize {
        match self.mode {
            Mode::Gated => self.carried[side as usize].len(),
            Mode::Observed => 0,
        }
    }

    /// Bytes of a request are held back.
    pub(super) fn is_holding(&self) -> bool {
        self.carried(Side::Downstream) > 0
    }

    /// The bytes that are held back, which are the caller's now.
    pub(super) fn take_carried(&mut self, side: Side) -> Vec<u8> {
        std::mem::take(&mut self.carried[side as usize])
    }

    /// Holds `bytes` back.
    pub(super) fn carry(&mut self, side: Side, bytes: &[u8]) {
        self.carried[side as usize].extend_from_slice(bytes);
    }

    /// Bytes from `side` that need no look.
    pub(super) fn unseen(&self, side: Side) -> u64 {
        match side {
            // The body that is left may be that of a head that has not passed, or never will.
            Side::Downstream if self.told.is_some() || self.drops => 0,
            Side::Downstream => self.requests.body_left(),
            Side::Upstream => self.responses.body_left(),
        }
    }

    /// `bytes` from `side` have passed unseen.
    pub(super) fn skip(&mut self, side: Side, bytes: u64) {
        match side {
            Side::Downstream => {
                if self.requests.skip_body(bytes) {
                    self.request_ends();
                }
            }
            Side::Upstream => {
                if self.responses.skip_body(bytes) {
                    self.answer_ends();
                }
            }
        }
    }

    /// Every request is answered.
    pub(super) fn is_idle(&self) -> bool {
        self.responses.unanswered() == 0
    }

    /// Another request can go to the present upstream.
    pub(super) fn takes_requests(&self) -> bool {
        !self.is_full() && !self.is_lost()
    }

    /// Nobody knows where the present answer ends, but by the upstream's end.
    pub(super) fn is_lost(&self) -> bool {
        self.follows == Follows::Lost
    }

    /// The downstream is told the end of the answers. The body of a request that has begun to pass
    /// goes on to its server, which may still read it. What is behind that request is thrown away,
    /// as it would be by the server that has closed.
    pub(super) fn answers_over(&mut self) {
        if self.follows != Follows::OtherProtocol {
            self.follows = Follows::Nothing;
            // The request stream is behind the head that was told: the body that it sees next is
            // not that of a request that has passed.
            self.drops |= self.told.is_some();
            self.forget();
        }
    }

    /// The upstream has as many requests as it is given at a time.
    pub(super) fn is_full(&self) -> bool {
        self.responses.is_full()
    }

    /// The last request has passed whole.
    pub(super) fn is_between_requests(&self) -> bool {
        self.requests.is_between_requests()
    }

    /// What the first of the downstream's bytes are. A head is told until it is asked.
    pub(super) fn next_request(&mut self, bytes: &[u8], known: &mut KnownHeads) -> Next {
        if self.told.is_some() {
            return Next::Head;
        }
        // Not even the parser sees a head that nobody will answer: what it has seen of one was
        // thrown away.
        self.drops |= self.follows == Follows::Nothing && !self.requests.is_within_body();
        if self.drops {
            return if bytes.is_empty() { Next::More } else { Next::Drop };
        }
        match self.requests.next_known(bytes, known) {
            RequestStep::NeedMore => Next::More,
            RequestStep::Head(head) => {
                self.told = Some(head);
                Next::Head
            }
            RequestStep::Body { bytes, ends } => {
                if ends {
                    self.request_ends();
                }
                Next::Pass(bytes)
            }
            RequestStep::AwaitUpgrade => Next::Wait(Waits::Upgrade),
            RequestStep::Opaque { bytes } => Next::Pass(bytes),
            RequestStep::Discard { .. } => Next::Drop,
            RequestStep::Refused(refusal) => Next::Wait(Waits::Refused(refusal)),
        }
    }

    /// The head that was told passes to where `route` leads. Its length.
    pub(super) fn ask(&mut self, now: Micros, line: Option<Box<Request>>) -> usize {
        let (Some(head), Some(route)) = (self.told.take(), &self.route) else { return 0 };
        self.responses.asked(Asked::from(&*head));
        self.unanswered.push(Exchange {
            route: Rc::clone(route),
            began: now,
            status: 0,
            request_bytes: head.head_len as u64,
            response_bytes: 0,
            wants_h2c: head.upgrade == Upgrade::H2c,
            line,
        });
        head.head_len
    }

    /// The head that was told and will not pass, as an exchange to be accounted.
    pub(super) fn take_told(&mut self, now: Micros) -> Option<Exchange> {
        let (Some(head), Some(route)) = (self.told.take(), &self.route) else { return None };
        Some(Exchange {
            route: Rc::clone(route),
            began: now,
            status: 0,
            request_bytes: head.head_len as u64,
            response_bytes: 0,
            wants_h2c: false,
            line: None,
        })
    }

    /// What the first of the upstream's bytes are. Answers that end are in `finished` then.
    pub(super) fn next_answer(&mut self, bytes: &[u8], known: &mut KnownHeads) -> Answered {
        match self.responses.next_known(bytes, known) {
            ResponseStep::NeedMore => Answered::More,
            ResponseStep::Head(head) if self.hides_requests(head.turn) => Answered::Hides,
            ResponseStep::Head(head) => {
                self.answer_begins(head.status, head.turn);
                // An answer without a body has ended with its head.
                while self.responses.unanswered() < self.unanswered.len() {
                    self.answer_ends();
                }
                Answered::Pass(head.head_len)
            }
            ResponseStep::Body { bytes, ends } => {
                if ends {
                    self.answer_ends();
                }
                Answered::Pass(bytes)
            }
            ResponseStep::Opaque { bytes } => Answered::Pass(bytes),
            ResponseStep::Unasked => Answered::Unasked,
            ResponseStep::Lost(lost) => {
                self.follows = Follows::Lost;
                Answered::Lost(lost)
            }
        }
    }

    /// The answer begins HTTP/2, in which later requests would go unseen.
    fn hides_requests(&self, turn: Turn) -> bool {
        let asked = self.unanswered.first().is_some_and(|exchange| exchange.wants_h2c);
        turn == Turn::Switched && asked && self.mode == Mode::Gated
    }

    fn answer_begins(&mut self, status: u16, turn: Turn) {
        if turn != Turn::Interim
            && let Some(exchange) = self.unanswered.first_mut()
        {
            exchange.status = status;
        }
        match turn {
            Turn::Switched => {
                self.follows = Follows::OtherProtocol;
                self.requests.upgraded();
            }
            Turn::Declined => self.requests.upgrade_declined(),
            Turn::Interim | Turn::Final => return,
        }
        if self.waits == Waits::Upgrade {
            self.waits = Waits::Over;
        }
    }

    fn answer_ends(&mut self) {
        if let Some(mut exchange) = self.unanswered.pop() {
            exchange.response_bytes = self.responses.response_bytes();
            self.finished.push(exchange);
        }
    }

    fn request_ends(&mut self) {
        if let Some(exchange) = self.unanswered.last_mut() {
            exchange.request_bytes = self.requests.request_bytes();
        }
    }

    /// The upstream has ended: an answer that its end completes is complete.
    pub(super) fn upstream_ended(&mut self) {
        let complete = self.responses.is_whole_at_end();
        if complete && self.unanswered.first().is_some_and(|exchange| exchange.status != 0) {
            self.answer_ends();
        }
    }

    /// What is held will never pass.
    pub(super) fn forget(&mut self) {
        self.told = None;
        self.waits = Waits::No;
        self.carried[Side::Downstream as usize].clear();
    }

    /// A new upstream connection has taken the place of the last one, which had answered all.
    pub(super) fn upstream_replaced(&mut self) {
        self.responses = ResponseStream::default();
        self.follows = Follows::Answers;
        self.carried[Side::Upstream as usize].clear();
    }

    /// The exchanges that were answered and are not accounted yet.
    pub(super) fn pop_finished(&mut self) -> Option<Exchange> {
        self.finished.pop()
    }

    /// The exchanges that will get no (whole) answer any more.
    pub(super) fn pop_unanswered(&mut self) -> Option<Exchange> {
        let mut exchange = self.unanswered.pop()?;
        if exchange.status != 0 {
            exchange.response_bytes = self.responses.response_bytes();
        }
        Some(exchange)
    }

    /// The line of the head that was told, with which `bytes` begin.
    pub(super) fn told_line(&self, bytes: &[u8]) -> Option<Box<Request>> {
        let head = self.told.as_ref()?;
        Some(Box::new(line::of_head(head, bytes)))
    }

    /// The bytes of the downstream that are held back.
    pub(super) fn held(&self) -> &[u8] {
        &self.carried[Side::Downstream as usize]
    }
}
