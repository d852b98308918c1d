//! What the rules capture and Egret does not take goes nowhere, whatever state Egret is in.
//!
//! The world outside counts the pod's packets: through Egret they come from the node's address, so
//! one that comes from the pod has gone past it. That a captured pod can still serve is the subject
//! of `fail_closed_serving`; segments that no kernel would send are that of `fail_closed_raw`.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use crate::lab::{FAMILIES, Family, Lab, Part, outside, script, wait_for, wait_until};
use crate::options::{Capture, Options, Policy, Rules, static_entry};
use crate::peer::echo;
use crate::proxy::Proxy;

/// A mode of `redirect.sh`, with what it does to a connection that cannot be handed over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) capture: Capture,
    pub(crate) more: &'static [&'static str],
    fate: Fate,
}

pub(crate) const REDIRECT: Mode =
    Mode { capture: Capture::Redirect, more: &[], fate: Fate::Refused };
pub(crate) const TPROXY: Mode = Mode { capture: Capture::Tproxy, more: &[], fate: Fate::Dropped };
pub(crate) const UNTRACKED: Mode =
    Mode { capture: Capture::Tproxy, more: &["--no-conntrack"], fate: Fate::Dropped };

impl Mode {
    /// The rules for what comes from the pod. Returns what `up` says.
    pub(crate) fn up(self, lab: &Lab, more: &[&str]) -> String {
        let mode = ["up", "--mode", self.capture.name(), "--interface", "pod0"];
        lab.redirect(&[&mode, self.more, more].concat())
    }
}

/// What becomes of a connection that somebody tries to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Something has accepted it, or has it in its listen queue.
    Open,
    Refused,
    /// The rules have counted a packet as dropped.
    Dropped,
}

/// Begins to connect, and waits until it is known what becomes of it.
pub(crate) fn try_to_open(lab: &Lab, from: Part, to: SocketAddr) -> (Fate, TcpStream) {
    let before = dropped(lab);
    let stream = lab.inside(from, || {
        let domain = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(domain, SockType::Stream, flags, None).expect("socket");
        let begun = connect(fd.as_raw_fd(), &SockaddrStorage::from(to));
        assert_eq!(begun, Err(nix::Error::EINPROGRESS), "connect to {to}");
        TcpStream::from(fd)
    });
    let fate = wait_for("the fate of a connection", || {
        // First, because a late packet of an earlier connection may be what was dropped.
        let is_dropped = dropped(lab) > before;
        match stream.take_error().expect("it is a socket") {
            Some(error) if error.kind() == ErrorKind::ConnectionRefused => Some(Fate::Refused),
            // Accepted and cut off: only what is open can be reset.
            Some(error) if error.kind() == ErrorKind::ConnectionReset => Some(Fate::Open),
            Some(error) => panic!("connect to {to}: {error}"),
            None if stream.peer_addr().is_ok() => Some(Fate::Open),
            None => is_dropped.then_some(Fate::Dropped),
        }
    });
    (fate, stream)
}

pub(crate) fn fate(lab: &Lab, from: Part, to: SocketAddr) -> Fate {
    try_to_open(lab, from, to).0
}

/// How many packets the rules have dropped.
pub(crate) fn dropped(lab: &Lab) -> u64 {
    let rules = lab.run(Part::Node, "nft", &["list", "table", "inet", "egret"]);
    rules.lines().filter(|line| line.ends_with("drop")).map(packets).sum()
}

/// The number in `packets 5 bytes 300`.
fn packets(text: &str) -> u64 {
    let (_, rest) = text.split_once("packets ").expect("it has a counter");
    let number = rest.split_whitespace().next().expect("split_once found more");
    number.parse().expect("it is a number")
}

/// Lets the world outside count the TCP packets that come to it from the pod.
pub(crate) fn count_escapes(lab: &Lab) {
    lab.nft(
        Part::Outside,
        "table inet seen {
            counter escaped { }
            chain prerouting {
                type filter hook prerouting priority raw;
                ip saddr 10.77.1.2 meta l4proto tcp counter name escaped
                ip6 saddr fd77:1::2 meta l4proto tcp counter name escaped
            }
        }",
    );
}

