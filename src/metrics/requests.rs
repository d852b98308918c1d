//! The counters of requests with one label set: how many, how long, how large.
//!
//! The buckets are Envoy's defaults, which Istio leaves as they are (envoy
//! `source/common/stats/histogram_impl.cc`, `HistogramSettingsImpl::defaultBuckets`): the same
//! numbers for milliseconds and for bytes.

use std::time::Duration;

use super::Cell;

/// Upper bounds, in thousandths: of a millisecond, so microseconds, or of a byte.
pub(super) const BOUNDS_THOUSANDTHS: &[u64] = &[
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// One histogram, written by one worker.
#[derive(Debug, Default)]
pub struct Buckets {
    /// By bound; the last holds what is above all.
    counts: [Cell; BOUNDS_THOUSANDTHS.len() + 1],
    sum_thousandths: Cell,
}

/// The counters of requests with one label set, written by one worker.
#[derive(Debug, Default)]
pub struct RequestCells {
    /// `istio_requests_total`
    pub requests: Cell,
    /// `istio_request_duration_milliseconds`
    pub(super) duration: Buckets,
    /// `istio_request_bytes`
    pub(super) request_bytes: Buckets,
    /// `istio_response_bytes`
    pub(super) response_bytes: Buckets,
}

/// One histogram, summed over workers.
#[derive(Debug, Clone, Default)]
pub(super) struct BucketSums {
    counts: [u64; BOUNDS_THOUSANDTHS.len() + 1],
    sum_thousandths: u64,
}

impl RequestCells {
    /// One request, from its head to the end of its answer: `took`, and the bytes of both as they
    /// came, heads included.
    pub fn record(&self, took: Duration, request_bytes: u64, response_bytes: u64) {
        self.requests.add(1);
        self.duration.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.request_bytes.record(request_bytes.saturating_mul(1_000));
        self.response_bytes.record(response_bytes.saturating_mul(1_000));
    }
}

impl Buckets {
    fn record(&self, thousandths: u64) {
        let at = BOUNDS_THOUSANDTHS.partition_point(|bound| *bound < thousandths);
        // `partition_point` is at most the number of bounds, where the last cell stands.
        self.counts[at].add(1);
        self.sum_thousandths.add(thousandths);
    }
}

impl BucketSums {
    pub(super) fn add(&mut self, other: &Buckets) {
        for (sum, cell) in self.counts.iter_mut().zip(&other.counts) {
            *sum = sum.wrapping_add(cell.get());
        }
        self.sum_thousandths = self.sum_thousandths.wrapping_add(other.sum_thousandths.get());
    }

    /// Sum, count, and the number of values by upper bound (not cumulative: the encoder adds up).
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = BOUNDS_THOUSANDTHS.iter().map(|bound| in_units(*bound));
        let counts: Vec<_> = bounds.chain([f64::INFINITY]).zip(self.counts).collect();
        (in_units(self.sum_thousandths), self.counts.iter().sum(), counts)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a sum of bytes may lose its last digits above 2^53"
)]
fn in_units(thousandths: u64) -> f64 {
    thousandths as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_to_the_first_bound_that_it_does_not_exceed() {
        let cells = RequestCells::default();
        cells.record(Duration::from_micros(500), 1, 25);
        cells.record(Duration::from_micros(501), 26, 4_000_000);
        let read = |buckets: &Buckets| {
            let mut sums = BucketSums::default();
            sums.add(buckets);
            sums.read()
        };
        let at = |buckets: &Buckets, bound: f64| {
            read(buckets).2.iter().find(|(upper, _)| *upper == bound).map(|(_, count)| *count)
        };
        assert_eq!(at(&cells.duration, 0.5), Some(1));
        assert_eq!(at(&cells.duration, 1.0), Some(1));
        assert_eq!(at(&cells.request_bytes, 1.0), Some(1));
        assert_eq!(at(&cells.request_bytes, 50.0), Some(1));
        assert_eq!(at(&cells.response_bytes, 25.0), Some(1));
        assert_eq!(at(&cells.response_bytes, f64::INFINITY), Some(1));
        let (sum, count, counts) = read(&cells.duration);
        assert_eq!((sum, count), (1.001, 2));
        assert_eq!(counts.iter().map(|(_, n)| n).sum::<u64>(), 2);
        assert_eq!(cells.requests.get(), 2);
    }
}
