//! The watchdog: a worker that hangs ends the process.
//!
//! A worker that is stuck in a loop, or in a system call, blackholes its share of the connections
//! without a word. Every two seconds each worker is asked for a sign of life by its command
//! channel, which it reads between two turns; an idle one wakes for it. A supervisor restarts the
//! process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::commands::{Command, CommandSender};

/// How often each worker is asked.
const PERIOD: Duration = Duration::from_secs(2);

/// A turn takes microseconds, and on an overloaded machine some of its milliseconds.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// So many questions have to be unanswered as well: after the process was stopped, or the machine
/// was, the clock alone says nothing.
const QUESTIONS_MIN: u64 = 5;

/// One worker, as the watchdog sees it.
#[derive(Debug)]
struct Watched {
    commands: CommandSender,
    /// The last question.
    asked: u64,
    /// The last question that was answered.
    answered: Arc<AtomicU64>,
    /// When the first question was asked that is unanswered.
    since: Instant,
}

/// Watches the workers, in the order of their ids, on a thread of its own, until they have ended.
///
/// # Errors
/// No thread can be had.
pub(super) fn start(workers: Vec<CommandSender>) -> Result<()> {
    let mut workers: Vec<_> = workers.into_iter().map(Watched::new).collect();
    let watch = move || {
        while ask_all(&mut workers, Instant::now()) {
            std::thread::sleep(PERIOD);
            if let Some((id, silent)) = hanging(&workers, Instant::now()) {
                tracing::error!(worker = id, ?silent, "the worker hangs, ending the process");
                std::process::abort();
            }
        }
    };
    let thread = std::thread::Builder::new().name("egret-watchdog".into()).spawn(watch);
    thread.map(drop).context("starting the watchdog's thread")
}

/// Asks each of them; whether one still serves.
fn ask_all(workers: &mut [Watched], now: Instant) -> bool {
    workers.iter_mut().map(|worker| usize::from(worker.ask(now))).sum::<usize>() > 0
}

/// The first worker that hangs, and for how long.
fn hanging(workers: &[Watched], now: Instant) -> Option<(usize, Duration)> {
    workers.iter().enumerate().find_map(|(id, worker)| Some((id, worker.hangs(now)?)))
}

impl Watched {
    fn new(commands: CommandSender) -> Self {
        Self { commands, asked: 0, answered: Arc::default(), since: Instant::now() }
    }

    /// Asks for a sign of life. Whether the worker still serves.
    fn ask(&mut self, now: Instant) -> bool {
        if self.answered.load(Ordering::Relaxed) == self.asked {
            self.since = now;
        }
        self.asked += 1;
        let answer = Arc::clone(&self.answered);
        let serves = self.commands.send(Command::SignOfLife { question: self.asked, answer });
        if !serves {
            // It has ended; nothing is to be expected of it.
            self.answered.store(self.asked, Ordering::Relaxed);
        }
        serves
    }

    /// For how long it has not answered, if that is too long.
    fn hangs(&self, now: Instant) -> Option<Duration> {
        let unanswered = self.asked - self.answered.load(Ordering::Relaxed);
        let silent = now.saturating_duration_since(self.since);
        (unanswered >= QUESTIONS_MIN && silent >= SILENCE_MAX).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;
    use crate::sys::waker::Waker;

    fn watched() -> (Watched, Receiver<Command>) {
        let (commands, inbox) = CommandSender::new(Waker::new().unwrap());
        (Watched::new(commands), inbox)
    }

    fn answer_all(inbox: &Receiver<Command>) {
        for command in inbox.try_iter() {
            let Command::SignOfLife { question, answer } = command else { continue };
            answer.store(question, Ordering::Relaxed);
        }
    }

    /// Asks `times` times, every two seconds from `start` on; whether the worker hangs then.
    fn hangs_after(worker: &mut Watched, start: Instant, times: u32) -> bool {
        let at = |n| start + PERIOD * n;
        assert!((0..times).all(|n| worker.ask(at(n))));
        worker.hangs(at(times)).is_some()
    }

    #[test]
    fn a_worker_that_has_not_answered_for_ten_seconds_hangs() {
        let (mut worker, inbox) = watched();
        let start = Instant::now();
        assert!(!hangs_after(&mut worker, start, 4));
        answer_all(&inbox);
        assert!(!hangs_after(&mut worker, start + PERIOD * 4, 4));
        assert!(hangs_after(&mut worker, start + PERIOD * 8, 1));
        answer_all(&inbox);
        assert!(!hangs_after(&mut worker, start + PERIOD * 9, 1));
    }

    #[test]
    fn a_clock_that_leaps_is_no_silence() {
        let (mut worker, _inbox) = watched();
        let start = Instant::now();
        assert!(worker.ask(start));
        assert_eq!(worker.hangs(start + Duration::from_secs(3600)), None);
    }

    #[test]
    fn a_worker_that_has_ended_is_not_waited_for() {
        let (mut worker, inbox) = watched();
        drop(inbox);
        assert!(!worker.ask(Instant::now()));
        assert_eq!(worker.hangs(Instant::now() + Duration::from_secs(3600)), None);
    }

    #[test]
    fn each_worker_is_asked_as_long_as_one_serves() {
        let ((ended, inbox), (first, _first), (second, seconds)) =
            (watched(), watched(), watched());
        drop(inbox);
        let mut workers = [first, ended, second];
        assert!(ask_all(&mut workers, Instant::now()));
        assert_eq!(seconds.try_iter().count(), 1);
        assert!(!ask_all(&mut workers[1..2], Instant::now()));
    }
}
