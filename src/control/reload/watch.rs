//! File events through inotify: a hint that it is time to read the files.
//!
//! Directories are watched, never files: editors and Kubernetes put a new file in the old one's
//! place, and a watch on the old one would die with it. The parents are watched too, because a
//! directory can be replaced as a whole. An event is only a hint; the poll finds what inotify
//! cannot tell.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::control::lock;

/// Whether file events are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Watching {
    /// Events where the system has watches left, and the poll.
    #[default]
    EventsAndPoll,
    /// The poll alone.
    PollOnly,
}

/// Watches directories and calls back when something happens in them.
#[derive(Debug)]
pub(super) struct Watcher {
    /// `None`: no inotify instance was left, or none is wanted.
    inotify: Option<RecommendedWatcher>,
    /// What is watched now.
    watched: BTreeSet<PathBuf>,
    /// In which directories an event counts; read by notify's thread.
    directories: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// The directories that could not be watched, to be logged once each.
    unwatchable: BTreeSet<PathBuf>,
}

impl Watcher {
    /// A watcher of nothing yet. It calls `notify` from a thread of its own.
    pub(super) fn new(watching: Watching, notify: impl Fn() + Send + 'static) -> Self {
        let directories: Arc<Mutex<BTreeSet<PathBuf>>> = Arc::default();
        let inotify = match watching {
            Watching::PollOnly => None,
            Watching::EventsAndPoll => {
                let directories = Arc::clone(&directories);
                let on_event = move |event: notify::Result<Event>| {
                    if counts(&event, &lock(&directories)) {
                        notify();
                    }
                };
                // Nodes run out of inotify instances (128 per user by default): no reason to fail.
                notify::recommended_watcher(on_event)
                    .inspect_err(|error| {
                        tracing::warn!(%error, "no file events; files are polled");
                    })
                    .ok()
            }
        };
        let (watched, unwatchable) = (BTreeSet::new(), BTreeSet::new());
        Self { inotify, watched, directories, unwatchable }
    }

    /// Watches `directories` and their parents, and nothing else. A directory that was replaced is
    /// found anew, because every watch is renewed.
    pub(super) fn watch(&mut self, directories: &[PathBuf]) {
        let Some(inotify) = &mut self.inotify else { return };
        let directories: BTreeSet<PathBuf> = directories
            .iter()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
            .collect();
        let parents = directories.iter().filter_map(|d| d.parent()).map(Path::to_owned);
        let wanted: BTreeSet<PathBuf> = parents.chain(directories.iter().cloned()).collect();
        *lock(&self.directories) = directories;

        for path in std::mem::take(&mut self.watched) {
            // A directory that is gone has taken its watch with it.
            let _ = inotify.unwatch(&path);
        }
        for path in wanted {
            match inotify.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.unwatchable.remove(&path);
                    self.watched.insert(path);
                }
                Err(error) => {
                    if self.unwatchable.insert(path) {
                        tracing::warn!(%error, "directory not watched; it is polled");
                    }
                }
            }
        }
    }
}

/// Whether an event is about the directories, and not one of our own reads.
fn counts(event: &notify::Result<Event>, directories: &BTreeSet<PathBuf>) -> bool {
    let Ok(event) = event else { return true };
    let is_write = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        // Whoever writes a file closes it in the end. A log that is kept open beside the files (our
        // own access log, too) is written to all the time.
        EventKind::Modify(ModifyKind::Data(_)) => false,
        _ => true,
    };
    let is_near = |path: &PathBuf| {
        directories.contains(path) || path.parent().is_some_and(|p| directories.contains(p))
    };
    // An event without a path is the kernel's word that events were lost.
    is_write && (event.paths.is_empty() || event.paths.iter().any(is_near))
}

#[cfg(test)]
mod tests {
    use notify::event::DataChange;

    use super::*;

    #[test]
    fn a_file_counts_when_it_is_closed_and_not_with_every_write() {
        let directories = BTreeSet::from([PathBuf::from("/etc/egret")]);
        let event = |kind| Ok(Event::new(kind).add_path("/etc/egret/access.log".into()));
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(!counts(&event(written), &directories));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(counts(&event(closed), &directories));
        assert!(counts(&event(EventKind::Any), &directories));
        let elsewhere = Ok(Event::new(closed).add_path("/etc/passwd".into()));
        assert!(!counts(&elsewhere, &directories));
    }
}
