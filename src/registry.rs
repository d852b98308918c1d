//! The current snapshot: published by the control plane, read by every worker without a lock.
//!
//! A snapshot is immutable and carries a generation. Workers keep an [`arc_swap::Cache`] and look
//! once per loop turn, so each decision is taken from exactly one generation.

use std::sync::Arc;

use arc_swap::ArcSwap;

pub mod service_entry;
pub mod snapshot;

pub use snapshot::{Answers, Snapshot, Verdict};

/// Where the current snapshot stands.
#[derive(Debug, Clone)]
pub struct Registry {
    current: Arc<ArcSwap<Snapshot>>,
}

/// One worker's view of the registry: one relaxed load per look while nothing changes.
#[derive(Debug)]
pub struct Reader {
    cache: arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
}

impl Registry {
    /// A registry whose first snapshot is `snapshot`.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(snapshot)) }
    }

    /// Makes `snapshot` the current one. Decisions already taken stand.
    pub fn publish(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
    }

    /// The current snapshot, for the control plane.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// A reader for one worker.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { cache: arc_swap::Cache::new(Arc::clone(&self.current)) }
    }
}

impl Reader {
    /// The current snapshot.
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.cache.load()
    }
}
