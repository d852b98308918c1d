//! The server's first message: whether it asks the client for another ClientHello.
//!
//! A HelloRetryRequest is a ServerHello with a random value of its own (RFC 8446 4.1.3). The client
//! says its whole hello again then, in plain text.

use super::TLS_HANDSHAKE;

const RECORD_HEADER_BYTES: usize = 5;
const SERVER_HELLO: u8 = 2;

/// Where the random value ends in a ServerHello: behind its type, length and version.
const RANDOM_END: usize = RANDOM_START + 32;
const RANDOM_START: usize = 6;

/// The random value of a HelloRetryRequest: the SHA-256 of those words (RFC 8446 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What the server's first handshake message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It is not known yet.
    Unknown,
    /// A HelloRetryRequest, or nothing that a server of TLS begins with.
    Possible,
    /// A ServerHello: no other ClientHello in plain text is valid behind it.
    Excluded,
}

/// Reads what a server of TLS sends, as far as its random value.
#[derive(Debug)]
pub struct ServerHelloReader {
    header: [u8; RECORD_HEADER_BYTES],
    header_bytes: usize,
    payload_left: usize,
    message: [u8; RANDOM_END],
    message_bytes: usize,
}

impl Default for ServerHelloReader {
    fn default() -> Self {
        Self {
            header: [0; RECORD_HEADER_BYTES],
            header_bytes: 0,
            payload_left: 0,
            message: [0; RANDOM_END],
            message_bytes: 0,
        }
    }
}

impl ServerHelloReader {
    /// Reads the server's next bytes. Records of other types are skipped.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Retry {
        while !bytes.is_empty() && self.message_bytes < RANDOM_END {
            let taken = match self.payload_left {
                0 => self.take_header(bytes),
                _ => self.take_payload(bytes),
            };
            bytes = &bytes[taken..];
        }
        match self.message_bytes {
            RANDOM_END => self.retry(),
            _ => Retry::Unknown,
        }
    }

    fn take_header(&mut self, bytes: &[u8]) -> usize {
        let taken = fill(&mut self.header, &mut self.header_bytes, bytes);
        if self.header_bytes == RECORD_HEADER_BYTES {
            let [_, _, _, high, low] = self.header;
            self.payload_left = usize::from(u16::from_be_bytes([high, low]));
            self.header_bytes = 0;
        }
        taken
    }

    fn take_payload(&mut self, bytes: &[u8]) -> usize {
        let payload = &bytes[..bytes.len().min(self.payload_left)];
        let taken = match self.header[0] {
            TLS_HANDSHAKE => fill(&mut self.message, &mut self.message_bytes, payload),
            _ => payload.len(),
        };
        self.payload_left -= taken;
        taken
    }

    fn retry(&self) -> Retry {
        let is_hello = self.message[0] == SERVER_HELLO;
        match is_hello && self.message[RANDOM_START..] != RETRY_RANDOM {
            true => Retry::Excluded,
            false => Retry::Possible,
        }
    }
}

/// Adds as many of `bytes` to the first `filled` of `space` as fit; how many that were.
fn fill(space: &mut [u8], filled: &mut usize, bytes: &[u8]) -> usize {
    let taken = (space.len() - *filled).min(bytes.len());
    space[*filled..][..taken].copy_from_slice(&bytes[..taken]);
    *filled += taken;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of this type.
    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3], &length[..], payload].concat()
    }

    fn server_hello(random: [u8; 32]) -> Vec<u8> {
        [&[SERVER_HELLO, 0, 0, 70, 3, 3], &random[..], &[0; 36]].concat()
    }

    #[test]
    fn the_random_value_tells_whether_another_hello_follows_wherever_it_is_cut() {
        let alert = record(21, &[1, 0]);
        let in_records_of_7 = |message: &[u8]| -> Vec<u8> {
            message.chunks(7).flat_map(|piece| record(TLS_HANDSHAKE, piece)).collect()
        };
        let cases = [
            (record(TLS_HANDSHAKE, &server_hello(RETRY_RANDOM)), Retry::Possible),
            (record(TLS_HANDSHAKE, &server_hello([7; 32])), Retry::Excluded),
            (in_records_of_7(&server_hello(RETRY_RANDOM)), Retry::Possible),
            (in_records_of_7(&server_hello([7; 32])), Retry::Excluded),
            (
                [&alert[..], &record(TLS_HANDSHAKE, &server_hello([7; 32]))].concat(),
                Retry::Excluded,
            ),
            (record(TLS_HANDSHAKE, &[[11; 1].as_slice(), &[0; 60]].concat()), Retry::Possible),
            (alert, Retry::Unknown),
        ];
        for (bytes, expected) in cases {
            assert_eq!(ServerHelloReader::default().feed(&bytes), expected, "{bytes:?}");
            for cut in 0..bytes.len() {
                let mut reader = ServerHelloReader::default();
                reader.feed(&bytes[..cut]);
                assert_eq!(reader.feed(&bytes[cut..]), expected, "cut at {cut}");
            }
        }
    }
}
