//! The access log: one line for each connection that has ended and for each request.
//!
//! A worker that has something to tell asks [`AccessLog::is_on`], fills a [`Record`] and hands it
//! over with [`AccessLog::log`]. Between the workers and the thread `egret-access-log`, which
//! formats and writes, stands a bounded queue: a worker never waits, so when the writer cannot keep
//! up (a full disk is slow, nobody reads the pipe) records are dropped, and the worker counts them.
//! A source that fills the queue loses its own lines first.
//!
//! * [`record`]: what a line says.
//! * `waiting`: a share of the queue for each source.
//! * `text`, `json`: how it says it; they touch nothing.
//! * [`writer`]: the thread, from the queue to the sink, and the end of both.
//! * `sink`: standard output or a file, what keeps them from being written, and the retries.
//!
//! The control plane changes format and file while all of this runs ([`AccessLog::configure`]), and
//! has the file opened again when it was renamed ([`AccessLog::reopen`]).

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{self, AccessLogFormat};

mod json;
pub mod record;
mod sink;
mod text;
mod waiting;
pub mod writer;

pub use record::{Decider, NameOrigin, Outcome, Protocol, Record, Request};
use waiting::Waiting;
pub use writer::Writer;

/// Records that may wait. The writer rests [`writer::REST`] between two batches: so many come
/// within that time at 800 000 a second, several times what a node's workers can produce. Each slot
/// takes 16 bytes, and each waiting record 3 KiB at most: 24 MiB if nobody reads the pipe.
pub const QUEUE_RECORDS_MAX: usize = 8192;

/// The workers' and the control plane's end.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// The writer's end, before [`Writer::start`] has put a thread behind it.
#[derive(Debug)]
pub struct Queue {
    messages: Receiver<Message>,
    log: AccessLog,
}

#[cfg(feature = "internals")]
impl Queue {
    /// Takes the records that wait, in the place of a writer; how many they were.
    #[must_use]
    pub fn take(&self) -> usize {
        let records = self.messages.try_iter().flatten();
        records.inspect(|record| self.log.shared.waiting.leave(record.source.ip())).count()
    }
}

/// Why a record is dropped. The caller counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// The queue was full, or the writer has ended.
    #[error("the access log's queue is full")]
    Full,
    /// The queue fills, and the record's source has its share of it.
    #[error("the source has its share of the access log's queue")]
    Share,
}

/// A record; `None`: look at what the control plane wants.
type Message = Option<Box<Record>>;

/// What the control plane wants of the writer.
#[derive(Debug)]
struct Shared {
    on: AtomicBool,
    settings: Mutex<config::AccessLog>,
    /// Counts the changes of `settings`.
    changes: AtomicU64,
    /// Counts the wishes that the file be opened again.
    reopens: AtomicU64,
    /// When the writer has to be done; empty while the process serves.
    end_by: OnceLock<Instant>,
    waiting: Waiting,
}

/// An access log as `settings` want it. It writes nothing before a [`Writer`] has the queue.
#[must_use]
pub fn open(settings: &config::AccessLog) -> (AccessLog, Queue) {
    with_capacity(settings, QUEUE_RECORDS_MAX)
}

fn with_capacity(settings: &config::AccessLog, records_max: usize) -> (AccessLog, Queue) {
    let (queue, messages) = sync_channel(records_max);
    let shared = Shared {
        on: AtomicBool::new(is_on(settings)),
        settings: Mutex::new(settings.clone()),
        changes: AtomicU64::new(0),
        reopens: AtomicU64::new(0),
        end_by: OnceLock::new(),
        waiting: Waiting::new(records_max),
    };
    let log = AccessLog { queue, shared: Arc::new(shared) };
    (log.clone(), Queue { messages, log })
}

impl AccessLog {
    /// Whether records are wanted: one relaxed load.
    #[must_use]
    #[inline]
    pub fn is_on(&self) -> bool {
        self.shared.on.load(Ordering::Relaxed)
    }

    /// Hands a record to the writer. Never waits.
    ///
    /// # Errors
    /// When it had to be dropped.
    pub fn log(&self, record: Box<Record>) -> Result<(), Dropped> {
        let (waiting, source) = (&self.shared.waiting, record.source.ip());
        if !waiting.enter(source) {
            return Err(Dropped::Share);
        }
        self.queue.try_send(Some(record)).map_err(|_| {
            waiting.leave(source);
            Dropped::Full
        })
    }

    /// Takes over new settings, for the records that come from now on. The file is opened (again)
    /// by the writer, so this neither waits nor fails.
    pub fn configure(&self, settings: &config::AccessLog) {
        self.shared.settings().clone_from(settings);
        self.shared.on.store(is_on(settings), Ordering::Relaxed);
        self.shared.changes.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// Has the file opened again: after a rotation the old one has another name.
    pub fn reopen(&self) {
        self.shared.reopens.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// Has the writer look at what is wanted.
    fn wake(&self) {
        // A full queue means that the writer is awake, and looks before the next batch.
        let _ = self.queue.try_send(None);
    }
}

impl Shared {
    fn settings(&self) -> MutexGuard<'_, config::AccessLog> {
        // Each value is replaced as a whole: what a panicked thread leaves is good.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_on(settings: &config::AccessLog) -> bool {
    settings.format != AccessLogFormat::Off
}

/// The last second that RFC 3339 can write: the end of the year 9999.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// `%START_TIME%`: RFC 3339 in UTC, with milliseconds. A clock that is off by more than the format
/// can say shows its nearest time.
fn timestamp(time: SystemTime) -> impl Display {
    let range = SystemTime::UNIX_EPOCH..=SystemTime::UNIX_EPOCH + LAST_SECOND;
    humantime::format_rfc3339_millis(time.clamp(*range.start(), *range.end()))
}

/// Whether a character could end a line or steer a terminal: control characters, Unicode's own line
/// ends, and what turns the direction of writing. All of them are below U+10000.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests;
