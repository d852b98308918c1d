//! What people read.

use std::fs;

use tempfile::TempDir;

use super::*;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/egret.yaml")
}

fn explained(destination: &str, source: Option<&str>) -> String {
    let source = source.map(|text| text.parse().unwrap());
    let outcome = explain(&shipped(), source, destination.parse().unwrap(), None);
    assert_eq!(outcome.code, EXIT_OK);
    outcome.text.replace(env!("CARGO_MANIFEST_DIR"), "")
}

#[test]
fn the_shipped_files_pass() {
    let outcome = check(&shipped());
    assert_eq!(outcome.code, EXIT_OK);
    assert_eq!(
        outcome.text.replace(env!("CARGO_MANIFEST_DIR"), ""),
        "/config/egret.yaml: ok: 0 warnings, 4 files, 2 service entries (3 matching ports), \
         2 workloads, policy ALLOW_ANY\n"
    );
}

#[test]
fn a_prefix_match_is_explained() {
    assert_eq!(
        explained("203.0.113.7:443", Some("10.10.0.2")),
        "source       10.10.0.2, workload shop/checkout-v2\n\
         destination  203.0.113.7:443\n\
         matched      prefix 203.0.113.0/24 and port 443\n\
         decided by   service entry shop/partner-api (/config/registry.d/partner-api.yaml:3)\n\
         verdict      service\n\
         connects to  203.0.113.7:443\n\
         accounted to destination_service_name=\"api.partner.example\"\n"
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
    let outcome = explain(&file, None, "192.0.2.1:1".parse().unwrap(), Some("a.example.com"));
    assert!(outcome.text.contains("verdict      blackhole\nconnects to  nothing"));
    assert!(outcome.text.contains("host         a.example.com (not used"));
    assert!(outcome.text.contains("\"BlackHoleCluster\""));
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
    let destination = "192.0.2.1:1".parse().unwrap();
    assert_eq!(explain(&file, None, destination, None), outcome);
}
