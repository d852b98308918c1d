//! One bad document does not hold up the others, and opens nothing.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::registry::snapshot::{Shown, Verdict};
use crate::sniff::Host;

/// A document that is found by `address`.
fn document(name: &str, address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec:\n  hosts: [{name}.example.com]\n  addresses: [{address}]\n  \
         ports: [{{number: 5432, name: db, protocol: TCP}}]\n---\n"
    )
}

/// It is refused, but says what it is.
fn bad(name: &str) -> String {
    document(name, "192.0.2.300")
}

/// What a load says of its documents.
fn refused(loaded: &Loaded) -> Vec<(Option<&str>, Option<usize>, bool)> {
    let name = |one: &Refused| (one.line, one.stale);
    let all = loaded.refused.iter().map(|one| (one.id.as_ref().map(|id| &*id.name), name(one)));
    all.map(|(id, (line, stale))| (id, line, stale)).collect()
}

/// The addresses by which entries are found, and whether each is a former version.
fn in_use(loaded: &Loaded) -> Vec<(String, bool)> {
    let address = |entry: &ServiceEntry| entry.addresses[0].addr().to_string();
    let mut all: Vec<_> =
        loaded.entries.iter().map(|entry| (address(entry), entry.is_stale)).collect();
    all.sort();
    all
}

/// A registry of two files, and one reload after the other.
struct Reloads {
    lab: Lab,
    last: Loaded,
}

impl Reloads {
    fn new(a: &str, b: &str) -> Self {
        let lab = Lab::new();
        lab.write("registry.d/a.yaml", a);
        lab.write("registry.d/b.yaml", b);
        let last = lab.load().unwrap();
        Self { lab, last }
    }

    /// The file `name` becomes this.
    fn with(&mut self, name: &str, text: impl AsRef<[u8]>) -> &Loaded {
        self.lab.write(&format!("registry.d/{name}.yaml"), text);
        self.last = load(&self.lab.path("egret.yaml"), Some(&self.last)).unwrap();
        &self.last
    }
}

fn used(addresses: &[(&str, bool)]) -> Vec<(String, bool)> {
    addresses.iter().map(|(address, stale)| ((*address).to_owned(), *stale)).collect()
}

const FRESH: bool = false;
const STALE: bool = true;

#[test]
fn at_start_a_refused_document_is_absent_and_the_others_serve() {
    let one = document("one", "192.0.2.1");
    let reloads = Reloads::new(&(bad("bad") + &one), &document("two", "192.0.2.2"));
    assert_eq!(in_use(&reloads.last), used(&[("192.0.2.1", FRESH), ("192.0.2.2", FRESH)]));
    assert_eq!(refused(&reloads.last), [(Some("bad"), Some(1), FRESH)]);
    let errors: Vec<_> = reloads.last.diagnostics.iter().map(ToString::to_string).collect();
    assert!(errors[0].contains("a.yaml:6: error: "), "{errors:?}");
}

#[test]
fn a_refused_document_keeps_its_version_in_use_and_the_others_are_taken() {
    let mut reloads = Reloads::new(&document("one", "192.0.2.1"), &document("two", "192.0.2.2"));
    let loaded = reloads.with("a", bad("one") + &document("three", "192.0.2.3"));
    let expected = [("192.0.2.1", STALE), ("192.0.2.2", FRESH), ("192.0.2.3", FRESH)];
    assert_eq!(in_use(loaded), used(&expected));
    assert_eq!(refused(loaded), [(Some("one"), Some(1), STALE)]);
    // It stays, however often the files are read.
    let loaded = reloads.with("b", document("two", "192.0.2.22"));
    let expected = [("192.0.2.1", STALE), ("192.0.2.22", FRESH), ("192.0.2.3", FRESH)];
    assert_eq!(in_use(loaded), used(&expected));
    // Until it is good, or gone.
    let loaded = reloads.with("a", document("one", "192.0.2.11"));
    assert_eq!(in_use(loaded), used(&[("192.0.2.11", FRESH), ("192.0.2.22", FRESH)]));
    assert!(loaded.refused.is_empty());
    reloads.with("a", bad("one"));
    let loaded = reloads.with("a", "apiVersion: v1\nkind: List\nitems: []\n");
    assert_eq!(in_use(loaded), used(&[("192.0.2.22", FRESH)]));
}

