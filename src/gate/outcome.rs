//! What a gate is asked with, and what it can say.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::{Answered, HeldSnapshot, Http1, Malformed, Micros, Reply, Route, Routes};
use crate::access_log::Protocol;
use crate::config::Mode;
use crate::http1::{FramingError, KnownHeads};
use crate::judge::{RequestError, Rules};
use crate::metrics::{CloseReason, Detected, UnaskedStatus};
use crate::registry::snapshot::Shown;
use crate::sniff::{Host, Name, NameError};

/// What a decision rests on beside the bytes.
#[derive(Debug)]
pub(crate) struct Policy<'a> {
    pub(crate) snapshot: &'a HeldSnapshot,
    pub(crate) source: IpAddr,
    /// The original destination.
    pub(crate) destination: SocketAddr,
    pub(crate) leg: Leg<'a>,
    /// Of what the upstream has sent, as far as is known.
    pub(crate) upstream: Inspected,
    /// How many more bytes of this side can be held.
    pub(crate) room: usize,
    pub(crate) now: Micros,
    pub(crate) logging: Logging,
}

impl Policy<'_> {
    /// What cannot be judged passes to where it meant to go.
    pub(crate) fn passes_unjudged(&self) -> bool {
        self.snapshot.config.outbound_traffic_policy.mode == Mode::AllowAny
    }

    /// Where a request to `host` goes.
    pub(crate) fn route(&self, host: Option<Host>) -> Route {
        Route::decide(self.snapshot, self.source, self.destination, host)
    }

    /// What requests are judged by.
    pub(crate) fn rules(&self) -> Rules {
        Rules::from(&self.snapshot.config.names)
    }
}

/// The upstream connection, as far as a gate needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leg<'a> {
    /// There is none, or it carries no further request.
    None,
    Up(&'a Reached),
}

/// Where an upstream connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) address: SocketAddr,
    /// The name that a workload has shown and Egret has resolved to the address.
    pub(crate) name: Option<Name>,
}

/// How much of what a side has sent the gate has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inspected {
    All,
    Partly,
}

/// Whether what the access log says of a request is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logging {
    On,
    Off,
}

/// What one worker remembers over its connections.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) heads: KnownHeads,
    pub(crate) routes: Routes,
}

/// What becomes of the bytes that were shown.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// So many of the first bytes may pass; at least one. They are not shown again.
    Pass(usize),
    /// None may pass for now. They are shown again, with more behind them, or when the other side,
    /// the upstream connection or the time has changed something.
    Hold,
    /// So many of the first bytes are thrown away: said again until [`super::Gate::dropped`]
    /// confirms it.
    Drop(usize),
    /// As [`Outcome::Drop`]; these pass in their place.
    Replace(usize, Vec<u8>),
    /// These bytes are sent to the side that was inspected; then the rest is shown again.
    Inject(Vec<u8>),
    /// Something to be counted; then the same bytes are shown again.
    Note(Note),
    /// Something to be done; the bytes wait.
    Act(Action),
}

/// What the worker counts, or remembers.
#[derive(Debug)]
pub(crate) enum Note {
    /// The protocol is known, and requests will be accounted one by one.
    Http1Detected,
    /// The preface of HTTP/2 was seen where a name can decide.
    Http2Detected,
    /// The name of this route has decided, and nothing vouches for it.
    UnverifiedName(Rc<Route>),
    /// A request names two hosts.
    NameConflict,
    /// A later stream is blocked by policy.
    BlockedStream,
    /// The local reply to a stream is part of the connection's end.
    StreamAnswered(Box<Answered>),
    /// A request, its trailers or any further frame may not pass.
    Refused(Malformed),
    /// The upstream has sent what answers no request.
    Unasked(UnaskedStatus),
    /// The end of a response cannot be determined any more.
    ResponseUnframed(FramingError),
    /// What is held is to be shown again when it is this late, if nothing else happens before.
    Due(Micros),
}

/// What the worker does.
#[derive(Debug)]
pub(crate) enum Action {
    /// Detection is over, and the gate is open: decide by this, and go where that leads.
    Decide(Box<Attribution>),
    /// The labels of an observed connection are known.
    Attribute(Box<Attribution>),
    /// An observed connection shows no name, for this reason: the snapshot's address labels it.
    AttributeNameless(HeldSnapshot, Detected),
    /// The connection is followed as HTTP/1 no longer: account it as TCP, under this route.
    Unfollow(Box<Unfollowed>),
    /// Connect to where this route leads, in place of an upstream connection that is idle.
    Go(Rc<Route>),
    /// Close the upstream connection, to which nothing has passed, and wait as if it had not been.
    Disconnect,
    /// Send this to the downstream, then end.
    Reply(Box<Reply>),
    /// The upstream connection carries no response any more, as if it had ended here.
    EndResponses,
    /// End the connection.
    End(CloseReason),
}

/// What a connection is accounted by.
#[derive(Debug)]
pub(crate) struct Attribution {
    /// What decides, or has decided.
    pub(crate) snapshot: HeldSnapshot,
    pub(crate) decided_by: DecidedBy,
    /// The host that the connection has shown in this protocol.
    pub(crate) host: Option<Host>,
    pub(crate) protocol: Protocol,
    /// What detection found, if it was still going on.
    pub(crate) found: Option<Detected>,
    /// Why the server name that was shown is none.
    pub(crate) junk: Option<NameError>,
}

impl Attribution {
    /// The host, as the registry is asked for it.
    pub(crate) fn shown(&self) -> Shown<'_> {
        shown(self.protocol, self.host.as_ref())
    }
}

/// What a connection shows that names this host in this protocol.
pub(crate) fn shown(protocol: Protocol, host: Option<&Host>) -> Shown<'_> {
    match (protocol, host) {
        (Protocol::Http1 | Protocol::Http2, host) => Shown::Http(host),
        (Protocol::Tls, Some(Host::Name(name))) => Shown::Tls(Some(name)),
        (Protocol::Tls, _) => Shown::Tls(None),
        (Protocol::Tcp, _) => Shown::Nothing,
    }
}

/// Whether the name has a say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecidedBy {
    Name,
    Address,
}

/// What is left of HTTP/1 that is not followed any more.
#[derive(Debug)]
pub(crate) struct Unfollowed {
    pub(crate) requests: Box<Http1>,
    /// Gated: why what follows passes without judgement.
    pub(crate) unjudged: Option<RequestError>,
    /// The request that cannot be read, if it is one that a gate would refuse.
    pub(crate) refusal: Option<RequestError>,
    /// Why a response cannot be framed.
    pub(crate) unframed: Option<FramingError>,
}
