//! Names that a workload claims at its own server's address, and that Egret resolves at a real DNS
//! server (dnsmasq) in the world outside; and what such a server says of the registry's names.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::lab::{Lab, wait_until, web};
use crate::options::{Options, Policy, named_entry};
use crate::programs::{Nginx, Program, fetch, handshake};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, REQUESTS, UNVERIFIED};

const CLAIMS: &str = "egret_resolved_claims_total";

/// dnsmasq, which answers these names and no others; it follows no file of the host.
fn dnsmasq(lab: &Lab, at: SocketAddr, records: &[&str], directory: &Path) -> Program {
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"]);
    command.args(["--bind-interfaces", "--local=/test/", "--user=root", "--local-ttl=1"]);
    command.arg(format!("--listen-address={}", at.ip())).arg(format!("--port={}", at.port()));
    command.arg(format!("--pid-file={}", directory.join("dnsmasq.pid").display()));
    command.args(records);
    Program::serve(lab, &[at], command)
}

/// An entry that lets Egret resolve what is claimed.
fn dynamic(hosts: &str, protocol: &str, port: u16) -> String {
    named_entry(hosts, protocol, port, None).replace("NONE", "DYNAMIC_DNS")
}

#[test]
fn the_bytes_of_a_claimed_name_never_arrive_at_the_workloads_own_server() {
    const NAMES: &str = "dnsServers: [\"203.0.113.14:53\"], unverified: resolve, deadline: 2s";
    // The workload's own server is at 10, that of the names at 12.
    let (own, theirs) = (10, 12);
    for policy in [Policy::RegistryOnly, Policy::AllowAny] {
        let lab = Lab::new();
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        let records = [
            "--host-record=exact.test,203.0.113.12,fd77:2::12",
            "--host-record=only6.wild.test,fd77:2::12",
            "--host-record=a.wild.test,203.0.113.12",
            "--cname=alias.wild.test,a.wild.test",
            "--host-record=own.wild.test,203.0.113.10",
            // Where no name may lead: the metadata service, and the node itself.
            "--host-record=trap.wild.test,169.254.169.254,203.0.113.1",
        ];
        let _names = dnsmasq(&lab, web(14, 53), &records, directory.path());
        let registry = [
            named_entry("exact.test", "HTTP", 80, None),
            named_entry("exact.test", "HTTPS", 443, None),
            dynamic("*.wild.test", "HTTP", 80),
            dynamic("*.wild.test", "TLS", 443),
        ];
        let options = Options {
            policy,
            names: NAMES,
            access_log: "format: json, path: access.log".to_owned(),
            registry: registry.concat(),
            ..Options::default()
        };
        let proxy = Proxy::start(&lab, &options);
        let at = |n| crate::lab::outside(n, crate::lab::Family::V6, 80);
        let _theirs = Nginx::start(&lab, &[web(theirs, 80), at(theirs)], &[web(theirs, 443)]);
        let own_servers = [80, 443].map(|port| lab.listen(web(own, port)));
        let claim = |url: &str| fetch(&lab, web(own, 80), url);

        let there = format!("site {}", web(theirs, 80));
        for host in ["exact.test", "a.wild.test", "alias.wild.test"] {
            let (status, _, body) = claim(&format!("http://{host}/"));
            assert_eq!((status, body), (200, there.clone()), "{host}");
        }
        let (status, _, body) = claim("http://only6.wild.test/");
        assert_eq!((status, &*body), (200, "site fd77:2::12:80"));
        assert_eq!(proxy.metric(CLAIMS, &[("destination", "other")]), 4);
        let ran = handshake(&lab, web(own, 443), Some("a.wild.test"));
        assert_eq!(ran.code, 0, "{ran:?}");
        proxy.wait_for_metric(CLAIMS, &[("destination", "other")], 5);

        // Names that lead nowhere.
        for (host, destination) in [("nowhere.wild.test", "none"), ("trap.wild.test", "other")] {
            let before = proxy.metric(CLAIMS, &[("destination", destination)]);
            let (status, ..) = claim(&format!("http://{host}/"));
            assert_eq!(status, 503, "{host}");
            assert_eq!(proxy.metric(CLAIMS, &[("destination", destination)]), before + 1, "{host}");
        }
        let unresolved = [("destination_service", "nowhere.wild.test"), ("response_flags", "DF")];
        proxy.wait_for_metric(REQUESTS, &unresolved, 1);
        assert_ne!(handshake(&lab, web(own, 443), Some("nowhere.wild.test")).code, 0);
        proxy.wait_for_metric(CLOSED, &[("response_flags", "DF")], 1);

        let log = proxy.directory().join("access.log");
        wait_until("the log to say why", || {
            let lines = std::fs::read_to_string(&log).unwrap_or_default();
            lines.contains(r#""response_code_details":"dns_resolution_failure""#)
        });
        for server in &own_servers {
            assert!(
                server.try_accept().is_none(),
                "a connection has come where it was meant to go"
            );
        }
        drop(own_servers);
        // Its own name leads to its own server.
        let _own = Nginx::start(&lab, &[web(own, 80)], &[]);
        let (status, _, body) = claim("http://own.wild.test/");
        assert_eq!((status, body), (200, format!("site {}", web(own, 80))));
        assert_eq!(proxy.metric(CLAIMS, &[("destination", "same")]), 1);
        assert_eq!(proxy.metric(UNVERIFIED, &[]), 0);
        proxy.finish();
    }
}

#[test]
fn check_names_the_entries_whose_names_lead_anywhere() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    std::fs::create_dir(directory.path().join("registry.d")).expect("it is ours");
    let registry =
        named_entry("exact.test", "HTTP", 80, None) + &dynamic("*.wild.test", "TLS", 443);
    std::fs::write(directory.path().join("registry.d/test.yaml"), registry).expect("it is ours");
    let config = directory.path().join("egret.yaml");
    for (names, is_warned) in [("unverified: allow", true), ("unverified: resolve", false)] {
        let options = Options { policy: Policy::RegistryOnly, names, ..Options::default() };
        std::fs::write(&config, options.config()).expect("it is ours");
        let config = config.to_str().expect("it is text");
        let arguments = ["check", "--config", config];
        let text = lab.run(crate::lab::Part::Node, crate::proxy::binary(), &arguments);
        let warning = "lets a workload reach any address on port 80";
        assert_eq!(text.contains(warning), is_warned, "{names}: {text}");
        assert!(!text.contains("wild-test"), "{names}: {text}");
    }
}

