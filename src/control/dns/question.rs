//! Asks DNS for the addresses of one name: hickory's resolver, and its answers in the book's words.
//!
//! It asks for absolute names only (no search list: `api.example.com` in an entry means just that),
//! keeps no cache of its own (the book does), and sends its queries from unmarked sockets. The
//! redirect rules leave UDP alone, and locally made TCP, which is used for long answers, unless
//! `redirect.sh --local` captures it; then Egret's user must be excluded by `--uid`.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    ServerOrderingStrategy,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{self, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};

use super::book::{Replies, Reply};
use crate::sniff::Name;

/// How long a question may take, all servers, repetitions and TCP included.
const QUESTION_MAX: Duration = Duration::from_secs(10);
/// How long a configured server may take. Half of what resolv.conf's default is: it was chosen to
/// be near.
pub(super) const SERVER_MAX: Duration = Duration::from_millis(2_500);

/// What the host itself knows about names. A change of either is followed, as glibc does.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Asks the servers of one configuration.
pub(super) struct Asker {
    /// Empty: those of the system.
    servers: Vec<SocketAddr>,
    /// How the system's files looked when the resolver was made.
    files: FileStamps,
    /// The error is the reply to every question.
    resolver: Result<TokioResolver, String>,
}

/// Modification times of [`SYSTEM_FILES`].
type FileStamps = [Option<SystemTime>; SYSTEM_FILES.len()];

impl Asker {
    /// Asks `servers`, or those of the system when there are none.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        let files = stamps();
        let resolver = resolver(servers).map_err(|error| match servers {
            [] => format!("/etc/resolv.conf: {error}"),
            _ => error.to_string(),
        });
        Self { servers: servers.to_vec(), files, resolver }
    }

    /// Follows changes of the system's files.
    pub(super) fn refresh(&mut self) {
        if self.servers.is_empty() && stamps() != self.files {
            *self = Self::new(&[]);
        }
    }

    /// The servers that are asked; empty: those of the system.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Asks for both families at once.
    pub(super) fn ask(&self, name: &Name) -> impl Future<Output = Replies> + Send + 'static {
        let resolver = self.resolver.clone();
        let name = rr::Name::from_ascii(format!("{}.", name.as_str()));
        async move {
            let (resolver, name) = match (resolver, name) {
                (Ok(resolver), Ok(name)) => (resolver, name),
                (Err(error), _) => return Replies::failed(&error),
                (_, Err(error)) => return Replies::failed(&error.to_string()),
            };
            let (v4, v6) = tokio::join!(
                ask(&resolver, name.clone(), RecordType::A),
                ask(&resolver, name, RecordType::AAAA)
            );
            Replies { v4, v6 }
        }
    }
}

impl Replies {
    fn failed(why: &str) -> Self {
        Self { v4: Reply::Failed(why.into()), v6: Reply::Failed(why.into()) }
    }
}

fn stamps() -> FileStamps {
    SYSTEM_FILES.map(|file| std::fs::metadata(file).and_then(|file| file.modified()).ok())
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let (config, mut options) = if servers.is_empty() {
        system_conf::read_system_conf()?
    } else {
        let servers = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
                way.port = server.port();
                way
            });
            NameServerConfig::new(server.ip(), TRUST_NEGATIVE, connections.into())
        });
        let mut options = ResolverOpts::default();
        options.timeout = SERVER_MAX;
        // Who names servers wants their answers, not those of the host's file.
        options.use_hosts_file = ResolveHosts::Never;
        (ResolverConfig::from_parts(None, Vec::new(), servers.collect()), options)
    };
    // Both files list their servers in the order of preference.
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.cache_size = 0;
    // Larger UDP answers (RFC 6891), so that few need TCP.
    options.edns0 = true;
    // The TTL of an alias bounds that of its target's addresses.
    options.preserve_intermediates = true;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
}

/// NXDOMAIN of one server is not asked about at the next: as in glibc and c-ares.
const TRUST_NEGATIVE: bool = true;

async fn ask(resolver: &TokioResolver, name: rr::Name, family: RecordType) -> Reply {
    match tokio::time::timeout(QUESTION_MAX, resolver.lookup(name, family)).await {
        Ok(Ok(lookup)) => addresses(&lookup),
        Ok(Err(error)) if error.is_nx_domain() => Reply::Absent("no such name (NXDOMAIN)"),
        Ok(Err(error)) if error.is_no_records_found() => Reply::Absent("the name has no address"),
        Ok(Err(error)) => Reply::Failed(error.to_string()),
        Err(_) => Reply::Failed(NetError::Timeout.to_string()),
    }
}

fn addresses(lookup: &Lookup) -> Reply {
    let addresses: Vec<IpAddr> = lookup
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .collect();
    // Aliases included: each link of the chain may change by itself.
    let ttl_s = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    match addresses.is_empty() {
        true => Reply::Absent("the name has no address"),
        false => Reply::Addresses(addresses, Duration::from_secs(ttl_s.into())),
    }
}
