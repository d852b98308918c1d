//! `egret explain`: connections, as the snapshot decides on them.
//!
//! Every line says what a worker would do and why. Names are not resolved here: what depends on an
//! answer is said so.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::prefix;
use crate::registry::service_entry::ByAddress;
use crate::registry::snapshot::{
    Decision, Destination, Match, NameTrust, Service, Shown, Snapshot, Target, Verdict,
};
use crate::sniff::{Host, NameError};
use crate::upstream_guard::{self, LedBy, Rules, ThisHost};
use crate::workload::Workload;

pub(super) mod batch;
mod text;

pub(super) use text::text;

/// Names listed in one line; more are counted.
const NAMES_MAX: usize = 3;

/// A connection that is asked about; one line of a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The workload; `None`: an unknown one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Where it connects to.
    pub destination: SocketAddr,
    /// The name that it shows, without a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What it speaks; `None`: every answer that there can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaks: Option<Speaks>,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaks {
    /// HTTP/1 or HTTP/2: the name stands in Host.
    Http,
    /// TLS: the name stands in the SNI.
    Tls,
    /// Something else, or the server first: there is no name.
    Other,
}

/// What becomes of a connection that speaks so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reading {
    speaks: Speaks,
    /// What found the entry.
    matched: Option<String>,
    /// What vouches for the name.
    standing: Option<String>,
    decided_by: String,
    verdict: &'static str,
    connects_to: String,
    destination_service_name: String,
    /// The name is what found it.
    #[serde(skip)]
    is_by_name: bool,
    /// The address is what found it.
    #[serde(skip)]
    is_by_address: bool,
}

impl Reading {
    /// Whether the same happens for the same reason.
    fn is_same(&self, other: &Self) -> bool {
        Self { speaks: other.speaks, ..self.clone() } == *other
    }
}

/// The host that a question names, or why it is none.
fn host_of(question: &Question) -> Option<Result<Host, NameError>> {
    question.host.as_ref().map(|host| Host::parse(host.as_bytes()))
}

/// What the question may be answered with: one reading for each thing that the connection may
/// speak.
fn readings(snapshot: &Snapshot, question: &Question) -> Vec<Reading> {
    let host = host_of(question).and_then(Result::ok);
    let all = [Speaks::Http, Speaks::Tls, Speaks::Other];
    let asked = all.into_iter().filter(|speaks| match question.speaks {
        Some(asked) => asked == *speaks,
        // A connection with a name speaks what it is shown in.
        None => host.is_none() || *speaks != Speaks::Other,
    });
    asked.map(|speaks| reading(snapshot, question, host.as_ref(), speaks)).collect()
}

fn reading(
    snapshot: &Snapshot,
    question: &Question,
    host: Option<&Host>,
    speaks: Speaks,
) -> Reading {
    let shown = match (speaks, host) {
        (Speaks::Http, host) => Shown::Http(host),
        (Speaks::Tls, Some(Host::Name(name))) => Shown::Tls(Some(name)),
        (Speaks::Tls, _) => Shown::Tls(None),
        (Speaks::Other, _) => Shown::Nothing,
    };
    let destination = question.destination;
    let source = question.source.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let decision = snapshot.decide(source, destination, shown);
    let found = snapshot.find(source, destination, shown);
    let matched = found.map(|(_, matched)| matched);
    Reading {
        speaks,
        matched: found.map(|(service, matched)| how(service, matched, destination)),
        standing: vouched(snapshot, decision.standing),
        decided_by: decided_by(snapshot, decision, found),
        verdict: word(decision.verdict),
        connects_to: match decision.verdict {
            Verdict::Service(service, matched) => {
                let to = match (service.destination(matched, destination), host) {
                    (Destination::Named { port }, Some(host)) => claimed(snapshot, host, port),
                    _ => upstream(snapshot, service, destination),
                };
                let elsewhere = question.source.is_none().then(|| elsewhere(snapshot, service));
                format!("{to}{}", elsewhere.unwrap_or_default())
            }
            Verdict::Passthrough => guarded(snapshot, destination, LedBy::Workload),
            Verdict::BlackHole => "nothing: it is blocked".into(),
        },
        destination_service_name: snapshot.cluster(decision.verdict).value.service_name.to_string(),
        is_by_name: matched.is_some_and(is_by_name),
        is_by_address: matched.is_some_and(is_by_address),
    }
}

