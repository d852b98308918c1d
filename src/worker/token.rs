//! The 60 bits that name who waits for a completion.
//!
//! ```text
//!   59      51 50    49  48        25 24           1     0
//!  +----------+---------+------------+--------------+------+
//!  |  unused  |  kind   | generation |     slot     | which|
//!  +----------+---------+------------+--------------+------+
//! ```
//!
//! The generation tells a slot's present connection from an earlier one: a completion that comes
//! too late finds no connection. `which` is the side, or the number of an attempt to connect. The
//! ring adds the operation.

use crate::relay::Side;
use crate::sys::kernel::Token;

const FIELD_BITS: u32 = 24;
const FIELD_MASK: u64 = (1 << FIELD_BITS) - 1;
const KIND_SHIFT: u32 = 1 + 2 * FIELD_BITS;

/// Slots that a token can tell apart; far beyond any descriptor limit.
pub(super) const SLOTS_MAX: usize = 1 << FIELD_BITS;

/// Names one connection of one worker, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    /// Where it is in the slab; of 24 bits.
    pub(super) slot: u32,
    /// Which of the slot's connections; of 24 bits.
    pub(super) generation: u32,
}

impl Key {
    /// The token of this connection's operations on `side`.
    #[inline]
    pub(super) fn token(self, side: Side) -> Token {
        Target::Connection(self, side).encode()
    }

    /// The token of this connection's attempt to connect with this number.
    pub(super) fn attempt_token(self, number: AttemptNumber) -> Token {
        Target::Attempt(self, number).encode()
    }

    /// Both fields in one number, for those outside the worker who name a connection.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << u32::BITS | u64::from(self.slot)
    }

    /// The inverse of [`Self::to_bits`].
    #[expect(clippy::cast_possible_truncation, reason = "each half is one field")]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, generation: (bits >> u32::BITS) as u32 }
    }

    /// The generation after `generation`.
    pub(super) fn generation_after(generation: u32) -> u32 {
        generation.wrapping_add(1) & ((1 << FIELD_BITS) - 1)
    }
}

/// Which of the two attempts to connect that a connection may have in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptNumber {
    First,
    Second,
}

/// Who a completion is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The listener with this index.
    Listener(usize),
    /// The worker's command channel.
    Commands,
    /// A connection; for a half, `side` is its source.
    Connection(Key, Side),
    /// A connection's attempt to connect.
    Attempt(Key, AttemptNumber),
}

impl Target {
    /// The token.
    #[inline]
    pub(super) fn encode(self) -> Token {
        let (kind, generation, slot, which) = match self {
            Self::Listener(index) => (0, 0, index, 0),
            Self::Commands => (1, 0, 0, 0),
            Self::Connection(key, side) => (2, key.generation, key.slot as usize, side as u64),
            Self::Attempt(key, number) => (3, key.generation, key.slot as usize, number as u64),
        };
        debug_assert!(slot < SLOTS_MAX, "slot {slot} does not fit");
        let fields = (u64::from(generation) << FIELD_BITS) | (slot as u64);
        Token((kind << KIND_SHIFT) | (fields << 1) | which)
    }

    /// The inverse of [`Self::encode`].
    #[inline]
    pub(super) fn decode(token: Token) -> Self {
        let slot = u32::try_from((token.0 >> 1) & FIELD_MASK).unwrap_or(u32::MAX);
        let generation = u32::try_from((token.0 >> (1 + FIELD_BITS)) & FIELD_MASK).unwrap_or(0);
        let is_first = token.0 & 1 == 0;
        let side = if is_first { Side::Downstream } else { Side::Upstream };
        let number = if is_first { AttemptNumber::First } else { AttemptNumber::Second };
        match token.0 >> KIND_SHIFT {
            0 => Self::Listener(slot as usize),
            1 => Self::Commands,
            2 => Self::Connection(Key { slot, generation }, side),
            _ => Self::Attempt(Key { slot, generation }, number),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_names_its_target_again(
            slot in 0_u32..1 << FIELD_BITS,
            generation in 0_u32..1 << FIELD_BITS,
            upstream: bool,
        ) {
            let key = Key { slot, generation };
            prop_assert_eq!(Key::from_bits(key.to_bits()), key);
            let side = if upstream { Side::Upstream } else { Side::Downstream };
            for target in [
                Target::Connection(Key { slot, generation }, side),
                Target::Attempt(Key { slot, generation }, AttemptNumber::First),
                Target::Attempt(Key { slot, generation }, AttemptNumber::Second),
                Target::Listener(slot as usize),
                Target::Commands,
            ] {
                let token = target.encode();
                prop_assert_eq!(token.0 >> (64 - Token::RING_BITS), 0);
                prop_assert_eq!(Target::decode(token), target);
            }
        }
    }

    #[test]
    fn generations_come_round() {
        assert_eq!(Key::generation_after((1 << FIELD_BITS) - 1), 0);
    }
}
