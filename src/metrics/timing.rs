//! Connect durations and loop turns: recorded by the worker, handed over now and then.
//!
//! The worker records into histograms of its own, which nobody else sees. About once per second it
//! adds them to the shared ones, if the control plane is not just reading those; else it tries
//! again the next time. So the worker never waits, and nothing is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Digits that a recorded value keeps: 1 percent, and some 20 KiB per histogram.
const SIGNIFICANT_DIGITS: u8 = 2;
/// The largest value that is told apart; longer ones count as this one, but in full in the sum.
const MAX_US: u64 = 3_600_000_000;

/// Upper bounds of the connect histogram's buckets. From a neighbour in the rack (100 us) to past
/// the default connect timeout (10 s); SYN retransmissions show at 1, 3 and 7 s.
pub(super) const CONNECT_BOUNDS_US: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];
/// Upper bounds of the loop turn histogram's buckets. A turn above a millisecond is felt by every
/// connection of the worker.
pub(super) const TURN_BOUNDS_US: &[u64] =
    &[10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000];

/// One histogram with its exact sum.
#[derive(Debug, Clone)]
pub(super) struct Distribution {
    histogram: Histogram<u64>,
    sum_us: u64,
}

/// The histogram of a scrape: buckets are not cumulative yet (the encoder adds them up).
#[derive(Debug, PartialEq)]
pub(super) struct Buckets {
    pub(super) sum_seconds: f64,
    pub(super) count: u64,
    /// Upper bound in seconds and the number of values above the bound before; the last is `+Inf`.
    pub(super) counts: Vec<(f64, u64)>,
}

/// What a distribution says in a few numbers, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quantiles {
    /// Values recorded since the start.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// 9 in 10 are at most this.
    pub p90_us: u64,
    /// 99 in 100 are at most this.
    pub p99_us: u64,
    /// 999 in 1 000 are at most this.
    pub p999_us: u64,
    /// The largest.
    pub max_us: u64,
}

impl Distribution {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, MAX_US, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that satisfy hdrhistogram's conditions");
        Self { histogram, sum_us: 0 }
    }

    pub(super) fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(us);
        self.sum_us = self.sum_us.saturating_add(us);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("every distribution has the same bounds, so each value fits");
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    fn take_into(&mut self, other: &mut Self) {
        if !self.histogram.is_empty() {
            other.add(self);
            self.histogram.reset();
            self.sum_us = 0;
        }
    }

    /// The values by upper bound. A value counts to the bucket of the histogram cell that it fell
    /// into, always the same one, so no bucket ever shrinks.
    pub(super) fn buckets(&self, bounds_us: &[u64]) -> Buckets {
        let mut counts: Vec<(f64, u64)> =
            bounds_us.iter().map(|us| (seconds(*us), 0)).chain([(f64::INFINITY, 0)]).collect();
        let mut at = 0;
        for cell in self.histogram.iter_recorded() {
            let value = self.histogram.lowest_equivalent(cell.value_iterated_to());
            while bounds_us.get(at).is_some_and(|bound| value > *bound) {
                at += 1;
            }
            // `at` stops at the number of bounds, where the last bucket stands.
            counts[at].1 += cell.count_at_value();
        }
        Buckets { sum_seconds: seconds(self.sum_us), count: self.histogram.len(), counts }
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        Quantiles {
            count: self.histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.histogram.max(),
        }
    }
}

/// The distributions of a worker, or the sum of some.
#[derive(Debug, Clone)]
pub(super) struct Timings {
    pub(super) connect: Distribution,
    pub(super) turn: Distribution,
}

impl Timings {
    pub(super) fn new() -> Self {
        Self { connect: Distribution::new(), turn: Distribution::new() }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.connect.add(&other.connect);
        self.turn.add(&other.turn);
    }
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Recorder {
    local: Timings,
    shared: Arc<Mutex<Timings>>,
}

impl Recorder {
    /// A recorder, and what the control plane reads.
    pub(super) fn new() -> (Self, Arc<Mutex<Timings>>) {
        let shared = Arc::new(Mutex::new(Timings::new()));
        (Self { local: Timings::new(), shared: Arc::clone(&shared) }, shared)
    }

    pub(super) fn connect(&mut self, duration: Duration) {
        self.local.connect.record(duration);
    }

    pub(super) fn turn(&mut self, duration: Duration) {
        self.local.turn.record(duration);
    }

    pub(super) fn is_unpublished(&self) -> bool {
        !self.local.connect.histogram.is_empty()
    }

    /// Hands over what was recorded since the last time, unless the control plane is reading.
    pub(super) fn publish(&mut self) {
        let mut shared = match self.shared.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.local.connect.take_into(&mut shared.connect);
        self.local.turn.take_into(&mut shared.turn);
    }
}

/// Locks what a panicked thread may have left: numbers stay numbers.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Microseconds as seconds, the unit of every metric that is a time.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 us, which is 285 years")]
pub(super) fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_on_a_bound_counts_to_that_bucket() {
        let mut distribution = Distribution::new();
        for us in [100, 101, 1_000_000, 60_000_000] {
            distribution.record(Duration::from_micros(us));
        }
        let buckets = distribution.buckets(CONNECT_BOUNDS_US);
        assert_eq!(buckets.counts[0], (0.0001, 1));
        assert_eq!(buckets.counts[1], (0.00025, 1));
        assert_eq!(buckets.counts.iter().find(|b| b.0 == 1.0).unwrap().1, 1);
        assert_eq!(*buckets.counts.last().unwrap(), (f64::INFINITY, 1));
        assert_eq!(buckets.sum_seconds, 61.000_201);
    }

    #[test]
    fn what_the_reader_holds_back_arrives_later() {
        let (mut recorder, shared) = Recorder::new();
        recorder.connect(Duration::from_millis(3));
        {
            let held = lock(&shared);
            recorder.publish();
            assert_eq!(held.connect.histogram.len(), 0);
        }
        recorder.publish();
        recorder.publish();
        assert_eq!(lock(&shared).connect.buckets(CONNECT_BOUNDS_US).count, 1);
    }

    proptest! {
        #[test]
        fn buckets_hold_every_value_and_never_shrink(
            first in prop::collection::vec(0_u64..40_000_000, 0..200),
            second in prop::collection::vec(0_u64..40_000_000, 0..200),
        ) {
            let mut distribution = Distribution::new();
            first.iter().for_each(|us| distribution.record(Duration::from_micros(*us)));
            let before = distribution.buckets(TURN_BOUNDS_US);
            second.iter().for_each(|us| distribution.record(Duration::from_micros(*us)));
            let after = distribution.buckets(TURN_BOUNDS_US);
            prop_assert_eq!(after.count, (first.len() + second.len()) as u64);
            prop_assert_eq!(after.counts.iter().map(|b| b.1).sum::<u64>(), after.count);
            for (old, new) in before.counts.iter().zip(&after.counts) {
                prop_assert!(old.1 <= new.1);
            }
        }
    }
}
