//! What reaches a worker from outside its ring: the drain, and the control plane's questions.

use std::time::Duration;

use crate::drain::Phase as ProcessPhase;
use crate::mailbox::{CONNECTIONS_PER_ANSWER, ConnectionInfo, ConnectionPage, Request};
use crate::relay::Side;
use crate::sys::ring::{Errno, Operation, Ring, Sockets};
use crate::worker::accept::{ACCEPT_PAUSE_US, AcceptState, Accepting};
use crate::worker::connection::{Account, Connection, Guide, Micros};
use crate::worker::token::Target;
use crate::worker::{MICROS_PER_SECOND, Worker};

/// How long a draining worker goes on accepting handshakes that had begun before. New ones are not
/// begun any more, so this needs to cover one round trip to the workload, not more.
const ACCEPT_GRACE_US: u64 = MICROS_PER_SECOND / 5;

/// How far a worker's drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainStage {
    /// It has not begun.
    Serving,
    /// Handshakes under way are still accepted, until this time.
    Grace(Micros),
    /// The listeners are closed as soon as they are empty.
    Closing,
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// The control plane has asked something.
    pub(super) fn on_mail(&mut self) {
        self.waker.clear();
        while let Ok(request) = self.inbox.try_recv() {
            match request {
                Request::Connections { from, reply } => {
                    // The asker may have gone away.
                    let _ = reply.send(self.page_of_connections(from));
                }
                // The turn that this ends looks at the switch.
                Request::Drain => {}
                Request::Panic => panic!("asked to panic by the debug endpoint"),
            }
        }
        self.ring.poll_waker(&self.waker, Target::Mailbox.encode());
    }

    fn page_of_connections(&self, from: usize) -> ConnectionPage {
        let slots = from..self.connections.capacity();
        let mut connections = Vec::new();
        for slot in slots {
            let Some(connection) = self.connections.get(slot) else { continue };
            if connections.len() == CONNECTIONS_PER_ANSWER {
                return ConnectionPage { connections, next: Some(slot) };
            }
            connections.push(self.describe(connection));
        }
        ConnectionPage { connections, next: None }
    }

    fn describe(&self, connection: &Connection) -> ConnectionInfo {
        ConnectionInfo {
            worker: self.id,
            downstream: connection.source,
            original_destination: connection.original_destination,
            cluster: self.cluster_name(connection).to_owned(),
            phase: connection.phase.name(),
            age: Duration::from_micros(self.now_us.saturating_sub(connection.accepted_at)),
            received_bytes: connection.directions[Side::Downstream as usize].bytes,
            sent_bytes: connection.directions[Side::Upstream as usize].bytes,
        }
    }

    fn cluster_name<'a>(&'a self, connection: &'a Connection) -> &'a str {
        match (connection.account, &connection.guide) {
            (Account::Tcp(series), _) => self.metrics.series.cluster_name(series),
            (Account::Requests, Guide::Http1(http)) => match &http.route {
                Some(route) => &route.cluster.value.service_name,
                None => "",
            },
            _ => "",
        }
    }

    /// Begins to drain: no handshake begins any more, those under way are still accepted.
    fn begin_drain(&mut self) {
        self.drain_stage = DrainStage::Grace(self.now_us + ACCEPT_GRACE_US);
        for listener in self.listeners.iter().filter_map(|accepting| accepting.listener.as_ref()) {
            if let Err(error) = listener.refuse_new_handshakes() {
                tracing::warn!(%error, "new handshakes cannot be refused, some may be reset");
                break;
            }
        }
    }

    /// Goes on with the drain: closes the listeners after their grace.
    pub(super) fn keep_drain(&mut self) {
        match self.drain_stage {
            DrainStage::Serving => self.begin_drain(),
            DrainStage::Grace(end) if end <= self.now_us => {
                self.drain_stage = DrainStage::Closing;
                for index in 0..self.listeners.len() {
                    self.close_listener(index);
                }
            }
            DrainStage::Grace(_) | DrainStage::Closing => {}
        }
    }

    /// Closes a listener, or cancels its accept, whose completion closes it.
    fn close_listener(&mut self, index: usize) {
        match self.listeners[index].state {
            AcceptState::Armed => {
                self.listeners[index].state = AcceptState::Closing;
                self.ring.cancel(Operation::Accept, Target::Listener(index).encode());
            }
            AcceptState::Paused(_) => self.empty_and_close(index),
            AcceptState::Closing | AcceptState::Closed => {}
        }
    }

    /// Takes what is still queued, then closes: closing one of several listeners of a port resets
    /// the connections that are queued on it.
    pub(super) fn empty_and_close(&mut self, index: usize) {
        let Some(listener) = self.listeners[index].listener.take() else { return };
        loop {
            match listener.accept_now() {
                Ok(socket) => self.admit(socket),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                // A descriptor comes free when a connection ends.
                Err(Errno::EMFILE | Errno::ENFILE) if !self.connections.is_empty() => {
                    let state = AcceptState::Paused(self.now_us + ACCEPT_PAUSE_US);
                    self.listeners[index] = Accepting { listener: Some(listener), state };
                    return;
                }
                Err(_) => break,
            }
        }
        self.listeners[index].state = AcceptState::Closed;
    }

    /// Whether a drain has begun and nothing is left.
    pub(super) fn is_drained(&self) -> bool {
        self.drain.phase() == ProcessPhase::Draining
            && self.listeners.iter().all(|accepting| accepting.state == AcceptState::Closed)
            && self.connections.is_empty()
    }
}