#[test]
fn a_refused_document_of_a_new_name_or_namespace_is_the_removal_of_the_old_one() {
    for other in [bad("other"), bad("one").replace("{name", "{namespace: shop, name")] {
        let mut reloads = Reloads::new(&document("one", "192.0.2.1"), "kind: X\napiVersion: v1\n");
        let loaded = reloads.with("a", other);
        assert_eq!(in_use(loaded), []);
        assert!(matches!(refused(loaded)[..], [(Some(_), Some(1), FRESH)]));
    }
}

#[test]
fn a_document_is_followed_from_file_to_file() {
    let (one, two) = (document("one", "192.0.2.1"), document("two", "192.0.2.2"));
    let mut reloads = Reloads::new(&one, &two);
    // Good where it was, refused elsewhere: what is good counts.
    assert_eq!(
        in_use(reloads.with("b", two.clone() + &bad("one"))),
        used(&[("192.0.2.1", FRESH), ("192.0.2.2", FRESH)])
    );
    // It has moved, and is refused where it is now.
    let empty = "apiVersion: v1\nkind: List\nitems: []\n";
    let loaded = reloads.with("a", empty);
    assert_eq!(in_use(loaded), used(&[("192.0.2.1", STALE), ("192.0.2.2", FRESH)]));
    // Its file is broken, and it is good in another one.
    reloads.with("a", &one);
    reloads.with("a", "}{");
    let loaded = reloads.with("b", two + &document("one", "192.0.2.11"));
    assert_eq!(in_use(loaded), used(&[("192.0.2.11", FRESH), ("192.0.2.2", FRESH)]));
}

