//! The streams of a connection that are open, as far as what may pass depends on them.

use super::frame::{DATA, END_STREAM, FrameHeader, HEADERS, RST_STREAM};

/// The most streams that are followed. Servers let a client open 100 to 250 by default, and gRPC's
/// as many as it wants.
const OPEN_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Streams {
    /// In the order of their numbers.
    open: Vec<Stream>,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    number: u32,
    request: Request,
    response: Response,
}

/// How far a stream's request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Its body may follow.
    Open,
    /// No body was announced, and its method has none: a gateway to HTTP/1 might send one without a
    /// length, where it would be the next request.
    Bodyless,
    Ended,
    /// Egret has reset it: what the client still sends goes no further.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    Open,
    Ended,
}

/// What a client's frame on a stream may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    Passes,
    /// The stream was reset, or refused.
    Dropped,
    /// A body where none may be.
    Bodyless,
}

impl Streams {
    /// Those of a connection that HTTP/1 has upgraded: its request is stream 1, and has come whole
    /// (RFC 7540 3.2).
    pub(super) fn upgraded() -> Self {
        let mut streams = Self::default();
        streams.begin(1, Request::Ended);
        streams
    }

    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= OPEN_MAX
    }

    /// A request opens the stream `number`, which is above all others.
    pub(super) fn begin(&mut self, number: u32, request: Request) {
        debug_assert!(self.open.last().is_none_or(|last| last.number < number), "in order");
        self.open.push(Stream { number, request, response: Response::Open });
    }

    /// The request on `number` does not pass.
    pub(super) fn forget(&mut self, number: u32) {
        if let Ok(at) = self.find(number) {
            self.open.remove(at);
        }
    }

    /// Egret resets the stream `number` towards both sides.
    pub(super) fn reset(&mut self, number: u32) {
        if let Ok(at) = self.find(number) {
            self.open[at].request = Request::Reset;
        }
    }

    /// No request that has passed waits for its response, or for the rest of its body.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.open.iter().all(|stream| stream.request == Request::Reset)
    }

    /// Whether a request that has passed is open on `number`.
    pub(super) fn is_open(&self, number: u32) -> bool {
        self.find(number).is_ok_and(|at| self.open[at].request != Request::Reset)
    }

    /// The client's next frame has this header, and belongs to a stream.
    pub(super) fn requested(&mut self, header: FrameHeader) -> Passage {
        let Ok(at) = self.find(header.stream) else { return Passage::Passes };
        let request = self.open[at].request;
        let ends = matches!(header.kind, HEADERS | DATA) && header.has(END_STREAM);
        let has_body = header.kind == DATA && header.payload_bytes > 0;
        match request {
            Request::Bodyless if has_body => return Passage::Bodyless,
            _ if header.kind == RST_STREAM => drop(self.open.remove(at)),
            Request::Reset if ends => drop(self.open.remove(at)),
            Request::Open | Request::Bodyless if ends => {
                self.open[at].request = Request::Ended;
                self.close(at);
            }
            Request::Open | Request::Bodyless | Request::Ended | Request::Reset => {}
        }
        match request {
            Request::Reset => Passage::Dropped,
            Request::Open | Request::Bodyless | Request::Ended => Passage::Passes,
        }
    }

    /// The server's next frame has this header.
    pub(super) fn responded(&mut self, header: FrameHeader) {
        let ends = matches!(header.kind, HEADERS | DATA) && header.has(END_STREAM);
        if !ends && header.kind != RST_STREAM {
            return;
        }
        let Ok(at) = self.find(header.stream) else { return };
        match header.kind {
            RST_STREAM if self.open[at].request != Request::Reset => drop(self.open.remove(at)),
            _ => {
                self.open[at].response = Response::Ended;
                self.close(at);
            }
        }
    }

    fn close(&mut self, at: usize) {
        let Stream { request, response, .. } = self.open[at];
        if (request, response) == (Request::Ended, Response::Ended) {
            self.open.remove(at);
        }
    }

    fn find(&self, number: u32) -> Result<usize, usize> {
        self.open.binary_search_by_key(&number, |stream| stream.number)
    }
}
