//! Two ends that have agreed to talk past Egret, by segments that no kernel would send: they open
//! connections with a bare ACK, answer a SYN with data, or set flags that mean nothing.
//!
//! Each end writes its segments itself. An address that the rules leave alone shows that all of
//! this crosses where nothing stops it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, sendto,
    setsockopt, socket, sockopt,
};

use crate::fail_closed::{Mode, REDIRECT, TPROXY, UNTRACKED};
use crate::fail_closed_serving::pod;
use crate::lab::{FAMILIES, Family, Lab, PATIENCE, Part, outside, wait_until};
use crate::options::{Options, Policy, Rules};
use crate::proxy::Proxy;
use crate::retry::uninterrupted;

const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;

/// What the kernels of both ends would say to such segments is not heard: it has no mark.
const QUIET: &str = "table inet quiet {
    chain output {
        type filter hook output priority filter;
        tcp flags & rst == rst meta mark != 7 drop
    }
}";
const MARK: u32 = 7;

/// Neither end's own kernel counts: what arrived is what this socket has seen.
#[derive(Debug)]
struct End {
    raw: OwnedFd,
    fence: UdpSocket,
    ip: IpAddr,
}

impl End {
    fn new(lab: &Lab, part: Part, ip: IpAddr) -> Self {
        lab.inside(part, || {
            let domain = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let raw = socket(domain, SockType::Raw, flags, SockProtocol::Tcp).expect("as root");
            setsockopt(&raw, sockopt::Mark, &MARK).expect("as root");
            let address = SockaddrStorage::from(SocketAddr::new(ip, 0));
            bind(raw.as_raw_fd(), &address).expect("the address is its own");
            let fence = UdpSocket::bind((ip, 0)).expect("the address is its own");
            fence.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
            Self { raw, fence, ip }
        })
    }

    fn send(&self, to: &Self, ports: [u16; 2], flags: u8, data: &str) {
        self.send_to(to.ip, ports, flags, data);
    }

    fn send_to(&self, to: IpAddr, ports: [u16; 2], flags: u8, data: &str) {
        let segment = segment([self.ip, to], ports, flags, data.as_bytes());
        // The port is in the segment.
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        let sent = sendto(self.raw.as_raw_fd(), &segment, &to, MsgFlags::empty());
        assert_eq!(sent, Ok(segment.len()), "flags {flags:#x}");
    }

    /// Everything that has arrived so far. Rules do not stop UDP, and it takes the same way.
    fn arrived(&self, from: &Self) -> String {
        let fence = self.fence.local_addr().expect("it is bound");
        from.fence.send_to(b"fence", fence).expect("there is a route");
        uninterrupted(|| self.fence.recv(&mut [0; 16])).expect("the fence arrives");
        let mut all = String::new();
        let mut packet = [0; 2048];
        while let Ok(n) = recv(self.raw.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            all.push_str(&String::from_utf8_lossy(&packet[..n]));
        }
        all
    }
}

pub(crate) fn segment([from, to]: [IpAddr; 2], ports: [u16; 2], flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports[0].to_be_bytes());
    bytes.extend(ports[1].to_be_bytes());
    // Sequence and acknowledgement numbers; a SYN takes one.
    let number = if flags & SYN == 0 { 1001_u32 } else { 1000 };
    let acknowledged = if flags & ACK == 0 { 0_u32 } else { 1001 };
    bytes.extend(number.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    // Five words of header, the flags, a window; checksum and urgent pointer follow.
    bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(data);
    let mut summed = Vec::new();
    for ip in [from, to] {
        match ip {
            IpAddr::V4(ip) => summed.extend(ip.octets()),
            IpAddr::V6(ip) => summed.extend(ip.octets()),
        }
    }
    let length = u16::try_from(bytes.len()).expect("it is short");
    summed.extend([0, 6]);
    summed.extend(length.to_be_bytes());
    summed.extend(&bytes);
    bytes[16..18].copy_from_slice(&checksum(&summed).to_be_bytes());
    bytes
}

/// The sum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    };
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}

/// Who sends a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Pod,
    Out,
}

