//! What documents mean, what is warned about, what is refused.

use proptest::prelude::*;

use super::*;
use crate::diagnostics::Severity;

const HEAD: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n";

fn parse_text(text: &str) -> Result<(Vec<ServiceEntry>, Vec<Diagnostic>), Vec<Diagnostic>> {
    parse(text, Path::new("r.yaml"))
}

fn texts(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(ToString::to_string).collect()
}

fn host(text: &str) -> HostPattern {
    HostPattern::parse(text).unwrap()
}

/// The entry with this spec, one field per line from line 5 on, and the warnings.
fn spec(fields: &[&str]) -> Result<(ServiceEntry, Vec<String>), Vec<String>> {
    let spec: String = fields.iter().map(|field| format!("  {field}\n")).collect();
    match parse_text(&format!("{HEAD}spec:\n{spec}")) {
        Ok((mut entries, warnings)) => Ok((entries.remove(0), texts(&warnings))),
        Err(diagnostics) => Err(texts(&diagnostics)),
    }
}

#[test]
fn a_whole_document_is_read() {
    let text = "
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata:
  name: db
  namespace: shop
  creationTimestamp: \"2026-01-31T12:00:00Z\"
spec:
  hosts: [DB.Example.com., '*.db.example.com']
  addresses: [10.0.0.1, 10.1.2.3/16, 2001:db8::/32]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports:
  - {number: 5432, name: pg, protocol: tls, targetPort: 15432}
  - {number: 80, name: web, protocol: HTTP}
  endpoints:
  - address: 192.0.2.1
  - {address: '2001:db8::5', ports: {pg: 25432}}
";
    let (entries, warnings) = parse_text(text).unwrap();
    let said = "r.yaml:10: warning: shop/db has several hosts on one address: what shows no SNI of \
                theirs goes to *.db.example.com; write an entry for each host, with addresses of \
                its own";
    assert_eq!(texts(&warnings), [said]);
    let entry = &entries[0];
    assert_eq!(entry.full_name(), "shop/db");
    assert!(entry.created.is_some());
    assert_eq!(entry.hosts, ["db.example.com", "*.db.example.com"].map(host));
    let addresses: Vec<String> = entry.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1/32", "10.1.0.0/16", "2001:db8::/32"]);
    assert_eq!(entry.resolution, Resolution::Static);
    assert_eq!(entry.origin, Origin { file: Path::new("r.yaml").into(), line: 2 });
    let port = |port: usize, endpoint: usize| {
        ServiceEntry::endpoint_port(&entry.ports[port], &entry.endpoints[endpoint])
    };
    assert_eq!((port(0, 0), port(0, 1), port(1, 0)), (15432, 25432, 80));
    let by_name = Some(NameSource::Host);
    let reach = Some(Reach { by_address: ByAddress::AsHost, by_name });
    assert_eq!(entry.reach(&entry.ports[1]), reach);
}

#[test]
fn kubectl_output_reads_without_noise() {
    let text = "
apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata:
    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}
    creationTimestamp: '2026-01-31T12:00:00Z'
    generation: 1
    labels: {app: x}
    managedFields: [{manager: kubectl}]
    name: a
    namespace: b
    resourceVersion: '1'
    uid: c
  spec:
    addresses: [192.0.2.1]
    hosts: [a.example.com]
    ports: [{name: tcp, number: 1, protocol: TCP}]
    resolution: NONE
  status: {conditions: [{type: Reconciled}]}
";
    let (entries, warnings) = parse_text(text).unwrap();
    assert_eq!((entries.len(), warnings), (1, vec![]));
    let empty = "apiVersion: v1\nitems: []\nkind: List\n";
    assert_eq!(parse_text(empty).unwrap(), (vec![], vec![]));
}

