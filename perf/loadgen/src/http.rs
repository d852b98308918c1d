//! HTTP/1.1 GETs: requests that are prepared once, answers that are read by the letter.
//!
//! A body is measured by Content-Length or by the connection's end. The chunked coding is not
//! read: no server of the suite uses it for what is asked here, and it would be counted as a
//! mismatch.

use httparse::{EMPTY_HEADER, Header, Response, Status};
use monoio::io::AsyncWriteRentExt;
use monoio::net::TcpStream;

use crate::connection::read_more;
use crate::exchange::{After, Exchange, Exchanged, Fault};
use crate::payload::{Check, Stream};

/// More fields than any server of the suite answers with.
const HEADERS_MAX: usize = 32;

/// Heads and small bodies fit; larger bodies are read in pieces of this.
const BUFFER_BYTES: usize = 16 << 10;

/// One request for each Host.
pub(crate) type Requests = &'static [&'static [u8]];

/// Prepare the requests. They live as long as the program, because the ring reads from them.
pub(crate) fn prepare(hosts: &[String]) -> Requests {
    let request = |host: &String| -> &'static [u8] {
        format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes().leak()
    };
    hosts.iter().map(request).collect::<Vec<_>>().leak()
}

/// A GET for each of the hosts in turn.
#[derive(Debug)]
pub(crate) struct Get {
    requests: Requests,
    next: usize,
    check: Check,
    buffer: Vec<u8>,
}

impl Get {
    /// The requests of connection `number`; connections begin with different hosts.
    pub(crate) fn new(number: usize, requests: Requests, check: Check) -> Self {
        Self { requests, next: number, check, buffer: Vec::with_capacity(BUFFER_BYTES) }
    }

    async fn read_head(&mut self, stream: &mut TcpStream) -> Result<Head, Fault> {
        self.buffer.clear();
        loop {
            if read_more(stream, &mut self.buffer).await? == 0 {
                return Err(Fault::Closed);
            }
            if let Some(head) = Head::parse(&self.buffer)? {
                return Ok(head);
            }
        }
    }

    /// The rest of the answer; returns the body's length.
    async fn read_body(&mut self, stream: &mut TcpStream, head: &Head) -> Result<usize, Fault> {
        let mut expected = Stream::new(0, self.check);
        let mut piece = &self.buffer[head.length..];
        let mut read = 0;
        loop {
            if !expected.matches(piece) {
                return Err(Fault::Mismatch);
            }
            read += piece.len();
            match head.body {
                Body::Length(length) if read == length => return Ok(read),
                Body::Length(length) if read > length => return Err(Fault::Mismatch),
                _ => {}
            }
            self.buffer.clear();
            let count = read_more(stream, &mut self.buffer).await?;
            match head.body {
                Body::UntilClosed if count == 0 => return Ok(read),
                Body::Length(_) if count == 0 => return Err(Fault::Closed),
                _ => piece = &self.buffer,
            }
        }
    }
}

impl Exchange for Get {
    async fn run(&mut self, stream: &mut TcpStream) -> Result<Exchanged, Fault> {
        let request = self.requests[self.next % self.requests.len()];
        self.next += 1;
        let (sent, _) = stream.write_all(request).await;
        sent?;
        let head = self.read_head(stream).await?;
        let body = self.read_body(stream, &head).await?;
        Ok(Exchanged {
            sent_bytes: request.len(),
            received_bytes: head.length + body,
            status: Some(head.status),
            after: head.after,
        })
    }
}

/// What an answer's head says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    length: usize,
    status: u16,
    body: Body,
    after: After,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(usize),
    UntilClosed,
}

impl Head {
    /// `None`: it is not complete yet.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let mut fields = [EMPTY_HEADER; HEADERS_MAX];
        let mut response = Response::new(&mut fields);
        let length = match response.parse(bytes) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Ok(None),
            Err(_) => return Err(Fault::Mismatch),
        };
        let status = response.code.ok_or(Fault::Mismatch)?;
        let fields = response.headers;
        if field(fields, "transfer-encoding").is_some() {
            return Err(Fault::Mismatch);
        }
        let body = match (status, field(fields, "content-length")) {
            (204 | 304, _) => Body::Length(0),
            (_, Some(value)) => Body::Length(number(value).ok_or(Fault::Mismatch)?),
            (_, None) => Body::UntilClosed,
        };
        let says_close =
            field(fields, "connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let closes = says_close || response.version == Some(0) || body == Body::UntilClosed;
        let after = if closes { After::Closed } else { After::Kept };
        Ok(Some(Self { length, status, body, after }))
    }
}

fn field<'a>(fields: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

fn number(value: &[u8]) -> Option<usize> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, Fault> {
        Head::parse(text.as_bytes())
    }

    #[test]
    fn a_head_says_where_the_answer_ends_and_whether_the_connection_does() {
        let kept = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 12\r\n\r\n";
        let expected =
            Head { length: kept.len(), status: 200, body: Body::Length(12), after: After::Kept };
        assert_eq!(head(kept), Ok(Some(expected)));
        let closed = "HTTP/1.1 502 Bad Gateway\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n";
        let closed = head(closed).unwrap().unwrap();
        assert_eq!((closed.status, closed.after), (502, After::Closed));
        let until = head("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert_eq!((until.body, until.after), (Body::UntilClosed, After::Closed));
        let none = head("HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((none.body, none.after), (Body::Length(0), After::Kept));
    }

    #[test]
    fn what_cannot_be_measured_is_a_mismatch() {
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Le"), Ok(None));
        assert_eq!(head("SSH-2.0-OpenSSH\r\n"), Err(Fault::Mismatch));
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), Err(Fault::Mismatch));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(head(chunked), Err(Fault::Mismatch));
    }
}
