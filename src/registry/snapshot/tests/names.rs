//! Names: which of them decide, when a connection waits for one, what vouches for it.

use super::*;
use crate::registry::service_entry::{Allocated, NameSource};
use crate::sniff::Host;
use crate::upstream_guard::LedBy;

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

/// An entry named after its first host, with the port 443 or 80 as the protocol has it.
fn named(hosts: &[&str], protocol: Protocol) -> ServiceEntry {
    let number = if protocol == Protocol::Tls { 443 } else { 80 };
    let mut entry = entry("x", &[], &[number]);
    entry.name = hosts[0].into();
    entry.hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect();
    entry.ports[0].protocol = protocol;
    entry
}

fn resolving(mut entry: ServiceEntry) -> ServiceEntry {
    entry.resolution = Resolution::Dns;
    entry
}

fn answers(list: &[(&str, &[&str])]) -> Answers {
    let mut answers = Answers::default();
    for (host, addresses) in list {
        answers.insert(name(host), addresses.iter().map(|text| text.parse().unwrap()));
    }
    answers
}

fn with(config: Config, entries: &[ServiceEntry], answers: &Answers) -> Snapshot {
    Snapshot::build(1, Arc::new(config), entries, Arc::default(), answers).0
}

fn registry_only() -> Config {
    let mut config = Config::default();
    config.outbound_traffic_policy.mode = Mode::RegistryOnly;
    config
}

/// Whoever connects.
const ANYONE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Asks with a host that is shown in these bytes.
fn shown<R>(by: NameSource, text: &str, ask: impl FnOnce(Shown<'_>) -> R) -> R {
    let host = Host::parse(text.as_bytes()).unwrap();
    match (by, &host) {
        (NameSource::Host, host) => ask(Shown::Http(Some(host))),
        (NameSource::Sni, Host::Name(name)) => ask(Shown::Tls(Some(name))),
        (NameSource::Sni, Host::Address(_)) => ask(Shown::Tls(None)),
    }
}

fn decided<'a>(
    snapshot: &'a Snapshot,
    destination: &str,
    by: NameSource,
    text: &str,
) -> Decision<'a> {
    shown(by, text, |shown| snapshot.decide(ANYONE, destination.parse().unwrap(), shown))
}

/// The host that a claim is accounted to, and how it matched.
fn claimed(
    snapshot: &Snapshot,
    destination: &str,
    by: NameSource,
    text: &str,
) -> Option<(String, Match)> {
    match decided(snapshot, destination, by, text).verdict {
        Verdict::Service(service, matched) => {
            assert_eq!(&*service.cluster.value.service_name, service.host.to_string());
            Some((service.cluster.value.service_name.to_string(), matched))
        }
        Verdict::Passthrough | Verdict::BlackHole => None,
    }
}

fn standing(snapshot: &Snapshot, destination: &str, by: NameSource, text: &str) -> NameTrust {
    decided(snapshot, destination, by, text).standing
}

#[test]
fn the_most_specific_wins_exact_ip_cidr_exact_host_longest_wildcard_bare_port() {
    let exact_ip = entry("exact-ip", &["192.0.2.1"], &[80]);
    let cidr = entry("cidr", &["192.0.2.0/28"], &[80]);
    let bare = entry("bare", &[], &[80]);
    let hosts = ["*.com", "*.b.example.com", "a.b.example.com", "*.example.com"];
    let entries: Vec<ServiceEntry> = hosts
        .iter()
        .map(|host| named(&[host], Protocol::Http))
        .chain([bare, cidr, exact_ip])
        .collect();
    let snapshot = with(Config::default(), &entries, &Answers::default());
    let host = |destination: &str, name: &str| {
        claimed(&snapshot, destination, NameSource::Host, name).unwrap().0
    };
    assert_eq!(host("192.0.2.1:80", "a.b.example.com"), "exact-ip.example.com");
    assert_eq!(host("192.0.2.2:80", "a.b.example.com"), "cidr.example.com");
    assert_eq!(host("192.0.2.99:80", "a.b.example.com"), "a.b.example.com");
    assert_eq!(host("192.0.2.99:80", "c.a.b.example.com"), "*.b.example.com");
    assert_eq!(host("192.0.2.99:80", "x.b.example.com"), "*.b.example.com");
    assert_eq!(host("192.0.2.99:80", "b.example.com"), "*.example.com");
    assert_eq!(host("192.0.2.99:80", "example.com"), "*.com");
    // HTTP is found by its Host where there are hosts; what is no HTTP goes by the port.
    assert_eq!(claimed(&snapshot, "192.0.2.99:80", NameSource::Host, "example.net"), None);
    let tls = claimed(&snapshot, "192.0.2.99:80", NameSource::Sni, "a.b.example.com");
    assert_eq!(tls.unwrap().0, "bare.example.com");
    assert_eq!(claimed(&snapshot, "192.0.2.99:81", NameSource::Host, "a.b.example.com"), None);
}