#[test]
fn a_file_of_which_not_everything_is_known_keeps_all_documents_that_it_had() {
    let one = document("one", "192.0.2.1");
    let three = document("three", "192.0.2.3");
    for broken in [
        "}{".to_owned(),
        String::new(),
        // Cut within a document.
        three.clone() + "apiVersion: networking.istio.io/v1\nkind: Servi",
        three.clone() + &three.replace("metadata", "metdata"),
        three.clone() + &three.replace("{name: three}", "{name: [three]}"),
        three.clone() + &three.replace("{name: three}", "{name: three, namespace: }"),
        three.clone() + "kind: ServiceEntry\nmetadata: {name: one}\n",
        three.clone() + "apiVersion: v1\nmetadata: {name: one}\n",
        three.clone() + "apiVersion: v1\nkind: List\n",
        three.clone() + "apiVersion: v1\nkind: List\nmetadata: {name: three}\nitems: {}\n",
        three.clone()
            + "apiVersion: networking.istio.io/v1\nkind: ServiceEntryLst\n\
               metadata: {name: three}\nitems: []\n",
    ] {
        let mut reloads = Reloads::new(&one, &document("two", "192.0.2.2"));
        let loaded = reloads.with("a", &broken);
        let expected = used(&[("192.0.2.1", STALE), ("192.0.2.2", FRESH)]);
        assert_eq!(in_use(loaded), expected, "{broken}");
        assert!(refused(loaded).contains(&(Some("one"), None, STALE)), "{broken}");
        // The other file is taken as it is, also while this one stays broken.
        let loaded = reloads.with("b", document("two", "192.0.2.22"));
        let expected = used(&[("192.0.2.1", STALE), ("192.0.2.22", FRESH)]);
        assert_eq!(in_use(loaded), expected, "{broken}");
    }
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_documents_and_one_that_is_gone_does_not() {
    let mut reloads = Reloads::new(&document("one", "192.0.2.1"), &document("two", "192.0.2.2"));
    let path = reloads.lab.path("registry.d/a.yaml");
    fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    let loaded = reloads.with("b", document("two", "192.0.2.22"));
    assert_eq!(in_use(loaded), used(&[("192.0.2.1", STALE), ("192.0.2.22", FRESH)]));
    fs::remove_file(&path).unwrap();
    let loaded = reloads.with("b", document("two", "192.0.2.2"));
    assert_eq!(in_use(loaded), used(&[("192.0.2.2", FRESH)]));
}

#[test]
fn other_kinds_are_ignored_and_a_mistyped_one_stands_for_a_service_entry() {
    let one = document("one", "192.0.2.1");
    let mut reloads = Reloads::new(&one, "apiVersion: v1\nkind: Kustomization\n");
    assert!(reloads.last.refused.is_empty(), "it is ignored");
    let of_kind = |kind: &str| one.replace("kind: ServiceEntry", &format!("kind: {kind}"));
    let loaded = reloads.with("a", of_kind("ServiceEntri"));
    assert_eq!(refused(loaded), [(Some("one"), Some(1), STALE)]);
    assert_eq!(loaded.refused[0].id.as_ref().map(|id| id.kind), Some("ServiceEntry"));
    assert_eq!(in_use(loaded), used(&[("192.0.2.1", STALE)]));
    let loaded = reloads.with("a", of_kind("ServiceEntri").replace("one", "other"));
    assert_eq!(in_use(loaded), [], "under another name it is another document");
    reloads.with("a", &one);
    let loaded = reloads.with("a", of_kind("VirtualService"));
    assert!(loaded.refused.is_empty(), "a kind that Istio has is ignored");
    assert_eq!(in_use(loaded), [], "and is no service entry");
}

#[test]
fn a_bad_workloads_file_keeps_what_it_said_and_the_registry_is_taken() {
    let mut reloads = Reloads::new(&document("one", "192.0.2.1"), &document("two", "192.0.2.2"));
    let source = "10.0.0.1".parse().unwrap();
    let name = |loaded: &Loaded| loaded.workloads.find(source).value.workload.clone();
    reloads.lab.write("w.yaml", "workloads: {");
    let loaded = reloads.with("a", document("one", "192.0.2.11"));
    assert_eq!(name(loaded).as_deref(), Some("shop"));
    assert_eq!(in_use(loaded), used(&[("192.0.2.11", FRESH), ("192.0.2.2", FRESH)]));
    assert_eq!(refused(loaded), [(None, None, STALE)]);
    // Another file has said nothing yet.
    let config = "registry: [\"registry.d/*.yaml\"]\nworkloads: v.yaml\n";
    reloads.lab.write("egret.yaml", config);
    reloads.lab.write("v.yaml", "workloads: {");
    let loaded = reloads.with("a", document("one", "192.0.2.1"));
    assert_eq!((name(loaded), refused(loaded)), (None, vec![(None, None, FRESH)]));
}

#[test]
fn a_version_in_use_is_kept_where_its_twin_in_another_file_is_good() {
    let list = |documents: &[String]| documents.concat();
    let one = |address| document("one", address);
    for broken in [bad("one"), "}{".to_owned()] {
        for (spoilt, other, kept) in [("a", "b", "192.0.2.1"), ("b", "a", "192.0.2.2")] {
            let mut reloads = Reloads::new(&one("192.0.2.1"), &one("192.0.2.2"));
            let mut expected = [("192.0.2.1", FRESH), ("192.0.2.2", FRESH)];
            expected.iter_mut().for_each(|one| one.1 = one.0 == kept);
            let loaded = reloads.with(spoilt, &broken);
            assert_eq!(in_use(loaded), used(&expected), "{spoilt}: {broken}");
            assert!(refused(loaded)[0].2, "{spoilt}: {broken}");
            // The twin changes: that replaces its own version only.
            let loaded = reloads.with(other, one("192.0.2.9"));
            let expected = [(kept, STALE), ("192.0.2.9", FRESH)];
            assert_eq!(in_use(loaded), used(&expected), "{spoilt}: {broken}");
            // What is repaired leaves nothing behind.
            let loaded = reloads.with(spoilt, one("192.0.2.7"));
            assert_eq!(in_use(loaded), used(&[("192.0.2.7", FRESH), ("192.0.2.9", FRESH)]));
        }
    }
    // Twins in one file: the one that is as it was is not the one that is refused.
    let both = list(&[one("192.0.2.1"), one("192.0.2.2")]);
    let mut reloads = Reloads::new(&both, &document("two", "192.0.2.3"));
    for (text, kept) in [
        (list(&[bad("one"), one("192.0.2.2")]), ["192.0.2.1", "192.0.2.2"]),
        (list(&[one("192.0.2.1"), bad("one")]), ["192.0.2.2", "192.0.2.1"]),
    ] {
        let loaded = reloads.with("a", text);
        let mut expected = [(kept[0], STALE), (kept[1], FRESH), ("192.0.2.3", FRESH)];
        expected.sort();
        assert_eq!(in_use(loaded), used(&expected));
        reloads.with("a", &both);
    }
}

/// Fifteen of them leave room for 13120 claims, a fifth of one.
fn large(name: &str) -> String {
    let hosts: Vec<_> = (0..256).map(|n| format!("h{n}.example.com")).collect();
    let ports: Vec<_> =
        (1..=256).map(|n| format!("{{number: {n}, name: p{n}, protocol: TLS}}")).collect();
    let (hosts, ports) = (hosts.join(", "), ports.join(", "));
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec: {{addresses: [192.0.2.2], hosts: [{hosts}], ports: [{ports}]}}\n---\n"
    )
}

