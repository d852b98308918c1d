//! `egret explain` says what happens.

use std::net::SocketAddr;

use crate::lab::{Lab, Part, web};
use crate::options::{Options, Policy, named_entry, static_entry};
use crate::programs::{Nginx, fetch};
use crate::proxy::{Proxy, binary};
use crate::scrape::{CLOSED, REQUESTS};

/// The value behind a label of explain's text.
fn line<'a>(text: &'a str, label: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.unwrap_or_else(|| panic!("no line '{label}':\n{text}")).trim()
}

fn agrees(names: &'static str, policy: Policy, asked: &[(SocketAddr, &str, &str)]) {
    let lab = Lab::new();
    let registry = [
        named_entry("by-name.test", "HTTP", 80, Some(web(12, 8080))),
        named_entry("claimed.test", "HTTP", 80, None),
        named_entry("*.wild.test", "HTTP", 80, Some(web(12, 8080))),
        named_entry("by-sni.test", "HTTPS", 443, None),
        format!("---\n{}", static_entry("by-address.test", "203.0.113.11", "203.0.113.12")),
    ]
    .concat();
    let proxy = Proxy::start(&lab, &Options { policy, names, registry, ..Options::default() });
    let _nginx = Nginx::start(&lab, &[web(10, 80), web(12, 8080)], &[web(10, 443)]);
    let config = proxy.directory().join("egret.yaml");
    let config = config.to_str().expect("it is text");
    for &(to, host, told) in asked {
        let to_text = to.to_string();
        let arguments = ["explain", "--config", config, &to_text, "--host", host];
        let text = lab.run(Part::Node, binary(), &arguments);
        assert_eq!(line(&text, "verdict"), told, "{to} {host}:\n{text}");
        let accounted = line(&text, "accounted to").split('"').nth(1).expect("it is quoted");

        let labels = [("destination_service_name", accounted)];
        let scheme = if to.port() == 443 { "https" } else { "http" };
        let metric = if to.port() == 443 { CLOSED } else { REQUESTS };
        let before = proxy.metric(metric, &labels);
        let (status, _, body) = fetch(&lab, to, &format!("{scheme}://{host}/"));
        proxy.wait_for_metric(metric, &labels, before + 1);
        match told {
            "blackhole" => assert!(status == 502 || status == 0, "{to} {host}: {status}"),
            _ => {
                let goes_to = line(&text, "connects to");
                assert_eq!((status, body), (200, format!("site {goes_to}")), "{to} {host}");
            }
        }
    }
    proxy.finish();
}

#[test]
fn explain_tells_what_registry_only_does() {
    let asked = [
        (web(10, 80), "by-name.test", "service"),
        (web(10, 80), "claimed.test", "service"),
        (web(10, 80), "a.b.wild.test", "service"),
        (web(10, 80), "wild.test", "blackhole"),
        (web(10, 80), "unknown.test", "blackhole"),
        (web(11, 80), "unknown.test", "service"),
        (web(10, 443), "by-sni.test", "service"),
        (web(10, 443), "by-name.test", "blackhole"),
        (web(10, 8081), "by-name.test", "blackhole"),
    ];
    agrees("", Policy::RegistryOnly, &asked);
}

#[test]
fn explain_tells_what_allow_any_and_unverified_block_do() {
    let asked = [
        (web(10, 80), "by-name.test", "service"),
        (web(10, 80), "claimed.test", "blackhole"),
        (web(10, 80), "unknown.test", "passthrough"),
        (web(10, 443), "by-sni.test", "blackhole"),
        (web(10, 443), "unknown.test", "passthrough"),
    ];
    agrees("unverified: block", Policy::AllowAny, &asked);
}
