//! Hot reload: the files change, and if they are good a new generation is published.
//!
//! One helper thread waits for file events, for the poll and for requests (SIGHUP, the admin
//! server). It loads everything anew, so parsing a large registry delays no scrape, and it gives
//! way to the workers. What is good becomes the next generation in one pointer swap; a bad
//! configuration changes nothing, a bad document nothing but itself ([`crate::load`]). Both are
//! logged once and counted. Connections that are open keep the verdict they have.
//!
//! The same thread publishes a generation when the addresses of a name have changed ([`super::dns`]
//! tells it), from the files that are in use: only one thread publishes, so none is lost.
//!
//! Knows nothing of YAML or of globs: [`Loader`] does. What to watch comes from it as well.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dns::Wanted;
use super::{LogControl, lock};
use crate::access_log::AccessLog;
use crate::config::Config;
use crate::diagnostics::{Diagnostic, Severity};
use crate::load::Loaded;
use crate::metrics::{ControlCounters, ReloadResult};
use crate::registry::{Answers, Registry, Retired};

mod basis;
mod handle;
mod signature;
mod source;
mod status;
#[cfg(test)]
mod tests;
mod watch;

use basis::Basis;
pub(super) use handle::Handle;
use handle::Message;
use signature::Signature;
pub use source::{Loader, Outcome, Source};
pub(super) use status::Status;
use status::note_documents;
use watch::Watcher;
pub use watch::Watching;

/// Files are read once nothing has happened to them for so long.
const QUIET: Duration = Duration::from_millis(75);
/// Files that never rest are read after so long.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// Reads in a row that may find the files changed meanwhile. On a busy node a read lasts longer
/// than a quick writer's pause, so a few are met by chance; so many say that somebody never stops.
const READS_MAX: usize = 20;
/// How often the files are looked at, beside the events; see [`Source::poll`].
pub const POLL: Duration = Duration::from_secs(2);

/// What a reload acts on.
pub(super) struct Target {
    pub(super) registry: Registry,
    pub(super) counters: Arc<ControlCounters>,
    pub(super) log: Arc<LogControl>,
    /// Told which names the files in use need the addresses of.
    pub(super) wanted: tokio::sync::watch::Sender<Wanted>,
    pub(super) access_log: AccessLog,
}

/// Why the files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Somebody asked, or the files have changed.
    Change,
    /// They may have changed right after they were read last. Says and counts nothing new.
    Recheck,
}

/// The thread's state.
struct Reloader {
    load: Loader,
    target: Target,
    status: Arc<Mutex<Status>>,
    watcher: Watcher,
    poll: Duration,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    basis: Basis,
    retired: Retired,
    /// Of the refusal of all files that was logged last; `None` once there is a generation of them.
    refusal: Option<u64>,
    /// How files and directories looked when they were read last.
    signature: Signature,
    /// Whether the next poll reads the files even if they look the same.
    recheck: bool,
}

impl Reloader {
    fn new(
        source: Source,
        target: Target,
        status: Arc<Mutex<Status>>,
        inbox: Sender<Message>,
    ) -> Self {
        let notify = move || {
            // The thread that reads this ends together with the watcher.
            let _ = inbox.send(Message::FilesChanged);
        };
        let mut watcher = Watcher::new(source.watching, notify);
        let (files, directories) = (source.first.files.clone(), source.first.directories.clone());
        watcher.watch(&directories, &files);
        let signature = Signature::take(&files, &directories);
        target.counters.config_generation.set(target.registry.current().generation);
        note_documents(&target.counters, &source.first.refused);
        let basis = Basis::new(source.first);
        target.wanted.send_replace(basis.wanted());
        Self {
            load: source.load,
            target,
            status,
            watcher,
            poll: source.poll,
            files,
            directories,
            basis,
            retired: Retired::default(),
            refusal: None,
            // The files may have changed between the load of the first generation and now.
            recheck: signature.is_fresh(),
            signature,
        }
    }

