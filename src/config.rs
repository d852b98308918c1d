//! The configuration: its types, defaults and which changes take effect when.
//!
//! Read once at start and again at every reload; a connection meets it through the snapshot. The
//! text is decoded and validated in `parse`; files are found and read by [`crate::load`], not here.
//! `config/egret.yaml` is the annotated default; a test holds that it names every field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::diagnostics::Diagnostic;
use crate::prefix;

mod names;
mod parse;

pub use names::{AccessLog, AccessLogFormat, Latin1, Names, Unverified};

/// The effective configuration: what the file says, and the defaults for what it leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Where redirected connections arrive.
    pub listen: Listen,
    /// How many worker threads.
    pub workers: Workers,
    /// What happens to connections that match no service entry.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// How a blackholed connection ends.
    pub black_hole: BlackHole,
    /// What the names in a connection's bytes decide.
    pub names: Names,
    /// Globs, relative ones already joined to the directory of the configuration file.
    pub registry: Vec<String>,
    /// File that maps source addresses to workloads, joined likewise.
    pub workloads: Option<PathBuf>,
    /// The cluster of the workloads that name none.
    pub cluster_id: Box<str>,
    /// Upstream sockets.
    pub upstream: Upstream,
    /// How long a connection may wait for what.
    pub timeouts: Timeouts,
    /// What the process may hold.
    pub limits: Limits,
    /// The admin server.
    pub admin: Admin,
    /// The exporter.
    pub metrics: Metrics,
    /// The health server.
    pub health: Health,
    /// Shutdown.
    pub drain: Drain,
    /// Log output.
    pub log: Log,
    /// One line per connection and per request.
    pub access_log: AccessLog,
}

/// Where redirected connections arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listen {
    /// How netfilter hands connections over.
    pub capture: Capture,
    /// Port on every address; 0 takes any free one.
    pub port: u16,
    /// Never empty, no duplicates. An IPv6 address takes IPv6 only.
    pub addresses: Vec<IpAddr>,
}

/// How netfilter hands connections over, and so how the original destination is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// REDIRECT: from conntrack (`SO_ORIGINAL_DST`).
    Redirect,
    /// TPROXY: the local address of the accepted socket.
    Tproxy,
}

/// How many worker threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One per CPU that the process may use.
    Auto,
    /// This many.
    Count(NonZeroU16),
}

/// What happens to connections that match no service entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundTrafficPolicy {
    /// The policy.
    pub mode: Mode,
    /// What becomes of open connections that a new policy forbids.
    pub open_connections: OpenConnections,
}

/// What becomes of open connections that a new policy forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenConnections {
    /// They keep the verdict that they began with.
    Keep,
    /// They are reset.
    Close,
}

/// Istio's outbound traffic policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    /// They pass (`PassthroughCluster`).
    AllowAny,
    /// They are blocked (`BlackHoleCluster`).
    RegistryOnly,
}

/// How a blackholed connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlackHole {
    /// What the downstream sees.
    pub action: Action,
    /// Whether a TLS client is told first, by a fatal alert `access_denied` (RFC 8446 6.2).
    pub tls_alert: bool,
}

/// What the downstream of a blackholed connection sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// FIN.
    Close,
    /// RST.
    Reset,
}

/// Upstream sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// `SO_MARK`, by which the redirect rules leave Egret's own traffic alone; `None`: no mark.
    pub mark: Option<u32>,
    /// Addresses that Egret connects to although it does not by itself: this host's own, loopback,
    /// link-local, metadata services.
    #[serde(serialize_with = "prefixes")]
    pub allow: Vec<IpNet>,
    /// What becomes of private addresses that DNS gave.
    pub private_addresses: PrivateAddresses,
}

/// What becomes of private addresses that DNS gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PrivateAddresses {
    /// They are connected to.
    Allow,
    /// They are not.
    Block,
}

/// How long a connection may wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the upstream to accept the connection.
    #[serde(serialize_with = "duration")]
    pub connect: Duration,
    /// Without a byte in either direction.
    #[serde(serialize_with = "duration")]
    pub idle: Duration,
    /// Without a byte, once one direction is closed.
    #[serde(serialize_with = "duration")]
    pub half_close: Duration,
    /// For sent bytes to be acknowledged (TCP_USER_TIMEOUT); `None`: as long as the kernel retries.
    #[serde(serialize_with = "optional_duration")]
    pub user: Option<Duration>,
    /// For the head of a request whose first byte has come, where a name can decide.
    #[serde(serialize_with = "duration")]
    pub head: Duration,
}

