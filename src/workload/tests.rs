//! Which workload owns an address, and what the file may say.

use super::*;

fn parse(text: &str) -> Result<(Workloads, Vec<Diagnostic>), Vec<Diagnostic>> {
    Workloads::parse(text, Path::new("w.yaml"), "here")
}

fn name(workloads: &Workloads, source: &str) -> Option<String> {
    let workload = workloads.find(source.parse().unwrap());
    workload.value.workload.as_deref().map(str::to_owned)
}

#[test]
fn the_longest_prefix_names_the_workload() {
    let text = "workloads:
- { addresses: [10.0.0.0/8, 'fd00::/8'], workload: all }
- { addresses: [10.1.0.0/16], workload: some }
- { addresses: [10.1.2.3], workload: one, version: 1.10 }
";
    let (workloads, warnings) = parse(text).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(workloads.len(), 3);
    assert_eq!(name(&workloads, "10.2.0.1").as_deref(), Some("all"));
    assert_eq!(name(&workloads, "10.1.0.1").as_deref(), Some("some"));
    assert_eq!(name(&workloads, "10.1.2.3").as_deref(), Some("one"));
    assert_eq!(name(&workloads, "::ffff:10.1.2.3").as_deref(), Some("one"));
    assert_eq!(name(&workloads, "fd00::1").as_deref(), Some("all"));
    assert_eq!(name(&workloads, "192.0.2.1"), None);
    let one = workloads.find("10.1.2.3".parse().unwrap());
    assert_eq!(one.value.version.as_deref(), Some("1.10"));
}

#[test]
fn the_same_workload_has_the_same_identity_in_every_generation() {
    let text = "workloads: [{ addresses: [10.0.0.1], workload: a }]";
    let find = |(workloads, _): (Workloads, _)| workloads.find("10.0.0.1".parse().unwrap()).clone();
    let (first, second) = (find(parse(text).unwrap()), find(parse(text).unwrap()));
    assert_eq!(first.hash, second.hash);
    assert_eq!(first, second);
}

#[test]
fn an_address_that_two_workloads_claim_stays_with_the_first() {
    let text = "workloads:
- { addresses: [10.0.0.1], workload: a }
- { addresses: [10.0.0.1/32], workload: b }
";
    let (workloads, warnings) = parse(text).unwrap();
    assert_eq!(name(&workloads, "10.0.0.1").as_deref(), Some("a"));
    assert_eq!(warnings[0].line, Some(3));
}

#[test]
fn a_bad_file_is_refused_with_its_line() {
    for (text, line) in [
        ("", None),
        ("[]", Some(1)),
        ("workloads: 3", Some(1)),
        ("workloads:\n- { workload: a }", Some(2)),
        ("workloads:\n- { addresses: [], workload: a }", Some(2)),
        ("workloads:\n- { addresses: [10.0.0.0/33] }", Some(2)),
        ("workloads:\n- { addresses: [a], workload: a }", Some(2)),
        ("workloads:\n- addresses: [10.0.0.1]\n  pod: a", Some(3)),
        ("workloads:\n- addresses: [10.0.0.1]\n  app: ''", Some(3)),
    ] {
        let diagnostics = parse(text).err().unwrap_or_else(|| panic!("{text:?} was accepted"));
        assert_eq!(diagnostics[0].line, line, "{text:?}: {diagnostics:?}");
    }
    assert!(parse("workloads: []").unwrap().0.is_empty());
}

#[test]
fn a_workload_is_in_the_cluster_that_it_names_or_else_in_that_of_the_node() {
    let text = "workloads:
- { addresses: [10.0.0.1], workload: a }
- { addresses: [10.0.0.2], workload: b, cluster: there }
";
    let (workloads, _) = parse(text).unwrap();
    for (source, cluster) in [("10.0.0.1", "here"), ("10.0.0.2", "there"), ("10.0.0.3", "here")] {
        let found = workloads.find(source.parse().unwrap());
        assert_eq!(found.value.cluster.as_deref(), Some(cluster), "{source}");
    }
    let found = Workloads::default();
    let found = found.find("10.0.0.1".parse().unwrap());
    assert_eq!(found.value.cluster.as_deref(), Some("Kubernetes"));
}

#[test]
fn a_workload_that_kiali_would_drop_is_a_warning() {
    for (fields, warns) in [
        ("workload: a, namespace: n", false),
        ("app: a, namespace: n", false),
        ("workload: a", false),
        ("version: v1", false),
        ("namespace: unknown", false),
        ("namespace: n", true),
        ("namespace: n, workload: unknown, app: unknown", true),
        ("namespace: n, app: a, cluster: unknown", true),
    ] {
        let text = format!("workloads: [{{ addresses: [10.0.0.1], {fields} }}]");
        let (_, warnings) = parse(&text).unwrap();
        let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(texts.iter().any(|text| text.contains("Kiali")), warns, "{fields}: {texts:?}");
    }
}
