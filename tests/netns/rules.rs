//! The rules of `scripts/redirect.sh`, seen by a listener that tells each client where it meant to
//! go. Egret itself takes part only where connection tracking is left out.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::sockopt::{Ip6tOriginalDst, IpTransparent, OriginalDst};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockopt, listen,
    setsockopt, socket, sockopt,
};

use crate::lab::{FAMILIES, Family, Lab, Part, outside, script, web};
use crate::options::{Capture, Options, PORT, Rules};
use crate::peer::{Peer, Side, echo};
use crate::proxy::Proxy;
use crate::scrape::CLOSED;

/// Answers every connection to the proxy's port with its original destination, while it lives.
fn tell_destinations(lab: &Lab, capture: Capture) {
    for family in FAMILIES {
        let listener = lab.inside(Part::Node, || capturing_listener(family, capture));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let text = original_destination(&stream, family, capture).to_string();
                // A client that does not listen is judged by its own test.
                let _ = stream.write_all(text.as_bytes());
            }
        });
    }
}

pub(crate) fn capturing_listener(family: Family, capture: Capture) -> TcpListener {
    let (domain, any) = match family {
        Family::V4 => (AddressFamily::Inet, "0.0.0.0"),
        Family::V6 => (AddressFamily::Inet6, "::"),
    };
    let fd = socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    setsockopt(&fd, sockopt::ReuseAddr, &true).expect("SO_REUSEADDR");
    if family == Family::V6 {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true).expect("IPV6_V6ONLY");
    }
    if capture == Capture::Tproxy {
        // On Linux this option of IPv4 also acts on IPv6 sockets.
        setsockopt(&fd, IpTransparent, &true).expect("IP_TRANSPARENT");
    }
    let any: IpAddr = any.parse().expect("it is an address");
    let address = SockaddrStorage::from(SocketAddr::new(any, PORT));
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).expect("the port is free");
    listen(&fd, Backlog::MAXCONN).expect("listen");
    fd.into()
}

fn original_destination(stream: &TcpStream, family: Family, capture: Capture) -> SocketAddr {
    match (capture, family) {
        (Capture::Tproxy, _) => stream.local_addr().expect("it is connected"),
        (Capture::Redirect, Family::V4) => {
            let found = getsockopt(stream, OriginalDst).expect("conntrack knows it");
            let ip = u32::from_be(found.sin_addr.s_addr);
            SocketAddr::new(IpAddr::V4(ip.into()), u16::from_be(found.sin_port))
        }
        (Capture::Redirect, Family::V6) => {
            let found = getsockopt(stream, Ip6tOriginalDst).expect("conntrack knows it");
            let ip = found.sin6_addr.s6_addr;
            SocketAddr::new(IpAddr::V6(ip.into()), u16::from_be(found.sin6_port))
        }
    }
}

/// What the listener says to a connection to `to`; `None` where nobody listens.
fn told(lab: &Lab, from: Part, to: SocketAddr) -> Option<String> {
    lab.inside(from, || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("it is not zero");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the listener answers");
        Some(text)
    })
}

fn is_captured(lab: &Lab, from: Part, to: SocketAddr) -> bool {
    match told(lab, from, to) {
        Some(text) => {
            assert_eq!(text, to.to_string(), "the original destination");
            true
        }
        None => false,
    }
}

fn status(lab: &Lab) -> i32 {
    lab.run_any(Part::Node, script("redirect.sh"), &["status"]).0
}

fn captures_what_arrives_on_the_interface(capture: Capture) {
    let lab = Lab::new();
    tell_destinations(&lab, capture);
    lab.redirect(&[
        "up",
        "--mode",
        capture.name(),
        "--interface",
        "pod0",
        "--exclude",
        "203.0.113.13",
        "--exclude",
        "fd77:2::12/127",
    ]);
    for family in FAMILIES {
        assert!(is_captured(&lab, Part::Pod, outside(10, family, 80)));
        assert!(is_captured(&lab, Part::Pod, outside(11, family, 65535)));
        assert!(!is_captured(&lab, Part::Pod, outside(13, family, 80)), "excluded");
        assert!(!is_captured(&lab, Part::Node, outside(10, family, 80)), "not from the interface");
    }
    for own in ["10.77.1.1:80", "203.0.113.1:80", "[fd77:1::1]:80", "[fd77:2::1]:80"] {
        let own = own.parse().expect("it is an address");
        assert!(!is_captured(&lab, Part::Pod, own), "{own} is the node itself");
    }
}

