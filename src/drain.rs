//! Serving, draining, stopped: the one switch that ends the process, shared by all threads.
//!
//! The control plane turns it; workers read it after they are woken, health reads it at every
//! probe. A drain stops the accepting, lets open connections finish until the deadline, then resets
//! the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use strum::{IntoStaticStr, VariantArray};

/// Where the process stands in its life; the `phase` label is its name in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
#[repr(u8)]
pub enum Phase {
    /// Not all workers listen yet.
    Starting = 0,
    /// Every worker accepts.
    Serving = 1,
    /// No new connections; the open ones have until the deadline.
    Draining = 2,
}

/// The shared switch.
#[derive(Debug, Clone)]
pub struct Drain {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    phase: AtomicU8,
    origin: Instant,
    /// Milliseconds after `origin`; written before the phase turns to `Draining`.
    deadline_ms: AtomicU64,
}

impl Default for Drain {
    fn default() -> Self {
        let phase = AtomicU8::new(Phase::Starting as u8);
        let inner = Inner { phase, origin: Instant::now(), deadline_ms: AtomicU64::new(u64::MAX) };
        Self { inner: Arc::new(inner) }
    }
}

impl Drain {
    /// Every worker listens. A drain that has already begun is not undone.
    pub fn serve(&self) {
        let _ = self.inner.phase.compare_exchange(
            Phase::Starting as u8,
            Phase::Serving as u8,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// Begins to drain; the open connections have `deadline` from now. The workers must be woken by
    /// the caller. Returns whether this call began it.
    pub fn begin(&self, deadline: Duration) -> bool {
        let now = Instant::now();
        self.begin_until(now.checked_add(deadline).unwrap_or(now))
    }

    /// As [`Self::begin`]; the open connections have until then.
    pub fn begin_until(&self, deadline: Instant) -> bool {
        let at = deadline.saturating_duration_since(self.inner.origin);
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        if self.phase() == Phase::Draining {
            return false;
        }
        self.inner.deadline_ms.store(at, Ordering::Release);
        self.inner.phase.swap(Phase::Draining as u8, Ordering::AcqRel) != Phase::Draining as u8
    }

    /// Where the process stands.
    #[must_use]
    #[inline]
    pub fn phase(&self) -> Phase {
        match self.inner.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// When the rest is reset; `None` while nothing drains.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.phase() != Phase::Draining {
            return None;
        }
        let after = Duration::from_millis(self.inner.deadline_ms.load(Ordering::Acquire));
        self.inner.origin.checked_add(after)
    }
}
