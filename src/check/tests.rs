//! What people read.

use std::fs;

use tempfile::TempDir;

use super::*;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/egret.yaml")
}

/// A question about a connection to `destination` that shows `host`.
fn asked(destination: &str, host: Option<&str>) -> Question {
    let (destination, host) = (destination.parse().unwrap(), host.map(str::to_owned));
    Question { source: None, destination, host, speaks: None }
}

fn explained(destination: &str, source: Option<&str>) -> String {
    let source = source.map(|text| text.parse().unwrap());
    let question = Question { source, ..asked(destination, None) };
    let outcome = explain(&shipped(), &question);
    assert_eq!(outcome.code, EXIT_OK);
    outcome.text.replace(env!("CARGO_MANIFEST_DIR"), "")
}

/// The text about a connection to `destination` that carries `host`, with a configuration of these
/// lines and one registry file.
fn with_name(config: &str, registry: &str, destination: &str, host: &str) -> String {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("egret.yaml");
    fs::write(&file, format!("registry: [r.yaml]\n{config}")).unwrap();
    fs::write(directory.path().join("r.yaml"), registry).unwrap();
    let outcome = explain(&file, &asked(destination, Some(host)));
    assert_eq!(outcome.code, EXIT_OK, "{}", outcome.text);
    outcome.text.replace(&directory.path().display().to_string(), "")
}

/// A service entry with these fields of its `spec`.
fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec: {{{spec}}}\n---\n"
    )
}

#[test]
fn the_shipped_files_pass() {
    let outcome = check(&shipped());
    assert_eq!(outcome.code, EXIT_OK);
    assert_eq!(
        outcome.text.replace(env!("CARGO_MANIFEST_DIR"), ""),
        "/config/egret.yaml: ok: 0 warnings, 5 files, 3 service entries (5 services), \
         2 workloads, policy ALLOW_ANY\n"
    );
}

#[test]
fn a_prefix_match_is_explained() {
    let source = Some("10.10.0.2".parse().unwrap());
    let question = Question { source, ..asked("203.0.113.7:443", Some("api.partner.example")) };
    let text = explain(&shipped(), &question).text.replace(env!("CARGO_MANIFEST_DIR"), "");
    assert_eq!(
        text,
        "source       10.10.0.2, workload shop/checkout-v2\n\
         destination  203.0.113.7:443\n\
         name         api.partner.example, as SNI (TLS); as Host (HTTP): passthrough, \
         outboundTrafficPolicy.mode ALLOW_ANY: no service entry matches\n\
         waits        up to 5s for a name (names.deadline)\n\
         matched      prefix 203.0.113.0/24, SNI api.partner.example and port 443\n\
         decided by   service entry shop/partner-api (/config/registry.d/partner-api.yaml:3)\n\
         verdict      service\n\
         connects to  203.0.113.7:443\n\
         accounted to destination_service_name=\"api.partner.example\", \
         destination_service=\"api.partner.example\"\n"
    );
}

#[test]
fn endpoints_are_listed() {
    let text = explained("198.51.100.10:5432", None);
    assert!(text.contains("matched      address 198.51.100.10 and port 5432\n"), "{text}");
    assert!(text.contains("connects to  one of 192.0.2.21:15432, 192.0.2.22:25432\n"), "{text}");
}

#[test]
fn without_an_entry_the_policy_is_named() {
    let text = explained("192.0.2.99:80", Some("192.0.2.1"));
    assert!(text.contains("workload unknown\n"), "{text}");
    let decided = "decided by   outboundTrafficPolicy.mode ALLOW_ANY: no service entry matches\n\
                   verdict      passthrough\nconnects to  192.0.2.99:80\n";
    assert!(text.contains(decided), "{text}");

    let directory = TempDir::new().unwrap();
    let file = directory.path().join("egret.yaml");
    fs::write(&file, "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n").unwrap();
    let outcome = explain(&file, &asked("192.0.2.1:1", Some("a.example.com")));
    assert!(outcome.text.contains("verdict      blackhole\nconnects to  nothing"));
    let name = "name         a.example.com: no entry that is found by a name matches it\n\
                waits        up to 5s for a name (names.deadline)\n";
    assert!(outcome.text.contains(name), "{}", outcome.text);
    assert!(outcome.text.contains("\"BlackHoleCluster\""));
}

