//! What an upstream sends, response by response.
//!
//! The worker tells of each request that it passes on ([`ResponseStream::asked`]) and asks
//! [`ResponseStream::next`] what the first of the upstream's bytes are, as with
//! [`super::RequestStream`]. A head is told before it passes, so that its status can be counted.

use strum::{EnumCount, IntoStaticStr, VariantArray};
use thiserror::Error;

use super::UNANSWERED_MAX;
use super::chunked::{Chunked, Piece};
use super::head_end::{HeadEnd, Lines};
use super::known_heads::{KnownHeads, Place};
use super::queue::Queue;
use super::request_head::{RequestHead, Upgrade};
use super::response_head::{ResponseBody, ResponseHead, Turn};

/// What a response's framing depends on: the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedResponse {
    /// HEAD: there is no body, whatever the response says.
    pub is_head: bool,
    /// It wants another protocol.
    pub wants_upgrade: bool,
}

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseStep {
    /// It cannot be told before more have come.
    NeedMore,
    /// The first `head_len` are a response's head, whole. If it is not [`Turn::Interim`] and has no
    /// body it is the whole response.
    Head(ResponseHead),
    /// The first `bytes` belong to the present response's body.
    Body {
        /// How many; at least one.
        bytes: usize,
        /// The response ends with them.
        ends: bool,
    },
    /// All of them pass, and all that follow: the protocol has changed, or the framing is lost.
    Opaque {
        /// How many.
        bytes: usize,
    },
    /// The upstream speaks and nobody has asked: a server that gives up an idle connection says
    /// 408. They are no response to any request; the connection can carry none any more.
    Unasked,
    /// From here on nobody knows where a response ends. Told once; if the worker asks on, the rest
    /// is [`ResponseStep::Opaque`] until the upstream closes.
    Unframed(FramingError),
}

/// Why a response's framing is lost. One variant per label value of the metric that counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum FramingError {
    /// Not a head of HTTP/1.
    #[error("the response does not begin with a head of HTTP/1")]
    BadHead,
    /// A head above the limits.
    #[error("the response's head is longer than 32 KiB")]
    HeadTooLarge,
    /// Lengths that are none, or differ.
    #[error("the response's Content-Length is malformed")]
    BadLength,
    /// Content-Length with Transfer-Encoding.
    #[error("the response has Content-Length and Transfer-Encoding")]
    LengthWithCoding,
    /// A chunk that is none.
    #[error("a chunk of the response is malformed")]
    BadChunk,
    /// 101, and nobody has asked for another protocol.
    #[error("the response changes the protocol, unasked")]
    UnaskedSwitch,
}

/// Follows one upstream's responses. With each request the caller leaves a value `T`, and takes it
/// back with the response.
#[derive(Debug)]
pub struct ResponseStream<T = ()> {
    state: State,
    unanswered: Queue<(ExpectedResponse, T)>,
    ended: Queue<Answered<T>>,
    response: ResponseProgress,
    /// Of the present response; 0 before its final head.
    status: u16,
    response_bytes: u64,
    /// Of these, the heads.
    head_bytes: u64,
}

/// A request with its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered<T> {
    /// What was left with the request.
    pub request: T,
    /// The response's status; 0 if no final head has come.
    pub status: u16,
    /// The response's bytes, interim responses included.
    pub bytes: u64,
    /// Of these, the body's, without the framing of chunks.
    pub body_bytes: u64,
}

/// Whether anything of the response to the oldest request has come, be it an interim one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseProgress {
    Awaited,
    Begun,
}

#[derive(Debug)]
enum State {
    /// Before or within a head.
    Head(HeadEnd),
    /// Within a body of so many bytes more.
    Length(u64),
    /// Within a chunked body.
    Chunked(Chunked),
    /// Within a body that the close ends.
    UntilClose,
    /// The protocol has changed, or the framing is lost.
    Opaque,
}

impl From<&RequestHead> for ExpectedResponse {
    fn from(head: &RequestHead) -> Self {
        Self { is_head: head.is_head, wants_upgrade: head.upgrade != Upgrade::No }
    }
}

impl<T> Default for ResponseStream<T> {
    fn default() -> Self {
        Self {
            state: new_head(),
            unanswered: Queue::default(),
            ended: Queue::default(),
            response: ResponseProgress::Awaited,
            status: 0,
            response_bytes: 0,
            head_bytes: 0,
        }
    }
}

