//! What a line of the access log says, before it has a format.
//!
//! A worker fills a [`Record`] when a request has been answered or a connection has ended; the
//! formats only read it. What both formats derive from it in the same way is derived here.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::Mode;
use crate::metrics::{CloseReason, ResponseFlags};
use crate::registry::snapshot::{Cluster, Service};
use crate::workload::Workload;

/// One connection that has ended, or one request of a connection.
#[derive(Debug, Clone)]
pub struct Record {
    /// When the connection was accepted, or the request began.
    pub start: SystemTime,
    /// From `start` to the end of the connection or of the answer.
    pub duration: Duration,
    /// The workload's address.
    pub source: SocketAddr,
    /// Who that is.
    pub workload: Arc<Workload>,
    /// Where the workload meant to go.
    pub original_destination: SocketAddr,
    /// Where Egret connected to, or tried last; `None`: it did not try.
    pub upstream: Option<SocketAddr>,
    /// Egret's own end of the upstream connection.
    pub upstream_local: Option<SocketAddr>,
    /// The best name there is for the destination, in its normal form.
    pub name: Option<Box<str>>,
    /// Where `name` comes from.
    pub name_source: NameOrigin,
    /// What was decided.
    pub verdict: Outcome,
    /// What it is accounted to.
    pub cluster: Arc<Cluster>,
    /// What decided.
    pub decided_by: Decider,
    /// What was detected in the connection's bytes.
    pub protocol: Protocol,
    /// What went wrong, in Envoy's words.
    pub flags: ResponseFlags,
    /// Bytes read from the downstream; of a request, those of its body.
    pub bytes_received: u64,
    /// Bytes written to the downstream; of a request, those of its response's body.
    pub bytes_sent: u64,
    /// Why a connection ended; `None` for a request.
    pub close_reason: Option<CloseReason>,
    /// What a request says of itself; `None` for a connection.
    pub request: Option<Request>,
}

/// The part of a [`Record`] that only requests have. What the client did not send is `None`.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The method.
    pub method: Excerpt<32>,
    /// The request target as it was sent.
    pub target: Excerpt<1024>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub version: &'static str,
    /// Host, or `:authority`, as it was sent.
    pub authority: Option<Excerpt<300>>,
    /// The User-Agent.
    pub user_agent: Option<Excerpt<256>>,
    /// The X-Forwarded-For.
    pub forwarded_for: Option<Excerpt<256>>,
    /// The X-Request-Id.
    pub request_id: Option<Excerpt<128>>,
    /// The answer's status; 0: there was none.
    pub status: u16,
    /// Where the status comes from, as Envoy says it: `via_upstream`, `direct_response`. May be
    /// empty.
    pub details: &'static str,
    /// From the request passed on to the first byte of its answer.
    pub first_byte: Option<Duration>,
    /// Why it found no upstream connection, if it found none.
    pub unreachable: Option<CloseReason>,
}

/// Bytes that a peer chose, as they came, no more than `BYTES_MAX` of them: the queue's memory is
/// bounded by it, and so is a line's length. The formats escape it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Excerpt<const BYTES_MAX: usize> {
    bytes: Box<[u8]>,
    /// Whether there was more.
    cut: bool,
}

impl<const BYTES_MAX: usize> Excerpt<BYTES_MAX> {
    /// What was kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a format puts behind it: the sign that there was more.
    pub(super) fn ellipsis(&self) -> &'static str {
        if self.cut { "..." } else { "" }
    }
}

impl<const BYTES_MAX: usize> From<&[u8]> for Excerpt<BYTES_MAX> {
    fn from(bytes: &[u8]) -> Self {
        let kept = bytes.get(..BYTES_MAX);
        Self { bytes: kept.unwrap_or(bytes).into(), cut: kept.is_some_and(|k| k != bytes) }
    }
}

impl<const BYTES_MAX: usize> From<&str> for Excerpt<BYTES_MAX> {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl<const BYTES_MAX: usize> fmt::Debug for Excerpt<BYTES_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"{}", self.bytes.escape_ascii(), self.ellipsis())
    }
}

/// Where a name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOrigin {
    /// Host or `:authority`: what the workload asked for.
    Host,
    /// The ClientHello: what the workload asked for.
    Sni,
    /// The registry: a name that resolves to the address.
    Dns,
    /// There is no name.
    None,
}

impl NameOrigin {
    /// `name_source`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Sni => "sni",
            Self::Dns => "dns",
            Self::None => "none",
        }
    }
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes to a service of the registry.
    Service,
    /// It goes where it meant to.
    Passthrough,
    /// The policy blocks it.
    BlackHole,
    /// Egret does not serve it, whatever the policy: a limit, a malformed request.
    Refused,
}

