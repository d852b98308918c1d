//! The upstream connection: where it goes, and how it gives way to another one. How it is made is
//! [`super::attempts`]'s.

use std::rc::Rc;
use std::sync::Arc;

use super::direction::Direction;
use super::{Connection, End, Next, Phase, Then, Upstream};
use crate::access_log::Protocol;
use crate::admission::Flow;
use crate::config::Action;
use crate::gate::{Detect, Gate, HeldSnapshot, Route, RouteAction, TLS_ACCESS_DENIED};
use crate::metrics::CloseReason;
use crate::probe::planted;
use crate::registry::snapshot::{Decision, Destination, NameTrust, Service, Shown};
use crate::registry::{Snapshot, Verdict};
use crate::relay::Side;
use crate::sniff::Host;
use crate::sys::kernel::{Expect, Kernel, Operation, StreamSocket};
use crate::upstream_guard::LedBy;
use crate::worker::context::Context;

impl<K: Kernel> Connection<K> {
    /// Goes where the address leads, or waits for the first bytes if a name can change that.
    pub(super) fn first_step(&mut self, cx: &mut Context<K>) -> Next {
        let snapshot = HeldSnapshot::clone(&cx.snapshot);
        let destination = self.original_destination;
        if snapshot.awaits_name(destination) && !planted!(NameNotAwaited) {
            self.gate = Gate::Detect(Detect::held()).into();
            self.set_upstream(Upstream::Undecided { since: cx.now }, cx);
            return Next::Advance(Side::Downstream);
        }
        let verdict = snapshot.lookup(destination);
        let decision = Decision { verdict, standing: NameTrust::NotNeeded };
        let is_observed = snapshot.reads_names(destination.port());
        if is_observed && !matches!(verdict, Verdict::BlackHole) {
            let observed = Detect::observed(HeldSnapshot::clone(&snapshot));
            self.gate = Gate::Detect(observed).into();
        } else {
            self.settle(&snapshot, &decision, Shown::Nothing, Protocol::Tcp, cx);
        }
        self.follow(&snapshot, decision, (None, Protocol::Tcp), cx)
    }

    /// Goes where the decision leads, which was made for a connection that shows this host in this
    /// protocol.
    pub(super) fn follow(
        &mut self,
        snapshot: &Snapshot,
        decision: Decision<'_>,
        (host, protocol): (Option<&Host>, Protocol),
        cx: &mut Context<K>,
    ) -> Next {
        match decision.verdict {
            Verdict::BlackHole => self.blackhole(snapshot, protocol, cx),
            Verdict::Passthrough => self.connect_to(self.original_destination, LedBy::Workload, cx),
            Verdict::Service(service, matched) => {
                let destination = service.destination(matched, self.original_destination);
                self.connect_to_service(service, destination, host, cx)
            }
        }
    }

    /// The policy gives it no way out; no upstream connection is ever opened.
    fn blackhole(&mut self, snapshot: &Snapshot, protocol: Protocol, cx: &mut Context<K>) -> Next {
        let black_hole = &snapshot.config.black_hole;
        if protocol == Protocol::Tls && black_hole.tls_alert {
            self.say(&TLS_ACCESS_DENIED, CloseReason::BlackHole, cx);
            return Next::Advance(Side::Upstream);
        }
        match black_hole.action {
            Action::Reset => Next::End(CloseReason::BlackHole),
            Action::Close => Next::Linger(CloseReason::BlackHole),
        }
    }

    /// Connects to where `route` leads, in place of an upstream connection that is idle.
    pub(super) fn go(&mut self, route: Rc<Route>, cx: &mut Context<K>) -> Next {
        match self.upstream {
            Upstream::Up(_) => {
                cx.metrics.counters.upstream_switches.add(1);
                self.begin_closing(Then::Connect(route), cx)
            }
            Upstream::Undecided { .. }
            | Upstream::None
            | Upstream::Resolving(_)
            | Upstream::Connecting(_)
            | Upstream::Closing(_) => Next::Connect(route),
        }
    }