#[test]
fn redirect_captures_what_arrives_on_the_interface() {
    captures_what_arrives_on_the_interface(Capture::Redirect);
}

#[test]
fn tproxy_captures_what_arrives_on_the_interface() {
    captures_what_arrives_on_the_interface(Capture::Tproxy);
}

fn captures_sources(capture: Capture) {
    let lab = Lab::new();
    tell_destinations(&lab, capture);
    lab.redirect(&["up", "--mode", capture.name(), "--source", "10.77.1.0/24"]);
    assert!(is_captured(&lab, Part::Pod, outside(10, Family::V4, 80)));
    assert!(!is_captured(&lab, Part::Pod, outside(10, Family::V6, 80)), "another source");
    lab.redirect(&["up", "--mode", capture.name(), "--source", "fd77:1::/64"]);
    assert!(!is_captured(&lab, Part::Pod, outside(10, Family::V4, 80)), "no longer a source");
    assert!(is_captured(&lab, Part::Pod, outside(10, Family::V6, 80)));
}

#[test]
fn redirect_captures_sources() {
    captures_sources(Capture::Redirect);
}

#[test]
fn tproxy_captures_sources() {
    captures_sources(Capture::Tproxy);
}

fn captures_local_processes_but_not_its_own_mark(capture: Capture) {
    let lab = Lab::new();
    tell_destinations(&lab, capture);
    lab.redirect(&["up", "--mode", capture.name(), "--local", "--mark", "77"]);
    for family in FAMILIES {
        let to = outside(10, family, 80);
        assert!(is_captured(&lab, Part::Node, to));
        let refused = lab.inside(Part::Node, || connect_with_mark(to, family, 77)).err();
        assert_eq!(refused, Some(nix::Error::ECONNREFUSED), "marked packets go out as they are");
    }
    let loopback = "127.0.0.1:80".parse().expect("it is an address");
    assert!(!is_captured(&lab, Part::Node, loopback));
}

fn connect_with_mark(to: SocketAddr, family: Family, mark: u32) -> nix::Result<TcpStream> {
    let domain = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let fd = socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::Mark, &mark)?;
    let to = SockaddrStorage::from(to);
    nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &to)?;
    Ok(fd.into())
}

#[test]
fn redirect_captures_local_processes_but_not_its_own_mark() {
    captures_local_processes_but_not_its_own_mark(Capture::Redirect);
}

#[test]
fn tproxy_captures_local_processes_but_not_its_own_mark() {
    captures_local_processes_but_not_its_own_mark(Capture::Tproxy);
}

#[test]
fn local_capture_leaves_a_user_alone() {
    let lab = Lab::new();
    tell_destinations(&lab, Capture::Redirect);
    assert!(nix::unistd::geteuid().is_root());
    lab.redirect(&["up", "--local", "--uid", "0"]);
    assert!(!is_captured(&lab, Part::Node, web(10, 80)), "it is that user's");
    lab.redirect(&["up", "--local", "--uid", "65533"]);
    assert!(is_captured(&lab, Part::Node, web(10, 80)), "it is not that user's");
}

/// A node that tracks connections and turns away what tracking finds wrong, as many firewalls do.
const FIREWALL: &str = "table inet firewall {
    chain input { type filter hook input priority filter; ct state invalid counter drop; }
    chain output { type filter hook output priority filter; ct state invalid counter drop; }
}";

/// So that the test's questions to Egret are not counted.
const UNTRACKED_LOOPBACK: &str = "table inet loopback {
    chain prerouting { type filter hook prerouting priority raw; iifname lo notrack; }
    chain output { type filter hook output priority raw; oifname lo notrack; }
}";

/// How many connections the node tracks; one that has ended still counts for two minutes.
fn tracked(lab: &Lab) -> u32 {
    let count = lab.run(Part::Node, "cat", &["/proc/sys/net/netfilter/nf_conntrack_count"]);
    count.trim().parse().expect("it is a number")
}

