//! The counters of requests with one label set: how many, how long, how large.
//!
//! The buckets are Envoy's defaults, which Istio leaves as they are (envoy
//! `source/common/stats/histogram_impl.cc`, `HistogramSettingsImpl::defaultBuckets`): the same
//! numbers for milliseconds and for bytes. The cells count whole microseconds and whole bytes; what
//! a scrape prints is made of them there.

use super::Cell;
use super::series::AddCells;

/// How many bounds there are.
const BOUNDS: usize = 19;

/// Upper bounds of the durations' buckets, in microseconds.
const BOUNDS_US: [u64; BOUNDS] = [
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

/// Upper bounds of the sizes' buckets, in bytes. The first, of half a byte, holds what is empty.
const BOUNDS_BYTES: [u64; BOUNDS] = {
    let mut bounds = BOUNDS_US;
    let mut at = 0;
    while at < BOUNDS {
        bounds[at] /= 1_000;
        at += 1;
    }
    bounds
};

/// By number of binary digits: how many bounds are below every value that has so many.
type Below = [usize; u64::BITS as usize + 1];

const BELOW_US: Below = below(&BOUNDS_US);
const BELOW_BYTES: Below = below(&BOUNDS_BYTES);

/// So that a value's bucket is found by one comparison: of the bounds with as many digits as the
/// value there is one at most.
const fn below(bounds: &[u64; BOUNDS]) -> Below {
    let mut below = [0; u64::BITS as usize + 1];
    let (mut digits, mut at) = (1, 0);
    while digits < below.len() {
        let least = 1 << (digits - 1);
        while at < BOUNDS && bounds[at] < least {
            at += 1;
        }
        assert!(at + 1 >= BOUNDS || bounds[at + 1] > least + (least - 1), "two in one");
        below[digits] = at;
        digits += 1;
    }
    below
}

/// What is measured of each request: one histogram for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// `istio_request_duration_milliseconds`
    Duration,
    /// `istio_request_bytes`
    RequestBytes,
    /// `istio_response_bytes`
    ResponseBytes,
}

/// The counters of requests with one label set, written by one worker.
#[derive(Debug, Default)]
pub struct RequestCells {
    duration: HistogramCells,
    request_bytes: HistogramCells,
    response_bytes: HistogramCells,
}

/// One histogram, written by one worker.
#[derive(Debug, Default)]
struct HistogramCells {
    /// By bound; the last holds what is above all.
    counts: [Cell; BOUNDS + 1],
    /// In microseconds or bytes.
    sum: Cell,
}

/// One histogram, summed over workers.
#[derive(Debug)]
pub(super) struct HistogramSum {
    measure: Measure,
    counts: [u64; BOUNDS + 1],
    sum: u64,
}

impl RequestCells {
    /// One request, from its head to the end of its answer: the microseconds that it took, and the
    /// bytes of both as they came, heads included.
    pub fn record(&self, took_us: u64, request_bytes: u64, response_bytes: u64) {
        self.duration.record(&BOUNDS_US, &BELOW_US, took_us);
        self.request_bytes.record(&BOUNDS_BYTES, &BELOW_BYTES, request_bytes);
        self.response_bytes.record(&BOUNDS_BYTES, &BELOW_BYTES, response_bytes);
    }

    /// `istio_requests_total`: each request has a duration.
    pub(super) fn requests(&self) -> u64 {
        self.duration.counts.iter().fold(0, |sum, cell| sum.wrapping_add(cell.get()))
    }

    fn histogram(&self, measure: Measure) -> &HistogramCells {
        match measure {
            Measure::Duration => &self.duration,
            Measure::RequestBytes => &self.request_bytes,
            Measure::ResponseBytes => &self.response_bytes,
        }
    }
}

impl AddCells for RequestCells {
    fn add_all(&self, other: &Self) {
        self.duration.add_all(&other.duration);
        self.request_bytes.add_all(&other.request_bytes);
        self.response_bytes.add_all(&other.response_bytes);
    }
}

impl HistogramCells {
    fn add_all(&self, other: &Self) {
        self.counts.iter().zip(&other.counts).for_each(|(own, more)| own.add(more.get()));
        self.sum.add(other.sum.get());
    }

    fn record(&self, bounds: &[u64; BOUNDS], below: &Below, value: u64) {
        let at = below[(u64::BITS - value.leading_zeros()) as usize];
        let at = at + usize::from(bounds.get(at).is_some_and(|bound| *bound < value));
        // At most the number of bounds, where the last cell stands.
        self.counts[at].add(1);
        self.sum.add(value);
    }
}

impl HistogramSum {
    pub(super) fn new(measure: Measure) -> Self {
        Self { measure, counts: [0; BOUNDS + 1], sum: 0 }
    }

