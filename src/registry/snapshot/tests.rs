//! Which entry wins, compared with a list that is searched from end to end.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::prefix;
use crate::registry::service_entry::{
    self, Endpoint, EndpointAddress, HostPattern, Origin, Port, Protocol, Resolution,
};

mod istio;
mod names;

fn port(number: u16) -> Port {
    let name = format!("p{number}").into();
    Port { number, name, protocol: Protocol::Opaque, target_port: None }
}

fn entry(name: &str, addresses: &[&str], ports: &[u16]) -> ServiceEntry {
    let net = |text: &&str| match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().unwrap(),
    };
    ServiceEntry {
        name: name.into(),
        namespace: "ns".into(),
        created: None,
        is_visible: true,
        hosts: vec![HostPattern::parse(&format!("{name}.example.com")).unwrap()],
        addresses: addresses.iter().map(|text| prefix::canonical(net(text))).collect(),
        allocated: vec![],
        ports: ports.iter().map(|number| port(*number)).collect(),
        resolution: Resolution::None,
        endpoints: vec![],
        origin: Origin { file: Path::new("r.yaml").into(), line: 1 },
        is_stale: false,
    }
}

fn build(entries: Vec<ServiceEntry>) -> (Snapshot, Vec<Diagnostic>) {
    Snapshot::build(1, Arc::default(), &entries, Arc::default(), &Answers::default())
}

fn found(snapshot: &Snapshot, destination: &str) -> Option<(String, Match)> {
    match snapshot.lookup(destination.parse().unwrap()) {
        Verdict::Service(service, matched) => Some((service.entry.to_string(), matched)),
        Verdict::Passthrough | Verdict::BlackHole => None,
    }
}

#[test]
fn the_more_specific_entry_that_has_the_port_wins() {
    let (snapshot, warnings) = build(vec![
        entry("port", &[], &[1, 2, 3, 4]),
        entry("wide", &["10.0.0.0/8"], &[1, 2, 3]),
        entry("narrow", &["10.1.0.0/16"], &[1, 2]),
        entry("exact", &["10.1.1.1", "2001:db8::1"], &[1]),
    ]);
    assert_eq!(warnings, []);
    let name = |destination| found(&snapshot, destination).map(|(name, _)| name);
    assert_eq!(name("10.1.1.1:1").as_deref(), Some("ns/exact"));
    assert_eq!(name("10.1.1.1:2").as_deref(), Some("ns/narrow"));
    assert_eq!(name("10.1.1.1:3").as_deref(), Some("ns/wide"));
    assert_eq!(name("10.1.1.1:4").as_deref(), Some("ns/port"));
    assert_eq!(name("10.1.1.1:5"), None);
    assert_eq!(name("[::ffff:10.1.1.1]:1").as_deref(), Some("ns/exact"));
    assert_eq!(found(&snapshot, "[2001:db8::1]:1").unwrap().1, Match::Address);
    assert_eq!(found(&snapshot, "[2001:db8::2]:1").unwrap().1, Match::Port);
    let prefix = Match::Prefix("10.1.0.0/16".parse().unwrap());
    assert_eq!(found(&snapshot, "10.1.9.9:1").unwrap().1, prefix);
}

#[test]
fn ties_go_to_the_oldest_then_to_the_first_name_and_name_the_loser() {
    let at = |mut entry: ServiceEntry, seconds| {
        entry.created = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        entry
    };
    let addresses = &["192.0.2.1", "192.0.2.0/24"];
    let (snapshot, warnings) = build(vec![
        entry("a", addresses, &[1]),
        at(entry("c", addresses, &[1]), 5),
        at(entry("b", addresses, &[1]), 9),
    ]);
    assert_eq!(found(&snapshot, "192.0.2.1:1").unwrap().0, "ns/c");
    assert_eq!(found(&snapshot, "192.0.2.2:1").unwrap().0, "ns/c");
    let texts: Vec<&str> = warnings.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
    assert_eq!(
        texts,
        [
            "ns/b loses 192.0.2.1 port 1 to ns/c (r.yaml:1)",
            "ns/b loses 192.0.2.0/24 port 1 to ns/c (r.yaml:1)",
            "ns/a loses 192.0.2.1 port 1 to ns/c (r.yaml:1)",
            "ns/a loses 192.0.2.0/24 port 1 to ns/c (r.yaml:1)",
        ]
    );
    let (snapshot, warnings) = build(vec![entry("z", &[], &[1]), entry("y", &[], &[1])]);
    assert_eq!(found(&snapshot, "192.0.2.1:1").unwrap().0, "ns/y");
    assert_eq!(warnings.len(), 1);
}