pub(crate) fn escaped(lab: &Lab) -> u64 {
    packets(&lab.run(Part::Outside, "nft", &["list", "counter", "inet", "seen", "escaped"]))
}

/// What `status` says about what cannot be handed over.
fn status_line(lab: &Lab) -> String {
    let status = lab.redirect(&["status"]);
    let line = status.lines().find_map(|line| line.strip_prefix("captured but not handed over: "));
    line.unwrap_or_else(|| panic!("no such line: {status}")).to_owned()
}

/// Nothing is allowed but port 80 of an address that leads to a server on port 8080.
fn strict(capture: Capture) -> Options {
    Options {
        capture,
        policy: Policy::RegistryOnly,
        rules: Rules::None,
        // On port 80 a name could decide; what sends none is blocked after this time.
        names: "deadline: 100ms",
        registry: static_entry("echo.test", "203.0.113.10", "203.0.113.10"),
        ..Options::default()
    }
}

fn nothing_passes_in_any_state_of_egret(mode: Mode) {
    let lab = Lab::new();
    lab.tally.expect_strangers();
    count_escapes(&lab);
    let forbidden = FAMILIES.map(|family| outside(11, family, 80));
    let _would_answer = forbidden.map(|at| lab.serve(at, echo));
    let server = lab.serve(outside(10, Family::V4, 8080), echo);
    let expect = |what: &str, expected: Fate| {
        for to in forbidden {
            assert_eq!(fate(&lab, Part::Pod, to), expected, "{what}, {to}");
        }
        assert_eq!(escaped(&lab), 0, "{what}");
    };
    let wait_to_be = |what: &str, expected: Fate| {
        for to in forbidden {
            wait_until(what, || fate(&lab, Part::Pod, to) == expected);
        }
        assert_eq!(escaped(&lab), 0, "{what}");
    };

    let said = mode.up(&lab, &[]);
    let word = if mode.fate == Fate::Refused { "refused" } else { "dropped" };
    assert!(said.contains(&format!("not handed over: {word}")), "{said}");
    assert_eq!(status_line(&lab), word);
    expect("absent", mode.fate);

    let mut proxy = started_under_fire(&lab, mode, &forbidden);
    assert_eq!(escaped(&lab), 0, "starting");
    expect("serving", Fate::Open);
    proxy.signal(Signal::SIGSTOP);
    // Its listen queue takes them.
    expect("stopped", Fate::Open);
    proxy.signal(Signal::SIGCONT);

    let mut held = lab.connect(outside(10, Family::V4, 80));
    held.ping();
    proxy.signal(Signal::SIGTERM);
    wait_to_be("Egret to drain", mode.fate);
    held.ping();
    proxy.signal(Signal::SIGKILL);
    proxy.wait();
    wait_to_be("Egret to be gone", mode.fate);
    expect("killed", mode.fate);

    let mut proxy = started_under_fire(&lab, mode, &forbidden);
    expect("restarted", Fate::Open);
    drop(held);
    server.finish();
    // Without the baseline check: what it held at its start, under fire, is no baseline.
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait().code(), Some(0));
    wait_to_be("Egret to have ended", mode.fate);
}

/// Starts it while the pod tries to open forbidden connections all the time.
fn started_under_fire<'lab>(lab: &'lab Lab, mode: Mode, to: &[SocketAddr]) -> Proxy<'lab> {
    let is_started = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let fire = scope.spawn(|| {
            while !is_started.load(Ordering::SeqCst) {
                for to in to {
                    let fate = fate(lab, Part::Pod, *to);
                    assert!([mode.fate, Fate::Open].contains(&fate), "{fate:?}");
                }
            }
        });
        let proxy = Proxy::start(lab, &strict(mode.capture));
        is_started.store(true, Ordering::SeqCst);
        fire.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        proxy
    })
}

#[test]
fn redirect_lets_nothing_pass_in_any_state_of_egret() {
    nothing_passes_in_any_state_of_egret(REDIRECT);
}

