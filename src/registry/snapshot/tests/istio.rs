//! Verdicts beside Istio's: what its own code (pilot, and its simulation of Envoy) says of
//! registries and connections drawn at random. The answers are kept in `tests/verdicts`, so that no
//! Istio is needed.
//!
//! Both may differ where `docs/policy.md` says so; in each such case Egret is the stricter one, or
//! Istio's entries stand in each other's way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use flate2::read::GzDecoder;
use serde::Deserialize;

use super::*;
use crate::sniff::Authority;

mod rows;

/// The workload that calls; it is in no workloads file.
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2));

/// One registry, and what Istio makes of it.
#[derive(Deserialize)]
struct Scenario {
    id: String,
    mode: String,
    documents: Vec<Document>,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Document {
    text: serde_json::Value,
    /// Why Istio's admission refuses it.
    refused: Option<String>,
}

/// A connection of a workload of namespace `app`.
#[derive(Deserialize)]
struct Call {
    destination: SocketAddr,
    speaks: String,
    /// Host, with a port or without, or SNI.
    name: Option<String>,
    /// `passthrough`, `blackhole`, or `service` with its host.
    istio: String,
    /// The hosts that let it pass when nothing else is registered.
    #[serde(default)]
    alone: BTreeSet<String>,
}

/// In which way the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// It passes here as a service that does not allow it in Istio, alone or together.
    Wider,
    /// A service in Istio, blocked here.
    Stricter,
    /// No service in either; one closes and the other does not.
    Policy,
    /// One accepts a document that the other refuses.
    Documents,
    /// On purpose: an entry without addresses takes every address on its port in Istio, also if DNS
    /// resolves its host, or for HTTP that asks for another host.
    Kept,
    /// A service that allows it when it is alone; in Istio another one stands in its way.
    Conflict,
    /// A service in Istio, which does not allow it when it is alone: another entry of its host, or
    /// of its port, has changed its listener.
    Together,
    /// Two services, each of which allows it when it is alone.
    Choice,
}

const NEVER: [Difference; 4] =
    [Difference::Wider, Difference::Stricter, Difference::Policy, Difference::Documents];

type Found = BTreeMap<Difference, Vec<String>>;

#[test]
fn verdicts_are_istios_or_stricter() {
    let stored = [
        &include_bytes!("../../../../tests/verdicts/table.jsonl.gz")[..],
        &include_bytes!("../../../../tests/verdicts/plain.jsonl.gz")[..],
    ];
    for file in stored {
        let mut text = String::new();
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
        agree(&text);
    }
}

/// The same for another file of that form, with answers that were drawn anew.
#[test]
#[ignore = "needs a file in VERDICTS"]
fn fresh_verdicts_are_istios_or_stricter() {
    let file = std::env::var_os("VERDICTS").expect("VERDICTS names a file");
    agree(&std::fs::read_to_string(file).unwrap());
}

