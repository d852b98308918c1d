//! What is checked before a connection gets a slot: the connection limit and the self-call guard.
//!
//! Shared by all workers. On the path of an ordinary connection it costs one atomic add and two
//! hash look-ups; the lock is taken only for connections whose source is an address of this very
//! host.
//!
//! A *self-call* is a connection that must not be relayed because it would come back: one to a port
//! that Egret itself listens on, or Egret's own upstream connection, redirected to Egret by a rule
//! that does not leave Egret's traffic alone. The second kind is recognised by its two ends: the
//! source of an accepted connection is the local end of an upstream socket, and both have the same
//! destination.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::upstream_guard::ThisHost;

type Set<T> = HashSet<T, foldhash::fast::RandomState>;

/// The local and the remote end of an upstream connection.
pub type Flow = (SocketAddr, SocketAddr);

/// The checks, and what they are made against.
#[derive(Debug)]
pub struct Admission {
    active: AtomicU32,
    connections_max: AtomicU32,
    host: ArcSwap<ThisHost>,
    /// Upstream connections whose downstream comes from this host: only they can meet themselves.
    own_flows: Mutex<Set<Flow>>,
}

impl Admission {
    /// Guards Egret's ports on `host`; admits nothing until [`Self::set_limit`].
    #[must_use]
    pub fn new(host: ThisHost) -> Arc<Self> {
        Arc::new(Self {
            active: AtomicU32::new(0),
            connections_max: AtomicU32::new(0),
            host: ArcSwap::from_pointee(host),
            own_flows: Mutex::new(Set::default()),
        })
    }

    /// Sets how many connections may be open at a time.
    pub fn set_limit(&self, connections_max: u32) {
        self.connections_max.store(connections_max, Ordering::Relaxed);
    }

    /// Replaces the addresses of this host, which come and go with its interfaces.
    pub fn set_own_addresses(&self, addresses: Vec<IpAddr>) {
        let before = self.host.load();
        let now = before.with_addresses(addresses);
        if **before != now {
            self.host.store(Arc::new(now));
        }
    }

    /// Takes a slot; `false` if all are taken.
    #[must_use]
    pub fn enter(&self) -> bool {
        let before = self.active.fetch_add(1, Ordering::Relaxed);
        if before < self.connections_max() {
            return true;
        }
        self.leave();
        false
    }

    /// How many connections may be open at a time.
    #[must_use]
    pub fn connections_max(&self) -> u32 {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Three quarters of all slots are taken: the rest is for sources below their share.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.is_taken(3, 4)
    }

    /// Nearly all slots are taken: who only waits gives way.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.is_taken(15, 16)
    }

    /// `of` so many parts of all slots `part` are taken.
    fn is_taken(&self, part: u64, of: u64) -> bool {
        let active = u64::from(self.active.load(Ordering::Relaxed));
        active * of >= u64::from(self.connections_max()) * part
    }

    /// Gives a slot back.
    pub fn leave(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// The host as it was looked at last.
    #[must_use]
    pub fn host(&self) -> impl Deref<Target = Arc<ThisHost>> {
        self.host.load()
    }

    /// A connection from `source` to `destination` would come back to Egret, or is Egret's own.
    #[must_use]
    pub fn is_self_call(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        let host = self.host();
        host.is_egret(destination)
            || (host.is_own(source.ip()) && self.flows().contains(&(source, destination)))
    }

    /// Remembers an upstream connection until [`Self::forget_flow`].
    pub fn remember_flow(&self, flow: Flow) {
        self.flows().insert(flow);
    }

    /// The upstream connection is closed.
    pub fn forget_flow(&self, flow: &Flow) {
        self.flows().remove(flow);
    }

    fn flows(&self) -> std::sync::MutexGuard<'_, Set<Flow>> {
        // A worker that panics ends the process; no half-done change can be seen.
        self.own_flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn admission() -> Arc<Admission> {
        let own = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap());
        Admission::new(ThisHost::new(own, vec![15001, 15020]))
    }

    #[test]
    fn own_ports_on_every_own_address_are_self_calls() {
        let source = address("10.9.9.9:4000");
        for own in ["10.0.0.1", "127.0.0.1", "127.9.9.9", "[::1]", "[fd00::1]", "[::ffff:10.0.0.1]"]
        {
            for port in [15001, 15020] {
                let destination = address(&format!("{own}:{port}"));
                assert!(admission().is_self_call(source, destination), "{destination}");
            }
        }
    }

    #[test]
    fn the_same_ports_elsewhere_are_not() {
        let source = address("10.9.9.9:4000");
        assert!(!admission().is_self_call(source, address("10.9.9.8:15001")));
        assert!(!admission().is_self_call(source, address("10.0.0.1:80")));
    }

    #[test]
    fn an_own_upstream_connection_is_a_self_call_until_it_is_closed() {
        let admission = admission();
        let flow = (address("10.0.0.1:40000"), address("192.0.2.1:80"));
        assert!(!admission.is_self_call(flow.0, flow.1));
        admission.remember_flow(flow);
        assert!(admission.is_self_call(flow.0, flow.1));
        assert!(!admission.is_self_call(flow.0, address("192.0.2.2:80")));
        admission.forget_flow(&flow);
        assert!(!admission.is_self_call(flow.0, flow.1));
    }

    #[test]
    fn it_is_crowded_at_three_quarters_and_nearly_full_at_fifteen_sixteenths() {
        let admission = admission();
        admission.set_limit(16);
        let seen: Vec<_> = (0..16)
            .map(|_| {
                let seen = (admission.is_crowded(), admission.is_nearly_full());
                assert!(admission.enter());
                seen
            })
            .collect();
        assert_eq!(seen.iter().position(|seen| seen.0), Some(12));
        assert_eq!(seen.iter().position(|seen| seen.1), Some(15));
    }

    #[test]
    fn the_limit_holds_and_a_left_slot_can_be_taken_again() {
        let admission = admission();
        assert!(!admission.enter());
        admission.set_limit(2);
        assert!(admission.enter() && admission.enter());
        assert!(!admission.enter());
        admission.leave();
        assert!(admission.enter());
    }
}
