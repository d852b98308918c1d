//! The sections `names` and `accessLog`: what names decide, and where they are written down.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// What the names in a connection's bytes (Host, SNI) decide, and how names are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// Whether names are read at all; if not, every decision is by address and port.
    pub enabled: bool,
    /// How long after its first byte a connection may wait for its name, when that could decide.
    #[serde(serialize_with = "super::duration")]
    pub deadline: Duration,
    /// Destination ports on which no connection waits for its name; sorted, no duplicates. There
    /// the server speaks first, or what is spoken carries no name.
    pub opaque_ports: Vec<u16>,
    /// What becomes of a connection whose name nothing vouches for.
    pub unverified: Unverified,
    /// How long an answer of DNS vouches for its name at least, whatever its TTL.
    #[serde(serialize_with = "super::duration")]
    pub grace: Duration,
    /// Whether a GET, HEAD or OPTIONS request with a body is refused where names decide: some
    /// servers do not read that body, and take it for the next request.
    pub refuse_get_bodies: bool,
    /// What becomes of bytes above 127 that are no UTF-8, in requests where names decide.
    pub latin1: Latin1,
    /// Asked for the addresses of names, in this order; empty: those that `/etc/resolv.conf` names.
    pub dns_servers: Vec<SocketAddr>,
}

/// What becomes of a connection whose name matches an entry that has neither endpoints nor the
/// original destination among its addresses: the workload may have claimed any name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unverified {
    /// It goes to its original destination, as in Istio.
    Allow,
    /// The same, and a line of the log says so.
    Log,
    /// It is blocked.
    Block,
    /// It goes to an address that Egret resolves for the name.
    Resolve,
}

/// What becomes of a request that has text which is no UTF-8: a server that decodes it may take
/// the end of the line for the rest of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Latin1 {
    /// It is refused.
    Refuse,
    /// It passes.
    Pass,
}

/// One line per connection and per request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// How a line is written, if at all.
    pub format: AccessLogFormat,
    /// The file that lines are added to, joined to the directory of the configuration file;
    /// `None`: standard output.
    #[serde(serialize_with = "path_or_stdout")]
    pub path: Option<PathBuf>,
}

/// How a line of the access log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// Not at all.
    Off,
    /// One object per line.
    Json,
    /// As Envoy's default format.
    Text,
}

/// The word that stands for standard output in `accessLog.path`.
pub(super) const STDOUT: &str = "stdout";

impl Default for Names {
    fn default() -> Self {
        Self {
            enabled: true,
            deadline: Duration::from_secs(5),
            // SMTP, submission, MySQL, Galera, PostgreSQL, Redis, Elasticsearch, memcached: the
            // list that Linkerd ships for the same purpose.
            opaque_ports: vec![25, 587, 3306, 4444, 5432, 6379, 9300, 11211],
            unverified: Unverified::Allow,
            // Clients keep addresses beyond their TTL: connection pools, the JDK's and glibc's
            // caches; what rotates comes round within minutes.
            grace: Duration::from_secs(600),
            refuse_get_bodies: true,
            latin1: Latin1::Refuse,
            dns_servers: Vec::new(),
        }
    }
}

impl Names {
    /// Whether a connection to `port` may be decided by its name.
    #[must_use]
    pub fn decide_on(&self, port: u16) -> bool {
        self.enabled && self.opaque_ports.binary_search(&port).is_err()
    }
}

impl Unverified {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Allow, Self::Log, Self::Block, Self::Resolve];

    /// As the configuration writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Log => "log",
            Self::Block => "block",
            Self::Resolve => "resolve",
        }
    }

    /// Whether the connection goes where the workload says, under a name that it chose.
    #[must_use]
    pub fn follows_claim(self) -> bool {
        match self {
            Self::Allow | Self::Log => true,
            Self::Block | Self::Resolve => false,
        }
    }
}

fn path_or_stdout<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path.serialize(serializer),
        None => serializer.serialize_str(STDOUT),
    }
}
