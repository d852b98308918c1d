//! What the clients say, byte by byte.

use std::ops::Range;

use crate::http2;
use crate::plan::{Hello, Protocol, Request, Speech, Step, Stream, Switch, Tls};

/// Of no length that anything here has a multiple of.
const BLOCK: usize = 16_127;

thread_local! {
    /// Above 0x7f: no protocol begins so.
    static NOISE: Vec<u8> =
        (0..BLOCK).map(|at| 0x80 | u8::try_from((at * 31 + at / 127) % 128).unwrap()).collect();
}

/// How long a client waits for a 100 (Continue), and for a 101.
const PATIENCE_US: u64 = 1_000_000;

/// Bytes that name their sender and their place in the stream.
pub(crate) fn pattern(sender: usize, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    let mut from = (sender * 911) % BLOCK;
    NOISE.with(|noise| {
        while bytes.len() < length {
            let until = BLOCK.min(from + length - bytes.len());
            bytes.extend_from_slice(&noise[from..until]);
            from = 0;
        }
    });
    bytes
}

/// All that one client would say, and what is where in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) says: Vec<u8>,
    /// Each request of HTTP/1.
    pub(crate) requests: Vec<Range<usize>>,
    /// Where the head of each of them ends.
    pub(crate) heads: Vec<usize>,
    /// The HEADERS of each stream of HTTP/2 that the client opens.
    pub(crate) streams: Vec<Range<usize>>,
    /// Where frames of HTTP/2 end: something may be said between two.
    pub(crate) boundaries: Vec<usize>,
    /// Where a second ClientHello begins.
    pub(crate) second_hello: Option<usize>,
    /// What the client waits for before it says what is behind.
    pub(crate) stops: Vec<(usize, Step)>,
}

pub(crate) fn script(number: usize, speech: &Speech) -> Script {
    let mut script = Script::default();
    match speech {
        Speech::Opaque(length) => script.says = pattern(number, *length),
        Speech::Tls(tls) => script.tls(number, tls),
        Speech::Http1(requests, switch) => script.http1(number, requests, switch.as_ref()),
        Speech::Http2(streams) => script.http2(number, 1, streams),
    }
    script
}

impl Script {
    fn tls(&mut self, number: usize, tls: &Tls) {
        self.says.extend(records(&client_hello(tls.name, number), tls.is_split));
        if let Some(name) = tls.second {
            // As middleboxes want it, behind a ChangeCipherSpec (RFC 8446 D.4).
            self.says.extend([20, 3, 3, 0, 1, 1]);
            self.second_hello = Some(self.says.len());
            self.says.extend(records(&client_hello(name, number), false));
        }
        self.says.extend(pattern(number, tls.rest));
    }

    fn http1(&mut self, number: usize, requests: &[Request], switch: Option<&Switch>) {
        for (index, request) in requests.iter().enumerate() {
            let switch = switch.filter(|_| index + 1 == requests.len());
            self.request(number, index, request, switch);
        }
        let Some(switch) = switch else { return };
        if switch.waits {
            self.stops.push((self.says.len(), Step::Switch(PATIENCE_US)));
        }
        match &switch.to {
            Protocol::Opaque(length) => self.says.extend(pattern(number, *length)),
            Protocol::Http2(streams) => self.http2(number, 3, streams),
        }
    }

    fn request(&mut self, number: usize, index: usize, request: &Request, switch: Option<&Switch>) {
        let start = self.says.len();
        let Request { method, host, .. } = request;
        let mut head = format!("{method} /c{number}/r{index} HTTP/1.1\r\nHost: {host}\r\n");
        if let Some(switch) = switch {
            head += match switch.to {
                Protocol::Opaque(_) => "Connection: Upgrade\r\nUpgrade: noise\r\n",
                Protocol::Http2(_) => {
                    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n"
                }
            };
        }
        if request.expects {
            head += "Expect: 100-continue\r\n";
        }
        let body = pattern(number, request.body);
        if request.is_chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if request.method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        self.says.extend((head + "\r\n").bytes());
        self.heads.push(self.says.len());
        if request.expects {
            self.stops.push((self.says.len(), Step::Hear(PATIENCE_US)));
        }
        match request.is_chunked {
            true => self.says.extend(chunked(&body, 7_000)),
            false => self.says.extend(body),
        }
        self.requests.push(start..self.says.len());
    }

    fn http2(&mut self, number: usize, first: u32, streams: &[Stream]) {
        self.says.extend(http2::PREFACE);
        self.frame(http2::frame(http2::SETTINGS, 0, 0, &[]));
        for (index, stream) in streams.iter().enumerate() {
            let id = first + 2 * u32::try_from(index).unwrap_or(0);
            let from = self.says.len();
            self.frame(http2::request(number, index, id, stream));
            self.streams.push(from..self.says.len());
            if let Some(body) = stream.body {
                let payload = pattern(number + index, body);
                self.frame(http2::frame(http2::DATA, http2::END_STREAM, id, &payload));
            }
            if index % 3 == 1 {
                self.frame(http2::frame(http2::PING, 0, 0, &[7; 8]));
            }
        }
    }

    fn frame(&mut self, frame: Vec<u8>) {
        self.says.extend(frame);
        self.boundaries.push(self.says.len());
    }
}

/// `body` in chunks (RFC 9112 7.1).
pub(crate) fn chunked(body: &[u8], most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in body.chunks(most) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn long(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

fn record(payload: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &long(payload.len())[..], payload].concat()
}

fn records(message: &[u8], is_split: bool) -> Vec<u8> {
    match is_split {
        true => {
            let (one, other) = message.split_at(message.len() / 2);
            [record(one), record(other)].concat()
        }
        false => record(message),
    }
}

/// A ClientHello of TLS 1.3 with the extensions server_name (RFC 6066) and supported_versions.
fn client_hello(name: &str, number: usize) -> Vec<u8> {
    let mut sni = vec![0];
    sni.extend(long(name.len()));
    sni.extend(name.bytes());
    let mut extensions = vec![0, 0];
    extensions.extend(long(sni.len() + 2));
    extensions.extend(long(sni.len()));
    extensions.extend(sni);
    extensions.extend([0, 43, 0, 3, 2, 3, 4]);
    let mut hello = vec![3, 3];
    // The random says whose it is.
    hello.extend([u8::try_from(number).unwrap(); 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
    hello.extend(long(extensions.len()));
    hello.extend(extensions);
    [&[1, 0], &long(hello.len())[..], &hello].concat()
}

/// The random that makes a ServerHello a HelloRetryRequest (RFC 8446 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What a server of TLS says first.
pub(crate) fn server_hello(hello: Hello) -> Vec<u8> {
    let random = match hello {
        Hello::Noise => return Vec::new(),
        Hello::Server => [9; 32],
        Hello::Retry => RETRY,
    };
    let mut bytes = vec![3, 3];
    bytes.extend(random);
    bytes.extend([0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4]);
    record(&[&[2, 0], &long(bytes.len())[..], &bytes].concat())
}
