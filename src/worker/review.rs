//! Looks at all open connections, a bounded number a turn: because the files have changed, or
//! because an operator ends some of them.

use std::sync::Arc;

use crate::commands::{ClosedPage, ConnectionFilter};
use crate::config::OpenConnections;
use crate::metrics::CloseReason;
use crate::sys::kernel::Kernel;
use crate::worker::Worker;
use crate::worker::connection::Event;

/// Connections that one turn looks at, and so ends at most. Ending as many takes a few
/// milliseconds, in which no other connection is served.
const PER_TURN: usize = 1_000;

/// How far a worker is in its look at the connections that a new policy may forbid.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// The next slot; `None`: there is nothing to look at.
    next: Option<usize>,
}

impl Review {
    /// Other files are in use, and say this.
    pub(super) fn begin(&mut self, open_connections: OpenConnections) {
        self.next = match open_connections {
            OpenConnections::Keep => None,
            OpenConnections::Close => Some(0),
        };
    }

    /// Connections are left to be looked at.
    pub(super) fn is_pending(&self) -> bool {
        self.next.is_some()
    }
}

impl<K: Kernel> Worker<K> {
    /// Goes on with the review, if there is one.
    pub(super) fn review_some(&mut self) {
        if let Some(from) = self.cx.review.next {
            self.cx.review.next = self.visit_some(from, || Event::Review);
        }
    }

    /// Ends those of the next connections that `filter` means.
    pub(super) fn close_some(&mut self, from: usize, filter: &Arc<ConnectionFilter>) -> ClosedPage {
        let closed =
            |worker: &Self| worker.cx.metrics.counters.closed(CloseReason::ClosedByAdmin).get();
        let before = closed(self);
        let next = self.visit_some(from, || Event::CloseIf(Arc::clone(filter)));
        ClosedPage { closed: closed(self) - before, next }
    }

    /// Gives an event to the connections in the next slots, from `from` on. Returns the slot to go
    /// on from.
    fn visit_some(&mut self, from: usize, event: impl Fn() -> Event) -> Option<usize> {
        let to = from.saturating_add(PER_TURN);
        self.visit(from..to, event);
        (to < self.connections.capacity()).then_some(to)
    }
}