#[test]
fn wildcards_within_a_label_are_met_by_their_length() {
    let hosts = ["*foo.example.com", "*o.example.com", "*.foo.example.com", "*le.com", "*com"];
    let entries = hosts.map(|host| named(&[host], Protocol::Tls));
    let snapshot = with(Config::default(), &entries, &Answers::default());
    let host = |name: &str| {
        claimed(&snapshot, "192.0.2.1:443", NameSource::Sni, name).map(|found| found.0)
    };
    assert_eq!(host("a.foo.example.com").as_deref(), Some("*.foo.example.com"));
    assert_eq!(host("a.barfoo.example.com").as_deref(), Some("*foo.example.com"));
    assert_eq!(host("foo.example.com").as_deref(), Some("*o.example.com"));
    assert_eq!(host("o.example.com").as_deref(), Some("*le.com"));
    assert_eq!(host("le.com").as_deref(), Some("*com"));
    assert_eq!(host("com"), None);
    assert_eq!(host("telecom").as_deref(), Some("*com"));
}

#[test]
fn a_name_counts_only_where_the_protocol_spells_it() {
    let hosts = ["a.example.com"];
    for (protocol, port, host, sni) in [
        (Protocol::Http, 80, true, false),
        (Protocol::Tls, 443, false, true),
        (Protocol::Auto, 80, true, false),
        (Protocol::Opaque, 80, false, false),
    ] {
        let snapshot = with(registry_only(), &[named(&hosts, protocol)], &Answers::default());
        let destination = format!("192.0.2.1:{port}");
        let by_name = |by| {
            claimed(&snapshot, &destination, by, "a.example.com")
                .is_some_and(|(_, matched)| matched == Match::Host)
        };
        assert_eq!(by_name(NameSource::Host), host, "{protocol:?}");
        assert_eq!(by_name(NameSource::Sni), sni, "{protocol:?}");
    }
}

#[test]
fn only_connections_that_a_name_could_change_wait_for_it() {
    let entries = [
        named(&["*.example.com"], Protocol::Http),
        entry("db", &["192.0.2.7", "198.51.100.0/24"], &[80, 5000]),
        entry("any", &[], &[7000]),
        named(&["mail.example.com"], Protocol::Auto),
    ];
    let awaits =
        |snapshot: &Snapshot, destination: &str| snapshot.awaits_name(destination.parse().unwrap());
    let any = with(Config::default(), &entries, &Answers::default());
    let only = with(registry_only(), &entries, &Answers::default());
    for (destination, in_allow_any, in_registry_only) in [
        ("192.0.2.1:80", true, true),
        // The address decides.
        ("192.0.2.7:80", false, false),
        ("198.51.100.9:80", false, false),
        ("[::ffff:192.0.2.7]:80", false, false),
        ("192.0.2.7:5000", false, false),
        // No entry is found by a name there; a blocked connection may still show one.
        ("192.0.2.1:5000", false, true),
        ("192.0.2.1:9999", false, true),
        // The port alone lets it pass, and no name could say more.
        ("192.0.2.1:7000", false, false),
        // The server speaks first.
        ("192.0.2.1:25", false, false),
        ("192.0.2.1:3306", false, false),
    ] {
        assert_eq!(awaits(&any, destination), in_allow_any, "{destination}");
        assert_eq!(awaits(&only, destination), in_registry_only, "{destination}");
    }
    // Where a name could let it pass, and not only say what is blocked.
    for (destination, depends) in [
        ("192.0.2.1:80", true),
        ("192.0.2.7:80", false),
        ("192.0.2.1:5000", false),
        ("192.0.2.1:9999", false),
    ] {
        assert_eq!(only.depends_on_name(destination.parse().unwrap()), depends, "{destination}");
    }
    let mut off = registry_only();
    off.names.enabled = false;
    assert!(!awaits(&with(off, &entries, &Answers::default()), "192.0.2.1:80"));
}

#[test]
fn names_are_read_on_an_opaque_port_that_an_entry_declares() {
    let mut mail = named(&["mail.example.com"], Protocol::Tls);
    mail.ports[0].number = 587;
    let tcp = entry("tcp", &["192.0.2.1"], &[25]);
    let (snapshot, warnings) = build(vec![mail, tcp]);
    assert_eq!(warnings, []);
    let found = claimed(&snapshot, "192.0.2.1:587", NameSource::Sni, "mail.example.com");
    assert_eq!(found.unwrap().0, "mail.example.com");
    let reads = [587, 25, 3306, 443].map(|port| snapshot.reads_names(port));
    assert_eq!(reads, [true, false, false, true]);
}

#[test]
fn where_names_are_off_they_decide_nothing() {
    let web = named(&["a.example.com"], Protocol::Tls);
    let mut config = Config::default();
    config.names.enabled = false;
    let none = Answers::default();
    let (snapshot, warnings) = Snapshot::build(1, Arc::new(config), &[web], Arc::default(), &none);
    assert_eq!(claimed(&snapshot, "192.0.2.1:443", NameSource::Sni, "a.example.com"), None);
    assert!(warnings[0].message.contains("names.enabled is false"), "{warnings:?}");
}