#[test]
fn nothing_matching_is_decided_by_the_policy() {
    let (snapshot, _) = build(vec![]);
    let verdict = snapshot.lookup("192.0.2.1:1".parse().unwrap());
    assert!(matches!(verdict, Verdict::Passthrough));
    let passthrough = snapshot.cluster(verdict).clone();
    assert_eq!(&*passthrough.value.service_name, PASSTHROUGH_CLUSTER);
    assert_eq!(passthrough.value.service, None);

    let mut config = Config::default();
    config.outbound_traffic_policy.mode = Mode::RegistryOnly;
    let (config, none) = (Arc::new(config), Answers::default());
    let (snapshot, _) = Snapshot::build(2, config, &[], Arc::default(), &none);
    let verdict = snapshot.lookup("192.0.2.1:1".parse().unwrap());
    assert!(matches!(verdict, Verdict::BlackHole));
    assert_eq!(&*snapshot.cluster(verdict).value.service_name, BLACK_HOLE_CLUSTER);
    assert_ne!(snapshot.cluster(verdict), &passthrough);
    assert_eq!(snapshot.cluster(Verdict::Passthrough), &passthrough);
}

#[test]
fn a_cluster_is_the_same_in_every_generation() {
    let cluster = || {
        let (snapshot, _) = build(vec![entry("a", &["192.0.2.1"], &[1])]);
        snapshot.cluster(snapshot.lookup("192.0.2.1:1".parse().unwrap())).clone()
    };
    assert_eq!(cluster(), cluster());
    assert_eq!(cluster().value.service.as_deref(), Some("a.example.com"));
}

#[test]
fn endpoints_take_turns_and_honour_their_ports() {
    let mut database = entry("db", &["192.0.2.1"], &[5432]);
    database.resolution = Resolution::Static;
    database.ports[0].target_port = Some(15432);
    let endpoint = |address: &str, ports| Endpoint {
        address: EndpointAddress::Ip(address.parse().unwrap()),
        ports,
    };
    database.endpoints =
        vec![endpoint("192.0.2.8", vec![]), endpoint("192.0.2.9", vec![("p5432".into(), 7)])];
    let (snapshot, _) = build(vec![database]);
    let service = snapshot.services().next().unwrap();
    let addresses = ["192.0.2.8:15432", "192.0.2.9:7"].map(|text| text.parse().unwrap());
    assert_eq!(service.target, Target::Endpoints(addresses.into()));
    let turns: Vec<usize> = (0..4).map(|_| service.next_endpoint()).collect();
    assert_eq!(turns, [0, 1, 0, 1]);
    let dump = serde_json::to_value(service).unwrap();
    assert_eq!(dump["endpoints"][1], "192.0.2.9:7");
    assert_eq!(dump["addresses"][0], "192.0.2.1");
}

#[test]
fn ports_that_are_not_tcp_are_not_in_the_index() {
    let mut udp = entry("udp", &["192.0.2.1"], &[80]);
    udp.ports[0].protocol = Protocol::Udp;
    let (snapshot, _) = build(vec![udp]);
    assert_eq!(snapshot.services().len(), 0);
    assert_eq!(found(&snapshot, "192.0.2.1:80"), None);
}

#[test]
fn static_without_endpoints_matches_and_leads_nowhere() {
    let mut nowhere = entry("nowhere", &["192.0.2.1"], &[1]);
    nowhere.resolution = Resolution::Static;
    let (snapshot, _) = build(vec![nowhere]);
    assert_eq!(found(&snapshot, "192.0.2.1:1").unwrap().0, "ns/nowhere");
    assert_eq!(snapshot.services().next().unwrap().target, Target::Endpoints([].into()));
}

