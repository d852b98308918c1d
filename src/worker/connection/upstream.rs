//! The upstream connection: one attempt after the other until one succeeds or none is left, and how
//! it gives way to another one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::direction::Direction;
use super::{Connection, End, Keepalive, Next, Phase, Then, Upstream, UpstreamLeg};
use crate::access_log::Protocol;
use crate::admission::Flow;
use crate::config::Action;
use crate::gate::{Detect, Gate, HeldSnapshot, Micros, Route, RouteAction, TLS_ACCESS_DENIED};
use crate::metrics::CloseReason;
use crate::registry::snapshot::{Decision, Destination, NameTrust, Service, Target};
use crate::registry::{Snapshot, Verdict};
use crate::relay::Side;
use crate::sys::kernel::{Errno, Expect, Kernel, StreamSocket};
use crate::upstream_guard::{self, LedBy, Permitted};
use crate::worker::context::Context;

/// An upstream connection that is being made.
#[derive(Debug)]
pub(super) struct Connecting {
    pub(super) address: SocketAddr,
    /// When this attempt began.
    pub(super) began: Micros,
    /// The other endpoints to try; `None` if there is one destination only.
    candidates: Option<Box<Candidates>>,
    flow: Option<Box<Flow>>,
    attempt: Attempt,
}

/// Whether the connect of the present attempt is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    NotBegun,
    InFlight,
    Completed,
}

/// The endpoints of a service that a connection may still try.
#[derive(Debug)]
struct Candidates {
    service: Arc<Service>,
    /// Index of the next endpoint.
    next: usize,
    /// Endpoints not tried yet.
    left: usize,
    /// When the first attempt began.
    since: Micros,
}

impl Connecting {
    pub(super) fn is_in_flight(&self) -> bool {
        self.attempt == Attempt::InFlight
    }

    fn led_by(&self) -> LedBy {
        let candidates = self.candidates.as_ref();
        candidates.map_or(LedBy::Workload, |c| c.service.led_by(self.address.ip()))
    }
}

impl<K: Kernel> Connection<K> {
    /// Goes where the address leads, or waits for the first bytes if a name can change that.
    pub(super) fn first_step(&mut self, cx: &mut Context<K>) -> Next {
        let snapshot = HeldSnapshot::clone(&cx.snapshot);
        let destination = self.original_destination;
        if snapshot.awaits_name(destination) {
            let deadline = cx.now + cx.limits.name_us;
            self.gate = Gate::Detect(Detect::held());
            self.set_upstream(Upstream::Undecided { deadline }, cx);
            return Next::Advance(Side::Downstream);
        }
        let verdict = snapshot.lookup(destination);
        let decision = Decision { verdict, standing: NameTrust::NotNeeded };
        let is_observed = snapshot.config.names.decide_on(destination.port());
        if is_observed && !matches!(verdict, Verdict::BlackHole) {
            self.gate = Gate::Detect(Detect::observed(HeldSnapshot::clone(&snapshot)));
        } else {
            self.settle(&snapshot, &decision, None, Protocol::Tcp, cx);
        }
        self.follow(&snapshot, decision, Protocol::Tcp, cx)
    }