fn fourteen_large() -> String {
    (0..14).map(|n| large(&format!("l{n}"))).collect()
}

#[test]
fn a_document_for_which_there_is_no_room_keeps_its_former_version() {
    let fifteen = fourteen_large() + &large("l14");
    let mut reloads = Reloads::new(&fifteen, &document("z", "192.0.2.1"));
    let loaded = reloads.with("b", large("z"));
    assert!(in_use(loaded).contains(&("192.0.2.1".into(), STALE)));
    assert_eq!(refused(loaded), [(Some("z"), Some(1), STALE)]);
    assert!(loaded.diagnostics.iter().any(|one| one.message.starts_with("more than 1000000")));
}

#[test]
fn a_document_that_finds_no_room_pushes_out_none_that_is_in_use() {
    let small = document("small", "192.0.2.1");
    // A new document, and one that grows, before one that is unchanged, changed or refused.
    for b in [large("z"), large("z").replace("192.0.2.2", "192.0.2.3"), bad("z"), "}{".into()] {
        for (newcomer, stale) in [("new", FRESH), ("small", STALE)] {
            let mut reloads = Reloads::new(&(fourteen_large() + &small), &large("z"));
            reloads.with("b", &b);
            let rest = if newcomer == "small" { "" } else { &*small };
            let loaded = reloads.with("a", large(newcomer) + &fourteen_large() + rest);
            let has = |name: &str| loaded.entries.iter().any(|entry| &*entry.name == name);
            assert!(has("z") && has("small") && !has("new"), "{newcomer}");
            let of_a = refused(loaded)[0];
            assert_eq!(of_a, (Some(newcomer), Some(1), stale));
        }
    }
    // Room that the same reload makes can be had, whatever the order of the files.
    let mut reloads = Reloads::new(&fourteen_large(), &large("z"));
    reloads.lab.write("registry.d/b.yaml", document("z", "192.0.2.1"));
    let loaded = reloads.with("a", fourteen_large() + &large("new"));
    assert_eq!((refused(loaded), loaded.entries.len()), (vec![], 16));
    // So can that of a document which is removed.
    let mut reloads = Reloads::new(&fourteen_large(), &large("z"));
    reloads.lab.write("registry.d/b.yaml", &small);
    let loaded = reloads.with("a", fourteen_large() + &large("new"));
    assert_eq!((refused(loaded), loaded.entries.len()), (vec![], 16));
}

/// A document of random contents: every protocol, with and without addresses.
fn any_document(name: usize) -> impl Strategy<Value = String> {
    let protocol = prop_oneof![Just("TCP"), Just("TLS"), Just("HTTP"), Just("\"\"")];
    let address = prop_oneof![
        Just(""),
        Just("192.0.2.1"),
        Just("192.0.2.2"),
        Just("192.0.2.0/24"),
        Just("192.0.2.1, 192.0.2.0/30"),
    ];
    let port = prop_oneof![Just(80_u16), Just(443)];
    (protocol, address, port, 0..3_usize).prop_map(move |(protocol, address, port, host)| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{name}}}\n\
             spec:\n  hosts: [h{host}.example.com]\n  addresses: [{address}]\n  \
             ports: [{{number: {port}, name: p, protocol: {protocol}}}]\n"
        )
    })
}

/// Ways to spoil a document so that it is refused.
fn spoilt(document: &str, way: usize) -> String {
    let (from, to) = [
        ("hosts: [h", "hosts: [-h"),
        ("ports: [", "ports: [{number: 0, name: q}, "),
        ("name: p,", "name: p.q,"),
        ("networking.istio.io/v1\n", "networking.istio.io/v9\n"),
        ("kind: ServiceEntry", "kind: ServiceEntri"),
        ("metadata: {name", "metadata: {nam"),
        ("spec:\n", "spec:\n  resolution: DNS_SOMETIMES\n"),
        ("spec:\n", "spec: }{\n"),
        ("  hosts", "  hosts: [x.example.com]\n  hosts"),
    ][way];
    assert!(document.contains(from));
    document.replacen(from, to, 1)
}

