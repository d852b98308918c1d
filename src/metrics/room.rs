//! What the tables of label sets and their fold tell each other about room: no lock, no wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Time since a worker began, in units of about a second ([`since`]).
pub(super) type Since = u32;

/// A microsecond count as [`Since`]: 2^20 of them are one.
pub(super) fn since(micros: u64) -> Since {
    Since::try_from(micros >> 20).unwrap_or(Since::MAX)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    /// The fold is nearly full.
    short: AtomicBool,
    /// How many label sets the workers have given up.
    retired: AtomicU64,
    /// How many tables share the fold.
    workers: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self::for_workers(1)
    }
}

impl Room {
    pub(super) fn for_workers(workers: usize) -> Self {
        let (short, retired) = Default::default();
        Self { short, retired, workers: workers.max(1) }
    }

    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    pub(super) fn set_short(&self, is_short: bool) {
        self.short.store(is_short, Ordering::Relaxed);
    }

    /// A worker has given up a label set.
    pub(super) fn retired(&self) {
        self.retired.fetch_add(1, Ordering::Release);
    }

    pub(super) fn retired_until_now(&self) -> u64 {
        self.retired.load(Ordering::Acquire)
    }
}
