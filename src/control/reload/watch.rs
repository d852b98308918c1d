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
    /// Where an event counts; read by notify's thread.
    places: Arc<Mutex<Places>>,
    /// The directories that could not be watched, to be logged once each.
    unwatchable: BTreeSet<PathBuf>,
}

/// Where an event counts.
#[derive(Debug, Default)]
struct Places {
    /// Whatever is closed, moved, made or removed in them.
    directories: BTreeSet<PathBuf>,
    /// The files that were read, also while they are being written.
    files: BTreeSet<PathBuf>,
}

impl Watcher {
    /// A watcher of nothing yet. It calls `notify` from a thread of its own.
    pub(super) fn new(watching: Watching, notify: impl Fn() + Send + 'static) -> Self {
        let places: Arc<Mutex<Places>> = Arc::default();
        let inotify = match watching {
            Watching::PollOnly => None,
            Watching::EventsAndPoll => {
                let places = Arc::clone(&places);
                let on_event = move |event: notify::Result<Event>| {
                    if counts(&event, &lock(&places)) {
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
        Self { inotify, watched, places, unwatchable }
    }

    /// Watches `directories` and their parents, and nothing else. A directory that was replaced is
    /// found anew, because every watch is renewed. `files` are those that were read.
    pub(super) fn watch(&mut self, directories: &[PathBuf], files: &[PathBuf]) {
        let Some(inotify) = &mut self.inotify else { return };
        let absolute = |paths: &[PathBuf]| -> BTreeSet<PathBuf> {
            let absolute = |path: &PathBuf| std::path::absolute(path);
            paths.iter().map(|path| absolute(path).unwrap_or_else(|_| path.clone())).collect()
        };
        let (directories, files) = (absolute(directories), absolute(files));
        let parents = directories.iter().filter_map(|d| d.parent()).map(Path::to_owned);
        let wanted: BTreeSet<PathBuf> = parents.chain(directories.iter().cloned()).collect();
        *lock(&self.places) = Places { directories, files };

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

/// Whether an event is about what was read, and not one of our own reads.
fn counts(event: &notify::Result<Event>, places: &Places) -> bool {
    let Ok(event) = event else { return true };
    let Places { directories, files } = places;
    let is_near = |path: &PathBuf| {
        directories.contains(path) || path.parent().is_some_and(|p| directories.contains(p))
    };
    let about = |is_it: &dyn Fn(&PathBuf) -> bool| event.paths.iter().any(is_it);
    match event.kind {
        // An event without a path is the kernel's word that events were lost.
        _ if event.paths.is_empty() => true,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => about(&is_near),
        EventKind::Access(_) => false,
        // A log beside the files (our own access log, too) is written to all the time.
        EventKind::Modify(ModifyKind::Data(_)) => about(&|path| files.contains(path)),
        _ => about(&is_near),
    }
}

#[cfg(test)]
mod tests {
    use notify::event::DataChange;

    use super::*;

    #[test]
    fn a_stranger_counts_when_it_is_closed_and_not_with_every_write() {
        let places = Places {
            directories: BTreeSet::from([PathBuf::from("/etc/egret")]),
            files: BTreeSet::from([PathBuf::from("/etc/egret/egret.yaml")]),
        };
        let is_counted =
            |kind, path: &str| counts(&Ok(Event::new(kind).add_path(path.into())), &places);
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(!is_counted(written, "/etc/egret/access.log"));
        assert!(is_counted(written, "/etc/egret/egret.yaml"));
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        assert!(is_counted(closed, "/etc/egret/access.log"));
        assert!(is_counted(EventKind::Any, "/etc/egret/access.log"));
        assert!(!is_counted(closed, "/etc/passwd"));
    }
}