    /// Adds a worker's part. Each cell is read once.
    pub(super) fn add(&mut self, cells: &RequestCells) {
        let cells = cells.histogram(self.measure);
        for (sum, cell) in self.counts.iter_mut().zip(&cells.counts) {
            *sum = sum.wrapping_add(cell.get());
        }
        self.sum = self.sum.wrapping_add(cells.sum.get());
    }

    /// The number of values: by construction what the buckets hold together, so the count of a
    /// scrape is the number in its last bucket, whatever a worker did meanwhile.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// The sum of the values, in the metric's unit.
    #[expect(clippy::cast_precision_loss, reason = "what is above 2^53 loses its last digits")]
    pub(super) fn sum(&self) -> f64 {
        match self.measure {
            Measure::Duration => self.sum as f64 / 1e3,
            Measure::RequestBytes | Measure::ResponseBytes => self.sum as f64,
        }
    }

    /// Upper bound in the metric's unit, and the number of values above the bound before. The last
    /// is `+Inf`.
    pub(super) fn buckets(&self) -> [(f64, u64); BOUNDS + 1] {
        // Milliseconds and bytes have the same numbers.
        let bound = |at| BOUNDS_US.get(at).map_or(f64::INFINITY, |us| milli(*us));
        std::array::from_fn(|at| (bound(at), self.counts[at]))
    }
}

#[expect(clippy::cast_precision_loss, reason = "the bounds are far below 2^53")]
fn milli(thousandths: u64) -> f64 {
    thousandths as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(cells: &RequestCells, measure: Measure) -> HistogramSum {
        let mut sum = HistogramSum::new(measure);
        sum.add(cells);
        sum
    }

    fn in_bucket(cells: &RequestCells, measure: Measure, bound: f64) -> u64 {
        let buckets = sum(cells, measure).buckets();
        buckets.into_iter().find(|(upper, _)| *upper == bound).expect("a bound of Envoy's").1
    }

    #[test]
    fn a_value_counts_to_the_first_bound_that_it_does_not_exceed() {
        let cells = RequestCells::default();
        cells.record(500, 0, 25);
        cells.record(501, 1, 4_000_000);
        cells.record(7_200_000_000, 26, 3_600_000);
        let duration = |bound| in_bucket(&cells, Measure::Duration, bound);
        assert_eq!((duration(0.5), duration(1.0), duration(f64::INFINITY)), (1, 1, 1));
        let request = |bound| in_bucket(&cells, Measure::RequestBytes, bound);
        assert_eq!((request(0.5), request(1.0), request(50.0)), (1, 1, 1));
        let response = |bound| in_bucket(&cells, Measure::ResponseBytes, bound);
        assert_eq!((response(25.0), response(3_600_000.0), response(f64::INFINITY)), (1, 1, 1));
    }

    #[test]
    fn sums_are_milliseconds_and_bytes() {
        let cells = RequestCells::default();
        cells.record(500, 1, 25);
        cells.record(501, 26, 4_000_000);
        assert_eq!(sum(&cells, Measure::Duration).sum(), 1.001);
        assert_eq!(sum(&cells, Measure::RequestBytes).sum(), 27.0);
        assert_eq!(sum(&cells, Measure::ResponseBytes).sum(), 4_000_025.0);
        assert_eq!(cells.requests(), 2);
    }

    /// Values of every number of digits, and the bounds with their neighbours.
    fn any_size() -> impl Strategy<Value = u64> {
        let digits = (any::<u64>(), 0..u64::BITS).prop_map(|(value, shift)| value >> shift);
        let bound = (0..BOUNDS, any::<bool>(), 0..3_u64).prop_map(|(at, us, more)| {
            let bounds = if us { BOUNDS_US } else { BOUNDS_BYTES };
            (bounds[at] + more).saturating_sub(1)
        });
        prop_oneof![digits, bound]
    }

    proptest! {
        #[test]
        fn a_value_stands_between_the_bounds_of_its_bucket(
            us in any_size(),
            bytes in any_size(),
        ) {
            let cells = RequestCells::default();
            cells.record(us, bytes, 0);
            for (measure, bounds, value) in [
                (Measure::Duration, BOUNDS_US, us),
                (Measure::RequestBytes, BOUNDS_BYTES, bytes),
            ] {
                let sum = sum(&cells, measure);
                let at = sum.counts.iter().position(|count| *count == 1).unwrap();
                prop_assert_eq!(sum.count(), 1);
                prop_assert!(at == BOUNDS || value <= bounds[at]);
                prop_assert!(at == 0 || value > bounds[at - 1]);
            }
        }
    }
}