impl<T> ResponseStream<T> {
    /// A request passes to the upstream; call it before any byte of the request does.
    pub fn asked(&mut self, asked: ExpectedResponse, request: T) {
        assert!(!self.is_full(), "a full queue is not asked");
        self.unanswered.push((asked, request));
    }

    /// The oldest request whose response is not complete.
    pub fn first_mut(&mut self) -> Option<&mut T> {
        self.unanswered.first_mut().map(|(_, request)| request)
    }

    /// Every request is answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Another upstream has taken the place of one that had answered every request.
    pub fn upstream_replaced(&mut self) {
        self.state = new_head();
        self.response = ResponseProgress::Awaited;
    }

    /// The newest request whose response is not complete.
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.unanswered.last_mut().map(|(_, request)| request)
    }

    /// The next request whose response is complete.
    pub fn pop_ended(&mut self) -> Option<Answered<T>> {
        self.ended.pop()
    }

    /// The next request that will get no whole response.
    pub fn pop_unanswered(&mut self) -> Option<Answered<T>> {
        let (_, request) = self.unanswered.pop()?;
        let status = std::mem::take(&mut self.status);
        let counted = |bytes| if status == 0 { 0 } else { bytes };
        let (bytes, body_bytes) = (counted(self.response_bytes), counted(self.body_bytes()));
        Some(Answered { request, status, bytes, body_bytes })
    }

    /// The upstream has ended. A response that only its end delimits is complete.
    pub fn upstream_ended(&mut self) {
        let is_delimited_by_the_end = matches!(self.state, State::UntilClose | State::Opaque);
        if is_delimited_by_the_end && self.status != 0 {
            self.end_response();
        }
    }

    /// Something of the present response has come, be it an interim one.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.response == ResponseProgress::Begun || matches!(self.state, State::Opaque)
    }

    /// Within the body of a response that has an end of its own.
    #[must_use]
    pub fn is_within_framed(&self) -> bool {
        self.status != 0 && self.body_left() != u64::MAX
    }

    /// Whether the next request must wait for a response.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unanswered.len() >= UNANSWERED_MAX
    }

    /// Requests whose responses are not complete.
    #[cfg(test)]
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// What the first of `bytes` are. `bytes` begin where the last step that told some ended.
    #[cfg(any(test, feature = "internals"))]
    pub fn next(&mut self, bytes: &[u8]) -> ResponseStep {
        self.step(bytes, None)
    }

    /// As [`Self::next`], and the same; but a head that is known is not read again.
    pub fn next_known(&mut self, bytes: &[u8], known: &mut KnownHeads) -> ResponseStep {
        self.step(bytes, Some(known))
    }

    fn step(&mut self, bytes: &[u8], known: Option<&mut KnownHeads>) -> ResponseStep {
        if bytes.is_empty() {
            return ResponseStep::NeedMore;
        }
        match &mut self.state {
            State::Head(_) => self.head(bytes, known),
            State::Length(left) => {
                let piece =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= piece as u64;
                let ends = *left == 0;
                self.body(piece, ends)
            }
            State::Chunked(chunked) => match chunked.read(bytes) {
                Piece::Within(piece) => self.body(piece, false),
                Piece::Last(piece) => self.body(piece, true),
                Piece::Partial => ResponseStep::NeedMore,
                Piece::Bad(_) => self.lose(FramingError::BadChunk),
            },
            State::UntilClose => self.body(bytes.len(), false),
            State::Opaque => {
                self.response_bytes += bytes.len() as u64;
                ResponseStep::Opaque { bytes: bytes.len() }
            }
        }
    }

    /// Bytes of the present body (or of its present chunk) that need no look: they may pass unseen,
    /// if [`Self::skip_body`] is told. `u64::MAX`: until the upstream closes. 0 outside of a body.
    #[must_use]
    pub fn body_left(&self) -> u64 {
        match &self.state {
            State::Length(left) => *left,
            State::Chunked(chunked) => chunked.data_left(),
            State::UntilClose | State::Opaque => u64::MAX,
            State::Head(_) => 0,
        }
    }

    /// `bytes` of the body have passed unseen, at most [`Self::body_left`]. Whether the response
    /// ends with them.
    pub fn skip_body(&mut self, bytes: u64) -> bool {
        assert!(bytes <= self.body_left(), "no more than the body passes unseen");
        self.response_bytes += bytes;
        match &mut self.state {
            State::Length(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.end_response();
                    return true;
                }
            }
            State::Chunked(chunked) if bytes > 0 => chunked.skip_data(bytes),
            _ => {}
        }
        false
    }

    /// Bytes of the present response, or of the last one: its interim responses, head and body as
    /// they came.
    #[cfg(test)]
    #[must_use]
    pub fn response_bytes(&self) -> u64 {
        self.response_bytes
    }

    fn head(&mut self, bytes: &[u8], known: Option<&mut KnownHeads>) -> ResponseStep {
        let State::Head(head_end) = &mut self.state else {
            unreachable!("called in this state only");
        };
        let Some(&(asked, _)) = self.unanswered.first() else {
            return ResponseStep::Unasked;
        };
        // What has been looked at in part is not looked up.
        let known = known.filter(|_| !head_end.has_begun());
        let known = known.map(|known| (&mut known.responses, Place::of(bytes)));
        if let Some((heads, place)) = &known
            && let Some((_, head)) = heads.find(*place, bytes, |(before, _)| *before == asked)
        {
            let head = *head;
            self.begin(&head);
            return ResponseStep::Head(head);
        }
        if !begins_like_a_response(bytes) {
            return self.lose(FramingError::BadHead);
        }
        let head_len = match head_end.find(bytes) {
            Ok(Some(head_len)) => head_len,
            Ok(None) => return ResponseStep::NeedMore,
            Err(super::RequestError::HeadTooLarge) => return self.lose(FramingError::HeadTooLarge),
            Err(_) => return self.lose(FramingError::BadHead),
        };
        match ResponseHead::parse(&bytes[..head_len], asked) {
            Ok(head) => {
                if let Some((heads, place)) = known {
                    heads.keep(place, &bytes[..head_len], (asked, head));
                }
                self.begin(&head);
                ResponseStep::Head(head)
            }
            Err(lost) => self.lose(lost),
        }
    }

    fn begin(&mut self, head: &ResponseHead) {
        if self.response == ResponseProgress::Awaited {
            self.response_bytes = 0;
        }
        self.response = ResponseProgress::Begun;
        self.response_bytes += head.head_len as u64;
        self.head_bytes = self.response_bytes;
        if head.turn != Turn::Interim {
            self.status = head.status;
        }
        match (head.turn, head.body) {
            (Turn::Interim, _) => self.state = new_head(),
            (Turn::Switched, _) => self.state = State::Opaque,
            (_, ResponseBody::None) => self.end_response(),
            (_, ResponseBody::Length(length)) => self.state = State::Length(length),
            (_, ResponseBody::Chunked) => self.state = State::Chunked(Chunked::new(None)),
            (_, ResponseBody::UntilClose) => self.state = State::UntilClose,
        }
    }

    fn body(&mut self, bytes: usize, ends: bool) -> ResponseStep {
        self.response_bytes += bytes as u64;
        if ends {
            self.end_response();
        }
        ResponseStep::Body { bytes, ends }
    }

    fn end_response(&mut self) {
        self.pop_unanswered().into_iter().for_each(|answered| self.ended.push(answered));
        self.status = 0;
        self.response = ResponseProgress::Awaited;
        self.state = new_head();
    }

    /// Bytes of the present response's body.
    fn body_bytes(&self) -> u64 {
        match &self.state {
            State::Chunked(chunked) => chunked.data_bytes(),
            _ => self.response_bytes - self.head_bytes,
        }
    }

    fn lose(&mut self, lost: FramingError) -> ResponseStep {
        self.state = State::Opaque;
        ResponseStep::Unframed(lost)
    }
}

/// Whether `bytes` can be the beginning of a response: who speaks something else may never end a
/// line.
fn begins_like_a_response(bytes: &[u8]) -> bool {
    let blank_bytes = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    bytes[blank_bytes..].iter().zip(b"HTTP/1.").all(|(byte, expected)| byte == expected)
}

fn new_head() -> State {
    State::Head(HeadEnd::new(Lines::Lenient))
}

#[cfg(test)]
mod tests;
