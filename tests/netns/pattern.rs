//! What peers send: bytes that depend on a seed and the position alone.

/// A position in an endless stream of bytes that depends on the seed alone.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pattern {
    seed: u64,
    position: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed: Random::new(seed).next(), position: 0 }
    }

    /// The position that many bytes further.
    pub(crate) fn advanced(self, bytes: u64) -> Self {
        Self { position: self.position + bytes, ..self }
    }

    /// The next bytes.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            let word = self.word().to_le_bytes();
            let skip = usize::try_from(self.position % 8).expect("it is below 8");
            let n = (8 - skip).min(buffer.len() - filled);
            buffer[filled..filled + n].copy_from_slice(&word[skip..skip + n]);
            filled += n;
            self.position += n as u64;
        }
    }

    /// Panics unless these are the next bytes.
    pub(crate) fn check(&mut self, received: &[u8]) {
        let start = self.position;
        let mut expected = vec![0; received.len()];
        self.fill(&mut expected);
        if let Some(at) = (0..received.len()).find(|&i| received[i] != expected[i]) {
            panic!(
                "byte {} of the stream is {:#04x}, not {:#04x}",
                start + at as u64,
                received[at],
                expected[at]
            );
        }
    }

    fn word(self) -> u64 {
        mix(self.seed.wrapping_add((self.position / 8).wrapping_mul(GOLDEN)))
    }
}

/// Reproducible random numbers (SplitMix64, Steele and others 2014).
#[derive(Debug)]
pub(crate) struct Random(u64);

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// 0 to `end` - 1.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