#[test]
fn a_name_without_endpoints_is_a_claim_that_the_policy_judges() {
    let web = named(&["a.example.com"], Protocol::Tls);
    let mut listed = named(&["b.example.com"], Protocol::Http);
    listed.ports[0].number = 443;
    listed.addresses = [IpNet::new("192.0.2.8".parse().unwrap(), 32).unwrap()].into();
    let mut relay = named(&["*.c.example.com"], Protocol::Tls);
    relay.resolution = Resolution::Static;
    let ip = EndpointAddress::Ip("192.0.2.9".parse().unwrap());
    relay.endpoints = vec![Endpoint { address: ip, ports: vec![] }];
    let mut dynamic = named(&["*.d.example.com"], Protocol::Tls);
    dynamic.resolution = Resolution::DynamicDns;
    let mut any = named(&["f.com", "g.com"], Protocol::Auto);
    any.ports[0].number = 443;
    let entries = [web, listed, relay, dynamic, resolving(named(&["e.com"], Protocol::Tls)), any];
    let by_host = ["b.example.com", "192.0.2.8", "g.com"];
    let expected = [
        ("192.0.2.1:443", "a.example.com", NameTrust::Unverified),
        ("192.0.2.1:443", "b.example.com", NameTrust::Unverified),
        // The address is its own.
        ("192.0.2.8:443", "b.example.com", NameTrust::NotNeeded),
        ("192.0.2.8:443", "192.0.2.8", NameTrust::NotNeeded),
        ("192.0.2.9:443", "192.0.2.8", NameTrust::Unverified),
        ("192.0.2.1:443", "x.c.example.com", NameTrust::Verified),
        // Wherever it means to go.
        ("192.0.2.1:443", "x.d.example.com", NameTrust::Resolved),
        ("192.0.2.1:443", "e.com", NameTrust::Verified),
        ("192.0.2.1:443", "example.net", NameTrust::NotNeeded),
        // Its second host on a port that takes every address.
        ("192.0.2.1:443", "g.com", NameTrust::NotNeeded),
    ];
    let allowing = with(Config::default(), &entries, &Answers::default());
    let mut config = Config::default();
    config.names.unverified = Unverified::Block;
    let (blocking, warnings) =
        Snapshot::build(1, Arc::new(config.clone()), &entries, Arc::default(), &Answers::default());
    for (destination, host, expected) in expected {
        let by = if by_host.contains(&host) { NameSource::Host } else { NameSource::Sni };
        assert_eq!(standing(&allowing, destination, by, host), expected, "{host}");
        assert_eq!(standing(&blocking, destination, by, host), expected, "{host}");
        let verdict = |snapshot: &Snapshot| {
            matches!(decided(snapshot, destination, by, host).verdict, Verdict::BlackHole)
        };
        assert!(!verdict(&allowing), "{host}");
        assert_eq!(verdict(&blocking), expected == NameTrust::Unverified, "{host}");
    }
    let warned: Vec<&str> =
        warnings.iter().filter_map(|w| w.message.split(" has neither").next()).collect();
    assert_eq!(warned, ["ns/a.example.com"], "{warnings:?}");
    config.names.unverified = Unverified::Resolve;
    let (resolving, warnings) =
        Snapshot::build(1, Arc::new(config), &entries, Arc::default(), &Answers::default());
    assert!(warnings.is_empty(), "{warnings:?}");
    for (destination, host, expected) in expected {
        let by = if by_host.contains(&host) { NameSource::Host } else { NameSource::Sni };
        let expected = match expected {
            NameTrust::Unverified => NameTrust::Resolved,
            other => other,
        };
        assert_eq!(standing(&resolving, destination, by, host), expected, "{host}");
        let to: SocketAddr = destination.parse().unwrap();
        let Verdict::Service(service, matched) = decided(&resolving, destination, by, host).verdict
        else {
            panic!("{host} is blocked")
        };
        let goes_where_the_name_leads =
            matches!(service.destination(matched, to), Destination::Named { port: 443 });
        assert_eq!(goes_where_the_name_leads, expected == NameTrust::Resolved, "{host}");
    }
}

#[test]
fn what_a_claim_opens_is_warned_of_where_the_registry_alone_decides() {
    let web = named(&["a.example.com"], Protocol::Tls);
    let mut listed = named(&["b.example.com"], Protocol::Http);
    listed.addresses = [IpNet::new("192.0.2.8".parse().unwrap(), 32).unwrap()].into();
    let mut by_address = named(&["c.example.com"], Protocol::Tls);
    by_address.addresses = listed.addresses.clone();
    let mut dynamic = named(&["*.d.example.com"], Protocol::Tls);
    dynamic.resolution = Resolution::DynamicDns;
    let entries = [web, listed, by_address, dynamic, resolving(named(&["e.com"], Protocol::Tls))];
    let warned = |mode, unverified, enabled| {
        let mut config = Config::default();
        config.outbound_traffic_policy.mode = mode;
        config.names.unverified = unverified;
        config.names.enabled = enabled;
        let (_, warnings) =
            Snapshot::build(1, Arc::new(config), &entries, Arc::default(), &Answers::default());
        let opens = " lets a workload reach any address on ";
        let entries = warnings.iter().filter_map(|w| w.message.split_once(opens));
        let entries = entries.map(|(entry, _)| entry.to_owned());
        entries.collect::<Vec<_>>()
    };
    for unverified in [Unverified::Allow, Unverified::Log] {
        let open = warned(Mode::RegistryOnly, unverified, true);
        assert_eq!(open, ["ns/a.example.com", "ns/b.example.com"]);
        assert_eq!(warned(Mode::AllowAny, unverified, true), [""; 0]);
        assert_eq!(warned(Mode::RegistryOnly, unverified, false), [""; 0]);
    }
    for unverified in [Unverified::Block, Unverified::Resolve] {
        assert_eq!(warned(Mode::RegistryOnly, unverified, true), [""; 0]);
    }
}