    /// Connects to where `route` leads.
    #[inline(never)]
    pub(super) fn connect(&mut self, route: &Route, cx: &mut Context<K>) -> Next {
        match &route.action {
            RouteAction::Service(service, destination) => {
                self.connect_to_service(service, *destination, route.host.as_ref(), cx)
            }
            RouteAction::Passthrough => {
                self.connect_to(self.original_destination, LedBy::Workload, cx)
            }
            RouteAction::BlackHole => Next::End(CloseReason::BlackHole),
        }
    }

    fn connect_to_service(
        &mut self,
        service: &Arc<Service>,
        destination: Destination,
        host: Option<&Host>,
        cx: &mut Context<K>,
    ) -> Next {
        match destination {
            Destination::Original { port, led_by } => {
                let mut address = self.original_destination;
                address.set_port(port);
                self.connect_to(address, led_by, cx)
            }
            Destination::Endpoints => self.connect_to_endpoint(service, cx),
            Destination::Named { port } => self.connect_to_host(host, port, cx),
        }
    }

    /// The handshake's last segment waits no longer.
    pub(super) fn quickack_on(&self) -> Next {
        if let Some(socket) = &self.ends[Side::Upstream as usize].socket {
            socket.quickack_on();
        }
        Next::Rest
    }

    /// The upstream connection, which is idle, gives way.
    pub(super) fn begin_closing(&mut self, then: Then, cx: &mut Context<K>) -> Next {
        if let Some(flow) = self.take_flow() {
            cx.admission.forget_flow(&flow);
        }
        for (operation, side) in self.on_upstream() {
            // A send ends by itself.
            if (operation, side) != (Operation::Send, Side::Downstream) {
                cx.kernel.cancel(operation, self.key.token(side));
            }
        }
        self.set_upstream(Upstream::Closing(then), cx);
        self.moved_at = cx.now;
        Next::ContinueClosing
    }

    /// The operations in flight of the upstream half, and those of the other one that write to the
    /// upstream's socket.
    fn on_upstream(&self) -> impl Iterator<Item = (Operation, Side)> + '_ {
        self.in_flight().filter(|(operation, side)| match side {
            Side::Upstream => true,
            Side::Downstream if planted!(LegClosedUnderSend) => false,
            Side::Downstream => matches!(operation, Operation::Send | Operation::Writable),
        })
    }

    /// The upstream connection is closed when nothing of it is in flight.
    #[inline(never)]
    pub(super) fn continue_closing(&mut self, cx: &mut Context<K>) -> Next {
        let is_in_flight = self.on_upstream().next().is_some();
        if self.connects() || (is_in_flight && !planted!(LegClosedInFlight)) {
            return Next::Rest;
        }
        let Some(then) = self.take_closing() else { return Next::Rest };
        if let Some(socket) = self.ends[Side::Upstream as usize].socket.take() {
            cx.kernel.close(socket);
        }
        self.release_held(Side::Upstream, cx);
        self.release_early(Side::Upstream, cx);
        self.ends[Side::Upstream as usize] = End::default();
        let direction = &mut self.directions[Side::Upstream as usize];
        let used = std::mem::replace(direction, Direction::new(Expect::Nothing));
        *direction = used.renewed();
        match then {
            Then::Connect(route) => {
                self.directions[Side::Upstream as usize].discard_carried();
                self.gate.leg_replaced();
                Next::Connect(route)
            }
            Then::Await => {
                self.directions[Side::Upstream as usize].discard_carried();
                self.set_upstream(Upstream::Undecided { since: cx.now }, cx);
                let held = self.directions[Side::Downstream as usize].carried_bytes();
                cx.metrics.counters.detecting_bytes.add(u64::from(held));
                Next::Inspect(Side::Downstream)
            }
            Then::Linger(reason) => Next::Linger(reason),
            Then::Reply(reason) => {
                self.set_phase(Phase::Replying { reason }, cx);
                match self.carries(Side::Upstream) {
                    true => Next::Advance(Side::Upstream),
                    false => self.all_said(reason, cx),
                }
            }
        }
    }

    /// The flow that the self-call guard remembers, if there is one.
    pub(super) fn take_flow(&mut self) -> Option<Box<Flow>> {
        match &mut self.upstream {
            Upstream::Up(leg) => leg.flow.take(),
            Upstream::Undecided { .. }
            | Upstream::None
            | Upstream::Resolving(_)
            | Upstream::Connecting(_)
            | Upstream::Closing(_) => None,
        }
    }
}
