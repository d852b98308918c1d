//! What a downstream sends, request by request.
//!
//! The worker holds the bytes and asks [`RequestStream::next`] what the first of them are. It shows
//! the same bytes again, and more, after [`RequestStep::NeedMore`], and drops from the front what a
//! step has told. A head is told before any byte of it has passed: the worker that must wait (for a
//! verdict, or for earlier responses) simply does not ask on.
//!
//! The machine refuses for good: behind a refused request nobody knows where the next one would
//! begin.

use std::rc::Rc;

use super::RequestError;
use super::chunked::{Chunked, Piece};
use super::head_end::{HeadEnd, Lines};
use super::known_heads::{KnownHeads, Place};
use super::request_head::{Body, RequestHead, Upgrade};
use crate::judge::Rules;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestStep {
    /// It cannot be told before more have come.
    NeedMore,
    /// The first `head_len` are a request's head, whole. A head whose body is [`Body::None`] is the
    /// whole request.
    Head(Rc<RequestHead>),
    /// The first `bytes` belong to the present request's body.
    Body {
        /// How many; at least one.
        bytes: usize,
        /// The request ends with them.
        ends: bool,
    },
    /// The present request wants another protocol. Until its response is known these bytes can be
    /// neither that protocol nor a request: hold them, and do not receive more.
    AwaitUpgrade,
    /// The connection has changed its protocol: all of them pass, and all that follow.
    Opaque {
        /// How many.
        bytes: usize,
    },
    /// The client has said that its last request was the last one: drop them.
    Discard {
        /// How many.
        bytes: usize,
    },
    /// Nothing from here on may pass.
    Refused(RequestError),
}

/// Follows one downstream's requests.
#[derive(Debug)]
pub struct RequestStream {
    state: State,
    switch: Switch,
    /// What comes after the present request.
    after: After,
    request_bytes: u64,
    body_bytes: u64,
    /// What requests are judged by; `None`: they only have to be read.
    rules: Option<Rules>,
}

#[derive(Debug)]
enum State {
    /// Before or within a head.
    Head(HeadEnd),
    /// Within a body of so many bytes more.
    Length(u64),
    /// Within a chunked body.
    Chunked(Chunked),
    /// Behind a request that wants another protocol.
    AwaitUpgrade,
    /// The protocol has changed.
    Opaque,
    /// The last request is over.
    Over,
    /// A request was refused.
    Refused(RequestError),
}

/// Whether the present request changes the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    NotWanted,
    Wanted,
    Agreed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Another,
    Nothing,
}

impl RequestStream {
    /// A stream whose requests are read, and judged if there are `rules`.
    #[must_use]
    pub fn new(rules: Option<Rules>) -> Self {
        Self {
            state: new_head(),
            switch: Switch::NotWanted,
            after: After::Another,
            request_bytes: 0,
            body_bytes: 0,
            rules,
        }
    }

    /// What the first of `bytes` are. `bytes` begin where the last step that told some ended.
    #[cfg(any(test, feature = "internals"))]
    pub fn next(&mut self, bytes: &[u8]) -> RequestStep {
        self.step(bytes, None)
    }

    /// As [`Self::next`], and the same; but a head that is known is not read again.
    pub fn next_known(&mut self, bytes: &[u8], known: &mut KnownHeads) -> RequestStep {
        self.step(bytes, Some(known))
    }

    fn step(&mut self, bytes: &[u8], known: Option<&mut KnownHeads>) -> RequestStep {
        if let State::Refused(refusal) = self.state {
            return RequestStep::Refused(refusal);
        }
        if bytes.is_empty() {
            return RequestStep::NeedMore;
        }
        let step = match &mut self.state {
            State::Head(_) => self.head(bytes, known),
            State::Length(left) => {
                let piece =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= piece as u64;
                let ends = *left == 0;
                Ok(self.body(piece, ends))
            }
            State::Chunked(chunked) => match chunked.read(bytes) {
                Piece::Within(piece) => Ok(self.body(piece, false)),
                Piece::Last(piece) => {
                    self.body_bytes = chunked.data_bytes();
                    Ok(self.body(piece, true))
                }
                Piece::Partial => Ok(RequestStep::NeedMore),
                Piece::Bad(refusal) => Err(refusal),
            },
            State::AwaitUpgrade => Ok(RequestStep::AwaitUpgrade),
            State::Opaque => Ok(RequestStep::Opaque { bytes: bytes.len() }),
            State::Over => Ok(RequestStep::Discard { bytes: bytes.len() }),
            State::Refused(refusal) => Err(*refusal),
        };
        step.unwrap_or_else(|refusal| {
            self.state = State::Refused(refusal);
            RequestStep::Refused(refusal)
        })
    }

    /// The upstream has agreed to the other protocol (101).
    pub fn upgraded(&mut self) {
        assert_eq!(self.switch, Switch::Wanted, "a response follows its request");
        self.switch = Switch::Agreed;
        if matches!(self.state, State::AwaitUpgrade) {
            self.state = State::Opaque;
        }
    }

    /// The upstream has answered the request that wanted another protocol in some other way.
    pub fn upgrade_declined(&mut self) {
        assert_eq!(self.switch, Switch::Wanted, "a response follows its request");
        self.switch = Switch::NotWanted;
        if matches!(self.state, State::AwaitUpgrade) {
            self.end_request();
        }
    }

