//! An encoder that uses each form of the format on demand, for tests.

use super::huffman;
use super::table::{Entry, Table};

/// How a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// By index, if a table has it; else as a literal that enters the table.
    Shortest,
    /// A literal that enters the table.
    Added,
    /// A literal that does not.
    Plain,
    /// A literal that never may.
    Never,
}

/// How a string is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Raw,
    Huffman,
}

/// Encodes the header blocks of one connection.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    table: Table,
    block: Vec<u8>,
}

impl Encoder {
    /// What has been encoded since the last call.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.block)
    }

    pub(crate) fn resize(&mut self, bytes: usize) {
        self.table.resize(bytes);
        self.integer(0x20, 5, bytes);
    }

    pub(crate) fn field(&mut self, name: &[u8], value: &[u8], form: Form, coding: Coding) {
        let fields =
            (1..).map_while(|index| self.table.get(index).ok().map(|field| (index, field)));
        let known: Vec<_> = fields.filter(|(_, field)| field.0 == name).collect();
        let whole = known.iter().find(|(_, field)| field.1 == value).map(|(index, _)| *index);
        // The last one: a name that only the dynamic table has, or has too, is named there.
        let name_index = known.last().map_or(0, |(index, _)| *index);
        let (first, prefix_bits) = match form {
            Form::Shortest if whole.is_some() => {
                return self.integer(0x80, 7, whole.unwrap_or_default());
            }
            Form::Shortest | Form::Added => (0x40, 6),
            Form::Plain => (0, 4),
            Form::Never => (0x10, 4),
        };
        self.integer(first, prefix_bits, name_index);
        if name_index == 0 {
            self.string(name, coding);
        }
        self.string(value, coding);
        if first == 0x40 {
            self.table.insert(Entry::new(name, value));
        }
    }

    fn integer(&mut self, first: u8, prefix_bits: u32, value: usize) {
        let prefix_max = (1 << prefix_bits) - 1;
        let octet = |value: usize| u8::try_from(value).expect("it is below 256");
        if value < prefix_max {
            return self.block.push(first | octet(value));
        }
        self.block.push(first | octet(prefix_max));
        let mut rest = value - prefix_max;
        while rest >= 128 {
            self.block.push(octet(rest % 128) | 0x80);
            rest /= 128;
        }
        self.block.push(octet(rest));
    }

    fn string(&mut self, text: &[u8], coding: Coding) {
        match coding {
            Coding::Raw => {
                self.integer(0, 7, text.len());
                self.block.extend_from_slice(text);
            }
            Coding::Huffman => {
                let coded = huffman(text);
                self.integer(0x80, 7, coded.len());
                self.block.extend(coded);
            }
        }
    }
}

/// `text`, Huffman-coded.
pub(crate) fn huffman(text: &[u8]) -> Vec<u8> {
    let bits = text.iter().flat_map(|octet| {
        let (code, bits) = huffman::code_of(*octet);
        (0..bits).rev().map(move |bit| code >> bit & 1 == 1)
    });
    let bits: Vec<bool> = bits.collect();
    let octet = |bits: &[bool]| {
        (0..8).fold(0, |octet, bit| octet << 1 | u8::from(*bits.get(bit).unwrap_or(&true)))
    };
    bits.chunks(8).map(octet).collect()
}