#[test]
fn several_documents_and_other_kinds_stand_in_one_file() {
    let body = "spec: {hosts: [a.b], addresses: [1.2.3.4], ports: [{number: 1, name: a}]}\n";
    let other = "apiVersion: v1\nkind: ConfigMap\n";
    let text = format!("---\n# empty\n---\n{HEAD}{body}---\n{other}---\n{HEAD}{body}");
    let (entries, warnings) = parse_text(&text).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].namespace.as_ref(), "default");
    assert_eq!(
        texts(&warnings),
        ["r.yaml:9: warning: kind ConfigMap (v1) is ignored; Egret acts on ServiceEntry only"]
    );
}

#[test]
fn a_file_without_documents_is_refused() {
    for text in ["", "# all commented out\n", "---\n---\n"] {
        let diagnostics = parse_text(text).unwrap_err();
        assert_eq!(diagnostics[0].message, "the file holds no document", "{text:?}");
    }
}

#[test]
fn what_is_not_acted_on_is_named_with_its_line() {
    let (_, warnings) = spec(&[
        "hosts: [a.example.com]",
        "addresses: [192.0.2.1]",
        "ports: [{number: 1, name: tcp, protocol: TCP}]",
        "location: MESH_INTERNAL",
        "resolution: STATIC",
        "exportTo: ['.']",
        "subjectAltNames: [x]",
        "color: red",
        "endpoints: [{address: 192.0.2.9, weight: 3, locality: a/b}]",
    ])
    .unwrap();
    assert_eq!(
        warnings,
        [
            "r.yaml:8: warning: `spec.location` MESH_INTERNAL is not acted on: no mutual TLS is \
             added",
            "r.yaml:10: warning: `spec.exportTo` is not acted on: workloads of all namespaces see \
             the entry",
            "r.yaml:11: warning: `spec.subjectAltNames` is not acted on",
            "r.yaml:12: warning: unknown field `spec.color` is ignored; known here: hosts, \
             addresses, location, resolution, ports, endpoints, workloadSelector, exportTo, \
             subjectAltNames",
            "r.yaml:13: warning: `endpoints[].locality` is not acted on",
            "r.yaml:13: warning: `endpoints[].weight` is not acted on",
        ]
    );
}

#[test]
fn allocated_addresses_are_read_where_none_are_listed() {
    let read = |addresses: &str| {
        let body = format!("spec: {{hosts: [a.b], {addresses} ports: [{{number: 1, name: a}}]}}\n");
        let status = "status:\n  addresses: [{value: 240.240.0.1, host: A.b}, {value: x}]\n";
        let (entries, warnings) = parse_text(&format!("{HEAD}{body}{status}")).unwrap();
        (entries[0].allocated.clone(), texts(&warnings))
    };
    let (allocated, warnings) = read("");
    let address = "240.240.0.1".parse().unwrap();
    assert_eq!(allocated, [Allocated { address, host: Some("a.b".into()) }]);
    let said =
        "r.yaml:6: warning: `status.addresses[]` without an IP address in `value` is ignored";
    assert_eq!(warnings.last().map(String::as_str), Some(said));
    assert_eq!(read("addresses: [1.2.3.4],"), (vec![], vec![]));
}

