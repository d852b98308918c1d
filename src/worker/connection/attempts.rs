//! The attempts to make an upstream connection: one where there is one address, and where a service
//! has several endpoints a second one beside the first when that is slow (RFC 8305, "Happy
//! Eyeballs").
//!
//! The endpoints of the original destination's address family go first, then the families take
//! turns; an address that has just failed goes last. The first attempt that succeeds wins. The
//! other one is cancelled, and kept until its connect has completed.

use std::net::SocketAddr;
use std::sync::Arc;

use super::candidates::{Candidates, List};
use super::{Connection, Keepalive, Next, Phase, Upstream, UpstreamLeg};
use crate::admission::Flow;
use crate::gate::{Micros, Reached};
use crate::metrics::CloseReason;
use crate::probe::planted;
use crate::registry::snapshot::Service;
use crate::relay::Side;
use crate::sniff::Name;
use crate::sys::kernel::{Errno, Kernel, Operation, StreamSocket};
use crate::upstream_guard::{self, LedBy, Permitted, Refused};
use crate::worker::context::Context;
use crate::worker::token::AttemptNumber;

/// When the next address is tried beside one that has not answered (RFC 8305 section 8).
const NEXT_ATTEMPT_US: Micros = 250_000;

/// An upstream connection that is being made.
#[derive(Debug)]
pub(super) struct Connecting<S> {
    /// Where the last attempt goes, or went.
    pub(super) address: SocketAddr,
    /// When the first one began.
    since: Micros,
    led_by: LedBy,
    /// `None` if there is one destination only.
    candidates: Option<Box<Candidates>>,
    /// Those whose connect is in flight, by number.
    attempts: [Option<Box<Attempt<S>>>; 2],
}

/// A connect that is in flight.
#[derive(Debug)]
pub(super) struct Attempt<S> {
    number: AttemptNumber,
    address: SocketAddr,
    began: Micros,
    socket: S,
    flow: Option<Box<Flow>>,
}

impl<S> Connecting<S> {
    pub(super) fn is_in_flight(&self) -> bool {
        self.attempts.iter().any(Option::is_some)
    }

    /// The attempts in flight that began at `time` or before.
    fn begun_by(&self, time: Micros) -> impl Iterator<Item = &Attempt<S>> {
        self.attempts.iter().flatten().map(Box::as_ref).filter(move |one| one.began <= time)
    }

    fn oldest(&self) -> Option<&Attempt<S>> {
        self.attempts.iter().flatten().map(Box::as_ref).min_by_key(|attempt| attempt.began)
    }

    fn is_choosing(&self) -> bool {
        self.candidates.as_ref().is_some_and(|candidates| candidates.has_more())
    }

    fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// What leads to `address`.
    fn led_to(&self, address: SocketAddr) -> LedBy {
        let candidates = self.candidates.as_ref();
        candidates.map_or(self.led_by, |candidates| candidates.led_by(address.ip()))
    }
}

impl<K: Kernel> Connection<K> {
    /// Connects to `address`, and to nothing else.
    pub(super) fn connect_to(
        &mut self,
        address: SocketAddr,
        led_by: LedBy,
        cx: &mut Context<K>,
    ) -> Next {
        self.begin_connecting(address, led_by, None, cx);
        self.attempt(address, cx)
    }

    /// Connects to one of the endpoints of `service`.
    pub(super) fn connect_to_endpoint(
        &mut self,
        service: &Arc<Service>,
        cx: &mut Context<K>,
    ) -> Next {
        let first = service.next_endpoint();
        self.connect_to_one_of(List::Service(Arc::clone(service)), first, cx)
    }

    /// Connects to one of the addresses that `name` has resolved to, `first` if that is possible.
    pub(super) fn connect_to_resolved(
        &mut self,
        name: Name,
        addresses: Box<[SocketAddr]>,
        first: usize,
        cx: &mut Context<K>,
    ) -> Next {
        self.connect_to_one_of(List::Name(name, addresses), first, cx)
    }

    fn connect_to_one_of(&mut self, list: List, first: usize, cx: &mut Context<K>) -> Next {
        let mut candidates = Candidates::new(list, first);
        let wants_v4 = self.original_destination.ip().to_canonical().is_ipv4();
        let Some(address) = candidates.next(wants_v4, |address| cx.has_failed(address)) else {
            // Its name has not been resolved yet.
            return Next::Unreachable(CloseReason::NoEndpoint);
        };
        self.begin_connecting(address, LedBy::File, Some(Box::new(candidates)), cx);
        self.attempt(address, cx)
    }