const WAYS: usize = 9;

/// Under REGISTRY_ONLY, what lets each of many connections pass: the entry, or nothing.
fn verdicts(loaded: &Loaded) -> Vec<Option<String>> {
    let (snapshot, _) = loaded.build(1, &Answers::default());
    let source = IpAddr::from([10, 0, 0, 1]);
    let hosts: Vec<Host> = ["h0", "h1", "h2", "other"]
        .map(|name| Host::parse(format!("{name}.example.com").as_bytes()).unwrap())
        .into();
    let shown = hosts.iter().flat_map(|host| {
        let Host::Name(name) = host else { panic!("a name") };
        [Shown::Http(Some(host)), Shown::Tls(Some(name))]
    });
    let shown: Vec<_> = shown.chain([Shown::Nothing]).collect();
    let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1"];
    let mut all = Vec::new();
    for (address, port) in addresses.iter().flat_map(|one| [(one, 80), (one, 443)]) {
        let destination = SocketAddr::new(address.parse().unwrap(), port);
        for shown in &shown {
            all.push(match snapshot.decide(source, destination, *shown).verdict {
                Verdict::Service(service, matched) => {
                    Some(format!("{} {matched:?}", service.entry))
                }
                Verdict::BlackHole => None,
                Verdict::Passthrough => panic!("REGISTRY_ONLY"),
            });
        }
    }
    all
}

fn registry_only(files: &[String]) -> Lab {
    let lab = Lab::new();
    let mode = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n";
    lab.write("egret.yaml", format!("registry: [\"registry.d/*.yaml\"]\n{mode}"));
    fs::remove_file(lab.path("registry.d/a.yaml")).unwrap();
    fs::create_dir_all(lab.path("registry.d")).unwrap();
    for (n, text) in files.iter().enumerate() {
        lab.write(&format!("registry.d/{n}.yaml"), text);
    }
    lab
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Of random documents in two files one is spoilt, at start or by a reload that changes others,
    /// too. Each connection is decided as if the spoilt document were absent, or still what it was;
    /// so none passes by it, and none passes that the good documents do not let pass.
    #[test]
    fn a_spoilt_document_opens_nothing(
        before in (any_document(0), any_document(1), any_document(2), any_document(3)),
        after in (any_document(0), any_document(1), any_document(2), any_document(3)),
        way in 0..WAYS,
    ) {
        let before: [String; 4] = before.into();
        let after: [String; 4] = after.into();
        let file = |first: &str, second: &str| format!("{first}---\n{second}");
        // In the first file: what is spoilt, before another one. In the second: two good ones.
        let files = |first: &str, all: &[String; 4]| {
            [file(first, &all[1]), file(&all[2], &all[3])]
        };
        let spoilt = spoilt(&after[0], way);
        let without = "apiVersion: v1\nkind: List\nitems: []\n";
        let is_whole = spoilt.contains("{name") && !spoilt.contains("}{")
            && spoilt.matches("  hosts").count() == 1;

        let load = |files: &[String; 2], former: Option<&Loaded>| {
            let lab = registry_only(files);
            load(&lab.path("egret.yaml"), former).unwrap()
        };
        let started = load(&files(&spoilt, &after), None);
        let reference = match is_whole {
            true => load(&files(without, &after), None),
            false => load(&[without.to_owned(), file(&after[2], &after[3])], None),
        };
        prop_assert_eq!(verdicts(&started), verdicts(&reference), "at start: {}", spoilt);
        prop_assert!(!started.refused.is_empty() && reference.refused.is_empty());

        // The files of a reload are the same ones.
        let lab = registry_only(&files(&before[0], &before));
        let config_file = lab.path("egret.yaml");
        let former = super::load(&config_file, None).unwrap();
        for (n, text) in files(&spoilt, &after).iter().enumerate() {
            lab.write(&format!("registry.d/{n}.yaml"), text);
        }
        let reloaded = super::load(&config_file, Some(&former)).unwrap();
        let reference = match is_whole {
            true => load(&files(&before[0], &after), None),
            false => load(&[file(&before[0], &before[1]), file(&after[2], &after[3])], None),
        };
        prop_assert_eq!(verdicts(&reloaded), verdicts(&reference), "at reload: {}", spoilt);
    }
}
