//! What is done to an end: the calls on a socket, and what a wait for it would say.

use std::net::SocketAddr;

use super::{EndId, Fin, Net, Owner, take};
use crate::sys::kernel::Errno;

impl Net {
    /// Queues what there is room for (send(2)).
    ///
    /// # Errors
    /// EAGAIN: no room. The socket's error once, then EPIPE.
    pub fn write(&mut self, id: EndId, bytes: &[u8]) -> Result<usize, Errno> {
        let end = &mut self.ends[id.0];
        if let Some(error) = end.error.take() {
            return Err(error);
        }
        if end.is_dead || end.fin != Fin::No {
            return Err(Errno::EPIPE);
        }
        let room = end.room();
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = bytes.len().min(room);
        end.sending.extend(&bytes[..taken]);
        self.set_off(id);
        Ok(taken)
    }

    /// Takes at most `most` bytes (recv(2)); none: the peer has ended.
    ///
    /// # Errors
    /// EAGAIN: nothing has come. The socket's error once: what came before it is read first.
    pub fn read(&mut self, id: EndId, most: usize) -> Result<Vec<u8>, Errno> {
        let end = &mut self.ends[id.0];
        if !end.received.is_empty() {
            let taken = most.min(end.received.len());
            let bytes = take(&mut end.received, taken);
            if let Some(peer) = end.peer {
                self.set_off(peer);
            }
            return Ok(bytes);
        }
        if end.peer_fin {
            // An error behind the FIN is for who writes (SOCK_DONE, tcp_recvmsg()).
            return Ok(Vec::new());
        }
        match end.error.take() {
            Some(error) => Err(error),
            None if end.is_dead => Ok(Vec::new()),
            None => Err(Errno::EAGAIN),
        }
    }

    /// Queues FIN (shutdown(2)).
    ///
    /// # Errors
    /// ENOTCONN: the connection is gone.
    pub fn finish(&mut self, id: EndId) -> Result<(), Errno> {
        if !self.is_connected(id) {
            return Err(Errno::ENOTCONN);
        }
        let end = &mut self.ends[id.0];
        if end.fin == Fin::No {
            end.fin = Fin::Queued;
            self.set_off(id);
        }
        Ok(())
    }

    /// A close of the outside that sends RST.
    pub fn reset(&mut self, id: EndId) {
        self.ends[id.0].resets_on_close = true;
        self.close(id);
    }

    /// close(2): FIN behind what is queued; RST if asked for, or if bytes were not read (RFC 2525
    /// 2.17, tcp_close()).
    pub fn close(&mut self, id: EndId) {
        let end = &mut self.ends[id.0];
        assert!(end.has_descriptor, "{id:?} is closed twice");
        end.has_descriptor = false;
        self.descriptors -= usize::from(end.owner == Owner::Worker);
        self.ports -= u16::from(std::mem::take(&mut end.has_port));
        self.connects.remove(&id);
        let end = &mut self.ends[id.0];
        if !end.is_connected || end.is_dead {
            end.is_dead = true;
            return;
        }
        if end.resets_on_close || !end.received.is_empty() {
            return self.send_reset(id);
        }
        if end.fin == Fin::No {
            end.fin = Fin::Queued;
            self.set_off(id);
        }
    }

    /// Bytes that can be read now, or an end of them, or an error.
    #[must_use]
    pub fn is_readable(&self, id: EndId) -> bool {
        let end = &self.ends[id.0];
        !end.received.is_empty() || end.peer_fin || end.is_dead || end.error.is_some()
    }

    /// POLLOUT: a third of the queue is free (sk_stream_is_writeable()), or nothing more will be
    /// sent.
    pub(in crate::sys::sim) fn is_writable(&self, id: EndId) -> bool {
        let end = &self.ends[id.0];
        end.is_dead
            || end.error.is_some()
            || end.fin != Fin::No
            || end.room() * 3 >= end.link.send_bytes
    }

    /// POLLERR.
    pub(in crate::sys::sim) fn has_error(&self, id: EndId) -> bool {
        self.ends[id.0].error.is_some()
    }

    /// POLLHUP or POLLRDHUP, which end every wait in a ring.
    pub(in crate::sys::sim) fn has_hung_up(&self, id: EndId) -> bool {
        self.ends[id.0].peer_fin || self.ends[id.0].is_dead
    }

    pub(in crate::sys::sim) fn is_connected(&self, id: EndId) -> bool {
        let end = &self.ends[id.0];
        let is_over = end.peer_fin && end.fin == Fin::Acknowledged;
        end.is_connected && !end.is_dead && !is_over
    }

    pub(in crate::sys::sim) fn pending_error(&mut self, id: EndId) -> Option<Errno> {
        self.ends[id.0].error.take()
    }

    pub(in crate::sys::sim) fn has_received(&self, id: EndId) -> bool {
        !self.ends[id.0].received.is_empty()
    }

    pub(in crate::sys::sim) fn local_address(&self, id: EndId) -> SocketAddr {
        self.ends[id.0].local
    }

    pub(in crate::sys::sim) fn peer_address(&self, id: EndId) -> Result<SocketAddr, Errno> {
        if self.is_connected(id) { Ok(self.ends[id.0].remote) } else { Err(Errno::ENOTCONN) }
    }

    pub(in crate::sys::sim) fn meant(&self, id: EndId) -> Option<SocketAddr> {
        self.ends[id.0].meant
    }

    /// SIOCOUTQ: FIN counts as one byte until it is acknowledged.
    pub(in crate::sys::sim) fn unacknowledged(&self, id: EndId) -> usize {
        let end = &self.ends[id.0];
        let fin = matches!(end.fin, Fin::Queued | Fin::Delivered);
        if end.is_dead { 0 } else { end.sending.len() + end.unacknowledged + usize::from(fin) }
    }

    pub(in crate::sys::sim) fn reset_on_close(&mut self, id: EndId) {
        self.ends[id.0].resets_on_close = true;
    }
}