#[test]
fn a_hundred_thousand_entries_are_found_without_a_scan() {
    let entries: Vec<ServiceEntry> = (0..100_000u32)
        .map(|n| {
            let [_, b, c, d] = n.to_be_bytes();
            let address = match n % 2 {
                0 => format!("10.{b}.{c}.{d}"),
                _ => format!("11.{}.{c}.0/{}", d, 17 + n % 8),
            };
            entry(&format!("e{n}"), &[&address], &[443])
        })
        .collect();
    let (snapshot, _) = build(entries);
    let started = Instant::now();
    for n in 0..100_000u32 {
        let [_, b, c, d] = (n & !1).to_be_bytes();
        let destination = SocketAddr::from(([10, b, c, d], 443));
        assert!(matches!(snapshot.lookup(destination), Verdict::Service(_, Match::Address)));
        let miss = SocketAddr::from(([12, b, c, d], 443));
        assert!(matches!(snapshot.lookup(miss), Verdict::Passthrough));
    }
    // A scan would need 10^10 comparisons: minutes, even in a release build.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// The rules again, as a list that is searched from end to end.
fn naive(entries: &[ServiceEntry], destination: SocketAddr) -> Option<(String, Match)> {
    let mut best: Option<(u8, &ServiceEntry, Match)> = None;
    for entry in entries {
        if !entry.ports.iter().any(|port| port.number == destination.port()) {
            continue;
        }
        let mut claims: Vec<(u8, Match)> = Vec::new();
        for net in entry.addresses.iter().filter(|net| net.contains(&destination.ip())) {
            let exact = net.prefix_len() == net.max_prefix_len();
            let matched = if exact { Match::Address } else { Match::Prefix(*net) };
            claims.push((net.prefix_len() + 1, matched));
        }
        if entry.addresses.is_empty() {
            claims.push((0, Match::Port));
        }
        for (rank, matched) in claims {
            let age = |e: &ServiceEntry| (e.created.is_none(), e.created, e.name.clone());
            let better = best.as_ref().is_none_or(|(other, holder, _)| {
                rank > *other || (rank == *other && age(entry) < age(holder))
            });
            if better {
                best = Some((rank, entry, matched));
            }
        }
    }
    best.map(|(_, entry, matched)| (entry.full_name(), matched))
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4, 0u8..4).prop_map(|(c, d)| IpAddr::from([10, 0, c << 6, d << 6])),
        (0u16..4, 0u16..4).prop_map(|(c, d)| IpAddr::from([0x2001, 0, 0, 0, 0, 0, c, d << 14])),
    ]
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (any_address(), 0u8..=32).prop_map(|(address, cut)| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        prefix::canonical(IpNet::new(address, bits - cut).unwrap())
    })
}

fn any_entries() -> impl Strategy<Value = Vec<ServiceEntry>> {
    let one = (
        prop::collection::vec(any_net(), 0..4),
        prop::collection::btree_set(1u16..4, 1..3),
        prop::option::of(0u64..3),
    );
    prop::collection::vec(one, 0..24).prop_map(|drawn| {
        let entries = drawn.into_iter().enumerate().map(|(n, (nets, ports, age))| {
            let ports: Vec<u16> = ports.into_iter().collect();
            let mut entry = entry(&format!("e{n:02}"), &[], &ports);
            entry.addresses = nets.into();
            entry.created = age.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
            entry
        });
        entries.collect()
    })
}

proptest! {
    #[test]
    fn lookup_agrees_with_a_naive_list(
        entries in any_entries(),
        destinations in prop::collection::vec((any_address(), 1u16..5), 1..32),
    ) {
        let (snapshot, _) = build(entries.clone());
        for destination in destinations {
            let destination = SocketAddr::from(destination);
            let expected = naive(&entries, destination);
            prop_assert_eq!(found(&snapshot, &destination.to_string()), expected);
        }
    }

    #[test]
    fn the_order_of_the_files_does_not_matter(entries in any_entries(), address in any_address()) {
        let mut reversed = entries.clone();
        reversed.reverse();
        let (forward, backward) = (build(entries), build(reversed));
        prop_assert_eq!(forward.1, backward.1);
        let destination = SocketAddr::new(address, 1).to_string();
        prop_assert_eq!(found(&forward.0, &destination), found(&backward.0, &destination));
    }
}

#[test]
fn the_shipped_examples_are_found() {
    let text = include_str!("../../../config/registry.d/partner-api.yaml");
    let (entries, warnings) = service_entry::parse(text, Path::new("p.yaml")).unwrap();
    assert_eq!(warnings, []);
    let (snapshot, _) = build(entries);
    let name = Name::parse(b"api.partner.example").unwrap();
    let find = |destination: &str| {
        let (source, destination) = (IpAddr::from([10, 0, 0, 1]), destination.parse().unwrap());
        let found = snapshot.find(source, destination, Shown::Tls(Some(&name)));
        found.map(|(service, _)| service.entry.to_string())
    };
    assert_eq!(find("203.0.113.9:443").as_deref(), Some("shop/partner-api"));
    assert_eq!(find("203.0.114.9:443"), None);
    assert_eq!(found(&snapshot, "203.0.113.9:443"), None);
}