#[test]
fn answers_are_endpoints_of_named_services_and_addresses_of_opaque_ones() {
    let mut db = resolving(entry("x", &[], &[5000]));
    db.hosts = ["db.example.com", "replica.example.com"]
        .map(|host| HostPattern::parse(host).unwrap())
        .into();
    db.ports[0].target_port = Some(5001);
    let web = resolving(named(&["a.example.com"], Protocol::Tls));
    let entries = [db, web];
    let none = with(registry_only(), &entries, &Answers::default());
    assert_eq!(found(&none, "192.0.2.1:5000"), None);
    // Without an answer the verdict is the service all the same, and there is nothing to try.
    let verdict = claimed(&none, "192.0.2.1:443", NameSource::Sni, "a.example.com");
    assert_eq!(verdict, Some(("a.example.com".into(), Match::Host)));
    for service in none.services() {
        assert_eq!(service.target, Target::Endpoints([].into()));
        assert_eq!((service.next_endpoint(), service.next_endpoint()), (0, 0));
        assert_eq!(service.resolved_names.len(), 1);
    }

    let answers = answers(&[
        ("db.example.com", &["192.0.2.1", "::ffff:192.0.2.2"]),
        ("replica.example.com", &["192.0.2.3", "192.0.2.2"]),
        ("a.example.com", &["192.0.2.9", "2001:db8::9"]),
    ]);
    let snapshot = with(registry_only(), &entries, &answers);
    let cluster = |destination: &str| match snapshot.lookup(destination.parse().unwrap()) {
        Verdict::Service(service, Match::Resolved) => Some(service.host.to_string()),
        _ => None,
    };
    assert_eq!(cluster("192.0.2.1:5000").as_deref(), Some("db.example.com"));
    assert_eq!(cluster("192.0.2.2:5000").as_deref(), Some("db.example.com"));
    assert_eq!(cluster("192.0.2.3:5000").as_deref(), Some("replica.example.com"));
    assert_eq!(cluster("192.0.2.4:5000"), None);
    // A TLS port goes by the name: the address of a host says nothing about who is meant.
    assert_eq!(cluster("192.0.2.9:443"), None);
    let targets: Vec<&Target> = snapshot.services().map(|service| &service.target).collect();
    let endpoints =
        |list: &[&str]| Target::Endpoints(list.iter().map(|text| text.parse().unwrap()).collect());
    assert_eq!(*targets[0], endpoints(&["192.0.2.9:443", "[2001:db8::9]:443"]));
    assert_eq!(*targets[1], endpoints(&["192.0.2.1:5001", "192.0.2.2:5001"]));
}

#[test]
fn endpoints_with_names_are_resolved_with_their_ports() {
    let mut web = resolving(named(&["*.example.com"], Protocol::Http));
    let ports = vec![("p80".into(), 8080)];
    web.endpoints = vec![
        Endpoint { address: EndpointAddress::Name(name("lb.example.net")), ports },
        Endpoint { address: EndpointAddress::Ip("192.0.2.9".parse().unwrap()), ports: vec![] },
    ];
    let mut db = resolving(entry("db", &[], &[5000]));
    db.endpoints = web.endpoints.clone();
    let answers = answers(&[
        ("lb.example.net", &["192.0.2.1", "192.0.2.2"]),
        ("db.example.com", &["192.0.2.3"]),
    ]);
    let snapshot = with(registry_only(), &[web, db], &answers);
    let services: Vec<&Arc<Service>> = snapshot.services().collect();
    let expected = ["192.0.2.1:8080", "192.0.2.2:8080", "192.0.2.9:80"];
    assert_eq!(services[0].target, Target::Endpoints(expected.map(|a| a.parse().unwrap()).into()));
    // An opaque port is found by what its host resolves to, and by its endpoints.
    for destination in ["192.0.2.1:5000", "192.0.2.3:5000", "192.0.2.9:5000"] {
        assert_eq!(found(&snapshot, destination).unwrap().1, Match::Resolved, "{destination}");
    }
}

#[test]
fn an_answer_never_takes_an_address_that_an_operator_wrote() {
    let old = Some(SystemTime::UNIX_EPOCH);
    let mut cloud = resolving(entry("cloud", &[], &[5000]));
    cloud.created = old;
    let own = &["192.0.2.1", "192.0.2.2", "198.51.100.1"];
    let answers = answers(&[("cloud.example.com", own)]);
    let entries =
        [cloud, entry("db", &["192.0.2.1"], &[5000]), entry("w", &["192.0.2.0/24"], &[5000])];
    let snapshot = with(registry_only(), &entries, &answers);
    assert_eq!(found(&snapshot, "192.0.2.1:5000"), Some(("ns/db".into(), Match::Address)));
    let prefix = Match::Prefix("192.0.2.0/24".parse().unwrap());
    assert_eq!(found(&snapshot, "192.0.2.2:5000"), Some(("ns/w".into(), prefix)));
    assert_eq!(found(&snapshot, "198.51.100.1:5000"), Some(("ns/cloud".into(), Match::Resolved)));
}

