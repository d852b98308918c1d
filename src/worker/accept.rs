//! From an accepted socket to a verdict: original destination, admission, lookup.

use std::net::SocketAddr;

use crate::access_log::Protocol;
use crate::metrics::CloseReason;
use crate::registry::snapshot::{Decision, Standing};
use crate::registry::{Snapshot, Verdict};
use crate::sys::ring::{Errno, Ring, Sockets};
use crate::sys::socket::{Listener, Socket};
use crate::worker::connection::{Connection, Guide};
use crate::worker::stop::DrainStage;
use crate::worker::token::{Key, Target};
use crate::worker::watch::Watch;
use crate::worker::{HeldSnapshot, Worker};

/// After an accept failed for want of descriptors or memory: the pause before it is tried again. A
/// connection that closes ends the pause early.
pub(super) const ACCEPT_PAUSE_US: u64 = 100_000;

/// A listener and what its accept is doing.
#[derive(Debug)]
pub(super) struct Accepting {
    /// `None` once it is closed.
    pub(super) listener: Option<Listener>,
    pub(super) state: AcceptState,
}

/// What a listener's accept is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcceptState {
    /// In flight.
    Armed,
    /// Waits until this time, in microseconds of the worker's clock.
    Paused(u64),
    /// Being cancelled, to be closed.
    Closing,
    /// Over: no listener any more.
    Closed,
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Arms the accept of listener `index`.
    pub(super) fn arm_accept(&mut self, index: usize) {
        let accepting = &mut self.listeners[index];
        let Some(listener) = &accepting.listener else { return };
        accepting.state = AcceptState::Armed;
        self.ring.accept(listener, Target::Listener(index).encode());
    }

    /// Arms the accepts whose pause is over at `until`.
    pub(super) fn resume_accepts(&mut self, until: u64) {
        for index in 0..self.listeners.len() {
            if matches!(self.listeners[index].state, AcceptState::Paused(end) if end <= until) {
                match self.drain_stage {
                    DrainStage::Closing => self.empty_and_close(index),
                    DrainStage::Serving | DrainStage::Grace(_) => self.arm_accept(index),
                }
            }
        }
    }

    /// An accept brought a connection, or failed.
    pub(super) fn on_accepted(&mut self, index: usize, result: Result<Socket, Errno>, ended: bool) {
        let failure = match result {
            Ok(socket) => {
                self.admit(socket);
                None
            }
            Err(Errno::ECANCELED) => None,
            Err(error) => {
                self.metrics.counters.accept_error.add(1);
                tracing::debug!(%error, "accept failed");
                Some(error)
            }
        };
        if !ended {
            return;
        }
        match (self.listeners[index].state, failure) {
            (AcceptState::Closing, _) => self.empty_and_close(index),
            // These last until something is freed: trying at once would spin.
            (_, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                let until = self.now_us + ACCEPT_PAUSE_US;
                self.listeners[index].state = AcceptState::Paused(until);
            }
            // Errors of one connection, which accept(2) passes on.
            _ => self.arm_accept(index),
        }
    }

    /// Decides on an accepted socket.
    pub(super) fn admit(&mut self, socket: Socket) {
        let Ok(source) = self.sockets.peer_address(&socket) else {
            // It was reset while it was queued.
            self.metrics.counters.accept_error.add(1);
            return self.ring.close(socket);
        };
        let Some(destination) = self.destination_of(&socket, &source) else {
            self.metrics.counters.self_call.add(1);
            return self.refuse(socket, CloseReason::SelfCall);
        };
        let source = canonical(source);
        if self.admission.is_self_call(source, destination) {
            self.metrics.counters.self_call.add(1);
            tracing::debug!(downstream.addr = %source, original.dst = %destination, "self-call");
            return self.refuse(socket, CloseReason::SelfCall);
        }
        let snapshot = self.snapshot();
        if !self.admission.enter() {
            return self.refuse_for_want_of_room(socket, &snapshot, source, destination);
        }
        self.metrics.counters.accepted.add(1);
        self.metrics.counters.connections_active.add(1);
        let key = self.insert(Connection::new(socket, source, destination, self.now_us));
        if snapshot.awaits_name(destination) {
            return self.begin_recognition(key, &snapshot);
        }
        let verdict = snapshot.lookup(destination);
        let is_watched = snapshot.config.names.decide_on(destination.port());
        if is_watched && !matches!(verdict, Verdict::BlackHole) {
            if let Some(connection) = self.connections.get_mut(key.slot) {
                connection.guide = Guide::Watch(Watch::new(HeldSnapshot::clone(&snapshot)));
            }
        } else {
            let decision = Decision { verdict, standing: Standing::NotNeeded };
            self.settle(key, &snapshot, decision, None, Protocol::Tcp);
        }
        self.take_way(key, &snapshot, verdict, Protocol::Tcp);
    }

    /// Goes the way that the verdict says.
    pub(super) fn take_way(
        &mut self,
        key: Key,
        snapshot: &Snapshot,
        verdict: Verdict<'_>,
        protocol: Protocol,
    ) {
        let Some(connection) = self.connections.get(key.slot) else { return };
        let destination = connection.original_destination;
        match verdict {
            Verdict::BlackHole => self.blackhole(key, snapshot, protocol == Protocol::Tls),
            Verdict::Passthrough => self.connect_to(key, destination, None),
            Verdict::Service(service, _) => self.connect_to_service(key, service, destination),
        }
    }

    /// All slots are taken: the connection is reset, and counted for where the address leads.
    #[cold]
    fn refuse_for_want_of_room(
        &mut self,
        socket: Socket,
        snapshot: &Snapshot,
        source: SocketAddr,
        destination: SocketAddr,
    ) {
        self.metrics.counters.refused_limit.add(1);
        let reason = CloseReason::ConnectionLimit;
        let flags = reason.response_flags();
        let verdict = snapshot.lookup(destination);
        let series = self.series(snapshot, verdict, (source, destination), None, flags);
        self.metrics.series.cells(series).closed.add(1);
        self.log_refused(snapshot, verdict, (source, destination), reason);
        self.refuse(socket, reason);
    }

    /// The original destination; `None` if the connection was not redirected.
    fn destination_of(&self, socket: &Socket, source: &SocketAddr) -> Option<SocketAddr> {
        match self.sockets.original_destination(socket, source, self.recorded) {
            Ok(destination) => Some(canonical(destination)),
            Err(error) => {
                tracing::debug!(downstream.addr = %source, %error, "not redirected");
                None
            }
        }
    }

    /// Resets a connection that gets no slot.
    fn refuse(&mut self, socket: Socket, reason: CloseReason) {
        self.metrics.counters.closed(reason).add(1);
        socket.reset_on_close();
        self.ring.close(socket);
    }
}

/// An IPv4 address that came in IPv6 clothes is looked up as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}