fn no_conntrack_leaves_out_both_sides(captured: &[&str]) {
    let lab = Lab::new();
    tell_destinations(&lab, Capture::Tproxy);
    lab.nft(Part::Node, FIREWALL);
    let exclude = ["--exclude", "203.0.113.13", "--exclude", "fd77:2::13"];
    let mode = ["up", "--mode", "tproxy", "--mark", "77", "--no-conntrack"];
    lab.redirect(&[&mode, captured, &exclude].concat());
    for family in FAMILIES {
        for port in 80..90 {
            assert!(is_captured(&lab, Part::Pod, outside(10, family, port)));
        }
        // As Egret connects: the outside's answers, too, must be told by the mark.
        let server = lab.serve(outside(11, family, 80), echo);
        let mut upstream = Peer::new(
            lab.inside(Part::Node, || connect_with_mark(outside(11, family, 80), family, 77))
                .expect("there is a server"),
            Side::Downstream,
            &lab.tally,
        );
        upstream.ping();
        upstream.shutdown();
        upstream.expect_eof();
        server.finish();
    }
    assert_eq!(tracked(&lab), 0, "neither side is tracked");

    for family in FAMILIES {
        let server = lab.serve(outside(13, family, 80), echo);
        for from in [Part::Pod, Part::Node] {
            let before = tracked(&lab);
            let to = outside(13, family, 80);
            let mut other = lab.try_connect_from(from, to).expect("there is a server");
            other.ping();
            assert_eq!(tracked(&lab), before + 1, "what Egret does not carry is tracked");
        }
        server.finish();
    }
    let rules = lab.run(Part::Node, "nft", &["list", "table", "inet", "firewall"]);
    assert_eq!(rules.matches("counter packets 0 bytes 0").count(), 2, "no packet is lost: {rules}");

    let mode = ["up", "--mode", "tproxy", "--mark", "77"];
    lab.redirect(&[&mode, captured, &exclude].concat());
    let before = tracked(&lab);
    assert!(is_captured(&lab, Part::Pod, outside(10, Family::V4, 80)));
    assert_eq!(tracked(&lab), before + 1, "without the option it is tracked");
}

#[test]
fn no_conntrack_leaves_out_both_sides_by_interface() {
    no_conntrack_leaves_out_both_sides(&["--interface", "pod0"]);
}

#[test]
fn no_conntrack_leaves_out_both_sides_by_source() {
    let sources = ["--source", "10.77.1.0/24", "--source", "fd77:1::/64"];
    no_conntrack_leaves_out_both_sides(&sources);
}