#[test]
fn a_connection_found_by_a_resolved_address_goes_to_that_address() {
    let mut plain = resolving(entry("db", &[], &[5000]));
    plain.ports[0].target_port = Some(5001);
    let mut led = resolving(entry("led", &[], &[6000]));
    let ports = vec![("p6000".into(), 6001)];
    led.endpoints = vec![
        Endpoint { address: EndpointAddress::Name(name("lb.example.net")), ports },
        Endpoint { address: EndpointAddress::Ip("192.0.2.9".parse().unwrap()), ports: vec![] },
    ];
    let mut answers = Answers::default();
    let mut told = |host: &str, current: &[&str], recent: &[&str]| {
        let [current, recent] =
            [current, recent].map(|list| list.iter().map(|ip| ip.parse().unwrap()));
        answers.insert_recent(name(host), current, recent);
    };
    told("db.example.com", &["192.0.2.1", "192.0.2.2"], &["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    told("led.example.com", &["192.0.2.4"], &["192.0.2.4"]);
    told("lb.example.net", &["192.0.2.5"], &["192.0.2.5", "192.0.2.6"]);
    let snapshot = with(registry_only(), &[plain, led], &answers);
    let original = |port| Destination::Original { port, led_by: LedBy::Dns };
    let listed = Destination::Original { port: 6000, led_by: LedBy::File };
    for (to, expected) in [
        ("192.0.2.1:5000", original(5001)),
        ("192.0.2.2:5000", original(5001)),
        // Told earlier: connections are not led there, but who goes there goes there.
        ("192.0.2.3:5000", original(5001)),
        ("[::ffff:192.0.2.3]:5000", original(5001)),
        ("192.0.2.5:6000", original(6001)),
        ("192.0.2.6:6000", original(6001)),
        ("192.0.2.9:6000", listed),
        // The host's own address, and the entry says where its connections go.
        ("192.0.2.4:6000", Destination::Endpoints),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let Some((service, matched)) = snapshot.find(ANYONE, to, Shown::Nothing) else {
            panic!("{to}")
        };
        assert_eq!(
            (matched, service.destination(matched, to)),
            (Match::Resolved, expected),
            "{to}"
        );
    }
}

#[test]
fn two_entries_that_claim_a_host_on_a_port_are_named_and_the_older_wins() {
    let mut younger = named(&["*.example.com", "a.example.com"], Protocol::Tls);
    younger.name = "younger".into();
    let mut older = named(&["a.example.com", "*.example.com", "*x.example.com"], Protocol::Tls);
    older.created = Some(SystemTime::UNIX_EPOCH);
    older.name = "older".into();
    let mut other_port = younger.clone();
    other_port.ports[0].number = 8443;
    let (snapshot, warnings) = build(vec![younger, older, other_port]);
    let texts: Vec<&str> = warnings.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
    assert_eq!(
        texts,
        [
            "ns/younger loses *.example.com port 443 to ns/older (r.yaml:1)",
            "ns/younger loses a.example.com port 443 to ns/older (r.yaml:1)",
        ]
    );
    let destination = "192.0.2.1:443".parse().unwrap();
    let find = |shown: Shown<'_>| snapshot.find(ANYONE, destination, shown).unwrap().0.clone();
    assert_eq!(&*shown(NameSource::Sni, "a.example.com", find).entry, "ns/older");
}

#[test]
fn a_service_is_one_host_in_alphabetical_order() {
    let mut web = named(&["b.example.com", "a.example.com"], Protocol::Tls);
    web.addresses = [IpNet::new("192.0.2.8".parse().unwrap(), 32).unwrap()].into();
    let mut tcp = entry("t", &["192.0.2.8"], &[1]);
    tcp.hosts = web.hosts.clone();
    let (snapshot, warnings) = build(vec![web, tcp]);
    assert_eq!(warnings, []);
    let hosts: Vec<String> =
        snapshot.services().map(|s| format!("{}:{}", s.host, s.port)).collect();
    // The second host of a TCP port cannot be told from the first.
    assert_eq!(hosts, ["a.example.com:443", "b.example.com:443", "a.example.com:1"]);
    let by_sni = |name| claimed(&snapshot, "192.0.2.8:443", NameSource::Sni, name).unwrap();
    assert_eq!(by_sni("b.example.com"), ("b.example.com".into(), Match::AddressAndSni));
    assert_eq!(by_sni("c.example.com"), ("a.example.com".into(), Match::Address));
    assert_eq!(found(&snapshot, "192.0.2.8:443").unwrap().1, Match::Address);
    assert_eq!(claimed(&snapshot, "192.0.2.9:443", NameSource::Sni, "a.example.com"), None);
}

#[test]
fn one_host_of_two_entries_has_the_endpoints_of_both() {
    let at = |name: &str, namespace: &str, address: &str, age| {
        let mut web = named(&["a.example.com"], Protocol::Http);
        (web.name, web.namespace) = (name.into(), namespace.into());
        web.created = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(age));
        web.resolution = Resolution::Static;
        let address = EndpointAddress::Ip(address.parse().unwrap());
        web.endpoints = vec![Endpoint { address, ports: vec![] }];
        web
    };
    let entries = [
        at("one", "shop", "192.0.2.1", 1),
        at("two", "shop", "192.0.2.2", 3),
        at("far", "team", "192.0.2.3", 2),
    ];
    let workloads = "workloads:\n- {workload: w, namespace: team, addresses: [10.0.0.1]}\n\
                     - {workload: x, namespace: shop, addresses: [10.0.0.2]}\n";
    let (workloads, _) = Workloads::parse(workloads, Path::new("w.yaml"), "Kubernetes").unwrap();
    let (snapshot, warnings) =
        Snapshot::build(1, Arc::default(), &entries, Arc::new(workloads), &Answers::default());
    let texts: Vec<&str> = warnings.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        texts,
        ["team/far has a.example.com port 80 for workloads of its own namespace only: shop/one \
          has it for all others (r.yaml:1)"]
    );
    let target = |source: &str| {
        let destination = "198.51.100.1:80".parse().unwrap();
        let find = |shown: Shown<'_>| {
            snapshot.find(source.parse().unwrap(), destination, shown).unwrap().0.target.clone()
        };
        shown(NameSource::Host, "a.example.com", find)
    };
    let endpoints =
        |list: &[&str]| Target::Endpoints(list.iter().map(|text| text.parse().unwrap()).collect());
    for source in ["10.0.0.2", "10.9.9.9"] {
        assert_eq!(target(source), endpoints(&["192.0.2.1:80", "192.0.2.2:80"]), "{source}");
    }
    assert_eq!(target("10.0.0.1"), endpoints(&["192.0.2.3:80"]));
}