    fn begin_connecting(
        &mut self,
        address: SocketAddr,
        led_by: LedBy,
        candidates: Option<Box<Candidates>>,
        cx: &Context<K>,
    ) {
        let attempts = [None, None];
        let connecting = Connecting { address, since: cx.now, led_by, candidates, attempts };
        self.set_upstream(Upstream::Connecting(connecting), cx);
    }

    /// Begins an attempt at `address`. One of the two numbers is free.
    fn attempt(&mut self, address: SocketAddr, cx: &mut Context<K>) -> Next {
        let Upstream::Connecting(connecting) = &mut self.upstream else { return Next::Rest };
        connecting.address = address;
        let led_by = connecting.led_to(address);
        let (permitted, is_own) = {
            let (host, upstream) = (cx.admission.host(), &cx.snapshot.config.upstream);
            let permitted = upstream_guard::check(address, led_by, upstream.into(), &host);
            (permitted, host.is_own(self.source.ip()))
        };
        let socket = match open(address, permitted, cx) {
            Ok(socket) => socket,
            Err(reason) => return Next::AttemptFailed(reason),
        };
        let number = match connecting.attempts[0] {
            None => AttemptNumber::First,
            Some(_) => AttemptNumber::Second,
        };
        cx.kernel.connect(&socket, &address, self.key.attempt_token(number));
        let flow = if is_own { remember_flow(&socket, address, cx) } else { None };
        if connecting.is_choosing() {
            cx.deadlines.set(cx.now + NEXT_ATTEMPT_US, self.key);
        }
        let attempt = Attempt { number, address, began: cx.now, socket, flow };
        connecting.attempts[number as usize] = Some(Box::new(attempt));
        Next::Rest
    }

    /// The last attempt has had its time alone: the next address is tried, too. With two in flight
    /// the older one gives way; when its connect has completed, the next one begins.
    #[inline(never)]
    pub(super) fn next_attempt_due(&mut self, cx: &mut Context<K>) -> Next {
        let Upstream::Connecting(connecting) = &mut self.upstream else { return Next::Rest };
        let waited_since = cx.now.saturating_sub(NEXT_ATTEMPT_US);
        let in_flight = connecting.attempts.iter().flatten().count();
        if connecting.begun_by(waited_since).count() < in_flight || !connecting.is_choosing() {
            return Next::Rest;
        }
        match connecting.oldest() {
            Some(oldest) if in_flight == 2 => {
                if cx.now.saturating_sub(connecting.since) < cx.limits.connect_us {
                    let token = self.key.attempt_token(oldest.number);
                    cx.kernel.cancel(Operation::Connect, token);
                }
                Next::Rest
            }
            _ => self.next_attempt(cx).unwrap_or(Next::Rest),
        }
    }

    /// The next endpoint, if there is one: of the family that was not tried last.
    fn next_attempt(&mut self, cx: &mut Context<K>) -> Option<Next> {
        let Upstream::Connecting(connecting) = &mut self.upstream else { return None };
        let wants_v4 = !connecting.is_v4();
        let candidates = connecting.candidates.as_mut()?;
        let address = candidates.next(wants_v4, |address| cx.has_failed(address))?;
        Some(self.attempt(address, cx))
    }

    /// An attempt's connect has completed.
    #[inline(never)]
    pub(super) fn connected(
        &mut self,
        number: AttemptNumber,
        result: Result<(), Errno>,
        cx: &mut Context<K>,
    ) -> Next {
        if let Some(loser) = self.loser.take_if(|loser| loser.number == number) {
            cx.give_up(*loser);
            return match self.upstream {
                Upstream::Closing(_) => Next::ContinueClosing,
                Upstream::Undecided { .. }
                | Upstream::None
                | Upstream::Resolving(_)
                | Upstream::Connecting(_)
                | Upstream::Up(_) => Next::Rest,
            };
        }
        let Upstream::Connecting(connecting) = &mut self.upstream else { return Next::Rest };
        let Some(attempt) = connecting.attempts[number as usize].take() else { return Next::Rest };
        if !matches!(self.phase, Phase::Open) {
            // The server may have accepted it: it is told that nothing comes.
            attempt.socket.reset_on_close();
            cx.give_up(*attempt);
            return Next::Rest;
        }
        match result.and_then(|()| attempt.socket.verify_connected()) {
            Ok(()) => self.has_won(*attempt, cx),
            Err(_) if planted!(ConnectNotVerified) && result.is_ok() => self.has_won(*attempt, cx),
            Err(error) => {
                if connecting.candidates.is_some() {
                    cx.failed_addresses.note(attempt.address, cx.time());
                }
                cx.give_up(*attempt);
                Next::AttemptFailed(reason_of(error))
            }
        }
    }

