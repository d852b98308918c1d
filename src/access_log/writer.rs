//! The thread `egret-access-log`: takes records from the queue, formats them and has them written,
//! in batches.
//!
//! It belongs to the control plane, but is none of its servers: a disk that hangs or a pipe that
//! nobody reads holds up nothing but the log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::sink::Sink;
use super::{AccessLog, Message, Queue, Record, Shared, json, text};
use crate::config::AccessLogFormat;
use crate::metrics::ControlCounters;

/// How long the thread rests after it has emptied the queue: waking it costs a worker a
/// system call. So there are at most a hundred such calls a second, and a line is at most
/// this late.
pub const REST: Duration = Duration::from_millis(10);

/// A batch is written when it is this long, or when the queue is empty.
const BATCH_BYTES: usize = 64 * 1024;

/// At the end: how long what is queued may take to be written.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// The running thread. Dropping it has it write what is queued, within [`DRAIN_MAX`], and ends it;
/// the workers must have ended before, if nothing is to be lost.
#[derive(Debug)]
pub struct Writer {
    log: AccessLog,
    /// Is disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Writer {
    /// Starts the thread, which counts in `counters` what it has written and lost.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(queue: Queue, counters: Arc<ControlCounters>) -> io::Result<Self> {
        let log = queue.log.clone();
        let (end, ended) = sync_channel(0);
        std::thread::Builder::new().name("egret-access-log".into()).spawn(move || {
            let _end = end;
            Batches::new(queue, counters).run();
        })?;
        Ok(Self { log, ended })
    }

    /// The handle by which settings are changed.
    #[must_use]
    pub fn log(&self) -> &AccessLog {
        &self.log
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.log.shared.end_by.set(Instant::now() + DRAIN_MAX);
        self.log.wake();
        // A thread that hangs in the kernel (a dead file server) is left behind: it is not joined.
        if self.ended.recv_timeout(DRAIN_MAX + REST * 10) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the access log could not be written to its end");
        }
    }
}

/// The thread's state.
struct Batches {
    queue: Queue,
    counters: Arc<ControlCounters>,
    format: AccessLogFormat,
    sink: Sink,
    /// Of `Shared::changes` and `Shared::reopens`: what has been done.
    done: (u64, u64),
    lines: String,
}

impl Batches {
    fn new(queue: Queue, counters: Arc<ControlCounters>) -> Self {
        let done = wanted(&queue.log.shared);
        let settings = queue.log.shared.settings().clone();
        let (format, sink) = (settings.format, Sink::new(&settings));
        Self { queue, counters, format, sink, done, lines: String::new() }
    }

    fn run(&mut self) {
        while let Some(first) = self.next() {
            self.look();
            let is_empty = self.fill(first);
            self.flush();
            if is_empty && self.end_by().is_none() {
                std::thread::sleep(REST);
            }
        }
        // What the time was too short for.
        let left = self.queue.messages.try_iter().flatten().count();
        self.counters.access_log_lost.add(left as u64);
    }

    /// The first message of the next batch; `None` at the end.
    fn next(&self) -> Option<Message> {
        match self.end_by() {
            None => self.queue.messages.recv().ok(),
            Some(end_by) if Instant::now() < end_by => self.queue.messages.try_recv().ok(),
            Some(_) => None,
        }
    }

    fn end_by(&self) -> Option<Instant> {
        self.queue.log.shared.end_by.get().copied()
    }

    /// Does what the control plane wants by now.
    fn look(&mut self) {
        let shared = &self.queue.log.shared;
        let wanted = wanted(shared);
        if wanted != self.done {
            let settings = shared.settings().clone();
            self.done = wanted;
            self.format = settings.format;
            self.sink.reopen(&settings);
        }
    }

    /// Formats a batch; returns whether the queue was empty then.
    fn fill(&mut self, first: Option<Box<Record>>) -> bool {
        let mut next = Some(first);
        while let Some(message) = next {
            if let Some(record) = message {
                self.queue.log.shared.waiting.leave(record.source.ip());
                match self.format {
                    // It was switched off when this record was under way.
                    AccessLogFormat::Off => {}
                    AccessLogFormat::Json => json::write(&record, &mut self.lines),
                    AccessLogFormat::Text => text::write(&record, &mut self.lines),
                }
            }
            if self.lines.len() >= BATCH_BYTES {
                return false;
            }
            next = self.queue.messages.try_recv().ok();
        }
        true
    }

    fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let (shared, changes) = (&self.queue.log.shared, self.done.0);
        // A sink without room is waited for until the control plane points to another one. At the
        // end nothing else can come, and the time is short.
        let give_up = || match shared.end_by.get() {
            Some(end_by) => *end_by <= Instant::now(),
            None => shared.changes.load(Ordering::Acquire) != changes,
        };
        let written = self.sink.write(&self.lines, give_up);
        self.counters.access_log_lines.add(written.lines);
        self.counters.access_log_lost.add(written.lost);
        self.lines.clear();
    }
}

/// How often settings and file were asked to change.
fn wanted(shared: &Shared) -> (u64, u64) {
    (shared.changes.load(Ordering::Acquire), shared.reopens.load(Ordering::Acquire))
}