#[test]
fn an_allocated_address_is_one_of_the_hosts_own() {
    let mut web = resolving(named(&["a.example.com", "b.example.com"], Protocol::Tls));
    let allocated = |address: &str, host: &str| Allocated {
        address: address.parse().unwrap(),
        host: Some(host.into()),
    };
    web.allocated =
        vec![allocated("240.240.0.1", "a.example.com"), allocated("240.240.0.2", "b.example.com")];
    let mut db = entry("db", &[], &[5432]);
    db.resolution = Resolution::Static;
    let ip = EndpointAddress::Ip("192.0.2.9".parse().unwrap());
    db.endpoints = vec![Endpoint { address: ip, ports: vec![] }];
    db.allocated = vec![allocated("240.240.0.3", "db.example.com")];
    let snapshot = with(registry_only(), &[web, db], &Answers::default());
    let host = |destination: &str| found(&snapshot, destination).map(|found| found.1);
    assert_eq!(host("240.240.0.1:443"), Some(Match::Address));
    let other = claimed(&snapshot, "240.240.0.2:443", NameSource::Sni, "example.net");
    assert_eq!(other.unwrap().0, "b.example.com");
    // Where DNS tells workloads the real address, the name still finds it.
    let real = claimed(&snapshot, "192.0.2.7:443", NameSource::Sni, "a.example.com");
    assert_eq!(real, Some(("a.example.com".into(), Match::Host)));
    assert_eq!(host("240.240.0.3:5432"), Some(Match::Address));
    assert_eq!(host("192.0.2.7:5432"), None, "the bare port is not needed");
}

