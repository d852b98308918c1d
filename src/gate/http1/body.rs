//! Bodies that a server may not read as such: behind Expect and Upgrade its answer decides.
//!
//! A server that declines an expectation, or ignores an upgrade, may take what follows for the next
//! request (RFC 9110 10.1.1 lets a client leave the body away then). So only what could be no
//! request passes before the answer: the body up to the first `HTTP/` with a digit in it. From
//! there it is held until the answer, or for a second. A final answer that comes before the body
//! has ended leaves it open how the server reads on: the rest is thrown away, and the upstream
//! connection carries no further request.

use memchr::memchr2;

use super::super::{Action, Micros, Note, Outcome, Policy, Tables};
use super::{Http1, Unreadable};
use crate::http1::{RequestHead, RequestStep, ResponseHead, Turn, Upgrade};
use crate::metrics::CloseReason;

/// How long what could be a request is held. Servers that answer an expectation do so at once;
/// curl sends its body after a second without an answer.
pub(super) const BODY_HOLD_US: Micros = 1_000_000;

/// As much of a body is thrown away, so that the client reads its answer; a longer one ends the
/// connection.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// How the present body passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Body {
    /// As it comes.
    #[default]
    Plain,
    /// Up to what could be a request; the answer decides.
    Watched(Scan),
    /// Not at all, until the answer or this time.
    Held(Micros),
    /// As it comes, because the time is over; the answer is still to come.
    Released,
    /// Not at all: a final answer came first. So many bytes more are thrown away.
    Discarded(usize),
}

/// Looks for `HTTP/` and a digit, in any case, in bytes that may be cut anywhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scan {
    matched: usize,
}

/// How a version of HTTP begins.
const VERSION: &[u8; 5] = b"http/";

impl Scan {
    /// Where the digit stands, if it does.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.matched == 0 {
                at += memchr2(b'h', b'H', &bytes[at..])?;
            }
            let byte = bytes[at].to_ascii_lowercase();
            match VERSION.get(self.matched) {
                Some(expected) if *expected == byte => self.matched += 1,
                None if byte.is_ascii_digit() => return Some(at),
                Some(_) | None => self.matched = usize::from(byte == VERSION[0]),
            }
            at += 1;
        }
        None
    }
}

impl Body {
    /// How the body of `head` passes.
    pub(super) fn of(head: &RequestHead) -> Self {
        let is_open = head.expects_continue || head.upgrade != Upgrade::No;
        match is_open && head.has_body() {
            true => Self::Watched(Scan::default()),
            false => Self::Plain,
        }
    }

    /// So many of the first of `bytes` may be taken.
    fn allowed(&mut self, bytes: &[u8], now: Micros) -> usize {
        match self {
            Self::Plain | Self::Released | Self::Discarded(_) => bytes.len(),
            Self::Watched(scan) => scan.clone().find(bytes).unwrap_or(bytes.len()),
            Self::Held(until) if now < *until => 0,
            Self::Held(_) => {
                *self = Self::Released;
                bytes.len()
            }
        }
    }
}

impl Http1 {
    /// What becomes of the first bytes of a body that the answer decides about.
    pub(super) fn open_body(
        &mut self,
        bytes: &[u8],
        policy: &Policy<'_>,
        tables: &mut Tables,
    ) -> Result<Outcome, Unreadable> {
        let allowed = self.body.allowed(bytes, policy.now);
        if allowed == 0 {
            return Ok(self.hold_body(policy.now));
        }
        match self.requests.next_known(&bytes[..allowed], &mut tables.heads) {
            RequestStep::Body { bytes: count, ends } => {
                if let Body::Watched(scan) = &mut self.body {
                    scan.find(&bytes[..count]);
                }
                if ends {
                    self.request_ends();
                }
                Ok(self.take_body(count))
            }
            // Trailers that have not come whole, or may not be taken whole yet.
            RequestStep::NeedMore if allowed == bytes.len() => Ok(Outcome::Hold),
            RequestStep::NeedMore => Ok(self.hold_body(policy.now)),
            RequestStep::Refused(refusal) => self.unjudged(refusal, bytes, policy),
            RequestStep::Head(_)
            | RequestStep::AwaitUpgrade
            | RequestStep::Opaque { .. }
            | RequestStep::Discard { .. } => unreachable!("a body is being read"),
        }
    }

    fn hold_body(&mut self, now: Micros) -> Outcome {
        match self.body {
            Body::Held(_) => Outcome::Hold,
            Body::Plain | Body::Watched(_) | Body::Released | Body::Discarded(_) => {
                let until = now + BODY_HOLD_US;
                self.body = Body::Held(until);
                Outcome::Note(Note::Due(until))
            }
        }
    }

    fn take_body(&mut self, count: usize) -> Outcome {
        let Body::Discarded(left) = self.body else { return Outcome::Pass(count) };
        match left.checked_sub(count) {
            Some(left) => {
                self.body = Body::Discarded(left);
                self.dropping = count;
                Outcome::Drop(count)
            }
            None => Outcome::Act(Action::End(CloseReason::BadRequest)),
        }
    }

    /// An answer begins: it may decide how the server reads the present body.
    pub(super) fn body_is_answered(&mut self, head: &ResponseHead) {
        if self.body == Body::Plain {
            return;
        }
        self.body = match head.turn {
            Turn::Interim if head.status != 100 => return,
            Turn::Interim | Turn::Switched => Body::Plain,
            Turn::Final | Turn::Declined if self.requests.is_in_body() => {
                self.is_leg_spent = true;
                Body::Discarded(DISCARDED_BYTES_MAX)
            }
            Turn::Final | Turn::Declined => Body::Plain,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_any_case_and_pieces() {
        for (text, digit) in [
            ("GET /x HTTP/1.1\r\n", Some(12)),
            ("http/2", Some(5)),
            ("hhttp/1", Some(6)),
            ("httphTtP/0", Some(9)),
            ("http/http/9", Some(10)),
            ("http/x1", None),
            ("http:/1", None),
            ("http://a/1", None),
            ("no", None),
        ] {
            for size in 1..=text.len() {
                let (mut scan, mut at) = (Scan::default(), 0);
                let found = text.as_bytes().chunks(size).find_map(|piece| {
                    let found = scan.find(piece).map(|within| at + within);
                    at += piece.len();
                    found
                });
                assert_eq!(found, digit, "{text} in pieces of {size}");
            }
        }
    }
}