    /// Goes where the decision leads.
    pub(super) fn follow(
        &mut self,
        snapshot: &Snapshot,
        decision: Decision<'_>,
        protocol: Protocol,
        cx: &mut Context<K>,
    ) -> Next {
        match decision.verdict {
            Verdict::BlackHole => self.blackhole(snapshot, protocol, cx),
            Verdict::Passthrough => self.connect_to(self.original_destination, None, cx),
            Verdict::Service(service, matched) => {
                let destination = service.destination(matched, self.original_destination);
                self.connect_to_service(service, destination, cx)
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
            | Upstream::Connecting(_)
            | Upstream::Closing(_) => Next::Connect(route),
        }
    }

    /// Connects to where `route` leads.
    #[inline(never)]
    pub(super) fn connect(&mut self, route: &Route, cx: &mut Context<K>) -> Next {
        match &route.action {
            RouteAction::Service(service, destination) => {
                self.connect_to_service(service, *destination, cx)
            }
            RouteAction::Passthrough => self.connect_to(self.original_destination, None, cx),
            RouteAction::BlackHole => Next::End(CloseReason::BlackHole),
        }
    }

    fn connect_to_service(
        &mut self,
        service: &Arc<Service>,
        destination: Destination,
        cx: &mut Context<K>,
    ) -> Next {
        match (destination, &service.target) {
            (Destination::Original { port }, _) => {
                let mut address = self.original_destination;
                address.set_port(port);
                self.connect_to(address, None, cx)
            }
            // Its name has not been resolved yet.
            (Destination::Endpoints, Target::OriginalDestination { .. }) => {
                Next::Unreachable(CloseReason::NoEndpoint)
            }
            (Destination::Endpoints, Target::Endpoints(endpoints)) if endpoints.is_empty() => {
                Next::Unreachable(CloseReason::NoEndpoint)
            }
            (Destination::Endpoints, Target::Endpoints(endpoints)) => {
                let first = service.next_endpoint() % endpoints.len();
                let candidates = Candidates {
                    service: Arc::clone(service),
                    next: (first + 1) % endpoints.len(),
                    left: endpoints.len() - 1,
                    since: cx.now,
                };
                self.connect_to(endpoints[first], Some(Box::new(candidates)), cx)
            }
        }
    }

    /// Begins to connect to `address`.
    fn connect_to(
        &mut self,
        address: SocketAddr,
        candidates: Option<Box<Candidates>>,
        cx: &mut Context<K>,
    ) -> Next {
        let mut connecting = Connecting {
            address,
            began: cx.now,
            candidates,
            flow: None,
            attempt: Attempt::NotBegun,
        };
        let next = match open(&connecting, cx) {
            Ok(socket) => {
                self.submit_connect(socket, &mut connecting, cx);
                Next::Rest
            }
            Err(reason) => Next::AttemptFailed(reason),
        };
        self.set_upstream(Upstream::Connecting(connecting), cx);
        next
    }

    fn submit_connect(
        &mut self,
        socket: K::Socket,
        connecting: &mut Connecting,
        cx: &mut Context<K>,
    ) {
        let token = self.key.token(Side::Upstream);
        cx.kernel.connect(&socket, &connecting.address, token);
        connecting.attempt = Attempt::InFlight;
        if cx.admission.host().is_own(self.source.ip()) {
            // This connection may come back (a rule that does not leave Egret's own traffic alone):
            // let the kernel choose the local port now, and remember it before it can be accepted.
            // An error of the ring is met again by the turn's wait.
            let _ = cx.kernel.submit();
            if let Ok(local) = socket.local_address() {
                let flow = (local, connecting.address);
                cx.admission.remember_flow(flow);
                connecting.flow = Some(Box::new(flow));
            }
        }
        self.ends[Side::Upstream as usize].socket = Some(socket);
    }

    /// The upstream connection is made, or not.
    #[inline(never)]
    pub(super) fn connected(&mut self, result: Result<(), Errno>, cx: &mut Context<K>) -> Next {
        let Upstream::Connecting(connecting) = &mut self.upstream else { return Next::Rest };
        connecting.attempt = Attempt::Completed;
        if !matches!(self.phase, Phase::Open) {
            return Next::Rest;
        }
        let socket = self.ends[Side::Upstream as usize].socket.as_ref();
        let verified = result.and_then(|()| socket.map_or(Ok(()), K::Socket::verify_connected));
        if let Err(error) = verified {
            return Next::AttemptFailed(reason_of(error));
        }
        cx.held_acks.hold(self.key);
        let (address, flow) = (connecting.address, connecting.flow.take());
        let first = connecting.candidates.as_ref().map(|candidates| candidates.since);
        let took_us = cx.now.saturating_sub(first.unwrap_or(connecting.began));
        let leg = UpstreamLeg { address, flow, keepalive: Keepalive::NotSet };
        self.set_upstream(Upstream::Up(leg), cx);
        self.moved_at = cx.now;
        self.count_opened(cx);
        if let Some(attribution) = self.gate.take_attribution() {
            self.attribute(&attribution, cx);
        }
        cx.metrics.record_connect(std::time::Duration::from_micros(took_us));
        // Unless Egret's own greeting is still on its way.
        match self.directions[Side::Upstream as usize].operation {
            None => Next::AdvanceAndResume,
            Some(_) => self.resume(cx),
        }
    }

    /// The handshake's last segment waits no longer.
    pub(super) fn quickack_on(&self) -> Next {
        if let Some(socket) = &self.ends[Side::Upstream as usize].socket {
            socket.quickack_on();
        }
        Next::Rest
    }

    /// One attempt has failed: the next endpoint, or none.
    #[inline(never)]
    pub(super) fn attempt_failed(&mut self, reason: CloseReason, cx: &mut Context<K>) -> Next {
        let Upstream::Connecting(connecting) = &mut self.upstream else { return Next::Rest };
        let candidates = connecting.candidates.take().filter(|candidates| candidates.left > 0);
        if let Some(flow) = connecting.flow.take() {
            cx.admission.forget_flow(&flow);
        }
        if let Some(socket) = self.ends[Side::Upstream as usize].socket.take() {
            cx.kernel.close(socket);
        }
        let Some(mut candidates) = candidates else { return Next::Unreachable(reason) };
        let Target::Endpoints(endpoints) = &candidates.service.target else {
            return Next::Unreachable(reason);
        };
        let address = endpoints[candidates.next];
        candidates.next = (candidates.next + 1) % endpoints.len();
        candidates.left -= 1;
        self.connect_to(address, Some(candidates), cx)
    }

    /// The upstream connection, which is idle, gives way.
    pub(super) fn begin_closing(&mut self, then: Then, cx: &mut Context<K>) -> Next {
        if let Some(flow) = self.take_flow() {
            cx.admission.forget_flow(&flow);
        }
        for (operation, side) in self.in_flight() {
            if side == Side::Upstream {
                cx.kernel.cancel(operation, self.key.token(side));
            }
        }
        self.set_upstream(Upstream::Closing(then), cx);
        self.moved_at = cx.now;
        Next::ContinueClosing
    }

    /// The upstream connection is closed when nothing of it is in flight.
    #[inline(never)]
    pub(super) fn continue_closing(&mut self, cx: &mut Context<K>) -> Next {
        if self.in_flight().any(|(_, side)| side == Side::Upstream) {
            return Next::Rest;
        }
        if !matches!(self.upstream, Upstream::Closing(_)) {
            return Next::Rest;
        }
        let Upstream::Closing(then) = std::mem::replace(&mut self.upstream, Upstream::None) else {
            return Next::Rest;
        };
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
            Then::Reply(reason) => {
                self.set_phase(Phase::Replying { reason }, cx);
                Next::Advance(Side::Upstream)
            }
        }
    }

