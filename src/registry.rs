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
    pub fn publish(&self, snapshot: Snapshot, retired: &mut Retired) {
        retired.snapshots.push(self.current.swap(Arc::new(snapshot)));
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

/// Former snapshots that a worker or one of its connections may still use. The last owner of a
/// snapshot frees it, which takes 0.1 s for 100 000 services. The reload thread keeps a reference
/// here, so that the last owner is never a worker.
#[derive(Debug, Default)]
pub struct Retired {
    snapshots: Vec<Arc<Snapshot>>,
}

impl Retired {
    /// Frees, on the calling thread, those that have no other owner. None can get another one.
    pub fn free_unused(&mut self) {
        self.snapshots.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

impl Reader {
    /// The current snapshot.
    #[inline]
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.cache.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(generation: u64) -> Snapshot {
        Snapshot::build(generation, Arc::default(), &[], Arc::default(), &Answers::default()).0
    }

    #[test]
    fn a_worker_that_lets_go_of_a_snapshot_does_not_free_it() {
        let (registry, mut retired) = (Registry::new(snapshot(1)), Retired::default());
        let mut reader = registry.reader();
        let first = Arc::downgrade(reader.load());
        registry.publish(snapshot(2), &mut retired);
        retired.free_unused();
        assert_eq!(reader.load().generation, 2);
        assert_eq!(first.strong_count(), 1, "the reader has let go of it");
        let connection = first.upgrade();
        retired.free_unused();
        assert_eq!(first.strong_count(), 2, "a connection looks at it");
        drop(connection);
        retired.free_unused();
        assert_eq!(first.strong_count(), 0);
        assert_eq!(reader.load().generation, 2);
    }
}
