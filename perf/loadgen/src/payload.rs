//! What is sent: a known pseudo-random stream, so that what comes back can be compared.
//!
//! One table serves every connection. A stream is the table read round and round from a place of
//! its own, so bytes that a proxy mixes up between connections, repeats or leaves out are found;
//! only a shift by a whole [`PERIOD_BYTES`] would not be. Messages are slices of the table: nothing
//! is copied or allocated to send one.

use std::sync::LazyLock;

/// The longest message that can be sent in one piece.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A stream repeats after this many bytes: the first prime above the longest message, so that no
/// length divides it.
pub(crate) const PERIOD_BYTES: usize = 1_048_583;

/// One period, and the beginning of the next so that every message is one slice.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut table = Vec::with_capacity(PERIOD_BYTES + MESSAGE_BYTES_MAX);
    while table.len() < PERIOD_BYTES {
        table.extend_from_slice(&split_mix(&mut state).to_le_bytes());
    }
    table.truncate(PERIOD_BYTES);
    table.extend_from_within(..MESSAGE_BYTES_MAX);
    table
});

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether what comes back is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// The stream advances, and every byte is compared.
    Every,
    /// The same bytes over and over, which stay in the cache, and only their count matters.
    Length,
}

impl From<bool> for Check {
    fn from(verify: bool) -> Self {
        if verify { Self::Every } else { Self::Length }
    }
}

/// A place in a known stream.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    position: usize,
    check: Check,
}

impl Stream {
    /// The stream number `number`; all of them begin far from each other.
    pub(crate) fn new(number: usize, check: Check) -> Self {
        let start = match check {
            Check::Every => number.wrapping_mul(7_919 * 104_729) % PERIOD_BYTES,
            Check::Length => 0,
        };
        Self { position: start, check }
    }

    /// The stream that begins where a header says; see [`Stream::header`].
    pub(crate) fn from_header(header: [u8; HEADER_BYTES]) -> Self {
        let position = usize::try_from(u64::from_le_bytes(header)).unwrap_or(usize::MAX);
        Self { position: position % PERIOD_BYTES, check: Check::Every }
    }

    /// What a one-way stream begins with, so that its reader knows the rest.
    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        (self.position as u64).to_le_bytes()
    }

    /// The next `length` bytes, at most [`MESSAGE_BYTES_MAX`].
    pub(crate) fn take(&mut self, length: usize) -> &'static [u8] {
        let bytes = &TABLE[self.position..self.position + length];
        self.advance(length);
        bytes
    }

    /// Go on by bytes that were sent.
    pub(crate) fn advance(&mut self, length: usize) {
        if self.check == Check::Every {
            self.position = (self.position + length) % PERIOD_BYTES;
        }
    }

    /// What `take` would return, without going on.
    pub(crate) fn peek(&self, length: usize) -> &'static [u8] {
        &TABLE[self.position..self.position + length]
    }

    /// Whether these are the next bytes; goes on by them.
    pub(crate) fn matches(&mut self, bytes: &[u8]) -> bool {
        self.check == Check::Length
            || bytes.chunks(MESSAGE_BYTES_MAX).all(|chunk| self.take(chunk.len()) == chunk)
    }
}

/// Length of a stream's header.
pub(crate) const HEADER_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_compared_over_its_wrap() {
        let mut sent = Stream::new(3, Check::Every);
        let mut read = sent.clone();
        let mut wraps = 0;
        for length in [1, 65_536, MESSAGE_BYTES_MAX, 7, PERIOD_BYTES - 1_000, 300_000] {
            let before = sent.position;
            let bytes = sent.take(length);
            wraps += usize::from(sent.position <= before);
            assert!(read.matches(bytes), "{length} bytes");
        }
        assert!(wraps >= 2, "{wraps} wraps");
    }

    #[test]
    fn one_wrong_byte_or_another_stream_does_not_match() {
        let mut bytes = Stream::new(1, Check::Every).take(4096).to_vec();
        assert!(Stream::new(1, Check::Every).matches(&bytes));
        assert!(!Stream::new(2, Check::Every).matches(&bytes));
        assert!(!Stream::new(1, Check::Every).matches(&bytes[1..]));
        bytes[4095] ^= 1;
        assert!(!Stream::new(1, Check::Every).matches(&bytes));
        assert!(Stream::new(1, Check::Length).matches(&bytes));
    }

    #[test]
    fn a_header_names_its_stream() {
        let mut stream = Stream::new(77, Check::Every);
        let mut reader = Stream::from_header(stream.header());
        assert!(reader.matches(stream.take(10_000)));
    }
}