impl Outcome {
    /// `verdict`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Passthrough => "passthrough",
            Self::BlackHole => "blackhole",
            Self::Refused => "refused",
        }
    }
}

/// What decided.
#[derive(Debug, Clone)]
pub enum Decider {
    /// A service entry.
    Entry(Arc<Service>),
    /// The outbound traffic policy, because no entry matches.
    Policy(Mode),
    /// `names.unverified: block`: the name matches an entry, the address does not.
    Unverified,
    /// `limits.connections`.
    Limit,
    /// The request itself, which is malformed.
    Malformed,
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(service) => {
                let origin = &service.origin;
                write!(f, "{} ({}:{})", service.entry, origin.file.display(), origin.line)
            }
            Self::Policy(mode) => write!(f, "outboundTrafficPolicy.mode {}", mode.as_str()),
            Self::Unverified => f.write_str("names.unverified block"),
            Self::Limit => f.write_str("limits.connections"),
            Self::Malformed => f.write_str("malformed request"),
        }
    }
}

/// What was detected in a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing: opaque bytes, or none.
    Tcp,
    /// TLS.
    Tls,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS.
    Http2,
}

impl Protocol {
    /// `recognised_protocol`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

impl Record {
    /// `%UPSTREAM_CLUSTER_RAW%`: Istio's name for where it goes. A request that is blocked or
    /// refused is answered before Envoy has chosen a cluster.
    pub(super) fn upstream_cluster(&self) -> Option<Cow<'_, str>> {
        let name = &*self.cluster.service_name;
        match (self.verdict, &self.decided_by) {
            (Outcome::BlackHole | Outcome::Refused, _) if self.request.is_some() => None,
            // Istio's form of a service's cluster: direction, port, subset, host.
            (Outcome::Service, Decider::Entry(service)) => {
                Some(format!("outbound|{}||{name}", service.port).into())
            }
            _ => Some(name.into()),
        }
    }

    /// `%ROUTE_NAME%`: which of Istio's routes a request takes; a connection takes none.
    pub(super) fn route_name(&self) -> Option<&'static str> {
        self.request.as_ref()?;
        match self.verdict {
            Outcome::Service => Some("default"),
            Outcome::Passthrough => Some("allow_any"),
            Outcome::BlackHole => Some("block_all"),
            Outcome::Refused => None,
        }
    }

    /// `%REQUESTED_SERVER_NAME%`: the SNI.
    pub(super) fn requested_server_name(&self) -> Option<&str> {
        self.name.as_deref().filter(|_| self.name_source == NameOrigin::Sni)
    }

    /// `%CONNECTION_TERMINATION_DETAILS%`: why Egret ended the connection, where the flags do not
    /// say it.
    pub(super) fn termination_details(&self) -> Option<&'static str> {
        let reason = self.close_reason?;
        let said_by_flags = matches!(
            reason,
            CloseReason::Finished
                | CloseReason::BlackHole
                | CloseReason::DownstreamReset
                | CloseReason::UpstreamReset
        );
        match reason {
            // Envoy's word.
            CloseReason::Idle => Some("tcp_session_idle_timeout"),
            _ if said_by_flags || is_connect_failure(reason) => None,
            _ => Some(reason.label()),
        }
    }

    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`: why the upstream connection failed, in Envoy's words
    /// where it has some.
    pub(super) fn transport_failure(&self) -> Option<&'static str> {
        let of_request = self.request.as_ref().and_then(|request| request.unreachable);
        match self.close_reason.or(of_request)? {
            CloseReason::ConnectRefused => Some("delayed_connect_error:_Connection_refused"),
            CloseReason::ConnectUnreachable => Some("delayed_connect_error:_No_route_to_host"),
            CloseReason::NoLocalPort => {
                Some("immediate_connect_error:_Cannot_assign_requested_address")
            }
            reason => is_connect_failure(reason).then(|| reason.label()),
        }
    }
}

fn is_connect_failure(reason: CloseReason) -> bool {
    reason.response_flags() == ResponseFlags::ConnectFailed
}

impl Request {
    /// Takes a field of the request's head, if a line shows it. The first of several counts.
    pub fn keep(&mut self, name: &[u8], value: &[u8]) {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("host") {
            self.authority.get_or_insert_with(|| value.into());
        } else if is("user-agent") {
            self.user_agent.get_or_insert_with(|| value.into());
        } else if is("x-forwarded-for") {
            self.forwarded_for.get_or_insert_with(|| value.into());
        } else if is("x-request-id") {
            self.request_id.get_or_insert_with(|| value.into());
        }
    }

    /// `%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%`, in milliseconds: Envoy measures to the answer's
    /// head.
    pub(super) fn service_time_ms(&self) -> Option<u128> {
        self.first_byte.map(|time| time.as_millis())
    }
}
