//! The registry: what one connection's lookup costs, and what a reload does.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use egret::config::Config;
use egret::internals::registry::service_entry::{self, HostPattern, Protocol, ServiceEntry};
use egret::internals::registry::snapshot::{Answers, Shown};
use egret::internals::registry::{Snapshot, Verdict};
use egret::internals::sniff::Name;
use egret::internals::workload::Workloads;

const PORT: u16 = 443;

/// Every so manieth entry has a prefix of 256 addresses and not a single one.
const PREFIX_EVERY: u32 = 10;

/// Destinations that are looked up in turn: some fit a cache, as on a node.
const DESTINATIONS: u32 = 64;

/// One connection's lookup; of each ten, eight find an address, one a prefix, and one nothing.
pub(crate) fn lookup(count: u32) -> Box<dyn FnMut()> {
    // With TLS a prefix would need the SNI, too.
    let opaque = |mut entry: ServiceEntry| {
        entry.ports.iter_mut().for_each(|port| port.protocol = Protocol::Opaque);
        entry
    };
    let snapshot = snapshot(&entries(count).into_iter().map(opaque).collect::<Vec<_>>());
    let destination = |turn: u32| {
        // Spread over the whole registry.
        let number = u32::try_from(u64::from(turn) * u64::from(count) / u64::from(DESTINATIONS));
        let number = number.expect("below count");
        // The ones digit of turns and numbers differ; what must match is chosen here.
        let (number, port) = match turn % 10 {
            0 => (number / PREFIX_EVERY * PREFIX_EVERY, PORT),
            1 => (number, PORT + 1),
            _ => (number, PORT),
        };
        SocketAddr::new(IpAddr::V4(address(number)), port)
    };
    let destinations: Vec<_> = (0..DESTINATIONS).map(destination).collect();
    let found = destinations.iter().filter(|destination| decide(&snapshot, **destination)).count();
    assert_eq!(
        found,
        destinations.len() - destinations.len().div_ceil(10),
        "the registry is wrong"
    );
    let mut turn = 0;
    Box::new(move || {
        turn = (turn + 1) % destinations.len();
        black_box(decide(&snapshot, black_box(destinations[turn])));
    })
}

/// One lookup by name, where no address matches: of each ten, nine find the host.
pub(crate) fn lookup_name(count: u32) -> Box<dyn FnMut()> {
    // TLS with addresses is found by these alone.
    let unlisted = |entry: ServiceEntry| ServiceEntry { addresses: [].into(), ..entry };
    let snapshot = snapshot(&entries(count).into_iter().map(unlisted).collect::<Vec<_>>());
    let name = |turn: u32| {
        let number = u64::from(turn) * u64::from(count) / u64::from(DESTINATIONS);
        let number = u32::try_from(number).expect("below count");
        // No entry is above the count.
        let number = if turn.is_multiple_of(10) { count } else { number };
        Name::parse(host(number).as_bytes()).expect("a name")
    };
    let names: Vec<_> = (0..DESTINATIONS).map(name).collect();
    let elsewhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), PORT);
    let ask = move |name: &Name| {
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let decision = snapshot.decide(source, elsewhere, Shown::Tls(Some(name)));
        matches!(decision.verdict, Verdict::Service(..))
    };
    let found = names.iter().filter(|name| ask(name)).count();
    assert_eq!(found, names.len() - names.len().div_ceil(10), "the registry is wrong");
    let mut turn = 0;
    Box::new(move || {
        turn = (turn + 1) % names.len();
        black_box(ask(black_box(&names[turn])));
    })
}

/// The one place that knows how the registry is asked: whether a service was found.
fn decide(snapshot: &Snapshot, destination: SocketAddr) -> bool {
    matches!(snapshot.lookup(destination), Verdict::Service(..))
}

/// A snapshot of entries that have been parsed.
pub(crate) fn build(count: u32, calls: usize) -> Box<dyn FnMut()> {
    let entries = entries(count);
    // Dropped after the last call: that is no part of a build.
    let mut outputs = Vec::with_capacity(calls);
    Box::new(move || outputs.push(snapshot(&entries)))
}

/// A registry file, from text to entries.
pub(crate) fn parse(count: u32) -> Box<dyn FnMut()> {
    let documents: Vec<_> = (0..count).map(document).collect();
    let text = documents.join("---\n");
    Box::new(move || {
        let (entries, problems) = read(black_box(&text));
        assert_eq!((entries.len() as u64, problems), (u64::from(count), 0));
        black_box(entries);
    })
}

fn snapshot(entries: &[ServiceEntry]) -> Snapshot {
    let config = Arc::new(Config::default());
    Snapshot::build(1, config, entries, Arc::new(Workloads::default()), &Answers::default()).0
}

/// As many entries as asked for. Only the first is parsed: the others differ from it by name and
/// address, as they do in their documents.
fn entries(count: u32) -> Vec<ServiceEntry> {
    let (mut template, _) = read(&document(0));
    let template = template.remove(0);
    let entry = |number: u32| ServiceEntry {
        name: name(number).into(),
        hosts: vec![HostPattern::parse(&host(number)).expect("a host")],
        addresses: [prefix(number).parse().expect("a prefix")].into(),
        ..template.clone()
    };
    (0..count).map(entry).collect()
}

fn read(text: &str) -> (Vec<ServiceEntry>, usize) {
    let (entries, problems) =
        service_entry::parse(text, Path::new("registry.yaml")).expect("the documents are valid");
    (entries, problems.len())
}

fn document(number: u32) -> String {
    let (name, host, prefix) = (name(number), host(number), prefix(number));
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata:\n  name: {name}\n  namespace: shop\n\
         spec:\n  hosts:\n  - {host}\n  addresses:\n  - {prefix}\n\
         \x20 ports:\n  - number: {PORT}\n    name: tls\n    protocol: TLS\n\
         \x20 resolution: NONE\n"
    )
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

fn host(number: u32) -> String {
    format!("service-{number}.example.com")
}

fn prefix(number: u32) -> String {
    let length = if number.is_multiple_of(PREFIX_EVERY) { 24 } else { 32 };
    format!("{}/{length}", address(number))
}

/// Each entry has a block of 256 addresses to itself.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + number * 256)
}