fn is_by_name(matched: Match) -> bool {
    match matched {
        Match::AddressAndSni
        | Match::PrefixAndSni(_)
        | Match::Host
        | Match::Wildcard
        | Match::HostAddress => true,
        Match::Address | Match::Prefix(_) | Match::Resolved | Match::Port => false,
    }
}

fn is_by_address(matched: Match) -> bool {
    matches!(matched, Match::Address | Match::AddressAndSni | Match::Prefix(_) | Match::Resolved)
}

fn waits(snapshot: &Snapshot, destination: SocketAddr) -> String {
    let names = &snapshot.config.names;
    let port = destination.port();
    if snapshot.awaits_name(destination) {
        let deadline = humantime::format_duration(names.deadline);
        return format!("up to {deadline} for a name (names.deadline)");
    }
    if !names.enabled {
        return "no: names.enabled is false".into();
    }
    if !snapshot.reads_names(port) {
        return format!("no: names.opaquePorts lists port {port}");
    }
    "no: a name would change nothing".into()
}

fn describe(workload: &Workload) -> String {
    let name = workload.workload.as_deref().or(workload.app.as_deref()).unwrap_or("unknown");
    match workload.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn how(service: &Service, matched: Match, destination: SocketAddr) -> String {
    let port = destination.port();
    let (host, address) = (&service.host, destination.ip().to_canonical());
    match matched {
        Match::Address => format!("address {address} and port {port}"),
        Match::AddressAndSni => format!("address {address}, SNI {host} and port {port}"),
        Match::Prefix(prefix) => format!("prefix {} and port {port}", prefix::display(&prefix)),
        Match::PrefixAndSni(prefix) => {
            format!("prefix {}, SNI {host} and port {port}", prefix::display(&prefix))
        }
        Match::Host => format!("host {host} and port {port}"),
        Match::Wildcard => format!("wildcard {host} and port {port}"),
        Match::HostAddress => format!("a Host that is an address of {host}, and port {port}"),
        Match::Resolved => format!("an address of {host} and port {port}"),
        Match::Port => format!("port {port} alone: the entry has no addresses"),
    }
}

fn vouched(snapshot: &Snapshot, standing: NameTrust) -> Option<String> {
    match standing {
        NameTrust::NotNeeded => None,
        NameTrust::Verified => Some("verified: it goes to the entry's own endpoints".into()),
        NameTrust::Resolved => {
            Some("resolved: it goes to an address that Egret resolves for the name".into())
        }
        NameTrust::Unverified => {
            let action = snapshot.config.names.unverified.as_str();
            let why = "the entry has no endpoints, and the address is none of its own";
            Some(format!("unverified: {why}; names.unverified is {action}"))
        }
    }
}

/// The entries that would decide if the destination were an address that their names resolve to.
/// What is found otherwise than by the port alone stays found.
fn unless_resolved(
    snapshot: &Snapshot,
    destination: SocketAddr,
    reading: &Reading,
) -> Option<String> {
    if reading.is_by_address || reading.is_by_name {
        return None;
    }
    let is_one = |service: &&Arc<Service>| {
        service.port == destination.port()
            && service.reach.by_address == ByAddress::Resolved
            // Where HTTP has its hosts, another Host is nobody's.
            && (reading.speaks != Speaks::Http || service.reach.by_name.is_none())
    };
    let entries: Vec<String> = snapshot.services().filter(is_one).map(|s| by_entry(s)).collect();
    let (shown, left_out) = entries.split_at(entries.len().min(NAMES_MAX));
    let more = match left_out.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    let ip = destination.ip().to_canonical();
    (!entries.is_empty()).then(|| {
        let shown = shown.join(", ");
        format!(
            "{ip} is an address that Egret resolves, which is not tried here, for {shown}{more}"
        )
    })
}

fn word(verdict: Verdict<'_>) -> &'static str {
    match verdict {
        Verdict::Service(..) => "service",
        Verdict::Passthrough => "passthrough",
        Verdict::BlackHole => "blackhole",
    }
}

fn decided_by(
    snapshot: &Snapshot,
    decision: Decision<'_>,
    found: Option<(&Arc<Service>, Match)>,
) -> String {
    match (decision.verdict, found) {
        (Verdict::Service(service, _), _) => by_entry(service),
        (Verdict::BlackHole, Some((service, _))) => {
            format!("names.unverified block: nothing vouches for the name in {}", by_entry(service))
        }
        (Verdict::Passthrough | Verdict::BlackHole, _) => {
            let mode = snapshot.config.outbound_traffic_policy.mode.as_str();
            format!("outboundTrafficPolicy.mode {mode}: no service entry matches")
        }
    }
}

fn by_entry(service: &Service) -> String {
    let (file, line) = (service.origin.file.display(), service.origin.line);
    format!("service entry {} ({file}:{line})", service.entry)
}

fn upstream(snapshot: &Snapshot, service: &Service, destination: SocketAddr) -> String {
    let endpoints = match &service.target {
        Target::OriginalDestination { target_port } => {
            let port = target_port.unwrap_or(destination.port());
            let address = SocketAddr::new(destination.ip(), port);
            return guarded(snapshot, address, LedBy::Workload);
        }
        Target::Endpoints(endpoints) => endpoints,
    };
    let names = service.resolved_names.iter();
    let resolved = names.map(|name| format!("an address of {name}, resolved while Egret runs"));
    let listed = endpoints.iter().map(|address| guarded(snapshot, *address, LedBy::File));
    let all: Vec<String> = listed.chain(resolved).collect();
    match all.as_slice() {
        [] => "nothing: the entry has no endpoint (UH)".into(),
        [only] => only.clone(),
        _ => format!("one of {}", all.join(", ")),
    }
}

/// Where the host leads that a connection claims.
fn claimed(snapshot: &Snapshot, host: &Host, port: u16) -> String {
    match host {
        Host::Name(name) => format!("an address of {name}, resolved while Egret runs, port {port}"),
        Host::Address(address) => {
            guarded(snapshot, SocketAddr::new(address.to_canonical(), port), LedBy::File)
        }
    }
}

/// The address, and whether Egret connects to it, as far as that does not depend on the host.
fn guarded(snapshot: &Snapshot, address: SocketAddr, led_by: LedBy) -> String {
    let rules = Rules::from(&snapshot.config.upstream);
    match upstream_guard::check(address, led_by, rules, &ThisHost::default()) {
        Ok(_) => address.to_string(),
        Err(why) => {
            let why = why.label();
            format!("{address}, which is refused ({why}) unless upstream.allow lists it")
        }
    }
}

/// Where the workloads of other namespaces go that have the same host.
fn elsewhere(snapshot: &Snapshot, service: &Arc<Service>) -> String {
    let one = |other: &Arc<Service>| {
        let namespace = other.cluster.value.service_namespace.as_deref().unwrap_or_default();
        let destination = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), other.port);
        let to = match &other.target {
            Target::OriginalDestination { .. } if other.resolves_claims() => {
                "an address of the name, resolved while Egret runs".into()
            }
            Target::OriginalDestination { .. } => "the original destination".into(),
            Target::Endpoints(_) => upstream(snapshot, other, destination),
        };
        format!("; from namespace {namespace}: {to}")
    };
    snapshot.namesakes(service).map(one).collect()
}