#[test]
fn a_name_is_explained_as_the_ports_protocol_reads_it() {
    let web =
        entry("web", "hosts: ['*.example.com'], ports: [{number: 443, name: t, protocol: TLS}]");
    assert_eq!(
        with_name("", &web, "192.0.2.1:443", "API.example.com."),
        "destination  192.0.2.1:443\n\
         name         api.example.com, as SNI (TLS); as Host (HTTP): passthrough, \
         outboundTrafficPolicy.mode ALLOW_ANY: no service entry matches\n\
         waits        up to 5s for a name (names.deadline)\n\
         matched      wildcard *.example.com and port 443\n\
         standing     unverified: the entry has no endpoints, and the address is none of its own; \
         names.unverified is allow\n\
         decided by   service entry default/web (/r.yaml:1)\n\
         verdict      service\n\
         connects to  192.0.2.1:443\n\
         accounted to destination_service_name=\"*.example.com\", \
         destination_service=\"api.example.com\"\n"
    );
    let blocked =
        with_name("names: {unverified: block}\n", &web, "192.0.2.1:443", "api.example.com");
    let decided = "decided by   names.unverified block: nothing vouches for the name in service \
                   entry default/web (/r.yaml:1)\nverdict      blackhole\n";
    assert!(blocked.contains(decided), "{blocked}");

    let http =
        entry("http", "hosts: [api.example.com], ports: [{number: 443, name: h, protocol: HTTP}]");
    let both = with_name("", &format!("{web}{http}"), "192.0.2.1:443", "api.example.com");
    let line = "name         api.example.com, as Host (HTTP); as SNI (TLS): service, service entry \
                default/web (/r.yaml:1), by wildcard *.example.com and port 443\n";
    assert!(both.contains(line), "{both}");
    assert!(both.contains("decided by   service entry default/http (/r.yaml:6)\n"), "{both}");
}

#[test]
fn names_that_do_not_count_are_said_not_to() {
    let spec = "hosts: [a.example.com], addresses: [192.0.2.1], ports: [\
                {number: 443, name: t, protocol: TLS}]";
    let web = entry("web", spec);
    let text = with_name("", &web, "192.0.2.1:443", "b.example.com");
    let said = "name         b.example.com: a label only, because the address decides\n\
                waits        no: a name would change nothing\n";
    assert!(text.contains(said), "{text}");
    let text = with_name("", &web, "192.0.2.9:25", "a.example.com");
    assert!(text.contains("waits        no: names.opaquePorts lists port 25\n"), "{text}");
    assert!(text.contains("verdict      passthrough\n"), "{text}");
    let text = with_name("names: {enabled: false}\n", &web, "192.0.2.9:443", "a.example.com");
    assert!(text.contains("waits        no: names.enabled is false\n"), "{text}");
    let text = with_name("", &web, "192.0.2.9:443", "a b");
    assert!(text.contains("name         none: `a b`: the host name has a byte that"), "{text}");
}

#[test]
fn what_an_answer_of_dns_would_decide_is_said() {
    let web = entry(
        "web",
        "hosts: [a.example.com], resolution: DNS, ports: [{number: 443, name: t, protocol: TLS}]",
    );
    let text = with_name("", &web, "192.0.2.1:443", "a.example.com");
    let said = "standing     verified: it goes to the entry's own endpoints\n";
    assert!(text.contains(said), "{text}");
    let said = "connects to  an address of a.example.com, resolved while Egret runs\n";
    assert!(text.contains(said), "{text}");

    let db = entry(
        "db",
        "hosts: [db.example.com], resolution: DNS, ports: [{number: 5000, name: t, protocol: TCP}]",
    );
    let text = with_name("", &db, "192.0.2.1:5000", "db.example.com");
    let said = "unless       192.0.2.1 is an address that Egret resolves, which is not tried here, \
                for service entry default/db (/r.yaml:1)\n\
                decided by   outboundTrafficPolicy.mode ALLOW_ANY: no service entry matches\n";
    assert!(text.contains(said), "{text}");

    // What is found by its name is found at these addresses, too.
    let text =
        with_name("", &(db + &web.replace("443", "5000")), "192.0.2.1:5000", "a.example.com");
    assert!(text.contains("matched      host a.example.com and port 5000\n"), "{text}");
    assert!(!text.contains("unless"), "{text}");
}

