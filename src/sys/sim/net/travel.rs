//! How bytes, FIN and RST go from one end to the other.

use super::{EndId, Event, Fin, Net, take};
use crate::sys::kernel::Errno;

impl Net {
    /// Something of `id` can travel: it sets off, if it has not.
    pub(super) fn set_off(&mut self, id: EndId) {
        let end = &self.ends[id.0];
        let has_something = !end.sending.is_empty() || end.fin == Fin::Queued;
        if !has_something || end.is_delivering || end.is_dead || end.peer.is_none() {
            return;
        }
        self.ends[id.0].is_delivering = true;
        let after = self.travel(id);
        self.schedule(after, Event::Deliver(id));
    }

    pub(super) fn deliver(&mut self, from: EndId) {
        self.ends[from.0].is_delivering = false;
        let Some(to) = self.ends[from.0].peer else { return };
        if self.ends[from.0].is_dead || self.ends[to.0].is_dead {
            return;
        }
        // Before a listener accepts a connection, bytes are queued all the same.
        let is_orphan = !self.ends[to.0].has_descriptor && self.ends[to.0].fin != Fin::No;
        if is_orphan && !self.ends[from.0].sending.is_empty() {
            // Data for a closed socket (RFC 9293 3.10.7, tcp_rcv_state_process()).
            self.ends[to.0].is_dead = true;
            let after = self.travel(from);
            return self.schedule(after, Event::Reset(from, Vec::new()));
        }
        let room =
            self.ends[to.0].link.receive_bytes.saturating_sub(self.ends[to.0].received.len());
        let most = room.min(self.ends[from.0].sending.len());
        let count = self.part(most);
        let bytes = take(&mut self.ends[from.0].sending, count);
        self.ends[to.0].received.extend(bytes);
        self.ends[from.0].unacknowledged += count;
        let ends = self.ends[from.0].sending.is_empty() && self.ends[from.0].fin == Fin::Queued;
        if ends {
            self.ends[from.0].fin = Fin::Delivered;
            self.ends[to.0].peer_fin = true;
        }
        let back = self.travel(to);
        self.schedule(back, Event::Acknowledge(from, count, ends));
        if count < room || count == 0 && ends {
            self.set_off(from);
        }
    }

    /// `id` is gone, and its peer will know, perhaps behind some of what was under way.
    pub(super) fn send_reset(&mut self, id: EndId) {
        let end = &mut self.ends[id.0];
        end.is_dead = true;
        let sending = std::mem::take(&mut end.sending);
        end.received.clear();
        let Some(peer) = end.peer else { return };
        let most = sending.len() as u64;
        let kept = if self.is_whole { most } else { self.draw.up_to(most) };
        let bytes = Vec::from(sending)[..usize::try_from(kept).unwrap_or(0)].to_vec();
        let after = self.travel(id);
        self.schedule(after, Event::Reset(peer, bytes));
    }

    /// A reset has come: tcp_reset(). What was received before it can still be read.
    pub(super) fn be_reset(&mut self, id: EndId, bytes: &[u8]) {
        if !self.is_connected(id) {
            // FIN went both ways: there is nothing left to reset.
            return;
        }
        let end = &mut self.ends[id.0];
        let room = end.link.receive_bytes.saturating_sub(end.received.len());
        end.received.extend(&bytes[..bytes.len().min(room)]);
        end.error = Some(if end.peer_fin { Errno::EPIPE } else { Errno::ECONNRESET });
        end.is_dead = true;
        end.sending.clear();
        end.unacknowledged = 0;
    }
}
