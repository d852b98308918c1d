//! How much of the queue is whose: a share for each source.
//!
//! One pod that opens connections faster than lines can be written would push everybody's lines
//! out. So once three quarters of the queue are taken, a source that has a quarter of it gets no
//! more: the rest is for the others. Sources are counted by a hash of their address with a secret
//! seed, in a table of a fixed size, without a lock; two that meet there share one share.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;

/// Places for sources: so many that two of a node's few hundred rarely meet.
const PLACES: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Waiting {
    records_max: usize,
    all: AtomicUsize,
    by_source: Box<[AtomicUsize]>,
    hashes: RandomState,
}

impl Waiting {
    pub(super) fn new(records_max: usize) -> Self {
        let by_source = (0..PLACES).map(|_| AtomicUsize::new(0)).collect();
        Self { records_max, all: AtomicUsize::new(0), by_source, hashes: RandomState::default() }
    }

    /// A record of `source` wants to wait; whether it may.
    pub(super) fn enter(&self, source: IpAddr) -> bool {
        let own = self.of(source);
        let is_crowded = self.all.load(Ordering::Relaxed) * 4 >= self.records_max * 3;
        if is_crowded && own.load(Ordering::Relaxed) * 4 >= self.records_max {
            return false;
        }
        own.fetch_add(1, Ordering::Relaxed);
        self.all.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A record of `source` waits no longer.
    pub(super) fn leave(&self, source: IpAddr) {
        self.of(source).fetch_sub(1, Ordering::Relaxed);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }

    fn of(&self, source: IpAddr) -> &AtomicUsize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let place = self.hashes.hash_one(source) as usize % PLACES;
        &self.by_source[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_fills_the_queue_leaves_a_quarter_to_the_others() {
        let waiting = Waiting::new(100);
        let [greedy, modest] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!((0..1000).filter(|_| waiting.enter(greedy)).count(), 75);
        assert_eq!((0..25).filter(|_| waiting.enter(modest)).count(), 25);
        // It has its share now, too, and all is taken.
        assert!(!waiting.enter(modest));
        (0..75).for_each(|_| waiting.leave(greedy));
        assert!(waiting.enter(greedy));
    }
}
