//! A name that a workload claims, and Egret resolves: the connection waits for its addresses, and
//! goes to one of them, wherever the workload meant to go.

use std::net::SocketAddr;

use super::{Connection, Next, Phase, Upstream};
use crate::gate::Micros;
use crate::metrics::{CloseReason, ResolvedClaim, Shed};
use crate::questions::Found;
use crate::sniff::{Host, Name};
use crate::sys::kernel::Kernel;
use crate::upstream_guard::LedBy;
use crate::worker::context::Context;

/// A name whose addresses are awaited.
#[derive(Debug)]
pub(super) struct Resolving {
    name: Name,
    /// Where it will be connected to.
    port: u16,
    since: Micros,
}

impl Resolving {
    /// It has waited for `names.deadline`.
    pub(super) fn is_late<K: Kernel>(&self, cx: &Context<K>) -> bool {
        cx.now.saturating_sub(self.since) >= cx.limits.name_us
    }
}

impl<K: Kernel> Connection<K> {
    /// Connects to where the host leads that the workload claims.
    pub(super) fn connect_to_host(
        &mut self,
        host: Option<&Host>,
        port: u16,
        cx: &mut Context<K>,
    ) -> Next {
        match host {
            Some(Host::Name(name)) => self.resolve(name, port, cx),
            // It is one that the entry lists.
            Some(Host::Address(address)) => {
                let address = SocketAddr::new(address.to_canonical(), port);
                self.connect_to(address, LedBy::File, cx)
            }
            None => Next::Unreachable(CloseReason::NoEndpoint),
        }
    }

    fn resolve(&mut self, name: &Name, port: u16, cx: &mut Context<K>) -> Next {
        let resolving = Resolving { name: name.clone(), port, since: cx.now };
        self.set_upstream(Upstream::Resolving(resolving), cx);
        match cx.ask(name, self.source.ip(), self.key) {
            true => Next::Rest,
            false => self.no_room(cx),
        }
    }

    /// The answer has come.
    #[inline(never)]
    pub(super) fn resolved(&mut self, name: &Name, found: Found, cx: &mut Context<K>) -> Next {
        let port = match (&self.phase, &self.upstream) {
            (Phase::Open, Upstream::Resolving(resolving)) if resolving.name == *name => {
                resolving.port
            }
            // It has come too late.
            (
                Phase::Open
                | Phase::Replying { .. }
                | Phase::Lingering { .. }
                | Phase::Resetting { .. }
                | Phase::Closing,
                _,
            ) => return Next::Rest,
        };
        let addresses = match found {
            Found::Addresses(addresses) => addresses,
            Found::Nothing => return self.unresolved(cx),
            Found::NoRoom => return self.no_room(cx),
        };
        let meant = self.original_destination.ip().to_canonical();
        let position = addresses.iter().position(|address| *address == meant);
        let result = match position {
            Some(_) => ResolvedClaim::Same,
            None => ResolvedClaim::Other,
        };
        cx.metrics.counters.resolved_claims(result).add(1);
        // Where the workload meant to go, or else each connection begins at another one.
        let by_turns = || self.key.generation as usize % addresses.len().max(1);
        let first = position.unwrap_or_else(by_turns);
        let addresses = addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
        self.connect_to_resolved(name.clone(), addresses, first, cx)
    }

    /// The name has no address, or nobody has told one in time.
    pub(super) fn unresolved(&self, cx: &Context<K>) -> Next {
        cx.metrics.counters.resolved_claims(ResolvedClaim::None).add(1);
        Next::Unreachable(CloseReason::NameUnresolved)
    }

    fn no_room(&self, cx: &Context<K>) -> Next {
        cx.metrics.counters.shed(Shed::Names).add(1);
        Next::Unreachable(CloseReason::NameLimit)
    }
}
