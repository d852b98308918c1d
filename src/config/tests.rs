//! The schema, its rules, and the annotated default.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::diagnostics::Severity;
use crate::yaml::{self, Node};

mod documents;

const ANNOTATED: &str = include_str!("../../config/egret.yaml");

fn parse(text: &str) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    Config::parse(text, Path::new("etc/egret.yaml"))
}

fn errors(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

fn error(text: &str) -> String {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

#[test]
fn a_file_that_sets_nothing_is_the_default() {
    assert_eq!(parse("{}").unwrap(), (Config::default(), vec![]));
    assert_eq!(parse("timeouts:\nlog: {}\n").unwrap().0, Config::default());
}

#[test]
fn an_empty_file_is_refused() {
    assert!(error("").contains("the file is empty"));
    assert!(error("# comment\n").contains("the file is empty"));
}

#[test]
fn every_field_is_read() {
    let text = "
listen: { capture: tproxy, port: 1, addresses: ['10.0.0.1'] }
workers: 4
outboundTrafficPolicy: { mode: REGISTRY_ONLY, openConnections: close }
blackHole: { action: reset, tlsAlert: true }
names:
  { enabled: false, deadline: 1s, opaquePorts: [9, 3, 9], unverified: block,
    grace: 1m, refuseGetBodies: false, latin1: pass,
    dnsServers: [10.0.0.53, '[::1]:5353'] }
registry: ['a/*.yaml', '/abs/b.yaml']
workloads: w.yaml
clusterId: here
upstream: { mark: 0x10, allow: [127.0.0.1/8, '::ffff:10.0.0.1'], privateAddresses: block }
timeouts: { connect: 250ms, idle: 2h, halfClose: 5s, head: 4s, user: 30s }
limits: { connections: 7, perSource: 3, heldBytes: 2097152 }
admin: { address: '[::1]:2' }
metrics: { address: '127.0.0.1:3', destinationIp: true, seriesMax: 9, idle: 5m }
health: { address: '127.0.0.1:4' }
drain: { deadline: 1m 30s }
log: { level: debug, format: json }
accessLog: { format: text, path: access.log }
";
    let (config, warnings) = parse(text).unwrap();
    assert_eq!(warnings, []);
    let expected = json!({
        "listen": { "capture": "tproxy", "port": 1, "addresses": ["10.0.0.1"] },
        "workers": 4,
        "outboundTrafficPolicy": { "mode": "REGISTRY_ONLY", "openConnections": "close" },
        "blackHole": { "action": "reset", "tlsAlert": true },
        "names": {
            "enabled": false, "deadline": "1s", "opaquePorts": [3, 9], "unverified": "block",
            "grace": "1m", "refuseGetBodies": false, "latin1": "pass",
            "dnsServers": ["10.0.0.53:53", "[::1]:5353"],
        },
        "registry": ["etc/a/*.yaml", "/abs/b.yaml"],
        "workloads": "etc/w.yaml",
        "clusterId": "here",
        "upstream": {
            "mark": 16, "allow": ["127.0.0.0/8", "10.0.0.1"], "privateAddresses": "block",
        },
        "timeouts": {
            "connect": "250ms", "idle": "2h", "halfClose": "5s", "head": "4s", "user": "30s",
        },
        "limits": { "connections": 7, "perSource": 3, "heldBytes": 2_097_152 },
        "admin": { "address": "[::1]:2" },
        "metrics": {
            "address": "127.0.0.1:3", "destinationIp": true, "seriesMax": 9, "idle": "5m",
        },
        "health": { "address": "127.0.0.1:4" },
        "drain": { "deadline": "1m 30s" },
        "log": { "level": "debug", "format": "json" },
        "accessLog": { "format": "text", "path": "etc/access.log" },
    });
    assert_eq!(serde_json::to_value(&config).unwrap(), expected);
}

#[test]
fn the_access_log_goes_to_standard_output_unless_a_file_is_named() {
    let log = |text: &str| parse(text).unwrap().0.access_log;
    assert_eq!(log("accessLog: { format: off, path: stdout }"), Config::default().access_log);
    assert_eq!(log("accessLog: { path: ./stdout }").path, Some("etc/./stdout".into()));
}

#[test]
fn null_means_none_where_none_is_a_choice_and_is_refused_elsewhere() {
    let config = parse("upstream: { mark: null }\nworkloads: null\n").unwrap().0;
    assert_eq!((config.upstream.mark, config.workloads), (None, None));
    assert_eq!(
        error("listen:\n  port:\n"),
        "etc/egret.yaml:2: error: `listen.port` has no value; set it, or remove the line"
    );
}

#[test]
fn all_problems_are_reported_with_their_lines() {
    let text = "listen:\n  prot: 1\n  port: 70000\nworker: 2\nlog:\n  level: loud\n";
    assert_eq!(
        errors(text),
        [
            "etc/egret.yaml:2: error: unknown field `listen.prot`; did you mean `port`?",
            "etc/egret.yaml:3: error: `listen.port`: `70000` is not a whole number from 0 to 65535",
            "etc/egret.yaml:4: error: unknown field `worker`; did you mean `workers`?",
            "etc/egret.yaml:6: error: `log.level`: `loud` is not a valid value; \
             allowed: error, warn, info, debug, trace",
        ]
    );
}

#[test]
fn values_out_of_range_are_refused() {
    for text in [
        "workers: 0",
        "workers: 1025",
        "workers: many",
        "listen: { addresses: [] }",
        "listen: { addresses: ['::', '::'] }",
        "listen: { addresses: ['::ffff:10.0.0.1'] }",
        "listen: { addresses: '::' }",
        "listen: { port: 0755 }",
        "listen: { port: -1 }",
        "listen: []",
        "timeouts: { connect: 0s }",
        "timeouts: { connect: 11m }",
        "timeouts: { idle: 10 }",
        "timeouts: { idle: 8days }",
        "timeouts: { idle: 99999999999999999999s }",
        "limits: { connections: 0 }",
        "admin: { address: '0.0.0.0:15000' }",
        "admin: { address: '127.0.0.1' }",
        "metrics: { seriesMax: 0 }",
        "metrics: { destinationIp: yes }",
        "upstream: { mark: 0 }",
        "upstream: { mark: 4294967296 }",
        "drain: { deadline: 0s }",
        "names: { enabled: 1 }",
        "names: { deadline: 5ms }",
        "names: { deadline: 11m }",
        "names: { opaquePorts: [0] }",
        "names: { opaquePorts: 25 }",
        "names: { unverified: maybe }",
        "names: { grace: 25h }",
        "names: { refuseGetBodies: 1 }",
        "names: { latin1: allow }",
        "names: { dnsServers: [dns.example.com] }",
        "names: { dnsServers: ['10.0.0.53:0'] }",
        "names: { dnsServers: ['0.0.0.0'] }",
        "accessLog: { format: yaml }",
        "accessLog: { path: '' }",
        "registry: 'a.yaml'",
        "registry: ['a[']",
        "registry: ['']",
        "just text",
        "a: 1\na: 2",
    ] {
        let diagnostics = parse(text).unwrap_err();
        assert_eq!(diagnostics.len(), 1, "{text}: {diagnostics:?}");
        assert!(diagnostics[0].line.is_some(), "{text}: {diagnostics:?}");
    }
}

#[test]
fn two_listeners_on_one_port_are_refused_at_the_line_that_set_it() {
    let found = error("log: {}\nhealth:\n  address: '127.0.0.1:15001'\n");
    assert!(found.starts_with("etc/egret.yaml:3: error: `health.address` uses port 15001"));
    assert!(error("listen: { port: 15000 }").contains(":1: error: `admin.address` uses port"));
    let any = "listen: { port: 0 }\nadmin: { address: '127.0.0.1:0' }\n";
    assert!(parse(any).is_ok());
}

#[test]
fn a_half_close_timeout_that_conntrack_does_not_outlive_is_a_warning() {
    let (_, warnings) = parse("timeouts:\n  halfClose: 2m\n").unwrap();
    assert_eq!((warnings[0].severity, warnings[0].line), (Severity::Warning, Some(2)));
}

#[test]
fn a_directory_with_brackets_is_not_a_pattern() {
    let (config, _) = Config::parse("registry: ['*.yaml']", Path::new("a[b]/egret.yaml")).unwrap();
    assert_eq!(config.registry, ["a[[]b[]]/*.yaml"]);
}

#[test]
fn only_fields_that_cannot_change_live_need_a_restart() {
    let old = Config::default();
    let live = "outboundTrafficPolicy: { mode: REGISTRY_ONLY, openConnections: close }\n\
                log: { level: debug }\n\
                timeouts: { idle: 5s }\nmetrics: { destinationIp: true }\n\
                names: { enabled: false }\naccessLog: { format: json }\n";
    assert_eq!(old.restart_needed(&parse(live).unwrap().0), Vec::<&str>::new());
    let fixed = "listen: { port: 1 }\nworkers: 2\nmetrics: { seriesMax: 5 }\n";
    let new = parse(fixed).unwrap().0;
    assert_eq!(old.restart_needed(&new), ["listen.port", "workers", "metrics.seriesMax"]);
}

#[test]
fn the_annotated_file_names_every_field_with_its_default_and_a_comment() {
    let (mut config, warnings) = Config::parse(ANNOTATED, Path::new("config/egret.yaml")).unwrap();
    assert_eq!(warnings, []);
    let examples = (vec!["config/registry.d/*.yaml".to_owned()], Some("config/workloads.yaml"));
    let registry = std::mem::take(&mut config.registry);
    let workloads = config.workloads.take();
    assert_eq!((registry, workloads.as_deref().and_then(Path::to_str)), examples);
    assert_eq!(config, Config::default());

    let root = yaml::only_document(ANNOTATED).unwrap();
    let default = serde_json::to_value(Config::default()).unwrap();
    let mut fields = 0;
    for (name, value) in default.as_object().unwrap() {
        let section = root.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        match value.as_object() {
            None => fields += has_comment(name, section),
            Some(inner) => {
                for name in inner.keys() {
                    let field = section.get(name).unwrap_or_else(|| panic!("{name} is missing"));
                    fields += has_comment(name, field);
                }
            }
        }
    }
    assert_eq!(fields, 41);
}

fn has_comment(name: &str, node: &Node<'_>) -> usize {
    let before = ANNOTATED.lines().nth(node.line - 2).unwrap().trim();
    assert!(before.starts_with('#'), "{name} has no comment above it");
    1
}

proptest! {
    #[test]
    fn what_is_dumped_parses_to_the_same_configuration(
        port in 1u16..15000, workers in 0u16..=1024, mark in any::<u32>(),
        idle_millis in 10u64..1_000_000, series_max in 1usize..=10_000_000,
    ) {
        let mut config = Config::default();
        config.listen.port = port;
        config.workers = NonZeroU16::new(workers).map_or(Workers::Auto, Workers::Count);
        config.upstream.mark = (mark != 0).then_some(mark);
        config.upstream.allow = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        config.upstream.private_addresses = PrivateAddresses::Block;
        config.timeouts.idle = Duration::from_millis(idle_millis);
        config.metrics.series_max = series_max;
        config.outbound_traffic_policy.mode = Mode::RegistryOnly;
        config.outbound_traffic_policy.open_connections = OpenConnections::Close;
        let dumped = serde_json::to_string(&config).unwrap();
        let (parsed, _) = Config::parse(&dumped, Path::new("egret.yaml")).unwrap();
        prop_assert_eq!(parsed, config);
    }

    #[test]
    fn no_text_panics(text in "(listen|timeouts|registry|workers|[:{}\\[\\], \n'a0-9]){0,60}") {
        if let Err(diagnostics) = Config::parse(&text, Path::new("egret.yaml")) {
            prop_assert!(!diagnostics.is_empty());
        }
    }
}
