//! The rules of `scripts/redirect.sh`, seen by a listener that tells each client where it meant to
//! go. No proxy takes part.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::sockopt::{Ip6tOriginalDst, IpTransparent, OriginalDst};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockopt, listen,
    setsockopt, socket, sockopt,
};

use crate::lab::{FAMILIES, Family, Lab, Part, outside, script, web};
use crate::options::{Capture, PORT};

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

fn capturing_listener(family: Family, capture: Capture) -> TcpListener {
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
        let refused = lab.inside(Part::Node, || connect_with_mark(to, family, 77));
        assert_eq!(refused, Err(nix::Error::ECONNREFUSED), "marked packets go out as they are");
    }
    let loopback = "127.0.0.1:80".parse().expect("it is an address");
    assert!(!is_captured(&lab, Part::Node, loopback));
}

fn connect_with_mark(to: SocketAddr, family: Family, mark: u32) -> nix::Result<()> {
    let domain = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let fd = socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::Mark, &mark)?;
    let to = SockaddrStorage::from(to);
    nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &to)
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
    for mode in ["redirect", "tproxy", "redirect", "tproxy", "tproxy"] {
        lab.redirect(&["up", "--mode", mode, "--interface", "pod0"]);
        assert_eq!(status(&lab), 0, "{mode}");
        let once = lab.run(Part::Node, "nft", &["list", "ruleset"]);
        let routes_once = routing();
        lab.redirect(&["up", "--mode", mode, "--interface", "pod0"]);
        assert_eq!(lab.run(Part::Node, "nft", &["list", "ruleset"]), once, "{mode}");
        assert_eq!(routing(), routes_once, "{mode}");
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
    let table: [(&[&str], i32, &str); 9] = [
        (&["up"], 64, "--interface, --source or --local"),
        (&["up", "--interface", "nope0"], 1, "no interface 'nope0'"),
        (&["up", "--interface", "x; drop"], 64, "no interface name"),
        (&["up", "--source", "10.0.0.0/8; flush ruleset"], 64, "address or CIDR"),
        (&["up", "--source", "10.0.0.0/64"], 1, "nothing was changed"),
        (&["up", "--interface", "pod0", "--mode", "x"], 64, "redirect or tproxy"),
        (&["up", "--interface", "pod0", "--port", "0"], 64, "1 to 65535"),
        (&["up", "--interface", "pod0", "--uid", "5"], 64, "needs --local"),
        (&["up", "--interface", "pod0", "--mark", "15001"], 64, "take another one"),
    ];
    for (arguments, code, hint) in table {
        let (found, output) = lab.run_any(Part::Node, script("redirect.sh"), arguments);
        assert_eq!(found, code, "{arguments:?}: {output}");
        assert!(output.contains(hint), "{arguments:?}: {output}");
        assert_eq!(status(&lab), 3, "{arguments:?}");
    }
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
