//! The text of `egret explain`: one connection, as the snapshot decides on it.
//!
//! Every line says what a worker would do and why. Names are not resolved here: what depends on an
//! answer is said so.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::prefix;
use crate::registry::service_entry::ByAddress;
use crate::registry::snapshot::{
    Claim, Decision, Match, NameSource, NameTrust, Service, Snapshot, Target, Verdict,
};
use crate::sniff::Name;
use crate::upstream_guard::{self, LedBy, Rules, ThisHost};
use crate::workload::Workload;

/// Names listed in one line; more are counted.
const NAMES_MAX: usize = 3;

/// What becomes of a connection from `source` to `destination` that carries the name `host`.
pub(super) fn text(
    snapshot: &Snapshot,
    source: Option<IpAddr>,
    destination: SocketAddr,
    host: Option<&str>,
) -> String {
    let mut lines = Vec::new();
    if let Some(source) = source {
        let owner = describe(&snapshot.workload(source).value);
        lines.push(("source", format!("{source}, workload {owner}")));
    }
    lines.push(("destination", destination.to_string()));
    let parsed = host.map(|host| Name::parse(host.as_bytes()));
    let claim = match (host, &parsed) {
        (Some(_), Some(Ok(name))) => {
            let (claim, line) = read_as(snapshot, destination, name);
            lines.push(("name", line));
            Some(claim)
        }
        (Some(host), Some(Err(error))) => {
            lines.push(("name", format!("none: `{}`: {error}", host.escape_debug())));
            None
        }
        _ => None,
    };
    lines.push(("waits", waits(snapshot, destination)));
    lines.extend(decision(snapshot, destination, claim));
    let mut text = String::new();
    for (label, value) in lines {
        let _ = writeln!(text, "{label:<13}{value}");
    }
    text
}

/// Whether `name` is taken for a Host or for an SNI: the way that finds an entry, if only one does.
fn read_as<'a>(
    snapshot: &Snapshot,
    destination: SocketAddr,
    name: &'a Name,
) -> (Claim<'a>, String) {
    let [host, sni] = [NameSource::Host, NameSource::Sni].map(|by| Claim { name, by });
    let found = |claim| snapshot.find(destination, Some(claim));
    let by_name = |claim| {
        found(claim).filter(|(_, matched)| matches!(matched, Match::Host | Match::Wildcard))
    };
    match (by_name(host), by_name(sni)) {
        (None, None) => {
            let why = match found(host) {
                Some((_, Match::Port)) | None => "no entry that is found by a name matches it",
                Some(_) => "a label only, because the address decides",
            };
            (host, format!("{name}: {why}"))
        }
        (Some(_), _) => {
            let other = outcome(snapshot, destination, sni);
            (host, format!("{name}, as Host (HTTP); as SNI (TLS): {other}"))
        }
        (None, Some(_)) => {
            let other = outcome(snapshot, destination, host);
            (sni, format!("{name}, as SNI (TLS); as Host (HTTP): {other}"))
        }
    }
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
    if !names.decide_on(port) {
        return format!("no: names.opaquePorts lists port {port}");
    }
    "no: a name would change nothing".into()
}

fn decision(
    snapshot: &Snapshot,
    destination: SocketAddr,
    claim: Option<Claim<'_>>,
) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let decision = snapshot.decide(destination, claim);
    let found = snapshot.find(destination, claim);
    if let Some((service, matched)) = found {
        lines.push(("matched", how(service, matched, destination)));
    }
    if let Some(standing) = vouched(snapshot, decision.standing) {
        lines.push(("standing", standing));
    }
    let is_address = matches!(found, Some((_, Match::Address | Match::Resolved)));
    if let Some(unless) = unless_resolved(snapshot, destination).filter(|_| !is_address) {
        lines.push(("unless", unless));
    }
    lines.push(("decided by", decided_by(snapshot, decision, found)));
    lines.push(("verdict", word(decision.verdict).into()));
    lines.push((
        "connects to",
        match decision.verdict {
            Verdict::Service(service, _) => upstream(snapshot, service, destination),
            Verdict::Passthrough => guarded(snapshot, destination, LedBy::Workload),
            Verdict::BlackHole => "nothing: it is blocked".into(),
        },
    ));
    let cluster = &snapshot.cluster(decision.verdict).value;
    let mut accounted = format!("destination_service_name=\"{}\"", cluster.service_name);
    if let Some(Claim { name, .. }) = claim {
        let _ = write!(accounted, ", destination_service=\"{name}\"");
    }
    lines.push(("accounted to", accounted));
    lines
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
    let host = &service.host;
    match matched {
        Match::Address => format!("address {} and port {port}", destination.ip().to_canonical()),
        Match::Resolved => format!("an address of {host} and port {port}"),
        Match::Prefix(prefix) => format!("prefix {} and port {port}", prefix::display(&prefix)),
        Match::Host => format!("host {host} and port {port}"),
        Match::Wildcard => format!("wildcard {host} and port {port}"),
        Match::Port => format!("port {port} alone: the entry has no addresses"),
    }
}

fn vouched(snapshot: &Snapshot, standing: NameTrust) -> Option<String> {
    match standing {
        NameTrust::NotNeeded => None,
        NameTrust::Verified => Some("verified: it goes to the entry's own endpoints".into()),
        NameTrust::Unverified => {
            let action = snapshot.config.names.unverified.as_str();
            let why = "the entry has no endpoints, and the address is none of its own";
            Some(format!("unverified: {why}; names.unverified is {action}"))
        }
    }
}

/// The entries that would decide if the destination were an address that their names resolve to.
fn unless_resolved(snapshot: &Snapshot, destination: SocketAddr) -> Option<String> {
    let is_one = |service: &&Arc<Service>| {
        service.port == destination.port() && service.reach.by_address == ByAddress::Resolved
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

/// The decision on another claim, in one line.
fn outcome(snapshot: &Snapshot, destination: SocketAddr, claim: Claim<'_>) -> String {
    let decision = snapshot.decide(destination, Some(claim));
    let found = snapshot.find(destination, Some(claim));
    format!("{}, {}", word(decision.verdict), decided_by(snapshot, decision, found))
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
        [only] => only.clone(),
        _ => format!("one of {}", all.join(", ")),
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
