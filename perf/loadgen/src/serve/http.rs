//! The HTTP server: one answer, prepared once, to every request.

use std::io;
use std::sync::atomic::Ordering;

use httparse::{EMPTY_HEADER, Request, Status};
use monoio::io::AsyncWriteRentExt;
use monoio::net::TcpStream;

use super::Counts;
use crate::connection::read_more;
use crate::payload::{Check, Stream};

/// More fields than any client or proxy of the suite asks with.
const HEADERS_MAX: usize = 64;
const BUFFER_BYTES: usize = 4 << 10;
/// A head that is longer is no request.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The prepared answers. They live as long as the program, because the ring reads from them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    kept: &'static [u8],
    closed: &'static [u8],
    bad: &'static [u8],
}

impl Answers {
    pub(super) fn new(body_bytes: usize) -> Self {
        let body = Stream::new(0, Check::Every).take(body_bytes);
        let prepare = |status: &str, connection: &str, body: &[u8]| -> &'static [u8] {
            let mut bytes = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Length: {}\r\n{connection}\r\n",
                body.len()
            )
            .into_bytes();
            bytes.extend_from_slice(body);
            bytes.leak()
        };
        const CLOSE: &str = "Connection: close\r\n";
        Self {
            kept: prepare("200 OK", "", body),
            closed: prepare("200 OK", CLOSE, body),
            bad: prepare("400 Bad Request", CLOSE, b""),
        }
    }
}

/// Answer until the client, or a request, closes the connection.
pub(super) async fn answer(
    mut stream: TcpStream,
    counts: &Counts,
    answers: Answers,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let Some(request) = Head::parse(&buffer) else {
            counts.received(match read_more(&mut stream, &mut buffer).await? {
                0 => return Ok(()),
                count => count,
            });
            continue;
        };
        // Requests that came together are answered one after the other.
        buffer.drain(..request.length);
        let answer = match request.kind {
            Kind::Kept => answers.kept,
            Kind::Last => answers.closed,
            Kind::Bad => answers.bad,
        };
        stream.write_all(answer).await.0?;
        counts.requests.fetch_add(1, Ordering::Relaxed);
        counts.sent(answer.len());
        if request.kind != Kind::Kept {
            return Ok(());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    length: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The connection stays open.
    Kept,
    /// The client wants it closed after the answer.
    Last,
    /// Not a request without a body.
    Bad,
}

impl Head {
    /// `None`: it is not complete yet.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = [EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut fields);
        let length = match request.parse(bytes) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return None,
            _ => return Some(Self { length: bytes.len(), kind: Kind::Bad }),
        };
        let mut kind = if request.version == Some(0) { Kind::Last } else { Kind::Kept };
        for field in request.headers {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("connection") && field.value.eq_ignore_ascii_case(b"close") {
                kind = Kind::Last;
            }
            if is("transfer-encoding") || (is("content-length") && field.value != b"0") {
                return Some(Self { length, kind: Kind::Bad });
            }
        }
        Some(Self { length, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Option<Kind> {
        Head::parse(text.as_bytes()).map(|head| head.kind)
    }

    #[test]
    fn a_request_says_whether_the_connection_stays() {
        assert_eq!(kind("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Some(Kind::Kept));
        assert_eq!(kind("GET / HTTP/1.1\r\nconnection: Close\r\n\r\n"), Some(Kind::Last));
        assert_eq!(kind("GET / HTTP/1.0\r\n\r\n"), Some(Kind::Last));
        assert_eq!(kind("GET / HTTP/1.1\r\nHo"), None);
        assert_eq!(kind(""), None);
        assert_eq!(kind("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"), Some(Kind::Bad));
        assert_eq!(kind("\x16\x03\x01"), Some(Kind::Bad));
    }

    #[test]
    fn pipelined_requests_are_taken_one_at_a_time() {
        let one = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = Head::parse(one.repeat(2).as_bytes());
        assert_eq!(head, Some(Head { length: one.len(), kind: Kind::Kept }));
    }
}