#[test]
fn what_a_real_server_says_is_understood_on_the_wire() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    // More than one UDP answer holds (dnsmasq sends 1 232 bytes): the rest comes by TCP.
    let many = (1..=120).map(|n| format!("--host-record=many.test,198.51.100.{n}"));
    let few = [
        "--host-record=many.test,203.0.113.12",
        "--host-record=four.test,203.0.113.13",
        "--host-record=six.test,fd77:2::13",
        "--cname=alias.test,alias2.test",
        "--cname=alias2.test,four.test",
    ];
    let records: Vec<String> = many.chain(few.map(str::to_owned)).collect();
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let _names = dnsmasq(&lab, web(14, 53), &records, directory.path());
    let hosts = ["many.test", "four.test", "six.test", "alias.test", "absent.test"];
    let entries = hosts.map(|host| named_entry(host, "TCP", 5000, None).replace("NONE", "DNS"));
    let options = Options {
        policy: Policy::RegistryOnly,
        names: "dnsServers: [\"203.0.113.14:53\"]",
        registry: entries.concat(),
        ..Options::default()
    };
    let proxy = Proxy::start(&lab, &options);
    // Of an alias the addresses of its target.
    proxy.wait_for_metric("egret_dns_addresses", &[], 121 + 1 + 1 + 1);
    assert_eq!(proxy.metric("egret_dns_names", &[]), 5);
    let six = crate::lab::outside(13, crate::lab::Family::V6, 5000);
    for at in [web(12, 5000), web(13, 5000), six] {
        let _server = lab.serve(at, crate::peer::echo);
        lab.connect(at).ping();
    }
    assert_eq!(proxy.metric("egret_dns_resolutions_total", &[("result", "failure")]), 0);
    proxy.finish();
}