    /// The flow that the self-call guard remembers, if there is one.
    pub(super) fn take_flow(&mut self) -> Option<Box<Flow>> {
        match &mut self.upstream {
            Upstream::Up(leg) => leg.flow.take(),
            Upstream::Connecting(connecting) => connecting.flow.take(),
            Upstream::Undecided { .. } | Upstream::None | Upstream::Closing(_) => None,
        }
    }
}

/// A socket for the attempt, if the address may be connected to.
fn open<K: Kernel>(connecting: &Connecting, cx: &mut Context<K>) -> Result<K::Socket, CloseReason> {
    let address = connecting.address;
    let upstream = &cx.snapshot.config.upstream;
    let permitted =
        upstream_guard::check(address, connecting.led_by(), upstream.into(), &cx.admission.host());
    match permitted {
        Ok(Permitted::Plainly) => {}
        Ok(Permitted::PrivateFromDns) => cx.metrics.counters.private_upstreams.add(1),
        Err(why) => {
            tracing::debug!(upstream.addr = %address, why = why.label(), "upstream refused");
            cx.metrics.counters.refused_upstreams(why).add(1);
            return Err(CloseReason::RefusedUpstream);
        }
    }
    cx.kernel.open_socket(&address, upstream.mark).map_err(reason_of)
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
