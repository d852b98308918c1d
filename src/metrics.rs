//! Every metric's name, help and labels; the per-worker counters; the sum.
//!
//! In a connection's life: the worker finds a connection's series once, after the verdict, and from
//! then on only adds to cells that it alone writes. The control plane reads the cells at a scrape
//! and sums over the workers. Nothing here takes a lock on the data path; nothing here opens a
//! socket (see `control::exporter`).
//!
//! * [`counters`]: what one worker counts beside the series.
//! * [`series`]: the label sets of one worker: `istio_tcp_*`, `istio_request*`.
//! * [`requests`]: the histograms of requests.
//! * [`timing`]: connect durations and loop turns.
//! * `room`: what these tables and their sum tell each other about places that are free.
//! * [`hub`]: the control plane's end: the sum over the workers.
//! * `catalogue`: every metric in the order of a scrape: type, name, help, values.
//! * [`encode`]: a scrape as text.
//!
//! `sent` and `received` are Istio's words and stand in metric names only: *sent* are the bytes
//! written to the downstream, *received* the bytes read from it.

use std::sync::atomic::{AtomicU64, Ordering};

use strum::{EnumCount, IntoStaticStr, VariantArray};

mod catalogue;
pub mod counters;
pub mod encode;
pub mod hub;
mod labels;
mod process;
pub mod requests;
mod room;
pub mod series;
pub mod timing;

pub use counters::{
    ControlCounters, Detected, DnsResult, ReloadResult, ResolvedClaim, Shed, UnaskedStatus,
    WorkerCounters,
};
pub use encode::Format;
pub use hub::{MetricsHub, WorkerMetrics};
pub use series::{KnownSeries, SeriesCells, SeriesIndex, SeriesKey, SeriesTable};

/// A counter or gauge with one writer: no read-modify-write instruction, it loads and stores.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`; only the owner may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away (gauges); only the owner may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Replaces the value (gauges); only the owner may call this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads it, from any thread.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a connection ended. One value feeds metric and log; its label is its name in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum CloseReason {
    /// Both sides sent FIN and everything was delivered.
    Finished,
    /// The downstream was reset, or died.
    DownstreamReset,
    /// The upstream was reset, or died.
    UpstreamReset,
    /// The policy gave no way out.
    #[strum(serialize = "blackhole")]
    BlackHole,
    /// The upstream refused (ECONNREFUSED).
    ConnectRefused,
    /// The upstream did not answer in `timeouts.connect`.
    ConnectTimeout,
    /// No route, or an ICMP error.
    ConnectUnreachable,
    /// No local port left for this destination (EADDRNOTAVAIL).
    NoLocalPort,
    /// No descriptor left for the upstream socket (EMFILE, ENFILE).
    NoDescriptor,
    /// Any other connect error.
    ConnectFailed,
    /// `limits.connections` was reached.
    ConnectionLimit,
    /// Its source has its share of connections, and few are left.
    SourceLimit,
    /// It had sent nothing yet, and gave way to another source's when few connections were left.
    GaveWay,
    /// It held most bytes of the source that held most, and `limits.heldBytes` was reached.
    HeldBytes,
    /// Nothing moved for `timeouts.idle`.
    Idle,
    /// One half was closed and nothing moved on the other for `timeouts.halfClose`.
    HalfClose,
    /// A drain began, and nothing was outstanding.
    Drained,
    /// The drain deadline passed.
    DrainDeadline,
    /// A request's head did not come in `timeouts.head`.
    HeadTimeout,
    /// It was not redirected, or came from Egret itself.
    SelfCall,
    /// The service's name has not resolved to an endpoint.
    NoEndpoint,
    /// The name that the workload claims has no address, or nobody told one in time.
    NameUnresolved,
    /// So many claimed names are being resolved that this one was not.
    NameLimit,
    /// Egret does not connect to the address ([`crate::upstream_guard`]).
    RefusedUpstream,
    /// A request that is malformed, and was refused.
    BadRequest,
    /// The files have changed, and forbid it (`outboundTrafficPolicy.openConnections: close`).
    PolicyChanged,
    /// An operator has ended it (`POST /connections/close`).
    ClosedByAdmin,
    /// Egret's own fault: what inspects the connection's bytes has panicked.
    InternalError,
}

