//! From a listener to an admitted connection: accept, original destination, admission; and how a
//! drain closes the listeners.

use std::net::SocketAddr;

use crate::gate::Micros;
use crate::metrics::{CloseReason, Shed};
use crate::sys::kernel::{Errno, Kernel, ListenSocket, Operation, StreamSocket};
use crate::worker::context::Context;
use crate::worker::shares::Share;
use crate::worker::token::Target;

/// After an accept failed for want of descriptors or memory: the pause before it is tried again. A
/// connection that closes ends the pause early.
const ACCEPT_PAUSE_US: Micros = 100_000;

/// A listener and what its accept is doing.
#[derive(Debug)]
pub(super) struct Accepting<L> {
    /// `None` once it is closed.
    listener: Option<L>,
    state: AcceptState,
    index: usize,
}

/// What a listener's accept is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcceptState {
    /// In flight.
    Armed,
    /// Waits until this time.
    Paused(Micros),
    /// Being cancelled, to be closed.
    Closing,
    /// The drain's grace is over: closed as soon as the queue is empty, at the latest looked at
    /// again at this time.
    Emptying(Micros),
    /// There is no listener any more.
    Closed,
}

/// A connection that may have a slot.
#[derive(Debug)]
pub(super) struct Admitted<S> {
    pub(super) socket: S,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) share: Share,
}

impl<L: ListenSocket> Accepting<L> {
    /// The listener with this index; it accepts nothing yet.
    pub(super) fn new(index: usize, listener: L) -> Self {
        Self { listener: Some(listener), state: AcceptState::Paused(0), index }
    }

    /// Whether it is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.state == AcceptState::Closed
    }

    /// When it must be looked at again.
    pub(super) fn due(&self) -> Option<Micros> {
        match self.state {
            AcceptState::Paused(at) | AcceptState::Emptying(at) => Some(at),
            AcceptState::Armed | AcceptState::Closing | AcceptState::Closed => None,
        }
    }

    /// Arms the accept.
    pub(super) fn arm<K>(&mut self, cx: &mut Context<K>)
    where
        K: Kernel<Listener = L, Socket = L::Socket>,
    {
        let Some(listener) = &self.listener else { return };
        self.state = AcceptState::Armed;
        cx.kernel.accept(listener, Target::Listener(self.index).encode());
    }

    /// Whether the queue is to be emptied now that it is due. If so it is not due any more: what
    /// the queue holds may be over at once, and a connection that is over resumes what is due.
    pub(super) fn begins_to_empty(&mut self) -> bool {
        let empties = matches!(self.state, AcceptState::Emptying(_));
        if empties {
            self.state = AcceptState::Closing;
        }
        empties
    }

    /// The accept has ended, for this reason if it has failed. Whether the queue is to be emptied.
    pub(super) fn ended<K>(&mut self, failure: Option<Errno>, cx: &mut Context<K>) -> bool
    where
        K: Kernel<Listener = L, Socket = L::Socket>,
    {
        match (self.state, failure) {
            (AcceptState::Closing, _) => return true,
            // These last until something is freed: trying at once would spin.
            (_, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)) => {
                self.state = AcceptState::Paused(cx.now + ACCEPT_PAUSE_US);
            }
            // Errors of one connection, which accept(2) passes on.
            _ => self.arm(cx),
        }
        false
    }

    /// The drain begins: no new handshake begins, those under way are still accepted.
    pub(super) fn refuse_new_handshakes(&self) -> Result<(), Errno> {
        self.listener.as_ref().map_or(Ok(()), ListenSocket::refuse_new_handshakes)
    }

    /// The drain's grace is over. Whether the queue is to be emptied now; else that is due when the
    /// accept, which is cancelled, has completed.
    pub(super) fn close<K>(&mut self, cx: &mut Context<K>) -> bool
    where
        K: Kernel<Listener = L, Socket = L::Socket>,
    {
        match self.state {
            AcceptState::Armed => {
                self.state = AcceptState::Closing;
                cx.kernel.cancel(Operation::Accept, Target::Listener(self.index).encode());
                false
            }
            AcceptState::Paused(_) | AcceptState::Emptying(_) => {
                self.state = AcceptState::Closing;
                true
            }
            AcceptState::Closing | AcceptState::Closed => false,
        }
    }

    /// The next connection of the queue. `None`: it is empty, and the listener is closed; or, with
    /// descriptors short, it is tried again later. Closing one of several listeners of a port
    /// resets the connections that are queued on it.
    pub(super) fn take_queued(&mut self, may_wait: bool, now: Micros) -> Option<L::Socket> {
        let listener = self.listener.as_ref()?;
        loop {
            match listener.accept_now() {
                Ok(socket) => return Some(socket),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                // A descriptor comes free when a connection ends.
                Err(Errno::EMFILE | Errno::ENFILE) if may_wait => {
                    self.state = AcceptState::Emptying(now + ACCEPT_PAUSE_US);
                    return None;
                }
                Err(_) => break,
            }
        }
        self.listener = None;
        self.state = AcceptState::Closed;
        None
    }
}

impl<K: Kernel> Context<K> {
    /// Decides whether an accepted socket may have a slot; else it is reset.
    pub(super) fn admit(&mut self, socket: K::Socket) -> Option<Admitted<K::Socket>> {
        let Ok(source) = self.kernel.peer_address(&socket) else {
            // It was reset while it was queued.
            self.metrics.counters.accept_error.add(1);
            self.kernel.close(socket);
            return None;
        };
        let destination = match self.kernel.original_destination(&socket, &source, self.recorded) {
            Ok(destination) => canonical(destination),
            Err(error) => {
                tracing::debug!(downstream.addr = %source, %error, "not redirected");
                self.metrics.counters.self_call.add(1);
                return self.refuse(socket, CloseReason::SelfCall);
            }
        };
        let source = canonical(source);
        if self.admission.is_self_call(source, destination) {
            self.metrics.counters.self_call.add(1);
            tracing::debug!(downstream.addr = %source, original.dst = %destination, "self-call");
            return self.refuse(socket, CloseReason::SelfCall);
        }
        let share = self.shares.find(source.ip());
        let refusal = if self.is_over_share(share) {
            self.metrics.counters.shed(Shed::Connections).add(1);
            Some(CloseReason::SourceLimit)
        } else {
            (!self.admission.enter()).then_some(CloseReason::ConnectionLimit)
        };
        if let Some(reason) = refusal {
            self.metrics.counters.refused_limit.add(1);
            self.account_refused((source, destination), reason);
            return self.refuse(socket, reason);
        }
        if let Some(timeout) = self.snapshot.config.timeouts.user {
            socket.set_user_timeout(timeout);
        }
        self.metrics.counters.accepted.add(1);
        self.metrics.counters.connections_active.add(1);
        Some(Admitted { socket, source, destination, share })
    }

    /// Resets a connection that gets no slot.
    fn refuse(&mut self, socket: K::Socket, reason: CloseReason) -> Option<Admitted<K::Socket>> {
        self.metrics.counters.closed(reason).add(1);
        socket.reset_on_close();
        self.kernel.close(socket);
        None
    }
}

/// An IPv4 address that came in IPv6 clothes is looked up as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}