#[test]
fn twenty_thousand_hosts_are_found_without_a_scan() {
    let hosts = |n: u32| match n % 2 {
        0 => format!("h{n}.example.com"),
        _ => format!("*.d{n}.example.com"),
    };
    let entries: Vec<ServiceEntry> =
        (0..20_000).map(|n| named(&[&hosts(n)], Protocol::Tls)).collect();
    let snapshot = with(Config::default(), &entries, &Answers::default());
    let destination = "192.0.2.1:443".parse().unwrap();
    // As many labels as a name can have: each may be where a wildcard begins.
    let deep = name(&"a.".repeat(120));
    let started = Instant::now();
    for n in 0..20_000 {
        let name = name(&hosts(n).replace('*', "a.b"));
        let find = |name| snapshot.find(ANYONE, destination, Shown::Tls(Some(name)));
        let found = find(&name).unwrap();
        assert_eq!(found.1, if n % 2 == 0 { Match::Host } else { Match::Wildcard });
        if n % 100 == 0 {
            assert!(find(&deep).is_none());
        }
    }
    // A scan would need 4 * 10^8 comparisons.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// How specific a match is: the kind, the length of the prefix, the kind of host, its length.
type Rank = [usize; 4];

/// The rules again, as a list that is searched from end to end.
fn naive(
    entries: &[ServiceEntry],
    destination: SocketAddr,
    asked: &Host,
    by: NameSource,
) -> Option<(String, Match)> {
    let on_port = || {
        entries.iter().filter_map(|entry| {
            Some((entry, entry.ports.iter().find(|port| port.number == destination.port())?))
        })
    };
    let has_hosts = on_port().any(|(entry, port)| {
        let singles = !entry.addresses.is_empty() && entry.addresses.iter().all(prefix::is_single);
        port.protocol == Protocol::Http || (port.protocol == Protocol::Auto && !singles)
    });
    let is_opaque = on_port()
        .any(|(entry, port)| port.protocol == Protocol::Opaque && entry.addresses.is_empty());
    let prefixes = || {
        on_port().filter(|(_, port)| port.protocol != Protocol::Http).flat_map(|(entry, port)| {
            let holds = |p: &&IpNet| !prefix::is_single(p) && p.contains(&destination.ip());
            entry.addresses.iter().filter(holds).map(move |p| (*p, port.protocol))
        })
    };
    let longest = prefixes().map(|(prefix, _)| prefix.prefix_len()).max();
    let is_in_tls =
        prefixes().any(|(prefix, of)| Some(prefix.prefix_len()) == longest && of == Protocol::Tls);
    let on_port_are = OnPort { has_hosts, is_opaque, is_in_tls };
    let mut best: Option<(Rank, &ServiceEntry, Match, String)> = None;
    for (entry, port) in on_port() {
        for (rank, matched, host) in offers(entry, port, destination.ip(), asked, by, on_port_are) {
            let age = |e: &ServiceEntry| (e.created.is_none(), e.created, e.name.clone());
            let better = best.as_ref().is_none_or(|(other, holder, ..)| {
                rank > *other || (rank == *other && age(entry) < age(holder))
            });
            if better {
                best = Some((rank, entry, matched, host));
            }
        }
    }
    best.map(|(_, _, matched, host)| (host, matched))
}

/// What the entries with the port have together.
#[derive(Clone, Copy)]
struct OnPort {
    /// One is found by Host.
    has_hosts: bool,
    /// One is found by the port alone, and is no HTTP.
    is_opaque: bool,
    /// The longest prefix that holds the address is one of TLS.
    is_in_tls: bool,
}

/// What one entry takes the connection for, the first host first.
fn offers(
    entry: &ServiceEntry,
    port: &Port,
    address: IpAddr,
    asked: &Host,
    by: NameSource,
    OnPort { has_hosts, is_opaque, is_in_tls }: OnPort,
) -> Vec<(Rank, Match, String)> {
    let is_http = by == NameSource::Host;
    let mut hosts: Vec<(String, &HostPattern)> =
        entry.hosts.iter().map(|host| (host.to_string(), host)).collect();
    hosts.sort();
    let first = hosts[0].0.clone();
    let by_name = |kind: usize, length: usize, matched: Option<Match>| {
        let matching = hosts.iter().filter(|(_, host)| match asked {
            Host::Name(name) => host.matches(name),
            Host::Address(_) => false,
        });
        let offer = move |(text, host): &(String, &HostPattern)| {
            let (of_host, how) = match host {
                HostPattern::Exact(_) => (2, Match::Host),
                HostPattern::Suffix(_) => (1, Match::Wildcard),
            };
            ([kind, length, of_host, text.len()], matched.unwrap_or(how), text.clone())
        };
        matching.map(offer).collect::<Vec<_>>()
    };
    let mut offers: Vec<(Rank, Match, String)> = Vec::new();
    let is_listed = !entry.addresses.is_empty();
    let has_prefix = entry.addresses.iter().any(|prefix| !prefix::is_single(prefix));
    for prefix in entry.addresses.iter().filter(|prefix| prefix.contains(&address)) {
        let length = prefix.prefix_len().into();
        let (kind, matched) = match prefix::is_single(prefix) {
            true => (6, Match::Address),
            false => (5, Match::Prefix(*prefix)),
        };
        let alone = ([kind, length, 0, 0], matched, first.clone());
        match port.protocol {
            Protocol::Http | Protocol::Udp => {}
            Protocol::Opaque | Protocol::Auto => offers.push(alone),
            Protocol::Tls => {
                offers.extend((kind == 6).then_some(alone));
                offers
                    .extend(by_name(kind, length, Some(matched)).into_iter().filter(|_| !is_http));
            }
        }
    }
    let reads = match port.protocol {
        Protocol::Http => is_http,
        Protocol::Auto => is_http && (!is_listed || has_prefix || (has_hosts && !is_opaque)),
        Protocol::Tls => !is_http && !is_listed && !is_in_tls,
        Protocol::Opaque | Protocol::Udp => false,
    };
    if reads {
        offers.extend(by_name(4, 0, None));
    }
    let spells_one =
        |prefix: &IpNet| prefix::is_single(prefix) && *asked == Host::Address(prefix.addr());
    if port.protocol == Protocol::Http && is_http && entry.addresses.iter().any(spells_one) {
        offers.push(([4, 0, 0, 0], Match::HostAddress, first.clone()));
    }
    let is_nameless = matches!(port.protocol, Protocol::Opaque | Protocol::Auto);
    if is_nameless && !is_listed && !(is_http && has_hosts) {
        offers.push(([1, 0, 0, 0], Match::Port, first));
    }
    offers
}

/// Whether the SNI had a choice at an address is not told apart by the list.
fn plain(matched: Match) -> Match {
    match matched {
        Match::AddressAndSni => Match::Address,
        Match::PrefixAndSni(prefix) => Match::Prefix(prefix),
        other => other,
    }
}

fn any_name() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof!["a", "b", "ab", "ba"], 1..4).prop_map(|l| l.join("."))
}

/// What a workload asks for: a name, or an address in its place.
fn any_asked() -> impl Strategy<Value = String> {
    prop_oneof![9 => any_name(), 1 => any_address().prop_map(|address| address.to_string())]
}

fn any_host() -> impl Strategy<Value = String> {
    (any_name(), 0u8..3).prop_map(|(name, kind)| match kind {
        0 => name,
        1 => format!("*.{name}"),
        _ => format!("*{name}"),
    })
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![
        Protocol::Http,
        Protocol::Tls,
        Protocol::Opaque,
        Protocol::Auto,
        Protocol::Udp,
    ])
}

fn any_named_entries() -> impl Strategy<Value = Vec<ServiceEntry>> {
    let one = (
        prop::collection::vec(any_host(), 1..4),
        prop::collection::vec((1u16..3, any_protocol()), 1..3),
        prop::collection::vec(any_net(), 0..2),
        prop::option::of(0u64..3),
    );
    prop::collection::vec(one, 0..16).prop_map(|drawn| {
        let entries = drawn.into_iter().enumerate().map(|(n, (hosts, ports, nets, age))| {
            let mut entry = entry(&format!("e{n:02}"), &[], &[]);
            entry.hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect();
            for (number, protocol) in ports {
                if entry.ports.iter().all(|port| port.number != number) {
                    entry.ports.push(Port { protocol, ..port(number) });
                }
            }
            // Addresses are common enough to matter and rare enough not to decide everything.
            entry.addresses = nets.into_iter().filter(|_| n % 4 == 0).collect();
            entry.created = age.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
            entry
        });
        entries.collect()
    })
}

