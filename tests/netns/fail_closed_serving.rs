//! A captured pod serves connections that come to it from elsewhere, with or without Egret.

use std::net::{IpAddr, SocketAddr};

use crate::fail_closed::{Fate, Mode, REDIRECT, TPROXY, UNTRACKED, dropped, fate};
use crate::lab::{FAMILIES, Family, Lab, Part, outside, wait_until};
use crate::options::{Options, Policy, Rules};
use crate::peer::{Listening, Peer, Server, echo};
use crate::proxy::Proxy;

/// An address of the pod.
pub(crate) fn pod(family: Family, port: u16) -> SocketAddr {
    let ip: IpAddr = match family {
        Family::V4 => [10, 77, 1, 2].into(),
        Family::V6 => [0xfd77, 1, 0, 0, 0, 0, 0, 2].into(),
    };
    SocketAddr::new(ip, port)
}

fn serve_in_the_pod(lab: &Lab, at: SocketAddr) -> Server {
    Server::start(lab.inside(Part::Pod, || Listening::bind(at, &lab.tally)), echo)
}

/// Connects from the world outside.
fn connect(lab: &Lab, to: SocketAddr) -> Peer {
    lab.try_connect_from(Part::Outside, to).unwrap_or_else(|error| panic!("{to}: {error}"))
}

fn captured_pod_serves(lab: &Lab, up: impl Fn()) {
    up();
    for family in FAMILIES {
        let server = serve_in_the_pod(lab, pod(family, 80));
        let mut held = connect(lab, pod(family, 80));
        held.ping();
        up();
        let mut peer = connect(lab, pod(family, 80));
        peer.send(1 << 20);
        peer.shutdown();
        peer.recv(1 << 20);
        peer.expect_eof();
        held.ping();
        held.shutdown();
        held.expect_eof();
        assert_eq!(server.finish(), 2);
        assert_eq!(fate(lab, Part::Outside, pod(family, 81)), Fate::Refused, "a closed port");
    }
}

/// Without Egret, then beside one that blocks all that the pod opens.
fn captured_pod_serves_in(mode: Mode) {
    let lab = Lab::new();
    captured_pod_serves(&lab, || {
        mode.up(&lab, &[]);
    });
    lab.tally.expect_strangers();
    let options = Options {
        capture: mode.capture,
        policy: Policy::RegistryOnly,
        rules: Rules::None,
        // On port 80 a name could decide; what sends none is blocked after this time.
        names: "deadline: 100ms",
        ..Options::default()
    };
    let proxy = Proxy::start(&lab, &options);
    captured_pod_serves(&lab, || {
        let sources = ["--source", "10.77.1.0/24", "--source", "fd77:1::/64"];
        lab.redirect(&[&["up", "--mode", mode.capture.name()], &sources[..]].concat());
    });
    for family in FAMILIES {
        let _would_answer = lab.serve(outside(10, family, 80), echo);
        assert_eq!(
            lab.cut_off_nameless(Part::Pod, outside(10, family, 80)).0,
            0,
            "Egret blocks it"
        );
    }
    proxy.finish();
}

#[test]
fn a_captured_pod_serves_with_redirect() {
    captured_pod_serves_in(REDIRECT);
}

#[test]
fn a_captured_pod_serves_with_tproxy() {
    captured_pod_serves_in(TPROXY);
}

#[test]
fn a_captured_pod_cannot_serve_without_conntrack_and_up_says_so() {
    let lab = Lab::new();
    let said = UNTRACKED.up(&lab, &["--exclude", "203.0.113.10", "--exclude", "fd77:2::10"]);
    assert!(said.contains("cannot serve connections from elsewhere"), "{said}");
    assert!(!TPROXY.up(&lab, &[]).contains("cannot serve"));
    UNTRACKED.up(&lab, &["--exclude", "203.0.113.13", "--exclude", "fd77:2::13"]);
    for family in FAMILIES {
        let server = serve_in_the_pod(&lab, pod(family, 80));
        // From the address that Linux takes for the world outside: the first one.
        assert_eq!(fate(&lab, Part::Outside, pod(family, 80)), Fate::Dropped);
        let mut node =
            lab.try_connect_from(Part::Node, pod(family, 80)).expect("it serves the node");
        node.ping();
        drop(node);
        server.finish();
    }
}

/// As kube-proxy's rules do: a service's address stands for a server elsewhere, a port of the node
/// for the pod's.
const SERVICES: &str = "table inet services {
    chain prerouting {
        type nat hook prerouting priority dstnat - 1;
        ip daddr 198.51.100.9 dnat ip to 203.0.113.10
        iifname out0 tcp dport 30080 dnat ip to 10.77.1.2:80
    }
}";

#[test]
fn services_of_other_tables_are_reached_and_lead_to_captured_pods() {
    for mode in [REDIRECT, TPROXY] {
        let lab = Lab::new();
        lab.nft(Part::Node, SERVICES);
        mode.up(&lab, &["--exclude", "198.51.100.0/24"]);
        let server = lab.serve(outside(10, Family::V4, 80), echo);
        lab.connect("198.51.100.9:80".parse().expect("it is an address")).ping();
        let pods = serve_in_the_pod(&lab, pod(Family::V4, 80));
        connect(&lab, "203.0.113.1:30080".parse().expect("it is an address")).ping();
        server.finish();
        pods.finish();
    }
}

/// As the head of `redirect.sh` says: they cannot be told from those that two ends pretend to have.
#[test]
fn connections_from_before_the_first_up_end() {
    for mode in [REDIRECT, TPROXY, UNTRACKED] {
        let lab = Lab::new();
        // So that the node has tracked them from their beginning.
        lab.nft(
            Part::Node,
            "table inet tracking {
                chain forward {
                    type filter hook forward priority filter; ct state invalid drop
                }
            }",
        );
        for family in FAMILIES {
            lab.redirect(&["down"]);
            let server = lab.serve(outside(10, family, 80), echo);
            let mut peer = lab.connect(outside(10, family, 80));
            let pods = serve_in_the_pod(&lab, pod(family, 80));
            let mut client = connect(&lab, pod(family, 80));
            peer.ping();
            client.ping();
            mode.up(&lab, &[]);
            let before = dropped(&lab);
            peer.send(1);
            wait_until("what the pod sends to be dropped", || dropped(&lab) > before);
            let before = dropped(&lab);
            client.send(1);
            wait_until("what the pod answers to be dropped", || dropped(&lab) > before);
            lab.redirect(&["down"]);
            peer.recv(1);
            client.recv(1);
            drop((peer, client));
            server.finish();
            pods.finish();
        }
    }
}
