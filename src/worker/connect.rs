//! The upstream connection: one attempt after the other until one succeeds or none is left.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::metrics::CloseReason;
use crate::registry::snapshot::{Service, Target as ServiceTarget};
use crate::relay::Side;
use crate::sys::ring::{Errno, Ring, Sockets};
use crate::sys::socket::Socket;
use crate::worker::Worker;
use crate::worker::connection::{Account, Attempts, Phase};
use crate::worker::token::{Key, Target};

/// New upstream connections whose handshake's last segment is held back
/// ([`Socket::hold_handshake_ack`]) for two turns: in the one what the downstream has said already
/// is received, in the next it is sent.
#[derive(Debug, Default)]
pub(super) struct HeldAcks {
    keys: Vec<Key>,
    /// So many of them, from the first on, have had one turn.
    due: usize,
}

impl HeldAcks {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl<R: Ring, S: Sockets> Worker<R, S> {
    /// Connects to where `service` says.
    pub(super) fn connect_to_service(
        &mut self,
        key: Key,
        service: &Arc<Service>,
        original_destination: SocketAddr,
    ) {
        match &service.target {
            ServiceTarget::OriginalDestination { target_port } => {
                let port = target_port.unwrap_or(original_destination.port());
                let mut destination = original_destination;
                destination.set_port(port);
                self.connect_to(key, destination, None);
            }
            // Its name has not been resolved yet.
            ServiceTarget::Endpoints(endpoints) if endpoints.is_empty() => {
                self.connect_failed(key, CloseReason::NoEndpoint);
            }
            ServiceTarget::Endpoints(endpoints) => {
                let first = service.next_endpoint() % endpoints.len();
                let attempts =
                    Attempts { service: Arc::clone(service), next: first, left: endpoints.len() };
                self.connect_to_next(key, Box::new(attempts));
            }
        }
    }

    /// Connects to the next endpoint that was not tried yet.
    fn connect_to_next(&mut self, key: Key, mut attempts: Box<Attempts>) {
        let ServiceTarget::Endpoints(endpoints) = &attempts.service.target else { return };
        let address = endpoints[attempts.next];
        attempts.next = (attempts.next + 1) % endpoints.len();
        attempts.left -= 1;
        self.connect_to(key, address, Some(attempts));
    }

    /// Begins to connect to `address`.
    pub(super) fn connect_to(
        &mut self,
        key: Key,
        address: SocketAddr,
        attempts: Option<Box<Attempts>>,
    ) {
        let timeout = self.timeouts.connect_us;
        let deadline = self.now_us + timeout;
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        if !connection.connecting_since.is_some_and(|_| connection.is_connecting()) {
            connection.connecting_since = Some(self.now_us);
        }
        connection.phase = Phase::Connecting { deadline, attempts };
        connection.upstream = Some(address);
        match self.open_upstream(&address) {
            Ok(socket) => self.submit_connect(key, socket, &address),
            Err(error) => self.attempt_failed(key, error),
        }
    }

    fn open_upstream(&mut self, address: &SocketAddr) -> Result<Socket, Errno> {
        let socket = Socket::for_connecting_to(address)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        socket.hold_handshake_ack()?;
        Ok(socket)
    }

    fn submit_connect(&mut self, key: Key, socket: Socket, address: &SocketAddr) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let token = Target::Connection(key, Side::Upstream).encode();
        self.ring.connect(&socket, address, token);
        connection.connecting = true;
        if self.admission.is_own_address(connection.source.ip()) {
            // This connection may come back (a rule that does not leave Egret's own traffic alone):
            // let the kernel choose the local port now, and remember it before it can be accepted.
            // An error of the ring is met again by the turn's wait.
            let _ = self.ring.submit();
            if let Ok(local) = socket.local_address() {
                let flow = (local, *address);
                self.admission.remember_flow(flow);
                connection.flow = Some(Box::new(flow));
            }
        }
        connection.end(Side::Upstream).socket = Some(socket);
    }

    /// The upstream connection is made, or not.
    pub(super) fn on_connected(&mut self, key: Key, result: Result<(), Errno>) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        connection.connecting = false;
        if !matches!(connection.phase, Phase::Connecting { .. }) {
            return self.reap(key);
        }
        let socket = connection.ends[Side::Upstream as usize].socket.as_ref();
        let verified = result.and_then(|()| socket.map_or(Ok(()), Socket::verify_connected));
        if let Err(error) = verified {
            return self.attempt_failed(key, error);
        }
        self.held_acks.keys.push(key);
        connection.phase = Phase::Relaying;
        connection.moved_at = self.now_us;
        let began = connection.connecting_since.take().unwrap_or(connection.accepted_at);
        let took_us = self.now_us.saturating_sub(began);
        let speaks = connection.direction(Side::Upstream).operation.is_some();
        if let Account::Tcp(series) = connection.account {
            self.metrics.series.cells(series).opened.add(1);
        }
        self.settle_first_stream(key);
        self.metrics.record_connect(std::time::Duration::from_micros(took_us));
        // First, because what resumes may be blocked by now, and take this connection down again.
        if !speaks {
            self.advance(key, Side::Upstream);
        }
        self.resume(key);
    }

    /// Lets go of the handshakes' last segments that no bytes have carried by now.
    pub(super) fn release_acks(&mut self) {
        for key in self.held_acks.keys.drain(..self.held_acks.due) {
            if let Some(connection) = self.connections.get(key.slot)
                && connection.generation == key.generation
                && let Some(socket) = &connection.ends[Side::Upstream as usize].socket
            {
                socket.acknowledge_at_once();
            }
        }
        self.held_acks.due = self.held_acks.keys.len();
    }

    /// One attempt has failed: the next endpoint, or the end.
    pub(super) fn attempt_failed(&mut self, key: Key, error: Errno) {
        let Some(connection) = self.connections.get_mut(key.slot) else { return };
        let Phase::Connecting { attempts, .. } = &mut connection.phase else { return };
        let attempts = attempts.take().filter(|attempts| attempts.left > 0);
        if let Some(flow) = connection.flow.take() {
            self.admission.forget_flow(&flow);
        }
        if let Some(socket) = connection.end(Side::Upstream).socket.take() {
            self.ring.close(socket);
        }
        match attempts {
            Some(attempts) => self.connect_to_next(key, attempts),
            None => self.connect_failed(key, reason_of(error)),
        }
    }
}

/// What a failed connect(2) says about the way to the destination.
fn reason_of(error: Errno) -> CloseReason {
    match error {
        Errno::ECONNREFUSED | Errno::ECONNRESET => CloseReason::ConnectRefused,
        // ECANCELED: the connect was cancelled because its time was up.
        Errno::ETIMEDOUT | Errno::ECANCELED => CloseReason::ConnectTimeout,
        Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN => {
            CloseReason::ConnectUnreachable
        }
        Errno::EADDRNOTAVAIL => CloseReason::NoLocalPort,
        Errno::EMFILE | Errno::ENFILE => CloseReason::NoDescriptor,
        _ => CloseReason::ConnectFailed,
    }
}
