//! Asks DNS for the addresses of one name: hickory's resolver, and its answers in the book's words.
//!
//! It asks for absolute names only (no search list: `api.example.com` in an entry means just that),
//! keeps no cache of its own (the book does), and sends its queries from unmarked sockets. The
//! redirect rules leave UDP alone, and locally made TCP, which is used for long answers, unless
//! `redirect.sh --local` captures it; then Egret's user must be excluded by `--uid`.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{self, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};

use super::book::{Family, Reply};
use crate::sniff::Name;

/// How long a question may take, all servers, repetitions and TCP included.
const QUESTION_MAX: Duration = Duration::from_secs(10);
/// How long a configured server may take. Half of what resolv.conf's default is: it was chosen to
/// be near.
pub(super) const SERVER_MAX: Duration = Duration::from_millis(2_500);
/// A server that has been silent for so long is asked in the other form, too: old servers and
/// firewalls drop questions with EDNS (RFC 6891 6.2.2, dnsflagday.net/2019).
const OTHER_FORM_AFTER: Duration = Duration::from_secs(1);

/// What the host itself knows about names. A change of either is followed, as glibc does.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Asks the servers of one configuration.
pub(super) struct Asker {
    /// Empty: those of the system.
    addresses: Vec<SocketAddr>,
    /// How the system's files looked when the servers were taken from them.
    files: FileStamps,
    /// The error is the reply to every question.
    servers: Result<Arc<[Server]>, String>,
}

/// One server, in the two forms in which it can be asked.
struct Server {
    edns: TokioResolver,
    plain: TokioResolver,
    /// The form that is tried first is the plain one: the other one has failed where it did not.
    prefers_plain: AtomicBool,
}

/// Modification times of [`SYSTEM_FILES`].
type FileStamps = [Option<SystemTime>; SYSTEM_FILES.len()];

impl Asker {
    /// Asks `servers`, or those of the system when there are none.
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        let files = stamps();
        let servers = servers(addresses).map_err(|error| match addresses {
            [] => format!("/etc/resolv.conf: {error}"),
            _ => error.to_string(),
        });
        Self { addresses: addresses.to_vec(), files, servers }
    }

    /// Follows changes of the system's files.
    pub(super) fn refresh(&mut self) {
        if self.addresses.is_empty() && stamps() != self.files {
            *self = Self::new(&[]);
        }
    }

    /// The servers that are asked; empty: those of the system.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Asks for the addresses of one family: the servers in their order, until one has an answer.
    pub(super) fn ask(
        &self,
        name: &Name,
        family: Family,
    ) -> impl Future<Output = Reply> + Send + 'static {
        let servers = self.servers.clone();
        let name = rr::Name::from_ascii(format!("{}.", name.as_str()));
        async move {
            let (servers, name) = match (servers, name) {
                (Ok(servers), Ok(name)) => (servers, name),
                (Err(error), _) => return Reply::Failed(error),
                (_, Err(error)) => return Reply::Failed(error.to_string()),
            };
            let asked = ask_in_turn(&servers, &name, record_type(family));
            let in_time = tokio::time::timeout(QUESTION_MAX, asked).await;
            in_time.unwrap_or_else(|_| Reply::Failed(NetError::Timeout.to_string()))
        }
    }
}

fn stamps() -> FileStamps {
    SYSTEM_FILES.map(|file| std::fs::metadata(file).and_then(|file| file.modified()).ok())
}

fn record_type(family: Family) -> RecordType {
    match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    }
}

fn servers(addresses: &[SocketAddr]) -> Result<Arc<[Server]>, NetError> {
    let (names, mut options) = if addresses.is_empty() {
        let (config, options) = system_conf::read_system_conf()?;
        (config.name_servers().to_vec(), options)
    } else {
        let mut options = ResolverOpts::default();
        options.timeout = SERVER_MAX;
        // Who names servers wants their answers, not those of the host's file.
        options.use_hosts_file = ResolveHosts::Never;
        (addresses.iter().map(name_server).collect(), options)
    };
    // One server at a time is asked here, in two forms; its silence is the next one's turn.
    options.attempts = 0;
    options.cache_size = 0;
    // The TTL of an alias bounds that of its target's addresses.
    options.preserve_intermediates = true;
    names.into_iter().map(|one| Server::new(&one, &options)).collect()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut way| {
        way.port = address.port();
        way
    });
    NameServerConfig::new(address.ip(), TRUST_NEGATIVE, connections.into())
}

/// NXDOMAIN of one server is not asked about at the next: as in glibc and c-ares.
const TRUST_NEGATIVE: bool = true;

impl Server {
    fn new(config: &NameServerConfig, options: &ResolverOpts) -> Result<Self, NetError> {
        let resolver = |edns0: bool| {
            let mut options = options.clone();
            // Larger UDP answers (RFC 6891), so that few need TCP.
            options.edns0 = edns0;
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![config.clone()]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
                .with_options(options)
                .build()
        };
        Ok(Self {
            edns: resolver(true)?,
            plain: resolver(false)?,
            prefers_plain: AtomicBool::new(false),
        })
    }

    /// Asks in one form; when that fails, or is not answered for a while, in the other one, too.
    async fn ask(&self, name: &rr::Name, family: RecordType) -> Reply {
        let prefers_plain = self.prefers_plain.load(Ordering::Relaxed);
        let (first, other) = match prefers_plain {
            true => (&self.plain, &self.edns),
            false => (&self.edns, &self.plain),
        };
        let first = ask(first, name.clone(), family);
        tokio::pin!(first);
        let reply = match tokio::time::timeout(OTHER_FORM_AFTER, &mut first).await {
            Ok(Reply::Failed(why)) => Some(Reply::Failed(why)),
            Ok(answer) => return answer,
            Err(_) => None,
        };
        let other = async { self.learn(!prefers_plain, ask(other, name.clone(), family).await) };
        tokio::pin!(other);
        if let Some(failed) = reply {
            return other.await.unwrap_or(failed);
        }
        tokio::select! {
            reply = &mut first => match reply {
                Reply::Failed(why) => other.await.unwrap_or(Reply::Failed(why)),
                answer => answer,
            },
            reply = &mut other => match reply {
                Some(answer) => answer,
                None => first.await,
            },
        }
    }

    /// The form that was tried as the second one has brought this: an answer is remembered.
    fn learn(&self, was_plain: bool, reply: Reply) -> Option<Reply> {
        if let Reply::Failed(_) = reply {
            return None;
        }
        self.prefers_plain.store(was_plain, Ordering::Relaxed);
        Some(reply)
    }
}

/// The first answer, or the first failure.
async fn ask_in_turn(servers: &[Server], name: &rr::Name, family: RecordType) -> Reply {
    let mut failure = None;
    for server in servers {
        match server.ask(name, family).await {
            Reply::Failed(why) => failure = failure.or(Some(why)),
            answer @ (Reply::Addresses(..) | Reply::Absent(_)) => return answer,
        }
    }
    Reply::Failed(failure.unwrap_or_else(|| NetError::NoConnections.to_string()))
}

async fn ask(resolver: &TokioResolver, name: rr::Name, family: RecordType) -> Reply {
    match resolver.lookup(name, family).await {
        Ok(lookup) => addresses(&lookup),
        Err(error) if error.is_nx_domain() => Reply::Absent("no such name (NXDOMAIN)"),
        Err(error) if error.is_no_records_found() => Reply::Absent("the name has no address"),
        Err(error) => Reply::Failed(error.to_string()),
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
