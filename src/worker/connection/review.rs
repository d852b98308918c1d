//! Open connections that a new policy forbids, or that an operator ends.

use super::{Connection, Next, Phase, Then, Upstream};
use crate::commands::ConnectionFilter;
use crate::metrics::CloseReason;
use crate::sys::kernel::Kernel;
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// Ends if the policy in use forbids where it goes. What is not decided yet, will be by that
    /// policy; what is ending has nothing more to lose.
    #[inline(never)]
    pub(super) fn review(&self, cx: &Context<K>) -> Next {
        let is_decided = match (&self.phase, &self.upstream) {
            (
                Phase::Open,
                Upstream::Resolving(_)
                | Upstream::Connecting(_)
                | Upstream::Up(_)
                | Upstream::Closing(Then::Connect(_)),
            ) => true,
            (
                Phase::Open,
                Upstream::Undecided { .. }
                | Upstream::None
                | Upstream::Closing(Then::Await | Then::Reply(_) | Then::Linger(_)),
            )
            | (
                Phase::Replying { .. }
                | Phase::Lingering { .. }
                | Phase::Resetting { .. }
                | Phase::Closing,
                _,
            ) => false,
        };
        match is_decided && self.is_forbidden(cx) {
            true => Next::End(CloseReason::PolicyChanged),
            false => Next::Rest,
        }
    }

    /// Ends if `filter` means it, and it is not ending already.
    #[inline(never)]
    pub(super) fn close_if(&self, filter: &ConnectionFilter, cx: &Context<K>) -> Next {
        let is_open = match self.phase {
            Phase::Open => true,
            Phase::Replying { .. }
            | Phase::Lingering { .. }
            | Phase::Resetting { .. }
            | Phase::Closing => false,
        };
        let is_meant = || {
            let ends = (self.source, self.original_destination);
            filter.takes(ends, self.cluster_name(cx), self.shown_name(cx))
        };
        match is_open && is_meant() {
            true => Next::End(CloseReason::ClosedByAdmin),
            false => Next::Rest,
        }
    }
}
