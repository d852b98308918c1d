//! TLS by its SNI, with `openssl` at both ends.

use crate::lab::{Lab, web};
use crate::options::{Options, Policy, named_entry};
use crate::pattern::Pattern;
use crate::programs::{Nginx, curl, fetch, handshake, tls_server};
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, OPENED, RECOGNISED, REQUESTS, SENT, SPLICED, UNVERIFIED};

fn service<'a>(name: &'a str, host: &'a str) -> [(&'a str, &'a str); 2] {
    [("destination_service_name", name), ("destination_service", host)]
}

fn registry() -> String {
    [
        named_entry("exact.test", "TLS", 443, None),
        named_entry("*.wild.test", "HTTPS", 443, None),
        named_entry("*.deep.wild.test", "HTTPS", 443, None),
    ]
    .concat()
}

#[test]
fn the_sni_decides_exactly_and_by_wildcard() {
    let lab = Lab::new();
    let options =
        Options { policy: Policy::RegistryOnly, registry: registry(), ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let server = tls_server(&lab, web(10, 443));
    let rows = [
        ("exact.test", Some("exact.test")),
        ("EXACT.Test", Some("exact.test")),
        ("sub.exact.test", None),
        ("a.wild.test", Some("*.wild.test")),
        ("a.b.wild.test", Some("*.wild.test")),
        ("a.deep.wild.test", Some("*.deep.wild.test")),
        ("wild.test", None),
        ("xwild.test", None),
    ];
    let mut closed = std::collections::BTreeMap::new();
    for (name, entry) in rows {
        let ran = handshake(&lab, web(10, 443), Some(name));
        assert_eq!(ran.code == 0, entry.is_some(), "{name}: {ran:?}");
        let found = name.to_ascii_lowercase();
        let labels = service(entry.unwrap_or("BlackHoleCluster"), &found);
        let count = closed.entry((entry, found.clone())).or_insert(0);
        *count += 1;
        proxy.wait_for_metric(CLOSED, &labels, *count);
    }
    // Without a name nothing matches.
    assert_ne!(handshake(&lab, web(10, 443), None).code, 0);
    proxy.wait_for_metric(CLOSED, &service("BlackHoleCluster", "unknown"), 1);
    let scrape = proxy.scrape();
    assert_eq!(scrape.sum(OPENED, &[("response_flags", "-")]), 5);
    assert_eq!(scrape.sum(RECOGNISED, &[("result", "tls")]), 9);
    drop(server);
    proxy.finish();
}

#[test]
fn a_blocked_hello_is_answered_with_an_alert_if_that_is_wanted() {
    for (tls_alert, told) in [(true, "alert access denied"), (false, "unexpected eof")] {
        let lab = Lab::new();
        let options = Options {
            policy: Policy::RegistryOnly,
            tls_alert,
            registry: registry(),
            ..Options::default()
        };
        let proxy = Proxy::start(&lab, &options);
        let ran = handshake(&lab, web(10, 443), Some("blocked.test"));
        assert_ne!(ran.code, 0);
        assert!(ran.errors.contains(told), "tlsAlert {tls_alert}: {ran:?}");
        let labels =
            [&service("BlackHoleCluster", "blocked.test")[..], &[("response_flags", "UH")]];
        proxy.wait_for_metric(CLOSED, &labels.concat(), 1);
        proxy.finish();
    }
}

#[test]
fn a_name_that_nothing_vouches_for_passes_or_not_as_configured_and_is_counted() {
    for (names, passes) in [("unverified: allow", true), ("unverified: block", false)] {
        let lab = Lab::new();
        let registry = [
            named_entry("claimed.test", "HTTP", 80, None),
            named_entry("claimed.test", "HTTPS", 443, None),
            // Its own endpoint vouches for it.
            named_entry("owned.test", "HTTP", 80, Some(web(12, 8080))),
        ]
        .concat();
        let options =
            Options { policy: Policy::RegistryOnly, names, registry, ..Options::default() };
        let proxy = Proxy::start(&lab, &options);
        let nginx = Nginx::start(&lab, &[web(10, 80), web(12, 8080)], &[web(10, 443)]);
        let name = if passes { "claimed.test" } else { "BlackHoleCluster" };

        let (status, ..) = fetch(&lab, web(10, 80), "http://claimed.test/");
        assert_eq!(status, if passes { 200 } else { 502 });
        proxy.wait_for_metric(REQUESTS, &service(name, "claimed.test"), 1);
        let (status, ..) = fetch(&lab, web(10, 443), "https://claimed.test/");
        assert_eq!(status, if passes { 200 } else { 0 });
        proxy.wait_for_metric(CLOSED, &service(name, "claimed.test"), 1);
        assert_eq!(proxy.metric(UNVERIFIED, &[]), 2);

        let (status, ..) = fetch(&lab, web(10, 80), "http://owned.test/");
        assert_eq!(status, 200);
        assert_eq!(proxy.metric(UNVERIFIED, &[]), 2, "its endpoint vouches for it");
        assert_eq!(nginx.log().contains("claimed.test"), passes);
        proxy.finish();
    }
}

#[test]
fn behind_an_allowed_hello_large_bodies_are_spliced_and_arrive_whole() {
    const LARGE: usize = 8 << 20;
    // How much goes through a pipe depends on how many records wait at a time; the least is eight
    // pieces, some of which may be short.
    const SPLICED_MIN: u64 = 64 << 10;
    let lab = Lab::new();
    let options =
        Options { policy: Policy::RegistryOnly, registry: registry(), ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let nginx = Nginx::start(&lab, &[], &[web(10, 443)]);
    let mut contents = vec![0; LARGE];
    Pattern::new(9).fill(&mut contents);
    std::fs::write(nginx.file(web(10, 443), "large"), &contents).expect("it is ours");
    let way = format!("::{}", web(10, 443));
    let ran = curl(&lab, &["--fail", "--connect-to", &way, "https://exact.test/files/large"]);
    assert!(ran.output == contents, "{} of {LARGE} bytes: {}", ran.output.len(), ran.errors);
    let spliced = proxy.metric(SPLICED, &[]);
    assert!(spliced > SPLICED_MIN, "{spliced} bytes were spliced of {LARGE}");
    let labels = [&service("exact.test", "exact.test")[..], &[("response_flags", "-")]].concat();
    proxy.wait_for_metric(CLOSED, &labels, 1);
    assert!(proxy.metric(SENT, &labels) > LARGE as u64);
    proxy.finish();
}