#[test]
fn bytes_arrive_through_egret_without_connection_tracking() {
    let lab = Lab::new();
    lab.nft(Part::Node, FIREWALL);
    lab.nft(Part::Node, UNTRACKED_LOOPBACK);
    let options = Options { capture: Capture::Tproxy, rules: Rules::None, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    lab.redirect(&["up", "--mode", "tproxy", "--interface", "pod0", "--no-conntrack"]);
    for family in FAMILIES {
        let server = lab.serve(outside(10, family, 80), echo);
        for _ in 0..20 {
            let mut pod = lab.connect(outside(10, family, 80));
            // More than Egret copies before it splices.
            pod.send(1 << 20);
            pod.shutdown();
            pod.recv(1 << 20);
            pod.expect_eof();
        }
        server.finish();
    }
    proxy.wait_for_metric(CLOSED, &[("response_flags", "-")], 40);
    assert_eq!(tracked(&lab), 0);
    let rules = lab.run(Part::Node, "nft", &["list", "table", "inet", "firewall"]);
    assert_eq!(rules.matches("counter packets 0 bytes 0").count(), 2, "no packet is lost: {rules}");
    proxy.finish();
}

#[test]
fn up_and_down_are_idempotent_and_leave_other_rules_alone() {
    let lab = Lab::new();
    lab.nft(Part::Node, "table inet other { chain keep { tcp dport 1 accept; }; }");
    let others = lab.run(Part::Node, "nft", &["list", "ruleset"]);
    let routing = || {
        ["-4", "-6"].map(|family| {
            let rules = lab.run(Part::Node, "ip", &[family, "rule"]);
            rules + &lab.run(Part::Node, "ip", &[family, "route", "show", "table", "all"])
        })
    };
    let routes = routing();
    assert_eq!(status(&lab), 3);
    lab.redirect(&["down"]);
    let modes: [&[&str]; 6] = [
        &["redirect"],
        &["tproxy"],
        &["redirect"],
        &["tproxy", "--no-conntrack"],
        &["tproxy"],
        &["tproxy", "--no-conntrack"],
    ];
    for mode in modes {
        let up = [&["up", "--interface", "pod0", "--mode"], mode].concat();
        lab.redirect(&up);
        assert_eq!(status(&lab), 0, "{mode:?}");
        let once = lab.run(Part::Node, "nft", &["list", "ruleset"]);
        assert_eq!(once.contains("notrack"), mode.len() > 1, "{mode:?}");
        let routes_once = routing();
        lab.redirect(&up);
        assert_eq!(lab.run(Part::Node, "nft", &["list", "ruleset"]), once, "{mode:?}");
        assert_eq!(routing(), routes_once, "{mode:?}");
    }
    lab.redirect(&["down"]);
    lab.redirect(&["down"]);
    assert_eq!(status(&lab), 3);
    assert_eq!(lab.run(Part::Node, "nft", &["list", "ruleset"]), others);
    assert_eq!(routing(), routes);
}

#[test]
fn status_sees_that_the_routes_of_tproxy_are_gone() {
    let lab = Lab::new();
    lab.redirect(&["up", "--mode", "tproxy", "--interface", "pod0"]);
    lab.run(Part::Node, "ip", &["-6", "rule", "del", "priority", "15001"]);
    assert_eq!(status(&lab), 3);
    lab.redirect(&["up", "--mode", "tproxy", "--interface", "pod0"]);
    assert_eq!(status(&lab), 0);
}

#[test]
fn errors_name_the_fix_and_change_nothing() {
    let lab = Lab::new();
    let table: [(&[&str], i32, &str); 12] = [
        (&["up"], 64, "--interface, --source or --local"),
        (&["up", "--interface", "nope0"], 1, "no interface 'nope0'"),
        (&["up", "--interface", "x; drop"], 64, "no interface name"),
        (&["up", "--source", "10.0.0.0/8; flush ruleset"], 64, "address or CIDR"),
        (&["up", "--source", "10.0.0.0/64"], 1, "nothing was changed"),
        (&["up", "--interface", "pod0", "--mode", "x"], 64, "redirect or tproxy"),
        (&["up", "--interface", "pod0", "--port", "0"], 64, "1 to 65535"),
        (&["up", "--interface", "pod0", "--uid", "5"], 64, "needs --local"),
        (&["up", "--interface", "pod0", "--mark", "15001"], 64, "take another one"),
        (&["up", "--interface", "pod0", "--no-conntrack"], 64, "needs --mode tproxy"),
        (&["up", "--local", "--mode", "tproxy", "--no-conntrack"], 64, "not go with --local"),
        (&["up", "--local", "--drop-rest"], 64, "needs --interface or --source"),
    ];
    for (arguments, code, hint) in table {
        let (found, output) = lab.run_any(Part::Node, script("redirect.sh"), arguments);
        assert_eq!(found, code, "{arguments:?}: {output}");
        assert!(output.contains(hint), "{arguments:?}: {output}");
        assert_eq!(status(&lab), 3, "{arguments:?}");
    }
}

#[test]
fn up_warns_where_connections_between_workloads_are_captured() {
    let lab = Lab::new();
    let warns = |more: &[&str]| {
        let said = lab.redirect(&[&["up"], more].concat());
        said.contains("policies between pods do not see the pod behind Egret")
    };
    assert!(warns(&["--interface", "pod0"]));
    assert!(warns(&["--source", "10.77.1.0/24", "--mode", "tproxy"]));
    assert!(!warns(&["--interface", "pod0", "--exclude", "10.96.0.0/12"]));
    assert!(!warns(&["--local"]));
}

#[test]
fn dry_run_prints_the_rules_and_changes_nothing() {
    let lab = Lab::new();
    let rules = lab.redirect(&["up", "--interface", "pod0", "--dry-run"]);
    assert!(rules.contains("redirect to :15001"), "{rules}");
    assert_eq!(status(&lab), 3);
    lab.nft(Part::Node, &rules);
    assert_eq!(status(&lab), 0, "what it prints is what up does");
}