/// A way to talk: what is sent in turn, and whether the pod may hear the other end. It may when
/// that has opened a connection properly: a captured pod can serve.
#[derive(Debug)]
struct Way {
    name: &'static str,
    segments: &'static [(By, u8)],
    pod_hears: bool,
}

const WAYS: [Way; 8] = [
    Way {
        name: "the pod begins with a bare ACK",
        segments: &[(By::Pod, ACK), (By::Out, ACK), (By::Pod, ACK), (By::Out, ACK), (By::Pod, ACK)],
        pod_hears: false,
    },
    Way {
        name: "the other end begins with a bare ACK",
        segments: &[(By::Out, ACK), (By::Pod, ACK), (By::Out, ACK), (By::Pod, ACK)],
        pod_hears: false,
    },
    Way {
        name: "the other end begins with bare ACKs, the pod answers as to a SYN",
        segments: &[(By::Out, ACK), (By::Out, ACK), (By::Pod, SYN | ACK), (By::Pod, ACK)],
        pod_hears: false,
    },
    Way {
        name: "a SYN is answered with data",
        segments: &[(By::Out, SYN), (By::Pod, ACK), (By::Out, ACK), (By::Pod, ACK)],
        pod_hears: true,
    },
    Way {
        name: "both open at once",
        segments: &[(By::Out, SYN), (By::Pod, SYN), (By::Out, ACK), (By::Pod, ACK)],
        pod_hears: true,
    },
    Way {
        name: "flags that mean nothing",
        segments: &[(By::Pod, 0), (By::Pod, SYN | FIN), (By::Pod, FIN | URG), (By::Out, 0)],
        pod_hears: false,
    },
    Way {
        name: "the ends of connections that never were",
        segments: &[(By::Pod, RST), (By::Out, RST), (By::Pod, RST | ACK), (By::Pod, FIN | ACK)],
        pod_hears: false,
    },
    Way {
        name: "the pod begins with a SYN that carries data",
        segments: &[(By::Pod, SYN), (By::Out, SYN | ACK), (By::Pod, ACK), (By::Out, ACK)],
        pod_hears: false,
    },
];

/// Talks in one way; returns what has reached the pod, and the other end.
fn talk(way: &Way, pod: &End, out: &End, pods_port: u16) -> [String; 2] {
    let mut heard = [String::new(), String::new()];
    for (by, flags) in way.segments {
        match by {
            By::Pod => pod.send(out, [pods_port, 443], *flags, "[pod speaks]"),
            By::Out => out.send(pod, [443, pods_port], *flags, "[out speaks]"),
        }
        // After each, so that connection tracking has seen it before the next comes.
        heard[0] += &pod.arrived(out);
        heard[1] += &out.arrived(pod);
    }
    heard
}

/// Addresses that the rules leave alone: the last of the world outside.
const EXCLUDED: [&str; 4] = ["--exclude", "203.0.113.14", "--exclude", "fd77:2::14"];

fn colluding_ends_get_nothing_across(mode: Mode) {
    let lab = Lab::new();
    lab.tally.expect_strangers();
    for part in [Part::Pod, Part::Outside] {
        lab.nft(part, QUIET);
    }
    mode.up(&lab, &EXCLUDED);
    talk_in_all_ways(&lab, mode, 2000, "without Egret");
    let options = Options {
        capture: mode.capture,
        policy: Policy::RegistryOnly,
        rules: Rules::None,
        ..Options::default()
    };
    let proxy = Proxy::start(&lab, &options);
    talk_in_all_ways(&lab, mode, 3000, "with Egret");
    drop(proxy);
}

fn talk_in_all_ways(lab: &Lab, mode: Mode, first_port: u16, when: &str) {
    for family in FAMILIES {
        let pod = End::new(lab, Part::Pod, pod(family, 0).ip());
        let captured = End::new(lab, Part::Outside, outside(11, family, 0).ip());
        let excluded = End::new(lab, Part::Outside, outside(14, family, 0).ip());
        for (port, way) in (first_port..).zip(&WAYS) {
            // Without connection tracking nothing tells what comes to the pod apart.
            let pod_hears = way.pod_hears || !mode.more.is_empty();
            for (out, [pod_hears, out_hears]) in
                [(&captured, [pod_hears, false]), (&excluded, [true, true])]
            {
                let what = format!("{}, {} {}, {when}", way.name, mode.capture.name(), out.ip);
                let [to_pod, to_out] = talk(way, &pod, out, port);
                let is_spoken_to = way.segments.iter().any(|(by, _)| *by == By::Out);
                expect(&what, [&pod, out], to_pod, "out speaks", pod_hears && is_spoken_to);
                expect(&what, [out, &pod], to_out, "pod speaks", out_hears);
            }
        }
    }
}