    /// One attempt has failed: the next endpoint, or the other attempt, or none.
    #[inline(never)]
    pub(super) fn attempt_failed(&mut self, reason: CloseReason, cx: &mut Context<K>) -> Next {
        if let Some(next) = self.next_attempt(cx) {
            return next;
        }
        match self.connects() {
            true => Next::Rest,
            false => Next::Unreachable(reason),
        }
    }

    /// The upstream connection is made.
    fn has_won(&mut self, winner: Attempt<K::Socket>, cx: &mut Context<K>) -> Next {
        let Upstream::Connecting(connecting) = &mut self.upstream else { return Next::Rest };
        if connecting.candidates.is_some() {
            cx.failed_addresses.forget(winner.address);
        }
        let took_us = cx.now.saturating_sub(connecting.since);
        let candidates = connecting.candidates.as_ref();
        let name = candidates.and_then(|candidates| candidates.name().cloned());
        self.loser = connecting.attempts.iter_mut().find_map(Option::take);
        if let Some(loser) = &self.loser {
            cx.kernel.cancel(Operation::Connect, self.key.attempt_token(loser.number));
            if cx.now.saturating_sub(loser.began) >= NEXT_ATTEMPT_US {
                cx.failed_addresses.note(loser.address, cx.time());
            }
        }
        cx.held_acks.hold(self.key);
        let Attempt { address, flow, socket, .. } = winner;
        self.ends[Side::Upstream as usize].socket = Some(socket);
        let to = Reached { address, name };
        let leg = UpstreamLeg { to, flow, keepalive: Keepalive::NotSet };
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

    /// The connects in flight that began at `time` or before are not wanted any more: they complete
    /// as failed.
    pub(super) fn cancel_attempts(&self, time: Micros, cx: &mut Context<K>) {
        let Upstream::Connecting(connecting) = &self.upstream else { return };
        for attempt in connecting.begun_by(time) {
            cx.kernel.cancel(Operation::Connect, self.key.attempt_token(attempt.number));
        }
    }
}

impl<K: Kernel> Context<K> {
    /// Gives back what an attempt has whose connect has completed.
    fn give_up(&mut self, attempt: Attempt<K::Socket>) {
        if let Some(flow) = &attempt.flow {
            self.admission.forget_flow(flow);
        }
        self.kernel.close(attempt.socket);
    }

    fn has_failed(&self, address: SocketAddr) -> bool {
        self.failed_addresses.contains(address, self.time())
    }
}

/// A socket for an attempt, if the address may be connected to.
fn open<K: Kernel>(
    address: SocketAddr,
    permitted: Result<Permitted, Refused>,
    cx: &mut Context<K>,
) -> Result<K::Socket, CloseReason> {
    match permitted {
        Ok(Permitted::Plainly) => {}
        Ok(Permitted::PrivateFromDns) => cx.metrics.counters.private_upstreams.add(1),
        Err(why) => {
            tracing::debug!(upstream.addr = %address, why = why.label(), "upstream refused");
            cx.metrics.counters.refused_upstreams(why).add(1);
            return Err(CloseReason::RefusedUpstream);
        }
    }
    let socket =
        cx.kernel.open_socket(&address, cx.snapshot.config.upstream.mark).map_err(reason_of)?;
    if let Some(timeout) = cx.snapshot.config.timeouts.user {
        socket.set_user_timeout(timeout);
    }
    Ok(socket)
}

/// The connection may come back (a rule that does not leave Egret's own traffic alone): lets the
/// kernel choose the local port now, and remembers it before it can be accepted.
fn remember_flow<K: Kernel>(
    socket: &K::Socket,
    address: SocketAddr,
    cx: &mut Context<K>,
) -> Option<Box<Flow>> {
    // An error of the ring is met again by the turn's wait.
    let _ = cx.kernel.submit();
    let flow = (socket.local_address().ok()?, address);
    cx.admission.remember_flow(flow);
    Some(Box::new(flow))
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
