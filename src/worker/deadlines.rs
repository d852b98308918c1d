//! Deadlines of a few seconds at most, each kept to the moment: the sweep, which visits every
//! connection in turn, would come late by a part of the shortest timeout.
//!
//! A deadline cannot be taken back. When it has passed, its connection gets [`Event::Due`], and
//! looks whether anything still waits for it.
//!
//! [`Event::Due`]: super::connection::Event::Due

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::token::Key;
use crate::gate::Micros;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// The earliest one first.
    heap: BinaryHeap<Reverse<(Micros, Key)>>,
}

impl Deadlines {
    /// The connection `key` is told when it is `at`.
    pub(super) fn set(&mut self, at: Micros, key: Key) {
        self.heap.push(Reverse((at, key)));
    }

    /// When the next one passes.
    pub(super) fn next(&self) -> Option<Micros> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next one that has passed by `now`.
    pub(super) fn pop_due(&mut self, now: Micros) -> Option<Key> {
        self.next().filter(|at| *at <= now)?;
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_deadline_passes_once_in_order_and_not_before_its_time(
            times in prop::collection::vec(0_u64..20, 0..20),
            now in 0_u64..25,
        ) {
            let mut deadlines = Deadlines::default();
            for (slot, at) in times.iter().enumerate() {
                let slot = u32::try_from(slot).unwrap();
                deadlines.set(*at, Key { slot, generation: 0 });
            }
            let mut due: Vec<u64> = times.iter().copied().filter(|at| *at <= now).collect();
            due.sort_unstable();
            let passed: Vec<_> = std::iter::from_fn(|| deadlines.pop_due(now)).collect();
            let passed_at: Vec<u64> =
                passed.iter().map(|key| times[key.slot as usize]).collect();
            prop_assert_eq!(passed_at, due);
            prop_assert_eq!(deadlines.next(), times.into_iter().filter(|at| *at > now).min());
        }
    }
}