impl CloseReason {
    /// The reason as it stands in the `reason` label and in the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }

    /// Istio's words for it. A self-call is not accounted to any `istio_*` series; its flags are
    /// those of a plain close, for the callers that do not tell reasons apart.
    #[must_use]
    pub const fn response_flags(self) -> ResponseFlags {
        match self {
            Self::Finished
            | Self::Idle
            | Self::HalfClose
            | Self::Drained
            | Self::DrainDeadline
            | Self::SelfCall
            | Self::InternalError => ResponseFlags::None,
            Self::DownstreamReset => ResponseFlags::DownstreamReset,
            Self::UpstreamReset => ResponseFlags::UpstreamRemoteReset,
            Self::BlackHole | Self::NoEndpoint | Self::RefusedUpstream => ResponseFlags::BlackHole,
            Self::BadRequest | Self::HeadTimeout => ResponseFlags::DownstreamProtocol,
            Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::ConnectUnreachable
            | Self::NoLocalPort
            | Self::NoDescriptor
            | Self::ConnectFailed => ResponseFlags::ConnectFailed,
            Self::NameUnresolved => ResponseFlags::NameUnresolved,
            Self::PolicyChanged | Self::ClosedByAdmin => ResponseFlags::LocalReset,
            Self::ConnectionLimit
            | Self::SourceLimit
            | Self::GaveWay
            | Self::HeldBytes
            | Self::NameLimit => ResponseFlags::Overflow,
        }
    }
}

/// `response_flags`: Envoy's short words for what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, IntoStaticStr, VariantArray)]
pub enum ResponseFlags {
    /// `-`: nothing.
    #[default]
    #[strum(serialize = "-")]
    None,
    /// `UH`: no healthy upstream; what Istio writes for a blackholed connection.
    #[strum(serialize = "UH")]
    BlackHole,
    /// `UF,URX`: the upstream connection failed, and no attempt is left. Istio retries what goes to
    /// a registered service, and connections.
    #[strum(serialize = "UF,URX")]
    ConnectFailed,
    /// `UO`: a connection limit.
    #[strum(serialize = "UO")]
    Overflow,
    /// `UR`: the upstream reset the connection.
    #[strum(serialize = "UR")]
    UpstreamRemoteReset,
    /// `UC`: the upstream ended the connection before it had answered a request.
    #[strum(serialize = "UC")]
    UpstreamTerminated,
    /// `DC`: the downstream ended the connection.
    #[strum(serialize = "DC")]
    DownstreamReset,
    /// `DPE`: what the downstream sent is malformed.
    #[strum(serialize = "DPE")]
    DownstreamProtocol,
    /// `DF`: a name was not resolved.
    #[strum(serialize = "DF")]
    NameUnresolved,
    /// `UF`: the upstream connection of a request failed that goes where it meant to. Istio does
    /// not retry it.
    #[strum(serialize = "UF")]
    PassthroughFailed,
    /// `LR`: Egret has reset what was passing.
    #[strum(serialize = "LR")]
    LocalReset,
}

impl ResponseFlags {
    /// The value of the `response_flags` label.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// What a request was answered: `response_code`, `grpc_response_status`, `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseCode {
    /// A status of HTTP; 0: there was none.
    Http(u16),
    /// Egret's own reply to a call of gRPC: status 200, and in its trailers UNAVAILABLE (14).
    GrpcUnavailable,
}

impl ResponseCode {
    /// A number of its own.
    const fn number(self) -> u16 {
        match self {
            Self::Http(status) => status,
            Self::GrpcUnavailable => u16::MAX,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
