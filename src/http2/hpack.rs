//! Header compression (RFC 7541): from a header block to its fields.
//!
//! One [`Decoder`] follows one direction of one connection and must see each of its header blocks,
//! in order: a block can add to the table that later blocks refer to. After an error the table is
//! no longer the one that the client has, and the decoder is of no more use.
//!
//! **The table's size.** How large it may be is announced by the server, in SETTINGS that pass the
//! other way and are not read here. That is safe. A client that uses another size than 4 096 says
//! so in the block itself, and servers announce up to 65 535 (HAProxy's largest) or leave the
//! 4 096, so up to [`TABLE_BYTES_MAX`] is kept, also of a table that is said to be larger. Should
//! the client claim more than the server has allowed, the server refuses the block. And should the
//! two tables differ in size for whatever reason, an index still never means two different fields:
//! fields are numbered from the newest, so the smaller table is the beginning of the larger, and an
//! index behind it is an error.
//!
//! It is written here because no published decoder fits: they panic on junk (`fluke-hpack`,
//! `httlib-hpack`), or build a hash table for each Huffman string, so that one block of 32 KB holds
//! a worker for more than a second (`loona-hpack`, `hpack`), or set no bound to the table
//! (`zerodds-hpack`). `loona-hpack` is the oracle of the tests.

mod huffman;
mod table;

use table::{ENTRY_OVERHEAD_BYTES, Entry, Table};

/// The most that is kept of a client's table, in the RFC's count (name, value and 32 per entry).
/// The memory behind it is at most twice that.
pub const TABLE_BYTES_MAX: usize = 64 * 1024;

/// The most that one block's fields may come to, in the same count. It bounds the work that a few
/// bytes can ask for by naming a long entry again and again. Servers take 16 to 64 KiB.
pub const LIST_BYTES_MAX: usize = 64 * 1024;

/// The most octets of an integer behind its prefix: a table may be said to have 2^32 - 1 bytes.
const INTEGER_OCTETS_MAX: usize = 5;

/// Why a block cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HpackError {
    /// It ends within a field.
    #[error("the header block ends within a field")]
    Truncated,
    /// An integer of too many octets.
    #[error("an integer is too long")]
    IntegerTooLong,
    /// An index that neither table has.
    #[error("an index is in neither table")]
    BadIndex,
    /// A string that is not Huffman-coded, has an end-of-string symbol, or bad padding.
    #[error("a Huffman-coded string is malformed")]
    BadHuffman,
    /// A change of the table's size that is behind a field.
    #[error("a change of the table's size is misplaced")]
    BadSizeUpdate,
    /// More than [`LIST_BYTES_MAX`].
    #[error("the decoded fields are larger than 64 KiB")]
    ListTooLarge,
}

/// Decodes the header blocks of one direction of a connection.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Table,
}

/// The four kinds of field, each with the bits that its integer has in the first octet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Representation {
    /// A field of a table.
    Indexed,
    /// A literal that enters the table.
    Added,
    /// No field: the table's new size.
    SizeUpdate,
    /// A literal that does not enter the table. Whether it never may is a rule for those who encode
    /// it again.
    Plain,
}

impl Representation {
    fn of(octet: u8) -> (Self, u32) {
        match octet {
            0x80.. => (Self::Indexed, 7),
            0x40.. => (Self::Added, 6),
            0x20.. => (Self::SizeUpdate, 5),
            _ => (Self::Plain, 4),
        }
    }
}

impl Decoder {
    /// Decodes `block`, a whole one, and shows each name and value to `field`.
    ///
    /// # Errors
    /// When the block is malformed or above a limit. Fields before it may have been shown.
    pub fn decode(
        &mut self,
        block: &[u8],
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let mut input = Input { rest: block };
        let (mut name_space, mut value_space) = (Vec::new(), Vec::new());
        let mut list_bytes = 0;
        while let Some(octet) = input.rest.first() {
            let (representation, prefix_bits) = Representation::of(*octet);
            let number = input.integer(prefix_bits)?;
            if representation == Representation::SizeUpdate {
                // Only before the first field (RFC 7541 4.2).
                if list_bytes > 0 {
                    return Err(HpackError::BadSizeUpdate);
                }
                self.table.resize(number.min(TABLE_BYTES_MAX));
                continue;
            }
            let (name, value) = match (representation, number) {
                (Representation::Indexed, index) => self.table.get(index)?,
                (_, 0) => (input.string(&mut name_space)?, input.string(&mut value_space)?),
                (_, index) => (self.table.get(index)?.0, input.string(&mut value_space)?),
            };
            list_bytes += name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
            if list_bytes > LIST_BYTES_MAX {
                return Err(HpackError::ListTooLarge);
            }
            field(name, value);
            if representation == Representation::Added {
                let entry = Entry::new(name, value);
                self.table.insert(entry);
            }
        }
        Ok(())
    }
}

/// What is left of a block.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// An integer whose first `prefix_bits` bits stand in the low end of the next octet (5.1).
    fn integer(&mut self, prefix_bits: u32) -> Result<usize, HpackError> {
        let prefix_max = (1 << prefix_bits) - 1;
        let mut value = usize::from(self.octet()?) & prefix_max;
        if value < prefix_max {
            return Ok(value);
        }
        for position in 0..INTEGER_OCTETS_MAX {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << (7 * position);
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::IntegerTooLong)
    }

    /// A string (5.2): as it stands in the block, or decoded into `space`.
    fn string<'b>(&mut self, space: &'b mut Vec<u8>) -> Result<&'b [u8], HpackError>
    where
        'a: 'b,
    {
        let is_huffman = self.rest.first().is_some_and(|octet| octet & 0x80 != 0);
        let length = self.integer(7)?;
        let (string, rest) = self.rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
        self.rest = rest;
        if !is_huffman {
            return Ok(string);
        }
        space.clear();
        huffman::decode(string, space)?;
        Ok(space)
    }

    fn octet(&mut self) -> Result<u8, HpackError> {
        let (octet, rest) = self.rest.split_first().ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(*octet)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
