//! What a captured pod sends that is not TCP to a place outside: other protocols and packets that
//! hide what they carry (`--drop-rest`), and destinations that lead nowhere or to the node.
//!
//! The pod writes whole packets, as a workload with CAP_NET_RAW can. The world outside, or the rule
//! that drops them, counts them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::fail_closed::{Mode, REDIRECT, TPROXY, UNTRACKED, dropped};
use crate::fail_closed_raw::{SYN, segment};
use crate::fail_closed_serving::pod;
use crate::lab::{FAMILIES, Family, Lab, PATIENCE, Part, outside, wait_until};
use crate::options::Capture;
use crate::retry::uninterrupted;
use crate::rules::capturing_listener;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

/// Sends packets that it writes itself from the pod.
struct Writer {
    raw: [OwnedFd; 2],
}

impl Writer {
    fn new(lab: &Lab) -> Self {
        let raw = [AddressFamily::Inet, AddressFamily::Inet6].map(|domain| {
            lab.inside(Part::Pod, || {
                let flags = SockFlag::SOCK_CLOEXEC;
                socket(domain, SockType::Raw, flags, SockProtocol::Raw).expect("as root")
            })
        });
        Self { raw }
    }

    /// The packet to `to` takes the way out of the pod, whatever `to` is.
    fn send(&self, to: IpAddr, protocol: u8, payload: &[u8]) {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        self.send_from(pod(family, 0).ip(), to, protocol, payload);
    }

    fn send_from(&self, from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let packet = packet(from, to, protocol, payload);
        let way = SockaddrStorage::from(SocketAddr::new(outside(10, family, 0).ip(), 0));
        let raw = &self.raw[usize::from(to.is_ipv6())];
        let sent = sendto(raw.as_raw_fd(), &packet, &way, MsgFlags::empty());
        assert_eq!(sent, Ok(packet.len()), "{to} {protocol}");
    }
}

fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = |more: usize| u16::try_from(payload.len() + more).expect("short").to_be_bytes();
    let mut bytes = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([0x45, 0]);
            bytes.extend(length(20));
            // The kernel fills in the identification and the checksum.
            bytes.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length(0));
            bytes.extend([protocol, 64]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        _ => unreachable!("both are of one family"),
    }
    bytes.extend(payload);
    bytes
}

/// The first eight bytes of TCP or UDP, and some more.
fn ports(to: u16) -> Vec<u8> {
    let mut bytes = vec![0x9c, 0x40];
    bytes.extend(to.to_be_bytes());
    // UDP's length and no checksum.
    bytes.extend([0, 24, 0, 0]);
    bytes.extend([0x5a; 16]);
    bytes
}

/// A fragment of IPv6: what follows, its offset in bytes, and whether more come.
fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(0x1234_5678_u32.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Everything that comes from the pod to the world outside, but for the fence.
const SEEN: &str = "table inet seen {
    counter strangers { }
    chain prerouting {
        type filter hook prerouting priority raw;
        udp dport 9 return
        ip saddr 10.77.1.2 counter name strangers
        ip6 saddr fd77:1::2 icmpv6 type != { nd-neighbor-solicit, nd-neighbor-advert } \
            counter name strangers
        ip6 saddr fd77:1::2 meta l4proto != ipv6-icmp counter name strangers
    }
}";