#[test]
fn the_protocol_says_what_a_port_without_addresses_is_found_by() {
    use ByAddress::{Any, AsHost, Nothing, Resolved};
    use NameSource::{Host, Sni};
    for (protocol, by_address, resolved, by_name) in [
        ("TCP", Any, Resolved, None),
        ("MySQL", Any, Resolved, None),
        ("''", Any, Resolved, Some(Host)),
        ("HTTP", AsHost, AsHost, Some(Host)),
        ("http2", AsHost, AsHost, Some(Host)),
        ("GRPC-Web", AsHost, AsHost, Some(Host)),
        ("http_proxy", AsHost, AsHost, Some(Host)),
        ("https", Nothing, Nothing, Some(Sni)),
        ("TLS", Nothing, Nothing, Some(Sni)),
    ] {
        let ports = format!("ports: [{{number: 7, name: p, protocol: {protocol}}}]");
        let (entry, warnings) = spec(&["hosts: [a.example.com]", &ports]).unwrap();
        assert_eq!(entry.reach(&entry.ports[0]), Some(Reach { by_address, by_name }), "{protocol}");
        assert_eq!(warnings.len(), usize::from(by_address == Any), "{protocol}: {warnings:?}");
        let says = |text: &String| {
            text.starts_with("r.yaml:6: ") && text.contains("port 7 matches every address")
        };
        assert!(warnings.iter().all(says), "{warnings:?}");

        let fields = ["hosts: [a.example.com]", &ports, "resolution: DNS"];
        let (entry, warnings) = spec(&fields).unwrap();
        let reach = Reach { by_address: resolved, by_name };
        assert_eq!(entry.reach(&entry.ports[0]), Some(reach), "{protocol}");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
    let (entry, warnings) =
        spec(&["hosts: [a.b]", "ports: [{number: 7, name: p, protocol: UDP}]"]).unwrap();
    assert_eq!(entry.reach(&entry.ports[0]), None);
    assert!(warnings[0].contains("is UDP and matches nothing"), "{warnings:?}");
}

#[test]
fn dns_entries_say_what_they_need_resolved() {
    let names = |hosts: &str, protocol: &str, endpoints: &str| {
        let ports = format!("ports: [{{number: 1, name: a, protocol: {protocol}}}]");
        let (entry, warnings) = spec(&[hosts, &ports, "resolution: DNS", endpoints]).unwrap();
        assert_eq!(warnings, [""; 0]);
        let names: Vec<String> =
            names_to_resolve(&[entry.clone(), entry]).iter().map(Name::to_string).collect();
        names.join(" ")
    };
    let two = "hosts: [B.example.com., a.example.com]";
    assert_eq!(names(two, "TLS", "endpoints: []"), "a.example.com b.example.com");
    let endpoints = "endpoints: [{address: Z.example.com}, {address: 192.0.2.1}]";
    assert_eq!(names(two, "TLS", endpoints), "z.example.com");
    assert_eq!(names("hosts: ['*.example.com']", "TLS", endpoints), "z.example.com");
    // Workloads connect to what the host resolves to, and are found by it.
    let one = "hosts: [a.example.com]";
    assert_eq!(names(one, "TCP", endpoints), "a.example.com z.example.com");

    let tls = "ports: [{number: 1, name: a, protocol: TLS}]";
    let (entry, _) = spec(&["hosts: [a.example.com]", tls]).unwrap();
    assert_eq!(entry.names_to_resolve().count(), 0);
}

#[test]
fn dynamic_dns_is_matched_by_name() {
    let (entry, warnings) = spec(&[
        "hosts: ['*.example.com']",
        "ports: [{number: 443, name: a, protocol: TLS}]",
        "resolution: DYNAMIC_DNS",
    ])
    .unwrap();
    let reach = Reach { by_address: ByAddress::Nothing, by_name: Some(NameSource::Sni) };
    assert_eq!(entry.reach(&entry.ports[0]), Some(reach));
    assert_eq!(warnings, [""; 0]);
    assert_eq!(entry.names_to_resolve().count(), 0, "it is not known yet which");
}

#[test]
fn hosts_are_in_the_normal_form_of_names() {
    for (text, normal) in [
        ("API.Example.COM.", "api.example.com"),
        ("*.Example.com.", "*.example.com"),
        ("*-EU.example.com", "*-eu.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("*.xn--bcher-kva.example", "*.xn--bcher-kva.example"),
    ] {
        assert_eq!(host(text).to_string(), normal);
        assert_eq!(host(normal), host(text));
    }
    for bad in ["*", "*.", "**.a", "*..a", "a.*", "", "192.0.2.1", "*.0.2.1", "bücher.example"] {
        assert!(HostPattern::parse(bad).is_err(), "{bad}");
    }
    let diagnostics = spec(&["hosts: [bücher.example]", "ports: []"]).unwrap_err();
    assert_eq!(
        diagnostics[0],
        "r.yaml:5: error: `spec.hosts`: host `bücher.example` is not a DNS name: the host name is \
         not ASCII; write international labels as xn--; write it as api.example.com or \
         *.example.com"
    );
}

#[test]
fn a_wildcard_stands_for_labels_and_never_for_nothing() {
    let matches =
        |pattern: &str, name: &str| host(pattern).matches(&Name::parse(name.as_bytes()).unwrap());
    for name in ["a.example.com", "a.b.example.com", "A.Example.com."] {
        assert!(matches("*.example.com", name), "{name}");
    }
    for name in ["example.com", "badexample.com", "a.example.com.net", "com"] {
        assert!(!matches("*.example.com", name), "{name}");
    }
    assert!(matches("*foo.com", "badfoo.com") && matches("*foo.com", "a.foo.com"));
    assert!(!matches("*foo.com", "foo.com"));
    let (_, warnings) =
        spec(&["hosts: ['*foo.com']", "ports: [{number: 1, name: a, protocol: TLS}]"]).unwrap();
    assert_eq!(
        warnings,
        ["r.yaml:5: warning: host `*foo.com` matches every name that ends so, whoever owns it; \
          write `*.foo.com` for the names below that domain"]
    );
}

#[test]
fn static_without_a_usable_endpoint_is_warned_about() {
    for endpoints in ["endpoints: []", "endpoints: [{address: 'unix:///x'}]", "exportTo: []"] {
        let ports = "ports: [{number: 1, name: a}]";
        let (_, warnings) =
            spec(&["hosts: [a.b]", "resolution: STATIC", ports, endpoints]).unwrap();
        assert!(warnings.iter().any(|w| w.contains("no usable endpoint")), "{warnings:?}");
    }
}

#[test]
fn an_entry_without_ports_matches_nothing_and_says_so() {
    let (entry, warnings) = spec(&["hosts: [a.b]", "addresses: [192.0.2.1]"]).unwrap();
    assert_eq!(entry.ports, []);
    assert!(warnings[0].contains("has no ports"), "{warnings:?}");
}

#[test]
fn what_istio_refuses_is_refused_with_its_line() {
    let ports = "ports: [{number: 1, name: a}]";
    let tls = "ports: [{number: 1, name: a, protocol: TLS}]";
    for (line, fields) in [
        (6, vec!["hosts: [a.b]", "ports: [{number: 1, name: a, protocol: HTTSP}]"]),
        (6, vec!["hosts: [a.b]", "ports: [{number: 1, name: a, protocol: HTTP-PROXY}]"]),
        (6, vec!["hosts: [a.b]", "ports: [{number: 1, name: http.web}]"]),
        (6, vec!["hosts: [a.b]", "ports: [{number: 1, name: -a}]"]),
        (5, vec!["hosts: [a.b, c.d]", ports, "resolution: DNS"]),
        (5, vec!["hosts: [a.b, c.d]", ports, "resolution: STATIC"]),
        (5, vec!["hosts: [SERVICE_URL]", ports]),
        (5, vec!["hosts: [a_b.c]", ports]),
        (5, vec!["hosts: ['*.a_b.c']", ports]),
        (5, vec!["hosts: ['-']", ports]),
        (5, vec!["hosts: [a-.b]", ports]),
        (7, vec!["hosts: [a.b]", ports, "exportTo: [a, a]"]),
        (7, vec!["hosts: [a.b]", ports, "exportTo: ['*', '.']"]),
        (7, vec!["hosts: [a.b]", ports, "exportTo: ['~', a]"]),
        (7, vec!["hosts: [a.b]", ports, "exportTo: ['a.b']"]),
        (7, vec!["hosts: [a.b]", ports, "workloadSelector: {labels: {'*': a}}"]),
        (7, vec!["hosts: [a.b]", ports, "workloadSelector: {labels: {app: 'a*'}}"]),
        (7, vec!["hosts: [a.b]", ports, "workloadSelector: {labels: {'': a}}"]),
        (8, vec!["hosts: [a.b]", tls, "resolution: DNS", "endpoints: [{address: a_b}]"]),
        (
            8,
            vec![
                "hosts: [a.b]",
                ports,
                "resolution: STATIC",
                "endpoints: [{address: 192.0.2.1, labels: {'a b': c}}]",
            ],
        ),
        (
            8,
            vec![
                "hosts: [a.b]",
                ports,
                "resolution: STATIC",
                "endpoints: [{address: 'unix:///x', ports: {a: 1}}]",
            ],
        ),
        (
            8,
            vec!["hosts: [a.b]", ports, "resolution: STATIC", "endpoints: [{address: 'unix://x'}]"],
        ),
        (
            6,
            vec![
                "hosts: ['*.a.b']",
                "ports: [{number: 1, name: a, protocol: HTTPS}]",
                "resolution: DYNAMIC_DNS",
            ],
        ),
        (5, vec![ports]),
        (5, vec!["hosts: []", ports]),
        (5, vec!["hosts: ['*']", ports]),
        (5, vec!["hosts: ['a b']", ports]),
        (5, vec!["hosts: ['a.*.b']", ports]),
        (5, vec!["hosts: a.b", ports]),
        (6, vec!["hosts: [a.b]", "addresses: [10.0.0.0/33]", ports]),
        (6, vec!["hosts: [a.b]", "addresses: [b.c]", ports]),
        (6, vec!["hosts: [a.b]", "addresses: [10.0.0.0/8]", ports, "resolution: DNS"]),
        (6, vec!["hosts: [a.b]", "resolution: SOMETIMES", ports]),
        (6, vec!["hosts: [a.b]", "location: HERE", ports]),
        (6, vec!["hosts: [a.b]", "ports: [{number: 0, name: a}]"]),
        (6, vec!["hosts: [a.b]", "ports: [{number: 65536, name: a}]"]),
        (6, vec!["hosts: [a.b]", "ports: [{number: 1}]"]),
        (6, vec!["hosts: [a.b]", "ports: [{name: a}]"]),
        (6, vec!["hosts: [a.b]", "ports: [{number: 1, name: a}, {number: 1, name: b}]"]),
        (6, vec!["hosts: [a.b]", "ports: [{number: 1, name: a}, {number: 2, name: a}]"]),
        (7, vec!["hosts: [a.b]", ports, "endpoints: [{address: 192.0.2.1}]"]),
        (8, vec!["hosts: [a.b]", ports, "resolution: STATIC", "endpoints: [{address: b.c}]"]),
        (5, vec!["hosts: ['*.a.b']", ports, "resolution: DNS"]),
        (5, vec!["hosts: [192.0.2.1]", ports]),
        (5, vec!["hosts: [a..b]", ports]),
        (5, vec!["hosts: [a.b]", tls, "resolution: DYNAMIC_DNS"]),
        (6, vec!["hosts: ['*.a.b']", ports, "resolution: DYNAMIC_DNS"]),
        (6, vec!["hosts: ['*.a.b']", "addresses: [1.2.3.4]", tls, "resolution: DYNAMIC_DNS"]),
        (8, vec!["hosts: ['*.a.b']", tls, "resolution: DYNAMIC_DNS", "endpoints: [{address: a}]"]),
        (8, vec!["hosts: [a.b]", ports, "resolution: DNS", "endpoints: [{address: 'unix:///x'}]"]),
        (8, vec!["hosts: [a.b]", ports, "resolution: DNS", "endpoints: [{address: 'a_ b'}]"]),
        (
            8,
            vec![
                "hosts: [a.b]",
                ports,
                "resolution: DNS_ROUND_ROBIN",
                "endpoints: [{address: a.c}, {address: b.c}]",
            ],
        ),
        (
            8,
            vec![
                "hosts: [a.b]",
                ports,
                "resolution: STATIC",
                "endpoints: [{address: 192.0.2.1, ports: {b: 2}}]",
            ],
        ),
    ] {
        let diagnostics = match spec(&fields) {
            Err(diagnostics) => diagnostics,
            Ok(_) => panic!("{fields:?} was accepted"),
        };
        let errors: Vec<_> = diagnostics.iter().filter(|p| p.contains(": error: ")).collect();
        assert_eq!(errors.len(), 1, "{fields:?}: {diagnostics:?}");
        assert!(errors[0].starts_with(&format!("r.yaml:{line}: ")), "{fields:?}: {errors:?}");
    }
}

#[test]
fn what_istio_accepts_is_accepted() {
    let web = "ports: [{number: 1, name: Web-1, protocol: HTTP_PROXY}]";
    let (_, warnings) = spec(&["hosts: [a.b]", web, "exportTo: ['*']"]).unwrap();
    assert_eq!(warnings, [""; 0]);
    let (_, warnings) = spec(&[
        "hosts: [a.b]",
        web,
        "resolution: STATIC",
        "endpoints: [{network: far, labels: {app.kubernetes.io/name: a, empty: ''}}]",
    ])
    .unwrap();
    let far =
        "r.yaml:8: warning: an endpoint of another network without an address is not acted on";
    assert!(warnings.iter().any(|warning| warning == far), "{warnings:?}");
    let (entry, warnings) = spec(&["hosts: [a.b]", web, "exportTo: ['~']"]).unwrap();
    assert_eq!(entry.reachable_ports().count(), 0, "it is for nobody");
    assert!(warnings[0].contains("no workload sees the entry"), "{warnings:?}");
    let to_443 = "ports: [{number: 80, name: a, protocol: HTTP, targetPort: 443}]";
    let (_, warnings) = spec(&["hosts: [a.b]", to_443]).unwrap();
    let said = "default/a port 80 sends plain HTTP to port 443: Egret does not originate TLS";
    assert!(warnings[0].contains(said), "{warnings:?}");

    let body = "spec: {hosts: [a.b], addresses: [1.2.3.4], ports: [{number: 1, name: a}]}";
    let item = format!("{}{body}", HEAD.replace('\n', "\n  "));
    let list = "apiVersion: v1\nkind: List\nitems:";
    assert_eq!(parse_text(&format!("{list}\n")).unwrap(), (vec![], vec![]));
    let nested = format!("{list}\n- {}\n", format!("{list}\n- {item}").replace('\n', "\n  "));
    assert_eq!(parse_text(&nested).unwrap().0.len(), 1, "{nested}");
}

#[test]
fn a_half_written_document_is_refused() {
    for text in [
        "apiVersion: networking.istio.io/v1\n",
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n",
        HEAD,
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  na",
        "apiVersion: networking.istio.io/v9\nkind: ServiceEntry\n",
        "apiVersion: networking.istio.io/v1\nkind: ServiceEn",
        "kind: ServiceEntry\napiVersion: networking.is",
        "apiVersion: v1\nkind: List\n",
        "- a\n- b\n",
        "text",
    ] {
        let diagnostics = parse_text(text).unwrap_err();
        assert!(diagnostics.iter().any(|p| p.severity == Severity::Error), "{text:?}");
        assert!(diagnostics.iter().all(|p| p.line.is_some()), "{text:?}: {diagnostics:?}");
    }
}

proptest! {
    #[test]
    fn a_truncated_file_never_panics_and_never_gains_entries(cut in 0usize..400) {
        let body = "spec:\n  hosts: [a.example.com]\n  addresses: [192.0.2.1, 10.0.0.0/8]\n  \
                    resolution: NONE\n  ports:\n  - number: 443\n    name: https\n    \
                    protocol: TLS\n";
        let whole = format!("{HEAD}{body}---\n{HEAD}{body}");
        let text = &whole[..cut.min(whole.len())];
        if let Ok((entries, _)) = parse_text(text) {
            prop_assert!(entries.len() <= 2);
        }
    }
}

#[test]
fn a_long_list_of_namespaces_is_read_in_one_pass() {
    let web = "ports: [{number: 80, name: h, protocol: HTTP}]";
    let mut list: Vec<String> = (0..50_000).map(|n| format!("n{n}")).collect();
    let with =
        |list: &[String]| spec(&["hosts: [a.b]", web, &format!("exportTo: [{}]", list.join(", "))]);
    assert!(with(&list).is_ok());
    list.push("n0".into());
    assert!(with(&list).unwrap_err()[0].contains("names `n0` twice"));
}