proptest! {
    #[test]
    fn a_name_is_found_as_by_a_naive_list(
        entries in any_named_entries(),
        asked in prop::collection::vec((any_address(), 1u16..4, any_asked(), any::<bool>()), 1..32),
    ) {
        // A port that is not TCP is found by nothing, whatever it lists.
        let tcp: Vec<ServiceEntry> = entries.iter().cloned().map(|mut entry| {
            entry.ports.retain(|port| port.protocol != Protocol::Udp);
            entry
        }).collect();
        let (snapshot, _) = build(entries);
        for (address, port, host, is_host) in asked {
            let destination = SocketAddr::new(address, port);
            let by = if is_host { NameSource::Host } else { NameSource::Sni };
            let asked = Host::parse(host.as_bytes()).unwrap();
            let expected = naive(&tcp, destination, &asked, by);
            let found = claimed(&snapshot, &destination.to_string(), by, &host)
                .map(|(host, matched)| (host, plain(matched)));
            prop_assert_eq!(&found, &expected, "{} {:?} {}", destination, by, host);
            // A decision that does not wait is the same with the name.
            if !snapshot.awaits_name(destination) {
                let without = match snapshot.lookup(destination) {
                    Verdict::Service(service, matched) => {
                        Some((service.host.to_string(), plain(matched)))
                    }
                    Verdict::Passthrough | Verdict::BlackHole => None,
                };
                prop_assert_eq!(found, without);
            }
        }
    }
}

#[test]
fn a_host_with_an_unset_protocol_is_one_of_the_virtual_hosts_of_its_port() {
    let mut unset = named(&["a.example.com", "b.example.com"], Protocol::Auto);
    unset.addresses = [IpNet::new("192.0.2.8".parse().unwrap(), 32).unwrap()].into();
    let web = named(&["*.test"], Protocol::Http);
    let tcp = entry("tcp", &[], &[80]);
    let found = |entries: &[ServiceEntry], destination: &str, name: &str| {
        let snapshot = with(Config::default(), entries, &Answers::default());
        claimed(&snapshot, destination, NameSource::Host, name).map(|found| found.0)
    };
    let alone = [unset.clone()];
    assert_eq!(found(&alone, "192.0.2.9:80", "b.example.com"), None);
    assert_eq!(found(&alone, "192.0.2.8:80", "example.net").as_deref(), Some("a.example.com"));
    let beside_http = [unset.clone(), web.clone()];
    for name in ["a.example.com", "b.example.com"] {
        assert_eq!(found(&beside_http, "192.0.2.9:80", name).as_deref(), Some(name));
    }
    let beside_tcp = [unset, web, tcp];
    assert_eq!(found(&beside_tcp, "192.0.2.9:80", "b.example.com"), None);
}

/// An entry of the host `a.example.com`, with one endpoint.
fn part(name: &str, resolution: Resolution, endpoint: EndpointAddress) -> ServiceEntry {
    let mut one = named(&["a.example.com"], Protocol::Http);
    one.name = name.into();
    one.resolution = resolution;
    one.endpoints = vec![Endpoint { address: endpoint, ports: vec![] }];
    one
}

#[test]
fn endpoints_are_merged_by_how_they_are_found_whatever_stands_between() {
    let ip = |text: &str| EndpointAddress::Ip(text.parse().unwrap());
    let dns = |text: &str| EndpointAddress::Name(name(text));
    let entries = [
        part("a", Resolution::Static, ip("192.0.2.1")),
        part("b", Resolution::Dns, dns("b.example.net")),
        part("c", Resolution::Dns, dns("c.example.net")),
        part("d", Resolution::Static, ip("192.0.2.4")),
    ];
    let answers = answers(&[("b.example.net", &["192.0.2.2"]), ("c.example.net", &["192.0.2.3"])]);
    let snapshot = with(registry_only(), &entries, &answers);
    let endpoints: Vec<Vec<String>> = snapshot
        .services()
        .map(|service| match &service.target {
            Target::Endpoints(list) => list.iter().map(ToString::to_string).collect(),
            Target::OriginalDestination { .. } => panic!("it has endpoints"),
        })
        .collect();
    let listed = ["192.0.2.1:80", "192.0.2.4:80"].map(String::from).to_vec();
    let resolved = ["192.0.2.2:80", "192.0.2.3:80"].map(String::from).to_vec();
    assert_eq!(endpoints, [listed.clone(), resolved.clone(), resolved, listed]);
}

#[test]
fn the_endpoints_of_many_entries_of_one_host_are_held_once() {
    let address = |n: u32| EndpointAddress::Ip(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
    let entries: Vec<_> =
        (0..5_000).map(|n| part(&format!("e{n}"), Resolution::Static, address(n))).collect();
    let snapshot = with(registry_only(), &entries, &Answers::default());
    let lists: Vec<_> = snapshot
        .services()
        .map(|service| match &service.target {
            Target::Endpoints(list) => Arc::clone(list),
            Target::OriginalDestination { .. } => panic!("it has endpoints"),
        })
        .collect();
    assert_eq!((lists.len(), lists[0].len()), (5_000, 5_000));
    assert!(lists.iter().all(|list| Arc::ptr_eq(list, &lists[0])));
}
