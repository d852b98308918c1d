//! One request and its answer on one connection, as the loads repeat it.

use std::io;

use monoio::io::AsyncWriteRentExt;
use monoio::net::TcpStream;

use crate::connection::read_more;
use crate::payload::{Check, Stream};

/// What one exchange moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchanged {
    pub(crate) sent_bytes: usize,
    pub(crate) received_bytes: usize,
    /// HTTP only.
    pub(crate) status: Option<u16>,
    pub(crate) after: After,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It can carry the next exchange.
    Kept,
    /// The server said that it closes it.
    Closed,
}

/// Why there was no answer, or no right one: the keys of `errors` in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No connection.
    Connect,
    /// No progress for `--timeout`.
    Timeout,
    /// The connection was reset.
    Reset,
    /// The connection was closed too early.
    Closed,
    /// The answer is not what was to come: a wrong byte, a wrong length, no HTTP.
    Mismatch,
    /// An HTTP status other than 2xx and 3xx.
    Status,
}

impl Fault {
    /// In the order of declaration: a fault is an index.
    pub(crate) const ALL: [Self; 6] =
        [Self::Connect, Self::Timeout, Self::Reset, Self::Closed, Self::Mismatch, Self::Status];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Mismatch => "mismatch",
            Self::Status => "status",
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Reset,
        }
    }
}

/// A kind of request and answer.
pub(crate) trait Exchange {
    /// Ask, and read the whole answer.
    async fn run(&mut self, stream: &mut TcpStream) -> Result<Exchanged, Fault>;
}

/// A message that an echo server returns.
#[derive(Debug)]
pub(crate) struct Echo {
    stream: Stream,
    message_bytes: usize,
    buffer: Vec<u8>,
}

impl Echo {
    /// The messages of connection `number`.
    pub(crate) fn new(number: usize, message_bytes: usize, check: Check) -> Self {
        let buffer = Vec::with_capacity(message_bytes);
        Self { stream: Stream::new(number, check), message_bytes, buffer }
    }
}

impl Exchange for Echo {
    async fn run(&mut self, stream: &mut TcpStream) -> Result<Exchanged, Fault> {
        let mut expected = self.stream.clone();
        let message = self.stream.take(self.message_bytes);
        let (sent, _) = stream.write_all(message).await;
        sent?;
        self.buffer.clear();
        while self.buffer.len() < self.message_bytes {
            if read_more(stream, &mut self.buffer).await? == 0 {
                return Err(Fault::Closed);
            }
        }
        // Both the length and the bytes: an echo has no reason to return more than was sent.
        if self.buffer.len() != self.message_bytes || !expected.matches(&self.buffer) {
            return Err(Fault::Mismatch);
        }
        Ok(Exchanged {
            sent_bytes: self.message_bytes,
            received_bytes: self.message_bytes,
            status: None,
            after: After::Kept,
        })
    }
}
