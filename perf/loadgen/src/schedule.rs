//! When a connection's next request is due: the closed and the open loop.
//!
//! Closed: as soon as the last one is answered, as wrk and most users of a library do. A slow
//! server is then asked less often, which hides how slow it is (coordinated omission, a term of
//! Gil Tene's). Open: at even intervals that were fixed before the first request, and each latency
//! counts from there. A request that could not be sent in time because its connection was still
//! waiting is sent late and measured from when it was due, so a stall shows in every request that
//! it held up.
//!
//! The runtime's own timers tick in milliseconds, so the open loop sleeps on a timerfd instead. One
//! wake-up sends all that is due by then. A wake-up takes time, 20 to 60 us on a virtual machine,
//! and is part of every latency; `send_delay_us` in the result says how much of it. So a latency
//! below a millisecond means something only beside another one that was measured in the same way,
//! such as the direct path's. Spinning instead of sleeping would be exact, and would take the core
//! from the proxy.

use std::cell::RefCell;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timer::Expiration;
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::runtime::Share;

/// The run's three moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The load begins.
    pub(crate) start: Instant,
    /// The measurement begins; before it is the warm-up.
    pub(crate) from: Instant,
    /// Both end.
    pub(crate) until: Instant,
}

impl Window {
    pub(crate) fn contains(&self, moment: Instant) -> bool {
        (self.from..self.until).contains(&moment)
    }
}

/// One request's times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// When it was due: latencies count from here, and it belongs to the window that holds this.
    pub(crate) due: Instant,
    /// When it was sent: the same moment in the closed loop.
    pub(crate) begun: Instant,
}

/// The requests of one connection, one after the other.
#[derive(Debug)]
pub(crate) struct Turns {
    window: Window,
    pacer: Option<Rc<Pacer>>,
    /// The connection's position among those of this thread.
    place: usize,
    round: u64,
}

impl Turns {
    pub(crate) fn new(window: Window, pacer: Option<Rc<Pacer>>, place: usize) -> Self {
        Self { window, pacer, place, round: 0 }
    }

    /// Wait until the next request is due; `None` when the run is over.
    pub(crate) async fn next(&mut self) -> Option<Turn> {
        let Some(pacer) = &self.pacer else {
            let now = Instant::now();
            return (now < self.window.until).then_some(Turn { due: now, begun: now });
        };
        let due = pacer.due(self.place, self.round);
        if due >= self.window.until {
            return None;
        }
        let begun = pacer.wait(self.place, due).await;
        if begun >= self.window.until {
            return None;
        }
        self.round += 1;
        Some(Turn { due, begun })
    }

    /// Whether `next` would return `None`.
    pub(crate) fn is_over(&self) -> bool {
        let due = self.pacer.as_ref().map(|pacer| pacer.due(self.place, self.round));
        due.is_some_and(|due| due >= self.window.until) || Instant::now() >= self.window.until
    }

    /// When the requests were due that the run's end left unsent.
    pub(crate) fn missed(&self) -> impl Iterator<Item = Instant> {
        let pacer = self.pacer.clone();
        let (place, until, round) = (self.place, self.window.until, self.round);
        pacer
            .into_iter()
            .flat_map(move |pacer| (round..).map(move |round| pacer.due(place, round)))
            .take_while(move |due| *due < until)
    }
}

/// The open loop's clock for the connections of one thread.
///
/// Request `k` of the whole run is due at `start + k / rate` and belongs to connection `k` modulo
/// the number of connections.
#[derive(Debug)]
pub(crate) struct Pacer {
    start: Instant,
    interval_ns: f64,
    share: Share,
    /// Of all threads.
    connections: usize,
    /// By place: who waits for its next request.
    waiting: RefCell<Vec<Option<Waker>>>,
}

impl Pacer {
    pub(crate) fn new(start: Instant, per_second: f64, share: Share, connections: usize) -> Self {
        let waiting = RefCell::new(vec![None; share.of(connections).len()]);
        Self { start, interval_ns: 1e9 / per_second, share, connections, waiting }
    }

    fn due(&self, place: usize, round: u64) -> Instant {
        let connection = place * self.share.threads + self.share.thread;
        let request = round as f64 * self.connections as f64 + connection as f64;
        self.start + Duration::from_secs_f64(request * self.interval_ns / 1e9)
    }

    /// Wait until `due`, and return when that was noticed.
    async fn wait(&self, place: usize, due: Instant) -> Instant {
        poll_fn(|context| {
            let now = Instant::now();
            if now >= due {
                return Poll::Ready(now);
            }
            self.waiting.borrow_mut()[place] = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Wake each connection when its next request is due, until the end of the run.
    pub(crate) async fn run(&self, until: Instant) -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        let (mut place, mut round) = (0, 0);
        let places = self.waiting.borrow().len();
        // A thread may have no connection at all.
        if places == 0 {
            return Ok(());
        }
        loop {
            let (now, due) = (Instant::now(), self.due(place, round));
            if due >= until {
                return Ok(());
            }
            if due > now {
                alarm.sleep(due - now).await?;
                continue;
            }
            let waker = self.waiting.borrow_mut()[place].take();
            waker.into_iter().for_each(Waker::wake);
            (place, round) = if place + 1 < places { (place + 1, round) } else { (0, round + 1) };
        }
    }
}

/// A timer with the resolution of the kernel's clock.
struct Alarm {
    timer: TimerFd,
    file: monoio::fs::File,
    /// The number of expirations, as the kernel writes it: timerfd_create(2).
    count: Vec<u8>,
}

impl Alarm {
    fn new() -> io::Result<Self> {
        // Non-blocking, so that the ring waits by poll and needs no kernel thread for it.
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let other: OwnedFd = timer.as_fd().try_clone_to_owned()?;
        let file = monoio::fs::File::from_std(File::from(other))?;
        Ok(Self { timer, file, count: Vec::with_capacity(8) })
    }

    async fn sleep(&mut self, duration: Duration) -> io::Result<()> {
        // Zero would disarm it.
        let time = TimeSpec::from_duration(duration.max(Duration::from_nanos(1)));
        self.timer.set(Expiration::OneShot(time), TimerSetTimeFlags::empty())?;
        let (result, count) = self.file.read_at(std::mem::take(&mut self.count), 0).await;
        self.count = count;
        result.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_even_intervals_over_connections_and_threads() {
        let start = Instant::now();
        let (rate, connections, threads) = (1000.0, 7, 3);
        let mut due: Vec<Duration> = (0..threads)
            .flat_map(|thread| {
                let share = Share { thread, threads };
                let pacer = Pacer::new(start, rate, share, connections);
                let places = share.of(connections).len();
                (0..10)
                    .flat_map(|round| (0..places).map(move |place| (place, round)))
                    .map(|(place, round)| pacer.due(place, round) - start)
                    .collect::<Vec<_>>()
            })
            .collect();
        due.sort();
        let even: Vec<_> = (0..70).map(Duration::from_millis).collect();
        assert_eq!(due, even);
    }

    #[test]
    fn what_the_end_left_unsent_is_told() {
        let start = Instant::now();
        let end = |milliseconds| start + Duration::from_millis(milliseconds);
        let window = Window { start, from: start, until: end(10) };
        let share = Share { thread: 0, threads: 1 };
        let pacer = Rc::new(Pacer::new(start, 1000.0, share, 2));
        let turns = Turns { round: 2, ..Turns::new(window, Some(pacer), 1) };
        assert_eq!(turns.missed().collect::<Vec<_>>(), [end(5), end(7), end(9)]);
        let closed = Turns::new(window, None, 1);
        assert_eq!(closed.missed().count(), 0);
    }
}