/// Whether `heard`, which has come from the other of two ends, has that text in it.
fn expect(what: &str, [at, from]: [&End; 2], mut heard: String, text: &str, is_expected: bool) {
    if is_expected {
        wait_until(what, || {
            heard += &at.arrived(from);
            heard.contains(text)
        });
    }
    assert_eq!(heard.contains(text), is_expected, "{what}: {heard:?}");
}

#[test]
fn colluding_ends_get_nothing_across_with_redirect() {
    colluding_ends_get_nothing_across(REDIRECT);
}

#[test]
fn colluding_ends_get_nothing_across_with_tproxy() {
    colluding_ends_get_nothing_across(TPROXY);
}

#[test]
fn colluding_ends_get_nothing_out_with_tproxy_without_conntrack() {
    colluding_ends_get_nothing_across(UNTRACKED);
}

/// A late segment of a connection that the pod serves may be invalid, too: an answer of Egret's
/// kernel would be a reset, and end that connection.
#[test]
fn what_conntrack_finds_invalid_is_not_answered() {
    let lab = Lab::new();
    lab.tally.expect_strangers();
    lab.nft(Part::Pod, QUIET);
    TPROXY.up(&lab, &[]);
    let options = Options { capture: TPROXY.capture, rules: Rules::None, ..Options::default() };
    let _proxy = Proxy::start(&lab, &options);
    for family in FAMILIES {
        let pod = End::new(&lab, Part::Pod, pod(family, 0).ip());
        let out = End::new(&lab, Part::Outside, outside(11, family, 0).ip());
        pod.send(&out, [2000, 443], FIN | ACK, "");
        assert_eq!(pod.arrived(&out), "");
        // A bare ACK is a connection to it, which Egret's kernel does not know.
        pod.send(&out, [2001, 443], ACK, "");
        wait_until("the reset of Egret's kernel", || !pod.arrived(&out).is_empty());
    }
}

/// A pod that opens a connection to another address of its own, in the name of the other end.
#[test]
fn a_captured_pod_cannot_serve_itself() {
    for mode in [REDIRECT, TPROXY] {
        let lab = Lab::new();
        let ip = |part, arguments: &str| {
            lab.run(part, "ip", &arguments.split(' ').collect::<Vec<_>>());
        };
        for part in [Part::Pod, Part::Outside] {
            lab.nft(part, QUIET);
        }
        // Pods often leave each other's addresses alone.
        mode.up(&lab, &["--exclude", "10.77.0.0/16"]);
        let link = lab.run(Part::Pod, "cat", &["/sys/class/net/eth0/address"]);
        ip(Part::Node, &format!("neigh add 10.77.1.9 lladdr {} dev pod0", link.trim()));
        ip(Part::Pod, "route add 10.77.1.9 via 10.77.1.1");
        ip(Part::Pod, "addr add 203.0.113.11/32 dev lo");
        let real = End::new(&lab, Part::Pod, pod(Family::V4, 0).ip());
        let out = End::new(&lab, Part::Outside, outside(11, Family::V4, 0).ip());
        let spoofed = End::new(&lab, Part::Pod, out.ip);
        spoofed.send_to("10.77.1.9".parse().expect("it is one"), [443, 2000], SYN, "");
        ip(Part::Pod, "addr del 203.0.113.11/32 dev lo");
        assert_eq!(out.arrived(&real), "");
        ip(Part::Pod, "addr add 10.77.1.9/32 dev lo");
        let other = End::new(&lab, Part::Pod, "10.77.1.9".parse().expect("it is one"));
        for flags in [SYN | ACK, ACK] {
            other.send(&out, [2000, 443], flags, "[pod speaks]");
            assert_eq!(out.arrived(&real), "");
        }
    }
}