fn agree(scenarios: &str) {
    let mut found = Found::new();
    let (mut count, mut calls) = (0, 0);
    for line in scenarios.lines() {
        let scenario: Scenario = serde_json::from_str(line).unwrap();
        count += 1;
        calls += compare(&scenario, &mut found);
    }
    let sums: Vec<String> =
        found.iter().map(|(kind, list)| format!("{} {kind:?}", list.len())).collect();
    println!("{count} scenarios, {calls} connections: {}", sums.join(", "));
    assert!(count > 0 && calls > 0);
    let never = found.into_iter().filter(|(kind, _)| NEVER.contains(kind));
    let told: Vec<String> = never
        .map(|(kind, list)| format!("{} {kind:?}:\n{}", list.len(), list.join("\n")))
        .collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

/// Returns how many connections were compared.
fn compare(scenario: &Scenario, found: &mut Found) -> usize {
    let Some(entries) = accepted(scenario, found) else { return 0 };
    let mut config = Config::default();
    config.outbound_traffic_policy.mode = match &*scenario.mode {
        "ALLOW_ANY" => Mode::AllowAny,
        _ => Mode::RegistryOnly,
    };
    let (snapshot, _) =
        Snapshot::build(1, Arc::new(config), &entries, Arc::default(), &Answers::default());
    for call in &scenario.calls {
        let egret = verdict(&snapshot, call);
        if let Some(kind) = difference(&entries, scenario, call, &egret) {
            let Call { destination, speaks, name, istio, .. } = call;
            let id = &scenario.id;
            let line = format!("{id}: {destination} {speaks} {name:?}: {istio}, here {egret}");
            found.entry(kind).or_default().push(line);
        }
    }
    scenario.calls.len()
}

/// The entries, if both accept the same.
fn accepted(scenario: &Scenario, found: &mut Found) -> Option<Vec<ServiceEntry>> {
    let mut entries = Vec::new();
    let mut agree = true;
    for document in &scenario.documents {
        let parsed = service_entry::parse(&document.text.to_string(), Path::new("e.yaml"));
        match (parsed, &document.refused) {
            (Ok((read, _)), None) => entries.extend(read),
            (Err(_), Some(_)) => {}
            (parsed, theirs) => {
                agree = false;
                let ours = parsed.err().map(|diagnostics| diagnostics[0].to_string());
                let text = &document.text["spec"];
                let line = format!("{}: {text}: {theirs:?}, here {ours:?}", scenario.id);
                found.entry(Difference::Documents).or_default().push(line);
            }
        }
    }
    agree.then_some(entries)
}

impl Call {
    fn host(&self) -> Option<Host> {
        self.name.as_ref().map(|name| Authority::parse(name.as_bytes()).unwrap().host)
    }

    fn shown<'a>(&self, host: Option<&'a Host>) -> Shown<'a> {
        match (&*self.speaks, host) {
            ("http", host) => Shown::Http(host),
            ("tls", Some(Host::Name(name))) => Shown::Tls(Some(name)),
            ("tls", _) => Shown::Tls(None),
            _ => Shown::Nothing,
        }
    }
}

fn verdict(snapshot: &Snapshot, call: &Call) -> String {
    let host = call.host();
    match snapshot.decide(SOURCE, call.destination, call.shown(host.as_ref())).verdict {
        Verdict::Service(service, _) => format!("service {}", service.host),
        Verdict::Passthrough => "passthrough".into(),
        Verdict::BlackHole => "blackhole".into(),
    }
}

fn difference(
    entries: &[ServiceEntry],
    scenario: &Scenario,
    call: &Call,
    egret: &str,
) -> Option<Difference> {
    let theirs = call.istio.strip_prefix("service ");
    let ours = egret.strip_prefix("service ");
    match (theirs, ours) {
        _ if egret == call.istio => None,
        (_, Some(host)) if !call.alone.contains(host) => Some(Difference::Wider),
        (Some(_), Some(_)) => Some(Difference::Choice),
        (None, Some(_)) => Some(Difference::Conflict),
        (Some(host), None) if is_decided(entries, call, host) => Some(Difference::Kept),
        (Some(host), None) if !call.alone.contains(host) => Some(Difference::Together),
        (Some(_), None) => Some(Difference::Stricter),
        // What is nobody's passes to where it meant to go.
        (None, None) if scenario.mode == "ALLOW_ANY" && call.istio == "blackhole" => None,
        (None, None) => Some(Difference::Policy),
    }
}

/// Whether `host` has no addresses on the port, and is found by those that DNS tells, of which
/// there are none here, or by what is no HTTP.
fn is_decided(entries: &[ServiceEntry], call: &Call, host: &str) -> bool {
    let asks_for_it = call.name.as_ref().is_some_and(|name| {
        name.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case(host))
    });
    let is_here = |entry: &ServiceEntry, port: &Port| {
        let is_dns = entry.resolution == Resolution::Dns;
        let is_http = call.speaks == "http";
        let is_kept = match port.protocol {
            Protocol::Opaque => is_dns || is_http,
            Protocol::Auto if is_http => !asks_for_it,
            Protocol::Auto => is_dns,
            Protocol::Http | Protocol::Tls | Protocol::Udp => false,
        };
        is_kept && entry.addresses.is_empty() && port.number == call.destination.port()
    };
    entries.iter().any(|entry| {
        entry.hosts.iter().any(|own| own.to_string() == host)
            && entry.ports.iter().any(|port| is_here(entry, port))
    })
}
