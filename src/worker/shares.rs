//! A share for each source: how many of the worker's connections belong to whom.
//!
//! The table has a fixed size and no lock. A source is looked for in one small set of places, which
//! its address chooses; a place without connections is free. Sources that find none are counted
//! together. The seed is secret, so that nobody chooses who shares a place.

use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::fast::RandomState;

/// Sets of places, a power of two.
const SETS: u16 = 512;
/// Places of a set.
const WAYS: u16 = 8;
/// Where sources are counted that find no place: one for all of them.
const OTHERS: u16 = SETS * WAYS;

/// Where a source is counted; good while it has connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share(u16);

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    places: Box<[Place]>,
    /// By the slot of a connection: where its source is counted.
    of_slots: Vec<Share>,
    hashes: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    source: IpAddr,
    connections: u32,
}

impl Default for Shares {
    fn default() -> Self {
        let free = Place { source: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), connections: 0 };
        let places = vec![free; usize::from(OTHERS) + 1].into_boxed_slice();
        Self { places, of_slots: Vec::new(), hashes: RandomState::default() }
    }
}

impl Shares {
    /// Where `source` is counted, or would be.
    pub(super) fn find(&self, source: IpAddr) -> Share {
        let set = self.hashes.hash_one(source) % u64::from(SETS);
        let first = u16::try_from(set).unwrap_or(0) * WAYS;
        let places = &self.places[usize::from(first)..usize::from(first + WAYS)];
        let is_its = |place: &Place| place.connections > 0 && place.source == source;
        let way = places.iter().position(is_its);
        let way = way.or_else(|| places.iter().position(|place| place.connections == 0));
        let place = way.and_then(|way| u16::try_from(way).ok()).map(|way| first + way);
        Share(place.unwrap_or(OTHERS))
    }

    /// How many connections a source has.
    pub(super) fn connections(&self, share: Share) -> u32 {
        self.places[usize::from(share.0)].connections
    }

    /// Where the source of the connection in `slot` is counted.
    pub(super) fn of(&self, slot: u32) -> Share {
        self.of_slots.get(slot as usize).copied().unwrap_or(Share(OTHERS))
    }

    /// `source`, which is counted at `share`, has one more connection: the one in `slot`.
    pub(super) fn enter(&mut self, share: Share, source: IpAddr, slot: u32) {
        let slot = slot as usize;
        if self.of_slots.len() <= slot {
            self.of_slots.resize(slot + 1, Share(OTHERS));
        }
        self.of_slots[slot] = share;
        let place = &mut self.places[usize::from(share.0)];
        place.source = source;
        place.connections += 1;
    }

    /// The connection in `slot` is gone.
    pub(super) fn leave(&mut self, slot: u32) {
        let share = self.of(slot);
        self.places[usize::from(share.0)].connections -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `source` gets the connection in `slot`.
    fn enter(shares: &mut Shares, source: IpAddr, slot: u32) -> Share {
        let share = shares.find(source);
        shares.enter(share, source, slot);
        assert_eq!(shares.of(slot), share);
        share
    }

    fn source(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn each_source_is_counted_by_itself_until_it_has_gone() {
        let mut shares = Shares::default();
        for round in 0..3 {
            for n in 0..100 {
                let share = enter(&mut shares, source(n), round * 100 + n);
                assert_eq!(shares.connections(share), round + 1, "source {n}");
            }
        }
        for n in 0..100 {
            for round in (0..3).rev() {
                shares.leave(round * 100 + n);
                assert_eq!(shares.connections(shares.find(source(n))), round);
            }
        }
    }

    #[test]
    fn sources_that_find_no_place_are_counted_together_and_none_is_lost() {
        let mut shares = Shares::default();
        let all: u32 = 20_000;
        for n in 0..all {
            enter(&mut shares, source(n), n);
        }
        let sum =
            |shares: &Shares| -> u32 { shares.places.iter().map(|place| place.connections).sum() };
        assert_eq!(sum(&shares), all);
        assert!(shares.connections(Share(OTHERS)) >= all - u32::from(OTHERS));
        (0..all).for_each(|slot| shares.leave(slot));
        assert_eq!(sum(&shares), 0);
    }
}
