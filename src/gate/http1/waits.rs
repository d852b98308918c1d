//! What a connection of HTTP/1 waits for: the rest of a head, the end of a response, or nothing.

use super::{Follows, Http1, Micros, Mode, Unasked};

impl Http1 {
    /// Only the first `bytes` of a head have come, if any.
    pub(super) fn head_is_short_of(&mut self, bytes: &[u8], now: Micros) {
        if self.requests.is_at_head() && !bytes.is_empty() {
            self.head_since.get_or_insert(now);
        }
    }

    /// See [`super::super::Gate::waits`]: for the end of a response.
    pub(in crate::gate) fn waits(&self) -> bool {
        self.mode == Mode::Gated && !self.responses.is_idle()
    }

    /// See [`super::super::Gate::head_since`].
    pub(in crate::gate) fn head_since(&self) -> Option<Micros> {
        self.head_since
    }

    /// See [`super::super::Gate::owes_response`].
    pub(in crate::gate) fn owes_response(&self) -> bool {
        self.follows != Follows::OtherProtocol && !self.responses.is_idle()
    }

    /// See [`super::super::Gate::is_at_rest`].
    pub(in crate::gate) fn is_at_rest(&self) -> bool {
        self.follows == Follows::Responses
            && self.responses.is_idle()
            && self.requests.is_at_head()
            && self.pending.is_none()
            && self.kept.iter().all(Vec::is_empty)
    }

    /// See [`super::super::Gate::is_between_exchanges`].
    pub(in crate::gate) fn is_between_exchanges(&self) -> bool {
        let is_at_head = self.pending.is_some() || self.requests.is_at_head();
        // Behind a response that the end delimits, what Egret says would be more of its body. And
        // of a body that was sent something may have been answered.
        let is_framed = self.follows == Follows::Responses;
        let may_go_on = self.unasked == Unasked::No || !self.last_has_body;
        let is_between = self.responses.is_idle() && is_at_head;
        self.mode == Mode::Gated && is_framed && may_go_on && is_between
    }

    /// See [`super::super::Gate::is_unframed`].
    pub(in crate::gate) fn is_unframed(&self) -> bool {
        self.follows == Follows::Unframed
    }
}
