//! Protocol detection: from a connection's first bytes to the protocol that they speak.
//!
//! A worker feeds a [`Sniffer`] each piece that the downstream sends, until the answer is something
//! other than [`Sniff::NeedMore`]. The pieces may be cut anywhere: the answer depends on the bytes
//! alone, and once given it never changes. The sniffer keeps none of the bytes, so it serves both a
//! worker that holds them back (a name can still decide) and one that passes them on as they come
//! (the address has decided). No caller holds back more than [`SNIFF_BYTES_MAX`].
//!
//! TLS is read to the end of the ClientHello and gives the name at once. HTTP/1 is answered as soon
//! as the request line is one; its names come from [`crate::http1`], request by request. A sniffer
//! knows no time and no end of stream: a worker whose deadline passes, or whose downstream has
//! ended, while the answer is `NeedMore` treats the connection as opaque.

pub mod client_hello;
mod first_line;
pub mod name;
mod server_hello;

pub use client_hello::{ClientHello, Follows, Sni};
pub use name::{Authority, Host, Name, NameError};
pub use server_hello::{Retry, ServerHelloReader};

use client_hello::ClientHelloReader;
use first_line::FirstLine;

/// The most bytes that detection looks at: a ClientHello of 16 KiB
/// ([`client_hello::MESSAGE_BYTES_MAX`]) and the headers of some 800 records around it. It is less
/// than a worker's buffer, so the bytes that are held back always fit in one.
pub const SNIFF_BYTES_MAX: usize = 20 * 1024;

/// The first byte of a TLS record that holds a handshake message.
pub(crate) const TLS_HANDSHAKE: u8 = 22;

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniff {
    /// It cannot be told yet.
    NeedMore,
    /// TLS, and its whole ClientHello was seen.
    Tls(ClientHello),
    /// A request line of HTTP/1, or what a lenient server would take for one. Whether it is well
    /// formed, [`crate::http1::RequestStream`] says, from the connection's first byte on.
    Http1,
    /// The connection preface of HTTP/2 with prior knowledge (RFC 9113 3.4).
    Http2Preface,
    /// None of these.
    Opaque(OpaqueReason),
}

/// Why a connection is opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpaqueReason {
    /// The bytes begin no protocol that is known here.
    UnknownProtocol,
    /// It began as one, and was not complete within [`SNIFF_BYTES_MAX`].
    TooLarge,
    /// It began as TLS, and is no ClientHello.
    BadTls,
}

/// Detects the protocol of one connection.
#[derive(Debug)]
pub struct Sniffer {
    answer: Sniff,
    reader: Reader,
    seen_bytes: usize,
}

/// Who reads the bytes; the first one chooses.
#[derive(Debug)]
enum Reader {
    Unchosen,
    Tls(ClientHelloReader),
    Text(FirstLine),
}

impl Default for Sniffer {
    fn default() -> Self {
        Self { answer: Sniff::NeedMore, reader: Reader::Unchosen, seen_bytes: 0 }
    }
}

impl Sniffer {
    /// Reads the next `bytes` of the connection. Bytes that come after the answer change nothing.
    pub fn feed(&mut self, bytes: &[u8]) -> &Sniff {
        if self.answer == Sniff::NeedMore {
            let allowed = bytes.len().min(SNIFF_BYTES_MAX - self.seen_bytes);
            self.seen_bytes += allowed;
            self.answer = self.read(&bytes[..allowed]);
            if self.answer == Sniff::NeedMore && self.seen_bytes == SNIFF_BYTES_MAX {
                self.answer = Sniff::Opaque(OpaqueReason::TooLarge);
            }
        }
        &self.answer
    }

    /// The answer so far.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn answer(&self) -> &Sniff {
        &self.answer
    }

    fn read(&mut self, bytes: &[u8]) -> Sniff {
        if let (Reader::Unchosen, Some(first)) = (&self.reader, bytes.first()) {
            self.reader = match *first {
                TLS_HANDSHAKE => Reader::Tls(ClientHelloReader::default()),
                _ => Reader::Text(FirstLine::default()),
            };
        }
        match &mut self.reader {
            Reader::Unchosen => Sniff::NeedMore,
            Reader::Tls(hello) => hello.feed(bytes),
            Reader::Text(line) => line.feed(bytes),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