/// What the process may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Connections in all workers together; lowered at start to what the descriptor limit allows.
    pub connections: u32,
    /// Connections of one source address, once three quarters of all are taken; `None`: a quarter
    /// of all.
    pub per_source: Option<u32>,
    /// Bytes that wait for a decision, in all workers together.
    pub held_bytes: u64,
}

/// The admin server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Admin {
    /// Loopback only: it changes state and has no authentication.
    pub address: SocketAddr,
}

/// The exporter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Where `/metrics` is served.
    pub address: SocketAddr,
    /// Whether the TCP metrics carry the `destination_ip` label.
    pub destination_ip: bool,
    /// Label sets kept apart; later ones are accounted together, by source.
    pub series_max: usize,
    /// Without traffic for so long a label set gives its place to a new one.
    #[serde(serialize_with = "duration")]
    pub idle: Duration,
}

/// The health server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Where `/healthz/ready` and `/healthz/live` are served.
    pub address: SocketAddr,
}

/// Shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// How long open connections may go on after SIGTERM; the rest is reset.
    #[serde(serialize_with = "duration")]
    pub deadline: Duration,
}

/// Log output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// How an event is written.
    pub format: LogFormat,
}

/// How a log event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let seconds = Duration::from_secs;
        Self {
            listen: Listen { capture: Capture::Redirect, port: 15001, addresses: vec![v4, v6] },
            workers: Workers::Auto,
            outbound_traffic_policy: OutboundTrafficPolicy {
                mode: Mode::AllowAny,
                open_connections: OpenConnections::Keep,
            },
            black_hole: BlackHole { action: Action::Close, tls_alert: false },
            names: Names::default(),
            registry: Vec::new(),
            workloads: None,
            cluster_id: "Kubernetes".into(),
            upstream: Upstream {
                mark: Some(1337),
                allow: Vec::new(),
                private_addresses: PrivateAddresses::Allow,
            },
            timeouts: Timeouts {
                connect: seconds(10),
                idle: seconds(3600),
                half_close: seconds(50),
                user: None,
                head: seconds(30),
            },
            limits: Limits { connections: 102_400, per_source: None, held_bytes: 64 << 20 },
            admin: Admin { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 15000)) },
            metrics: Metrics {
                address: SocketAddr::new(v4, 15020),
                destination_ip: false,
                series_max: 10_000,
                idle: seconds(3600),
            },
            health: Health { address: SocketAddr::new(v4, 15021) },
            drain: Drain { deadline: seconds(45) },
            log: Log { level: "info".into(), format: LogFormat::Text },
            access_log: AccessLog { format: AccessLogFormat::Off, path: None },
        }
    }
}

impl Config {
    /// The configuration in `text` and the warnings about it. `file` is where the text comes from:
    /// it stands in the diagnostics, and relative paths in the text are joined to its directory.
    ///
    /// # Errors
    /// Every diagnostic found, when at least one of them is an error.
    pub fn parse(text: &str, file: &Path) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        parse::config(text, file)
    }

    /// The fields that differ in `new` and take effect only when the process is started again.
    #[must_use]
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let changes = [
            ("listen.capture", self.listen.capture != new.listen.capture),
            ("listen.port", self.listen.port != new.listen.port),
            ("listen.addresses", self.listen.addresses != new.listen.addresses),
            ("workers", self.workers != new.workers),
            ("limits.connections", self.limits.connections != new.limits.connections),
            ("admin.address", self.admin != new.admin),
            ("metrics.address", self.metrics.address != new.metrics.address),
            ("metrics.seriesMax", self.metrics.series_max != new.metrics.series_max),
            ("health.address", self.health != new.health),
            ("log.format", self.log.format != new.log.format),
        ];
        changes.into_iter().filter_map(|(field, changed)| changed.then_some(field)).collect()
    }
}

impl Mode {
    /// As Istio writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowAny => "ALLOW_ANY",
            Self::RegistryOnly => "REGISTRY_ONLY",
        }
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => serializer.serialize_u16(count.get()),
        }
    }
}

fn prefixes<S: Serializer>(list: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(prefix::display))
}

fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*value))
}

fn optional_duration<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => duration(value, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests;
