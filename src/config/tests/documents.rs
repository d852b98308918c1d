//! `docs/configuration.md` has every key, with its default and when a change takes effect.

use std::collections::BTreeMap;

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// Every key that the configuration has, such as `listen.port`.
fn keys() -> Vec<String> {
    let default = serde_json::to_value(Config::default()).unwrap();
    let mut keys = Vec::new();
    for (section, value) in default.as_object().unwrap() {
        match value.as_object() {
            None => keys.push(section.clone()),
            Some(fields) => keys.extend(fields.keys().map(|name| format!("{section}.{name}"))),
        }
    }
    keys
}

/// The rows of the tables of keys: key to default and *applies*.
fn rows() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let mut rows = BTreeMap::new();
    for line in DOCUMENT.lines() {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        // Key, values, default, applies, why; and nothing outside of the outer bars.
        if let ["", key, _, default, applies @ ("reload" | "restart"), why, ""] = cells[..] {
            assert!(!why.is_empty(), "{key}");
            assert_eq!(rows.insert(key, (default, applies)), None, "{key} has two rows");
        }
    }
    rows
}

#[test]
fn every_key_has_a_row_and_every_row_a_key() {
    let rows: Vec<_> = rows().into_keys().collect();
    let mut keys = keys();
    keys.sort();
    assert_eq!(rows, keys);
}

#[test]
fn the_default_in_a_row_is_the_default() {
    for (key, (value, _)) in rows() {
        let text = match key.split_once('.') {
            Some((section, field)) => format!("{section}: {{ {field}: {value} }}"),
            None => format!("{key}: {value}"),
        };
        assert_eq!(parse(&text).unwrap(), (Config::default(), vec![]), "{text}");
    }
}

#[test]
fn a_row_says_restart_where_a_restart_is_needed() {
    // Differs from the default in every key that needs one.
    let text = "
listen: { capture: tproxy, port: 1, addresses: ['10.0.0.1'] }
workers: 4
outboundTrafficPolicy: { mode: REGISTRY_ONLY, openConnections: close }
blackHole: { action: reset, tlsAlert: true }
names:
  { enabled: false, deadline: 1s, opaquePorts: [9], unverified: block, grace: 1m,
    refuseGetBodies: false, latin1: pass, dnsServers: [10.0.0.53] }
registry: ['a/*.yaml']
workloads: w.yaml
clusterId: here
upstream: { mark: 16, allow: [127.0.0.1], privateAddresses: block }
timeouts: { connect: 250ms, idle: 2h, halfClose: 5s, head: 4s, user: 30s }
limits: { connections: 7, perSource: 3, heldBytes: 2097152 }
admin: { address: '127.0.0.1:2' }
metrics: { address: '127.0.0.1:3', destinationIp: true, seriesMax: 9, idle: 5m }
health: { address: '127.0.0.1:4' }
drain: { deadline: 1m }
log: { level: debug, format: json }
accessLog: { format: text, path: access.log }
";
    let (other, default) = (parse(text).unwrap().0, Config::default());
    let differing = differences(&default, &other);
    assert_eq!(differing, keys(), "the text above sets every key to another value");
    let mut needed = default.restart_needed(&other);
    needed.sort_unstable();
    let rows = rows();
    let said = rows.iter().filter(|(_, (_, applies))| *applies == "restart");
    assert_eq!(said.map(|(key, _)| *key).collect::<Vec<_>>(), needed);
}

/// The keys whose values differ.
fn differences(a: &Config, b: &Config) -> Vec<String> {
    let [a, b] = [a, b].map(|config| serde_json::to_value(config).unwrap());
    let pointer = |key: &String| format!("/{}", key.replace('.', "/"));
    let differs = |key: &String| a.pointer(&pointer(key)) != b.pointer(&pointer(key));
    keys().into_iter().filter(differs).collect()
}