    fn run(&mut self, messages: &Receiver<Message>) {
        let mut next_poll = Instant::now() + self.poll;
        loop {
            self.retired.free_unused();
            let wait = next_poll.saturating_duration_since(Instant::now());
            match messages.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {
                    self.look();
                    next_poll = Instant::now() + self.poll;
                }
                Ok(Message::Asked(reply)) => {
                    let _ = reply.send(self.reload(Cause::Change));
                }
                Ok(Message::HangUp(flag)) => {
                    flag.store(false, Ordering::Release);
                    self.reload(Cause::Change);
                }
                Ok(Message::FilesChanged) => {
                    let Some(replies) = self.settle(messages) else { return };
                    let outcome = self.reload(Cause::Change);
                    for reply in replies {
                        let _ = reply.send(outcome.clone());
                    }
                }
                Ok(Message::Resolved(answers, _done)) => self.take_answers(&answers),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Waits until no file event has come for a while. Returns those who asked meanwhile; `None` to
    /// stop.
    fn settle(&mut self, messages: &Receiver<Message>) -> Option<Vec<oneshot::Sender<Outcome>>> {
        let mut replies = Vec::new();
        let give_up = Instant::now() + QUIET_MAX;
        loop {
            let wait = QUIET.min(give_up.saturating_duration_since(Instant::now()));
            match messages.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => return Some(replies),
                Ok(Message::FilesChanged) if Instant::now() >= give_up => return Some(replies),
                Ok(Message::FilesChanged) => {}
                Ok(Message::Asked(reply)) => replies.push(reply),
                // What follows is a reload.
                Ok(Message::HangUp(flag)) => flag.store(false, Ordering::Release),
                Ok(Message::Resolved(answers, _done)) => self.take_answers(&answers),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// The poll: reads the files if they look different from how they looked when they were read.
    fn look(&mut self) {
        if Signature::take(&self.files, &self.directories) != self.signature {
            self.reload(Cause::Change);
        } else if self.recheck {
            self.reload(Cause::Recheck);
        }
    }

    fn reload(&mut self, cause: Cause) -> Outcome {
        // Watch before the read: what changes later is seen as an event, or at the poll.
        self.watcher.watch(&self.directories, &self.files);
        match self.read() {
            Ok(loaded) if self.basis.is_emptied_by(&loaded) => {
                let lost = self.about_all_files(
                    "no pattern of `registry` matches a file any more",
                    "restore the files; a file with `kind: List` and `items: []` means no entries",
                );
                self.refuse(vec![lost], cause)
            }
            Ok(loaded) => {
                self.follow(&loaded.files, &loaded.directories);
                self.accept(loaded, cause)
            }
            Err(diagnostics) => {
                self.follow_diagnostics(&diagnostics);
                self.refuse(diagnostics, cause)
            }
        }
    }

    /// Loads the files, all of them in one state: when they change under the read it is repeated,
    /// or a file of one generation could be combined with a file of another.
    fn read(&mut self) -> Result<Loaded, Vec<Diagnostic>> {
        for _ in 0..READS_MAX {
            self.signature = Signature::take(&self.files, &self.directories);
            let loaded = (self.load)(self.basis.loaded());
            if Signature::take(&self.files, &self.directories) == self.signature {
                self.recheck = self.signature.is_fresh();
                return loaded;
            }
        }
        self.recheck = true;
        Err(vec![self.about_all_files(
            "configuration or registry changed each time while it was read",
            "nothing, if somebody is still writing: it is read again",
        )])
    }

    /// An error that no file alone has; it is said of the configuration file.
    fn about_all_files(&self, message: &str, fix: &str) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: self.files.first().cloned().unwrap_or_default(),
            line: None,
            message: message.into(),
            fix: fix.into(),
        }
    }

    fn accept(&mut self, loaded: Loaded, cause: Cause) -> Outcome {
        let counters = Arc::clone(&self.target.counters);
        let was_refused = self.refusal.take().is_some();
        lock(&self.status).refused.clear();
        note_documents(&counters, &loaded.refused);
        if loaded.fingerprint == self.basis.fingerprint() {
            if was_refused {
                tracing::info!("configuration is again the one in use");
            }
            let generation = self.target.registry.current().generation;
            let outcome = Outcome::of(&loaded, generation, Outcome::Unchanged { generation });
            if cause == Cause::Change {
                counters.reloads(outcome.counted()).add(1);
            }
            return outcome;
        }
        let current = self.target.registry.current();
        let (new, former) = (Arc::clone(&loaded.config), self.basis.replace(loaded));
        let generation = self.publish();
        let good = Outcome::Success { generation };
        let outcome = Outcome::of(self.basis.loaded(), generation, good);
        counters.reloads(outcome.counted()).add(1);
        self.target.wanted.send_if_modified(|wanted| {
            let new = self.basis.wanted();
            *wanted != new && {
                *wanted = new;
                true
            }
        });
        self.log(&former);
        self.apply_live(&current.config, &new);
        outcome
    }

    /// Logs what is wrong with the files in use; an error once, as long as it stays.
    fn log(&self, former: &Loaded) {
        let known: HashSet<&Diagnostic> = former.diagnostics.iter().collect();
        let status = lock(&self.status);
        let count = |severity| status.diagnostics.iter().filter(|d| d.severity == severity).count();
        let generation = self.target.registry.current().generation;
        let (warnings, refused) = (count(Severity::Warning), status.documents.len());
        tracing::info!(generation, warnings, refused, "configuration reloaded");
        for diagnostic in &status.diagnostics {
            match diagnostic.severity {
                Severity::Warning => tracing::warn!(problem = %diagnostic, "configuration problem"),
                Severity::Error if known.contains(diagnostic) => {}
                Severity::Error => tracing::error!(problem = %diagnostic, "document refused"),
            }
        }
    }

    /// Publishes the files in use with the addresses that are known for their names.
    fn publish(&mut self) -> u64 {
        let generation = self.target.registry.current().generation + 1;
        let (snapshot, diagnostics) = self.basis.build(generation);
        self.target.registry.publish(snapshot, &mut self.retired);
        self.target.counters.config_generation.set(generation);
        let mut status = lock(&self.status);
        status.diagnostics = diagnostics;
        status.documents.clone_from(&self.basis.loaded().refused);
        generation
    }

    fn take_answers(&mut self, answers: &Answers) {
        if self.basis.adopt(answers) {
            let generation = self.publish();
            tracing::debug!(generation, "published with changed addresses");
        }
    }

    /// Takes over what can change at run time, and names what cannot.
    fn apply_live(&self, old: &Config, new: &Config) {
        for field in old.restart_needed(new) {
            tracing::warn!(field, "configuration field changed; it takes effect at the next start");
        }
        if old.log.level != new.log.level {
            match self.target.log.set(&new.log.level) {
                Ok(()) => tracing::info!(level = new.log.level, "log level changed"),
                Err(error) => tracing::warn!(level = new.log.level, error, "log level refused"),
            }
        }
        if old.access_log != new.access_log {
            self.target.access_log.configure(&new.access_log);
        }
    }

    fn refuse(&mut self, diagnostics: Vec<Diagnostic>, cause: Cause) -> Outcome {
        let generation = self.target.registry.current().generation;
        let refusal = hash_of(&diagnostics);
        let is_new = self.refusal.replace(refusal) != Some(refusal);
        if is_new || cause == Cause::Change {
            self.target.counters.reloads(ReloadResult::Failure).add(1);
        }
        let errors = diagnostics.iter().filter(|p| p.severity == Severity::Error);
        if is_new {
            for diagnostic in errors.clone() {
                tracing::error!(problem = %diagnostic, generation, "configuration refused");
            }
        }
        let lines = errors.map(Diagnostic::to_string).collect();
        lock(&self.status).refused = diagnostics;
        Outcome::Failure { generation, problems: lines }
    }

    /// Watches what the load has read. New places may have changed since they were read, before
    /// anybody watched: they are read again at the next poll.
    fn follow(&mut self, files: &[PathBuf], directories: &[PathBuf]) {
        if self.files == files && self.directories == directories {
            return;
        }
        self.files = files.to_vec();
        self.directories = directories.to_vec();
        self.watcher.watch(&self.directories, &self.files);
        self.signature = Signature::take(&self.files, &self.directories);
        self.recheck = true;
    }

    /// A refused load does not say what it read: keeps the places of the last good one, and adds
    /// the files that the diagnostics name, for they are what the operator will mend.
    fn follow_diagnostics(&mut self, diagnostics: &[Diagnostic]) {
        let mut files = self.files.clone();
        let mut directories = self.directories.clone();
        for diagnostic in diagnostics {
            add_missing(&mut files, &diagnostic.file);
            if let Some(parent) = diagnostic.file.parent() {
                add_missing(&mut directories, parent);
            }
        }
        self.follow(&files, &directories);
    }
}

fn add_missing(paths: &mut Vec<PathBuf>, path: &Path) {
    if !path.as_os_str().is_empty() && !paths.iter().any(|known| known == path) {
        paths.push(path.to_owned());
    }
}

fn hash_of(diagnostics: &[Diagnostic]) -> u64 {
    let mut hasher = foldhash::quality::FixedState::default().build_hasher();
    for diagnostic in diagnostics {
        diagnostic.to_string().hash(&mut hasher);
    }
    hasher.finish()
}
