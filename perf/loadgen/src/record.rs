//! What a thread counts while it runs, and the sum over the threads.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::exchange::{Exchanged, Fault};
use crate::schedule::{Turn, Window};

/// Latencies are kept to three digits, in nanoseconds.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Length of one interval of the interval log.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Whether latencies are kept by interval too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intervals {
    /// One histogram for each second, some tens of KiB each.
    Kept,
    /// One histogram in all.
    Summed,
}

/// Everything that is counted. `in window` is what the measurement holds, `in all` has the warm-up
/// and the last answers after the end too.
#[derive(Debug)]
pub(crate) struct Record {
    window: Window,
    kept: Intervals,
    /// One, or one for each [`INTERVAL`] of the window, by when the request was due.
    pub(crate) intervals: Vec<Histogram<u64>>,
    /// How long after they were due requests were sent, while the connection was free or not.
    pub(crate) send_delays: Histogram<u64>,
    /// In window.
    pub(crate) measured: Totals,
    /// In all.
    pub(crate) overall: Totals,
    /// Connections that were opened, in all.
    pub(crate) connections: u64,
    /// By [`Fault::ALL`], in all.
    pub(crate) errors: [u64; Fault::ALL.len()],
    /// In window.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests of the window that were due, but not sent by its end.
    pub(crate) late: u64,
    /// Connections that the other side ended by FIN and by RST, in window.
    pub(crate) ended: Ended,
    /// Bytes of bulk flows in window, beside other load.
    pub(crate) bulk_bytes: u64,
    /// Why the first connection could not be opened.
    pub(crate) connect_error: Option<String>,
}

/// Sums of exchanges.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// How the other side ended connections.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) fin: u64,
    pub(crate) rst: u64,
}

impl Record {
    pub(crate) fn new(window: Window, kept: Intervals) -> Self {
        Self {
            window,
            kept,
            intervals: Vec::new(),
            send_delays: histogram(),
            measured: Totals::default(),
            overall: Totals::default(),
            connections: 0,
            errors: [0; Fault::ALL.len()],
            statuses: BTreeMap::new(),
            late: 0,
            ended: Ended::default(),
            bulk_bytes: 0,
            connect_error: None,
        }
    }

    /// A request was answered.
    pub(crate) fn answered(&mut self, turn: Turn, exchanged: Exchanged) {
        self.overall.add(exchanged);
        if !self.window.contains(turn.due) {
            return;
        }
        self.measured.add(exchanged);
        if let Some(status) = exchanged.status {
            *self.statuses.entry(status).or_default() += 1;
        }
        self.latency(turn.due, Instant::now());
        add(&mut self.send_delays, turn.begun - turn.due);
    }

    /// A connection that carries no exchange came to its end.
    pub(crate) fn ended(&mut self, turn: Turn, sent_bytes: usize, end: End) {
        let exchanged = Totals { requests: 1, sent_bytes: sent_bytes as u64, received_bytes: 0 };
        self.overall.merge(exchanged);
        if !self.window.contains(turn.due) {
            return;
        }
        self.measured.merge(exchanged);
        match end {
            End::Fin => self.ended.fin += 1,
            End::Rst => self.ended.rst += 1,
        }
        self.latency(turn.due, Instant::now());
        add(&mut self.send_delays, turn.begun - turn.due);
    }

    /// A request was due and could not be sent before the end. It waited at least until then, and
    /// leaving it out would make a server that cannot keep up look better.
    pub(crate) fn missed(&mut self, due: Instant) {
        if self.window.contains(due) {
            self.late += 1;
            self.latency(due, self.window.until);
        }
    }

    /// Something went wrong.
    pub(crate) fn failed(&mut self, fault: Fault) {
        self.errors[fault as usize] += 1;
    }

    /// A connection could not be opened.
    pub(crate) fn not_opened(&mut self, error: &io::Error) {
        self.failed(match error.kind() {
            io::ErrorKind::TimedOut => Fault::Timeout,
            _ => Fault::Connect,
        });
        self.connect_error.get_or_insert_with(|| error.to_string());
    }

    /// Bytes of a bulk flow passed at this moment.
    pub(crate) fn bulk(&mut self, now: Instant, sent_bytes: usize, received_bytes: usize) {
        let moved = Totals {
            requests: 0,
            sent_bytes: sent_bytes as u64,
            received_bytes: received_bytes as u64,
        };
        self.overall.merge(moved);
        if self.window.contains(now) {
            self.measured.merge(moved);
            self.bulk_bytes += moved.sent_bytes + moved.received_bytes;
        }
    }

    fn latency(&mut self, due: Instant, end: Instant) {
        let index = match self.kept {
            Intervals::Kept => {
                let interval = (due - self.window.from).as_nanos() / INTERVAL.as_nanos();
                usize::try_from(interval).unwrap_or(usize::MAX)
            }
            Intervals::Summed => 0,
        };
        while self.intervals.len() <= index {
            self.intervals.push(histogram());
        }
        add(&mut self.intervals[index], end - due);
    }

    /// All intervals as one.
    pub(crate) fn latencies(&self) -> Histogram<u64> {
        let mut sum = histogram();
        for interval in &self.intervals {
            merge(&mut sum, interval);
        }
        sum
    }

    /// The sum over threads.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        while self.intervals.len() < other.intervals.len() {
            self.intervals.push(histogram());
        }
        for (own, others) in self.intervals.iter_mut().zip(&other.intervals) {
            merge(own, others);
        }
        merge(&mut self.send_delays, &other.send_delays);
        self.measured.merge(other.measured);
        self.overall.merge(other.overall);
        self.connections += other.connections;
        for (own, others) in self.errors.iter_mut().zip(other.errors) {
            *own += others;
        }
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.late += other.late;
        self.ended.fin += other.ended.fin;
        self.ended.rst += other.ended.rst;
        self.bulk_bytes += other.bulk_bytes;
        self.connect_error = self.connect_error.or(other.connect_error);
        self
    }
}

impl Totals {
    fn add(&mut self, exchanged: Exchanged) {
        self.merge(Self {
            requests: 1,
            sent_bytes: exchanged.sent_bytes as u64,
            received_bytes: exchanged.received_bytes as u64,
        });
    }

    fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }
}

/// How the other side ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Rst,
}

fn histogram() -> Histogram<u64> {
    // Grows with the values.
    Histogram::new(SIGNIFICANT_DIGITS).expect("the number of digits is between 0 and 5")
}

fn add(histogram: &mut Histogram<u64>, duration: Duration) {
    // 584 years fit.
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    histogram.record(nanoseconds).expect("it grows with the values");
}

fn merge(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("it grows with the values");
}