#[test]
fn tproxy_lets_nothing_pass_in_any_state_of_egret() {
    nothing_passes_in_any_state_of_egret(TPROXY);
}

#[test]
fn tproxy_without_conntrack_lets_nothing_pass_in_any_state_of_egret() {
    nothing_passes_in_any_state_of_egret(UNTRACKED);
}

#[test]
fn fail_open_lets_it_pass_while_nothing_listens() {
    for mode in [TPROXY, UNTRACKED] {
        let lab = Lab::new();
        lab.tally.expect_strangers();
        count_escapes(&lab);
        let said = mode.up(&lab, &["--fail-open"]);
        assert!(said.contains("not handed over: passes"), "{said}");
        assert_eq!(status_line(&lab), "passes");
        let forbidden = FAMILIES.map(|family| outside(11, family, 80));
        let servers = forbidden.map(|at| lab.serve(at, echo));
        for to in forbidden {
            let before = escaped(&lab);
            lab.connect(to).ping();
            assert!(escaped(&lab) > before, "{to}");
        }
        for server in servers {
            assert_eq!(server.finish(), 1, "it has come straight to the server");
        }
        let proxy = Proxy::start(&lab, &strict(mode.capture));
        for to in forbidden {
            assert_eq!(lab.cut_off_nameless(Part::Pod, to).0, 0, "Egret blocks it");
        }
        proxy.finish();
        mode.up(&lab, &[]);
        assert_eq!(status_line(&lab), "dropped");
        for to in forbidden {
            assert_eq!(fate(&lab, Part::Pod, to), Fate::Dropped);
        }
    }
}

#[test]
fn what_local_processes_send_is_dropped_and_meets_no_other_server() {
    let lab = Lab::new();
    lab.redirect(&["up", "--mode", "tproxy", "--local"]);
    // What tproxy has turned to the loopback interface would reach it.
    let _everywhere = FAMILIES.map(|family| {
        let any = if family == Family::V4 { "0.0.0.0:80" } else { "[::]:80" };
        // One that takes both families takes the first one's port.
        lab.inside(Part::Node, || TcpListener::bind(any))
    });
    for family in FAMILIES {
        let to = outside(10, family, 80);
        let _would_answer = lab.serve(to, echo);
        assert_eq!(fate(&lab, Part::Node, to), Fate::Dropped, "{to}");
    }
}

#[test]
fn status_reads_the_rules_that_the_kernel_has() {
    let lab = Lab::new();
    for (mode, chain, says) in [
        (TPROXY, "capture", ["dropped", "passes"]),
        (UNTRACKED, "capture", ["dropped", "passes"]),
        (
            REDIRECT,
            "rest",
            ["refused", "refused, but what connection tracking does not know passes"],
        ),
    ] {
        mode.up(&lab, &[]);
        assert_eq!(status_line(&lab), says[0]);
        let rules = lab.run(Part::Node, "nft", &["-a", "list", "chain", "inet", "egret", chain]);
        let last = rules.lines().rfind(|line| line.contains(" drop ")).expect("it drops the rest");
        let (_, handle) = last.rsplit_once(' ').expect("-a ends each line with the handle");
        lab.run(Part::Node, "nft", &["delete", "rule", "inet", "egret", chain, "handle", handle]);
        assert_eq!(status_line(&lab), says[1]);
    }
    lab.redirect(&["up", "--local"]);
    assert_eq!(status_line(&lab), "refused");
}

#[test]
fn fail_open_is_refused_where_it_can_mean_nothing() {
    let lab = Lab::new();
    let table: [(&[&str], &str); 2] = [
        (&["up", "--interface", "pod0", "--fail-open"], "needs --mode tproxy"),
        (&["up", "--local", "--mode", "tproxy", "--fail-open"], "not go with --local"),
    ];
    for (arguments, hint) in table {
        let (code, output) = lab.run_any(Part::Node, script("redirect.sh"), arguments);
        assert_eq!(code, 64, "{output}");
        assert!(output.contains(hint), "{output}");
    }
}