    /// Bytes of the present body (or of its present chunk) that need no look: they may pass unseen,
    /// if [`Self::skip_body`] is told. 0 outside of a body.
    #[must_use]
    pub fn body_left(&self) -> u64 {
        match &self.state {
            State::Length(left) => *left,
            State::Chunked(chunked) => chunked.data_left(),
            _ => 0,
        }
    }

    /// `bytes` of the body have passed unseen, at most [`Self::body_left`]. Whether the request
    /// ends with them.
    pub fn skip_body(&mut self, bytes: u64) -> bool {
        assert!(bytes <= self.body_left(), "no more than the body passes unseen");
        self.request_bytes += bytes;
        match &mut self.state {
            State::Length(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.end_request();
                    return true;
                }
            }
            State::Chunked(chunked) if bytes > 0 => chunked.skip_data(bytes),
            _ => {}
        }
        false
    }

    /// Between requests: if the downstream ends here, and no byte is held, nothing is cut short.
    #[cfg(test)]
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        match &self.state {
            State::Head(head_end) => !head_end.has_begun(),
            State::AwaitUpgrade | State::Opaque | State::Over => true,
            State::Length(_) | State::Chunked(_) | State::Refused(_) => false,
        }
    }

    /// Before or within a head, or behind one that was refused.
    #[must_use]
    pub fn is_at_head(&self) -> bool {
        matches!(self.state, State::Head(_) | State::Refused(_))
    }

    /// Within a body.
    #[must_use]
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::Chunked(_))
    }

    /// Why nothing more may pass.
    #[must_use]
    pub fn refusal(&self) -> Option<RequestError> {
        match self.state {
            State::Refused(refusal) => Some(refusal),
            State::Head(_)
            | State::Length(_)
            | State::Chunked(_)
            | State::AwaitUpgrade
            | State::Opaque
            | State::Over => None,
        }
    }

    /// No request follows the present one: what comes behind its body is told as
    /// [`RequestStep::Discard`], and so is all that comes if no body is being read.
    pub fn end_behind_body(&mut self) {
        match &self.state {
            State::Length(_) | State::Chunked(_) => {
                self.switch = Switch::NotWanted;
                self.after = After::Nothing;
            }
            State::Head(_)
            | State::AwaitUpgrade
            | State::Opaque
            | State::Over
            | State::Refused(_) => self.state = State::Over,
        }
    }

    /// Everything that comes from here on is told as [`RequestStep::Discard`].
    pub fn end(&mut self) {
        self.state = State::Over;
    }

    /// Bytes of the present request, or of the last one: head and body as they came; and of its
    /// body alone when that has ended, without the framing of chunks.
    #[must_use]
    pub fn request_bytes(&self) -> (u64, u64) {
        (self.request_bytes, self.body_bytes)
    }

    fn head(
        &mut self,
        bytes: &[u8],
        known: Option<&mut KnownHeads>,
    ) -> Result<RequestStep, RequestError> {
        let State::Head(head_end) = &mut self.state else {
            unreachable!("called in this state only");
        };
        // What has been looked at in part is not looked up.
        let known = known.filter(|_| !head_end.has_begun());
        let known = known.map(|known| (&mut known.requests, Place::of(bytes)));
        if let Some((heads, place)) = &known
            && let Some(head) = heads.find(*place, bytes, |_| true)
        {
            let head = Rc::clone(head);
            return self.begin(head);
        }
        let Some(head_len) = head_end.find(bytes)? else {
            return Ok(RequestStep::NeedMore);
        };
        let head = Rc::new(RequestHead::parse(&bytes[..head_len])?);
        if let Some((heads, place)) = known {
            heads.keep(place, &bytes[..head_len], Rc::clone(&head));
        }
        self.begin(head)
    }

    fn begin(&mut self, head: Rc<RequestHead>) -> Result<RequestStep, RequestError> {
        if let Some(refusal) = self.rules.and_then(|rules| head.objections.refusal(rules)) {
            return Err(refusal);
        }
        (self.request_bytes, self.body_bytes) = (head.head_len as u64, 0);
        self.switch = match head.upgrade {
            Upgrade::No => Switch::NotWanted,
            Upgrade::H2c | Upgrade::Other => Switch::Wanted,
        };
        self.after = match head.keep_alive {
            true => After::Another,
            false => After::Nothing,
        };
        match head.body {
            Body::None => self.end_request(),
            Body::Length(length) => {
                self.body_bytes = length;
                self.state = State::Length(length);
            }
            Body::Chunked => self.state = State::Chunked(Chunked::new(self.rules)),
        }
        Ok(RequestStep::Head(head))
    }

    fn body(&mut self, bytes: usize, ends: bool) -> RequestStep {
        self.request_bytes += bytes as u64;
        if ends {
            self.end_request();
        }
        RequestStep::Body { bytes, ends }
    }

    fn end_request(&mut self) {
        self.state = match (self.switch, self.after) {
            (Switch::Wanted, _) => State::AwaitUpgrade,
            (Switch::Agreed, _) => State::Opaque,
            (Switch::NotWanted, After::Another) => new_head(),
            (Switch::NotWanted, After::Nothing) => State::Over,
        };
    }
}

fn new_head() -> State {
    State::Head(HeadEnd::new(Lines::Strict))
}

#[cfg(test)]
mod tests;
