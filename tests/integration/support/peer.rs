//! Bytes that can be checked at the other end, and sockets that end in every way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::eventually;

use super::uninterrupted;

/// A reproducible stream of bytes: the same seed gives the same bytes at the same offsets.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    state: u64,
    word: [u8; 8],
    at: usize,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, word: [0; 8], at: 8 }
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.at == 8 {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                self.word = self.state.to_le_bytes();
                self.at = 0;
            }
            *byte = self.word[self.at];
            self.at += 1;
        }
    }

    /// Writes `total` bytes in pieces of `piece`.
    pub(crate) fn send(&mut self, stream: &mut TcpStream, total: usize, piece: usize) {
        let mut chunk = vec![0; piece.max(1)];
        let mut left = total;
        while left > 0 {
            let count = left.min(chunk.len());
            self.fill(&mut chunk[..count]);
            stream.write_all(&chunk[..count]).unwrap();
            left -= count;
        }
    }

    /// Reads exactly `total` bytes and compares each.
    pub(crate) fn expect(&mut self, stream: &mut TcpStream, total: usize) {
        let (mut got, mut want) = (vec![0; 65_536], vec![0; 65_536]);
        let mut at = 0;
        while at < total {
            let room = got.len().min(total - at);
            let count = uninterrupted(|| stream.read(&mut got[..room])).unwrap();
            assert_ne!(count, 0, "the stream ended at {at} of {total}");
            self.fill(&mut want[..count]);
            assert!(got[..count] == want[..count], "a byte differs within {count} at {at}");
            at += count;
        }
    }
}

/// Reads until FIN and checks that nothing but FIN comes.
pub(crate) fn expect_end(stream: &mut TcpStream) {
    let mut byte = [0];
    let count = uninterrupted(|| stream.read(&mut byte)).expect("FIN, not a reset");
    assert_eq!(count, 0, "bytes after the last one");
}

/// Reads until the end; returns whether it was a reset, and how many bytes came before.
pub(crate) fn read_to_reset(stream: &mut TcpStream) -> (bool, usize) {
    let mut chunk = vec![0; 65_536];
    let mut total = 0;
    loop {
        match uninterrupted(|| stream.read(&mut chunk)) {
            Ok(0) => return (false, total),
            Ok(count) => total += count,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                return (true, total);
            }
        }
    }
}

/// Closes with RST.
pub(crate) fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    drop(stream);
}

/// Waits until the other end's kernel has every byte that `stream` has sent.
pub(crate) fn await_acknowledged(stream: &TcpStream) {
    let port = |address: SocketAddr| format!(":{:04X}", address.port());
    let (local, remote) = (port(stream.local_addr().unwrap()), port(stream.peer_addr().unwrap()));
    eventually("everything is acknowledged", || {
        // sl, local_address, rem_address, st, tx_queue:rx_queue, ...
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut own = fields.filter(|f| f[1].ends_with(&local) && f[2].ends_with(&remote));
        let queues = own.next().expect("the socket is in the table")[4];
        queues.starts_with("00000000:")
    });
}
