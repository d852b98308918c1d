//! Entries with resolution DNS, over a DNS server in the world outside.

use std::path::Path;

use crate::lab::{Lab, Part, wait_until, web};
use crate::options::{Options, Policy, named_entry};
use crate::peer::echo;
use crate::programs::{Nginx, Program, fetch, python_server_with};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, REQUESTS, UNVERIFIED};

/// Answers questions for IPv4 addresses by the lines of a file, `NAME ADDRESS`, as they are when it
/// is asked; each answer holds for a second. It accepts TCP only to show that it is there.
const DNS_SERVER: &str = r#"
import socket, struct, sys
host, port = sys.argv[1].rsplit(":", 1)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((host, int(port)))
here = socket.create_server((host, int(port)))
while True:
    query, peer = server.recvfrom(4096)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
        at += query[at] + 1
    question = query[12:at + 5]
    known = dict(line.split() for line in open(sys.argv[2]))
    address = known.get(".".join(labels))
    answers = []
    if address and question[-4:-2] == b"\0\1":
        answers = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)]
    head = struct.pack(">HHHHH", 0x8580 if address else 0x8583, 1, len(answers), 0, 0)
    server.sendto(query[:2] + head + question + b"".join(answers), peer)
"#;

/// What the names lead to from now on.
fn say(zone: &Path, n: u8) {
    let text = format!("moving.test 203.0.113.{n}\nplain.test 203.0.113.{n}\n");
    let next = zone.with_extension("next");
    std::fs::write(&next, text).expect("it is ours");
    std::fs::rename(&next, zone).expect("it is ours");
}

fn serve_names(lab: &Lab, zone: &Path) -> Program {
    let zone = zone.to_str().expect("it is text");
    python_server_with(lab, &[web(14, 53)], DNS_SERVER, &[zone])
}

#[test]
fn a_resolved_name_leads_to_its_addresses_and_follows_them() {
    let lab = Lab::new();
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let zone = directory.path().join("zone");
    say(&zone, 12);
    let _names = serve_names(&lab, &zone);
    let registry = [
        named_entry("moving.test", "HTTP", 80, None),
        named_entry("plain.test", "TCP", 5000, None),
    ];
    let options = Options {
        policy: Policy::RegistryOnly,
        names: "dnsServers: [\"203.0.113.14:53\"], unverified: block, grace: 4s",
        registry: registry.concat().replace("resolution: NONE", "resolution: DNS"),
        ..Options::default()
    };
    let proxy = Proxy::start(&lab, &options);
    let _nginx = Nginx::start(&lab, &[web(12, 80), web(13, 80)], &[]);
    let servers = [12, 13].map(|n| lab.serve(web(n, 5000), echo));
    let led_to = || fetch(&lab, web(10, 80), "http://moving.test/").2;
    let come_and_go = |n| {
        let mut peer = lab.connect(web(n, 5000));
        // It is not worth waiting for what would come.
        peer.shutdown();
        peer.expect_eof();
    };
    let blocked = [("destination_service_name", "BlackHoleCluster")];

    // The request goes to the answer, wherever it was going; the plain connection is allowed only
    // where the name leads.
    assert_eq!(led_to(), "site 203.0.113.12:80");
    let mut stays = lab.connect(web(12, 5000));
    stays.ping();
    come_and_go(13);
    proxy.wait_for_metric(CLOSED, &blocked, 1);

    say(&zone, 13);
    wait_until("the name to lead elsewhere", || led_to() == "site 203.0.113.13:80");
    lab.connect(web(13, 5000)).ping();
    // Who was told the former address uses it for a while, but not for ever.
    lab.connect(web(12, 5000)).ping();
    wait_until("the former address not to vouch any more", || {
        come_and_go(12);
        proxy.metric(CLOSED, &blocked) > 1
    });
    // What is open stays open.
    stays.ping();
    drop(stays);

    assert!(proxy.metric(REQUESTS, &[("destination_service_name", "moving.test")]) >= 2);
    assert_eq!(proxy.metric(UNVERIFIED, &[]), 0, "the answers vouch for their names");
    // Each connection went to the address that it meant.
    let [former, present] = servers.map(crate::peer::Server::finish);
    assert!(former >= 2, "{former}");
    assert_eq!(present, 1);
    let plain = [("destination_service_name", "plain.test"), ("response_flags", "-")];
    proxy.wait_for_metric(CLOSED, &plain, (former + present) as u64);
    proxy.finish();
}

#[test]
fn explain_says_that_a_name_is_resolved_while_egret_runs() {
    let lab = Lab::new();
    let entry = named_entry("moving.test", "HTTP", 80, None).replace("NONE", "DNS");
    let directory = tempfile::tempdir().expect("there is a temporary directory");
    let options = Options { policy: Policy::RegistryOnly, registry: entry, ..Options::default() };
    let config = directory.path().join("egret.yaml");
    std::fs::create_dir(directory.path().join("registry.d")).expect("it is ours");
    std::fs::write(directory.path().join("registry.d/test.yaml"), &options.registry)
        .expect("it is ours");
    std::fs::write(&config, options.config()).expect("it is ours");
    let config = config.to_str().expect("it is text");
    let arguments = ["explain", "--config", config, "203.0.113.10:80", "--host", "moving.test"];
    let text = lab.run(Part::Node, crate::proxy::binary(), &arguments);
    assert!(text.contains("an address of moving.test, resolved while Egret runs"), "{text}");
}