#[test]
fn a_refused_document_is_named_and_the_others_are_explained() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("egret.yaml");
    fs::write(&file, "registry: [r.yaml]\n").unwrap();
    let ports = "ports: [{number: 80, name: h, protocol: HTTP}]";
    let good = entry("good", &format!("hosts: [a.example.com], {ports}"));
    let bad = entry("bad", &format!("hosts: [a_b], {ports}"));
    fs::write(directory.path().join("r.yaml"), good + &bad).unwrap();
    let checked = check(&file);
    assert_eq!(checked.code, EXIT_BAD_CONFIG);
    assert!(checked.text.contains("r.yaml:9: error: "), "{}", checked.text);
    assert!(checked.text.ends_with("egret.yaml: refused: 1 error, 0 warnings\n"));
    let explained = explain(&file, &asked("192.0.2.1:80", Some("a.example.com")));
    assert_eq!((explained.code, explained.problems), (EXIT_BAD_CONFIG, checked.text));
    assert!(explained.text.contains("decided by   service entry default/good"));
}

#[test]
fn an_entry_that_can_only_lead_where_egret_does_not_connect_is_a_warning() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("egret.yaml");
    let ports = "ports: [{number: 80, name: h, protocol: HTTP}]";
    let registry = [
        ("lo", "resolution: STATIC, endpoints: [{address: 127.0.0.1}, {address: '::1'}]"),
        ("imds", "addresses: [169.254.169.254]"),
        ("one", "resolution: STATIC, endpoints: [{address: 127.0.0.1}, {address: 192.0.2.1}]"),
        ("far", "resolution: STATIC, endpoints: [{address: 192.0.2.1}]"),
    ]
    .map(|(name, more)| entry(name, &format!("hosts: [{name}.example.com], {ports}, {more}")));
    fs::write(directory.path().join("r.yaml"), registry.concat()).unwrap();
    let warned = |allow: &str| {
        fs::write(&file, format!("registry: [r.yaml]\nupstream: {{allow: [{allow}]}}\n")).unwrap();
        let outcome = check(&file);
        assert_eq!(outcome.code, EXIT_OK, "{}", outcome.text);
        let lines = outcome.text.lines().filter(|line| line.contains("does not connect to"));
        lines.map(|line| line.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let fix = "list them in upstream.allow, if workloads may go there";
    let lo = format!("lo leads only to addresses that Egret does not connect to (loopback); {fix}");
    let imds = lo.replace("lo leads", "imds leads").replace("loopback", "link_local");
    assert_eq!(warned(""), [imds.clone(), lo]);
    assert_eq!(warned("127.0.0.1"), [imds]);
    assert_eq!(warned("0.0.0.0/0"), [""; 0]);

    let said = |destination: &str, host: &str| explain(&file, &asked(destination, Some(host))).text;
    fs::write(&file, "registry: [r.yaml]\n").unwrap();
    let text = said("192.0.2.9:80", "one.example.com");
    let refused = "127.0.0.1:80, which is refused (loopback) unless upstream.allow lists it";
    let line = format!("connects to  one of {refused}, 192.0.2.1:80\n");
    assert!(text.contains(&line), "{text}");
    let text = said("100.100.100.200:443", "a");
    assert!(
        text.contains("connects to  100.100.100.200:443, which is refused (metadata)"),
        "{text}"
    );
}

#[test]
fn a_bad_file_ends_with_64_and_names_the_place() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("egret.yaml");
    fs::write(&file, "log:\n  level: loud\nregistry: [nothing.yaml]\n").unwrap();
    let outcome = check(&file);
    assert_eq!(outcome.code, EXIT_BAD_CONFIG);
    let text = outcome.text.replace(&directory.path().display().to_string(), "");
    assert_eq!(
        text,
        "/egret.yaml:2: error: `log.level`: `loud` is not a valid value; \
         allowed: error, warn, info, debug, trace\n/egret.yaml: refused: 1 error, 0 warnings\n"
    );
    assert_eq!(explain(&file, &asked("192.0.2.1:1", None)), outcome);
}