fn seen(lab: &Lab) -> u64 {
    let text = lab.run(Part::Outside, "nft", &["list", "counter", "inet", "seen", "strangers"]);
    let (_, rest) = text.split_once("packets ").expect("it has a counter");
    rest.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// Two sockets between which UDP passes whatever the rules: what was sent before has come or gone.
struct Fence {
    from: UdpSocket,
    to: UdpSocket,
}

impl Fence {
    fn new(lab: &Lab, family: Family) -> Self {
        let bind = |part, at: SocketAddr| lab.inside(part, || UdpSocket::bind(at).expect("free"));
        let (from, to) =
            (bind(Part::Pod, pod(family, 0)), bind(Part::Outside, outside(10, family, 9)));
        to.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        from.connect(outside(10, family, 9)).expect("there is a route");
        Self { from, to }
    }

    fn pass(&self) {
        self.from.send(b"fence").expect("there is a route");
        uninterrupted(|| self.to.recv(&mut [0; 16])).expect("the fence arrives");
    }
}

/// What the pod may try.
struct Way {
    name: &'static str,
    protocol: u8,
    payload: Vec<u8>,
    /// Whether it passes without `--drop-rest`; and to an excluded destination.
    passes: [bool; 2],
}

impl Way {
    fn new(name: &'static str, protocol: u8, payload: Vec<u8>) -> Self {
        Self { name, protocol, payload, passes: [true, true] }
    }
}

fn ways(family: Family) -> Vec<Way> {
    let echo = |kind: u8| vec![kind, 0, !kind, 0xff, 0, 0, 0, 0];
    let mut ways = vec![
        Way::new("HTTP/3", UDP, ports(443)),
        Way::new("GRE", GRE, vec![0; 24]),
        Way::new("SCTP", 132, ports(443)),
        Way::new("UDP-Lite", 136, ports(443)),
        Way::new("ESP", 50, vec![1; 24]),
        Way::new("a protocol of its own", 253, vec![2; 24]),
    ];
    if family == Family::V4 {
        ways.push(Way::new("an echo request", ICMP, echo(8)));
        return ways;
    }
    // Eight bytes of options before TCP, which only the second fragment begins. Connection tracking
    // lets such a fragment pass by its reassembly (RFC 8200 section 4.5), and calls it invalid.
    let options = [TCP, 0, 1, 4, 0, 0, 0, 0];
    let first = fragment(DESTINATION_OPTIONS, 0, true, &options);
    let later = fragment(TCP, 8, false, &[3; 24]);
    ways.extend([
        Way::new("an echo request", ICMPV6, echo(128)),
        Way::new("no next header", 59, vec![4; 24]),
        Way {
            passes: [false, true],
            ..Way::new("a first fragment without TCP's header", FRAGMENT, first)
        },
        // It waits for the others at the node.
        Way { passes: [false, false], ..Way::new("a later fragment alone", FRAGMENT, later) },
    ]);
    ways
}

fn nothing_passes_beside_tcp(mode: Mode) {
    let lab = Lab::new();
    lab.nft(Part::Outside, SEEN);
    let writer = Writer::new(&lab);
    for rest in [&[][..], &["--drop-rest"]] {
        mode.up(&lab, &[rest, &["--exclude", "203.0.113.14", "--exclude", "fd77:2::14"]].concat());
        for family in FAMILIES {
            let fence = Fence::new(&lab, family);
            for way in ways(family) {
                let what = format!("{}, {family:?}, {} {rest:?}", way.name, mode.capture.name());
                let reaches = |n: u8| {
                    let before = seen(&lab);
                    writer.send(outside(n, family, 0).ip(), way.protocol, &way.payload);
                    fence.pass();
                    seen(&lab) > before
                };
                let [captured, excluded] = way.passes;
                assert_eq!(reaches(11), captured && rest.is_empty(), "{what}");
                assert_eq!(reaches(14), excluded, "{what}, excluded");
            }
        }
    }
}

#[test]
fn nothing_passes_beside_tcp_with_redirect() {
    nothing_passes_beside_tcp(REDIRECT);
}

#[test]
fn nothing_passes_beside_tcp_with_tproxy() {
    nothing_passes_beside_tcp(TPROXY);
}

#[test]
fn nothing_passes_beside_tcp_without_connection_tracking_of_tcp() {
    nothing_passes_beside_tcp(UNTRACKED);
}

/// What the pod answers by UDP, and the errors that ICMP has to tell, still pass.
#[test]
fn answers_and_errors_pass_with_drop_rest() {
    let lab = Lab::new();
    REDIRECT.up(&lab, &["--drop-rest"]);
    for family in FAMILIES {
        let at = |part, address: SocketAddr| {
            let socket = lab.inside(part, || UdpSocket::bind(address).expect("it is free"));
            socket.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
            socket
        };
        let server = at(Part::Pod, pod(family, 5000));
        // From the port to which the pod may send nothing of its own accord.
        let client = at(Part::Outside, outside(11, family, 443));
        client.connect(pod(family, 5000)).expect("there is a route");
        client.send(b"question").expect("there is a route");
        let (_, from) = uninterrupted(|| server.recv_from(&mut [0; 16])).expect("it arrives");
        server.send_to(b"answer", from).expect("there is a route");
        uninterrupted(|| client.recv(&mut [0; 16])).expect("the answer arrives");

        // Nobody is at this port of the pod: its kernel says so by ICMP.
        client.connect(pod(family, 5001)).expect("there is a route");
        client.send(b"question").expect("there is a route");
        let refused = uninterrupted(|| client.recv(&mut [0; 16])).expect_err("nobody is there");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

/// A SYN from an address that the pod has made up: the node finds nobody to answer, and would tell
/// the other end so, which is a way to send it a number.
fn the_other_end_hears_nothing_of_made_up_addresses(mode: Mode) {
    let lab = Lab::new();
    lab.nft(
        Part::Outside,
        "table inet seen {
            counter strangers { }
            chain prerouting {
                type filter hook prerouting priority raw;
                icmp type destination-unreachable counter name strangers
                icmpv6 type destination-unreachable counter name strangers
            }
        }",
    );
    lab.set_sysctl(Part::Node, "net/ipv4/conf/all/rp_filter", "0");
    lab.set_sysctl(Part::Node, "net/ipv4/neigh/pod0/retrans_time_ms", "50");
    lab.set_sysctl(Part::Node, "net/ipv6/neigh/pod0/retrans_time_ms", "50");
    tell_nobody(&lab, mode.capture);
    mode.up(&lab, &[]);
    let writer = Writer::new(&lab);
    for (from, family) in [("10.77.1.99", Family::V4), ("fd77:1::99", Family::V6)] {
        let from: IpAddr = from.parse().expect("it is an address");
        let to = outside(11, family, 443);
        for port in 2000..2005 {
            writer.send_from(from, to.ip(), TCP, &segment([from, to.ip()], [port, 443], SYN, b""));
        }
        wait_until("the node to give up", || {
            let version = if from.is_ipv4() { "-4" } else { "-6" };
            let text = lab.run(Part::Node, "ip", &[version, "neigh", "show", "dev", "pod0"]);
            text.lines().any(|line| line.contains("99 ") && line.contains("FAILED"))
        });
        Fence::new(&lab, family).pass();
        assert_eq!(seen(&lab), 0, "{from}");
    }
}

/// A listener that takes what the rules hand over.
fn tell_nobody(lab: &Lab, capture: Capture) {
    for family in FAMILIES {
        let listener = lab.inside(Part::Node, || capturing_listener(family, capture));
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
}

#[test]
fn the_other_end_hears_nothing_of_made_up_addresses_with_redirect() {
    the_other_end_hears_nothing_of_made_up_addresses(REDIRECT);
}

#[test]
fn the_other_end_hears_nothing_of_made_up_addresses_with_tproxy() {
    the_other_end_hears_nothing_of_made_up_addresses(TPROXY);
}

fn destinations_that_lead_nowhere_are_dropped(mode: Mode) {
    let lab = Lab::new();
    mode.up(&lab, &["--exclude", "0.0.0.0/0", "--exclude", "::/0"]);
    let writer = Writer::new(&lab);
    for to in [
        "0.0.0.0",
        "0.0.0.1",
        "0.255.255.255",
        "::",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
    ] {
        let to: IpAddr = to.parse().expect("it is an address");
        for protocol in [TCP, UDP] {
            let before = dropped(&lab);
            writer.send(to, protocol, &ports(9999));
            wait_until("the rules to drop it", || dropped(&lab) == before + 1);
        }
    }
}

#[test]
fn destinations_that_lead_nowhere_are_dropped_with_redirect() {
    destinations_that_lead_nowhere_are_dropped(REDIRECT);
}

#[test]
fn destinations_that_lead_nowhere_are_dropped_with_tproxy() {
    destinations_that_lead_nowhere_are_dropped(TPROXY);
}
