//! The Huffman code of header strings (RFC 7541 5.2 and appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and
//! longer codes follow shorter ones. So the lengths alone define it, and a code's length is found
//! by comparing the next bits with the last code of each length. Most symbols have 5 to 8 bits.

use super::HpackError;

const SYMBOLS: usize = 257;
const BITS_MIN: usize = 5;
const BITS_MAX: usize = 30;

/// The bits in each symbol's code; the last symbol is the end of the string, which no string holds.
#[rustfmt::skip]
const CODE_BITS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11,
    10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8,
    15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5,
    6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23,
    23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21,
    23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26,
    28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The code, as it is looked up.
struct Code {
    /// Per length: the last 32-bit window that begins with a code of at most this length.
    last_window: [u32; BITS_MAX + 1],
    /// Per length: the first code.
    first_code: [u32; BITS_MAX + 1],
    /// Per length: where the symbols of its codes begin.
    first_symbol: [usize; BITS_MAX + 1],
    /// The symbols in the order of their codes.
    symbols: [usize; SYMBOLS],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let mut this = Self {
            last_window: [0; BITS_MAX + 1],
            first_code: [0; BITS_MAX + 1],
            first_symbol: [0; BITS_MAX + 1],
            symbols: [0; SYMBOLS],
        };
        let (mut code, mut placed, mut bits) = (0_u32, 0, BITS_MIN);
        while bits <= BITS_MAX {
            this.first_code[bits] = code;
            this.first_symbol[bits] = placed;
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if CODE_BITS[symbol] as usize == bits {
                    this.symbols[placed] = symbol;
                    placed += 1;
                    code += 1;
                }
                symbol += 1;
            }
            // Behind the last code of all nothing is left: the shift gives 0, and this all ones.
            this.last_window[bits] = (code << (32 - bits)).wrapping_sub(1);
            code <<= 1;
            bits += 1;
        }
        this
    }
}

/// Appends the string that `coded` stands for to `decoded`.
pub(super) fn decode(coded: &[u8], decoded: &mut Vec<u8>) -> Result<(), HpackError> {
    decoded.reserve(coded.len() * 8 / BITS_MIN);
    let mut octets = coded.iter();
    // The next bits, from the high end on; below them ones, as in the padding.
    let (mut buffer, mut buffered_bits) = (u64::MAX, 0);
    loop {
        while buffered_bits <= 56 {
            let Some(octet) = octets.next() else { break };
            let position = 56 - buffered_bits;
            buffer ^= u64::from(!octet) << position;
            buffered_bits += 8;
        }
        let window = (buffer >> 32) as u32;
        let bits =
            (BITS_MIN..BITS_MAX).find(|bits| window <= CODE.last_window[*bits]).unwrap_or(BITS_MAX);
        if bits > buffered_bits {
            // Padding: less than an octet, and all ones.
            let is_padding = buffered_bits < 8 && window == u32::MAX;
            return if is_padding { Ok(()) } else { Err(HpackError::BadHuffman) };
        }
        let offset = (window >> (32 - bits)) - CODE.first_code[bits];
        let symbol = CODE.symbols[CODE.first_symbol[bits] + offset as usize];
        // The one symbol that is no octet is the end of the string (5.2: an error).
        decoded.push(u8::try_from(symbol).map_err(|_| HpackError::BadHuffman)?);
        buffer = (buffer << bits) | ((1 << bits) - 1);
        buffered_bits -= bits;
    }
}

/// The code of `octet` and its length in bits: for encoders in tests.
#[cfg(test)]
pub(super) fn code_of(octet: u8) -> (u32, usize) {
    let bits = usize::from(CODE_BITS[usize::from(octet)]);
    let first = CODE.first_symbol[bits];
    let offset = CODE.symbols[first..].iter().position(|symbol| *symbol == usize::from(octet));
    let offset = u32::try_from(offset.expect("each octet has a code")).expect("there are 257");
    (CODE.first_code[bits] + offset, bits)
}
