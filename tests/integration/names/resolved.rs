//! Names that a workload claims, at whatever address, and that Egret resolves: the bytes go to the
//! servers of the name.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use egret::config::Mode;

use super::http2::{PREFACE, SETTINGS, get};
use super::read_exactly;
use crate::support::dns::{DnsServer, Say};
use crate::support::peer::read_to_reset;
use crate::support::tls::hello;
use crate::support::{LONG, Proxy, Setup, eventually};

const BOTH: [Mode; 2] = [Mode::RegistryOnly, Mode::AllowAny];
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// Two servers at the same port: where the workload means to go, and where the names lead.
struct Servers {
    own: TcpListener,
    named: TcpListener,
    dns: DnsServer,
}

impl Servers {
    fn start() -> Self {
        let (own, named) = loop {
            let own = TcpListener::bind("127.0.0.3:0").unwrap();
            // The port may be taken at the other address.
            if let Ok(named) = TcpListener::bind(("127.0.0.4", own.local_addr().unwrap().port())) {
                break (own, named);
            }
        };
        own.set_nonblocking(true).unwrap();
        named.set_nonblocking(true).unwrap();
        let dns = DnsServer::start();
        for name in ["exact.example", "a.wild.example", "b.wild.example"] {
            dns.say_addresses(name, &["127.0.0.4"]);
        }
        Self { own, named, dns }
    }

    fn own_address(&self) -> SocketAddr {
        self.own.local_addr().unwrap()
    }

    /// `exact.example` has resolution NONE, `*.wild.example` DYNAMIC_DNS.
    fn setup(&self, mode: Mode, protocol: &str, names: &str) -> Setup {
        let port = self.own_address().port();
        let entry = |name: &str, host: &str, resolution: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                 metadata: {{ name: {name}, namespace: shop }}\nspec:\n  hosts: ['{host}']\n  \
                 ports: [{{ number: {port}, name: main, protocol: {protocol} }}]\n  \
                 resolution: {resolution}\n"
            )
        };
        let exact = entry("exact", "exact.example", "NONE");
        Setup {
            mode,
            registry: exact + &entry("wild", "*.wild.example", "DYNAMIC_DNS"),
            names: names.to_owned(),
            dns_servers: vec![self.dns.address],
            ..Setup::default()
        }
    }

    fn proxy(&self, mode: Mode, protocol: &str, names: &str) -> Proxy {
        Proxy::start(self.setup(mode, protocol, names))
    }

    /// A connection to where the names lead.
    fn accept(&self) -> TcpStream {
        let mut accepted = None;
        eventually("a connection comes", || {
            accepted = self.named.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    fn nobody_came_to_the_workloads_own(&self) {
        let error = self.own.accept().expect_err("bytes went where the workload wanted");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}

fn request(host: &str) -> Vec<u8> {
    format!("GET /secret HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

fn claims(proxy: &Proxy, destination: &str) -> f64 {
    proxy.sum("egret_resolved_claims_total", &[("destination", destination)])
}

#[test]
fn what_is_claimed_goes_where_the_name_leads_in_every_protocol() {
    for mode in BOTH {
        for host in ["exact.example", "a.wild.example"] {
            let http2 = [PREFACE, &SETTINGS, &get(1, host)].concat();
            for (protocol, sent) in
                [("HTTP", request(host)), ("HTTP2", http2), ("TLS", hello(host))]
            {
                let servers = Servers::start();
                let proxy = servers.proxy(mode, protocol, "unverified: resolve");
                let mut client = proxy.connect(servers.own_address());
                client.write_all(&sent).unwrap();
                let mut upstream = servers.accept();
                read_exactly(&mut upstream, &sent);
                upstream.write_all(b"answer").unwrap();
                drop(upstream);
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).unwrap();
                assert!(answer.ends_with(b"answer"), "{protocol} {host}: {answer:?}");
                servers.nobody_came_to_the_workloads_own();
                assert_eq!((claims(&proxy, "other"), claims(&proxy, "same")), (1.0, 0.0));
                assert_eq!(proxy.sum("egret_unverified_names_total", &[]), 0.0);
                drop(client);
                proxy.is_quiet();
            }
        }
    }
}

#[test]
fn the_address_that_the_workload_means_is_taken_if_it_is_one_of_the_name() {
    let servers = Servers::start();
    let both = ["127.0.0.4", "127.0.0.3"].map(|text| text.parse().unwrap()).to_vec();
    servers.dns.say("a.wild.example", Say::Addresses(both, 60));
    let proxy = servers.proxy(Mode::RegistryOnly, "HTTP", "unverified: resolve");
    for round in 1..=4_u8 {
        let mut client = proxy.connect(servers.own_address());
        client.write_all(&request("a.wild.example")).unwrap();
        eventually("it is there", || servers.own.accept().is_ok());
        assert_eq!(claims(&proxy, "same"), f64::from(round));
    }
    assert_eq!(claims(&proxy, "other"), 0.0);
}

#[test]
fn dynamic_dns_is_resolved_whatever_else_is_allowed() {
    for names in ["unverified: allow", "unverified: log", "unverified: block"] {
        let servers = Servers::start();
        let proxy = servers.proxy(Mode::RegistryOnly, "HTTP", names);
        let mut client = proxy.connect(servers.own_address());
        client.write_all(&request("a.wild.example")).unwrap();
        let mut upstream = servers.accept();
        read_exactly(&mut upstream, &request("a.wild.example"));
        servers.nobody_came_to_the_workloads_own();
        // The other entry's name is only a claim.
        let mut client = proxy.connect(servers.own_address());
        client.write_all(&request("exact.example")).unwrap();
        if names == "unverified: block" {
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        } else {
            eventually("it goes where the workload wants", || servers.own.accept().is_ok());
        }
        assert_eq!(proxy.sum("egret_unverified_names_total", &[]), 1.0);
    }
}

#[test]
fn each_request_of_a_connection_goes_where_its_own_name_leads() {
    let servers = Servers::start();
    let proxy = servers.proxy(Mode::RegistryOnly, "HTTP", "unverified: resolve");
    let mut client = proxy.connect(servers.own_address());
    // An upstream that ends would end the client's connection, too.
    let mut upstreams = Vec::new();
    for host in ["a.wild.example", "b.wild.example", "exact.example"] {
        for is_first in [true, false] {
            client.write_all(&request(host)).unwrap();
            if is_first {
                upstreams.push(servers.accept());
            }
            let upstream = upstreams.last_mut().unwrap();
            read_exactly(upstream, &request(host));
            upstream.write_all(OK).unwrap();
            read_exactly(&mut client, OK);
        }
    }
    client.write_all(&request("blocked.example")).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    servers.nobody_came_to_the_workloads_own();
    drop(client);
    proxy.is_quiet();
}

#[test]
fn a_name_without_an_address_is_answered_503_and_flagged() {
    let servers = Servers::start();
    let proxy = servers.proxy(Mode::AllowAny, "HTTP", "unverified: resolve, deadline: 300ms");
    servers.dns.say("silent.wild.example", Say::Nothing);
    for (host, patience) in [
        ("nowhere.wild.example", Duration::ZERO),
        ("silent.wild.example", Duration::from_millis(300)),
    ] {
        let mut client = proxy.connect(servers.own_address());
        let begun = Instant::now();
        client.write_all(&request(host)).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(begun.elapsed() >= patience, "{host}: {:?}", begun.elapsed());
        let labels = [("destination_service", host), ("response_flags", "DF")];
        eventually("it is counted", || proxy.sum("istio_requests_total", &labels) == 1.0);
    }
    assert_eq!(claims(&proxy, "none"), 2.0);
    servers.nobody_came_to_the_workloads_own();
    let proxy = servers.proxy(Mode::AllowAny, "TLS", "unverified: resolve");
    let mut client = proxy.connect(servers.own_address());
    client.write_all(&hello("nowhere.wild.example")).unwrap();
    assert_eq!(read_to_reset(&mut client), (true, 0));
    let reason = [("reason", "name_unresolved")];
    eventually("it is counted", || proxy.sum("egret_connections_closed_total", &reason) == 1.0);
    servers.nobody_came_to_the_workloads_own();
}

#[test]
fn what_is_not_registered_goes_where_it_meant_to_go() {
    let servers = Servers::start();
    let proxy = servers.proxy(Mode::AllowAny, "HTTP", "unverified: resolve");
    let mut client = proxy.connect(servers.own_address());
    client.write_all(&request("other.example")).unwrap();
    eventually("it is there", || servers.own.accept().is_ok());
    assert_eq!(servers.dns.asked("other.example", hickory_resolver::proto::rr::RecordType::A), 0);
}

#[test]
fn a_reload_changes_what_the_next_request_of_a_connection_may_do() {
    let servers = Servers::start();
    let proxy = servers.proxy(Mode::RegistryOnly, "HTTP", "unverified: allow");
    let mut client = proxy.connect(servers.own_address());
    client.write_all(&request("exact.example")).unwrap();
    let mut own = None;
    eventually("it goes where the workload wants", || {
        own = servers.own.accept().ok();
        own.is_some()
    });
    let (mut own, _) = own.unwrap();
    own.set_nonblocking(false).unwrap();
    read_exactly(&mut own, &request("exact.example"));
    own.write_all(OK).unwrap();
    read_exactly(&mut client, OK);
    proxy.reload(&servers.setup(Mode::RegistryOnly, "HTTP", "unverified: resolve"));
    client.write_all(&request("exact.example")).unwrap();
    let mut upstream = servers.accept();
    read_exactly(&mut upstream, &request("exact.example"));
    let mut rest = Vec::new();
    own.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"", "nothing more went to the workload's own server");
}

#[test]
fn many_connections_that_claim_many_names_are_served_beside_one_that_asks_in_vain() {
    let servers = Servers::start();
    servers.dns.say("silent.wild.example", Say::Nothing);
    let hosts: Vec<String> = (0..200).map(|n| format!("n{n}.wild.example")).collect();
    for host in &hosts {
        let address: Vec<IpAddr> = vec!["127.0.0.4".parse().unwrap()];
        servers.dns.say(host, Say::Addresses(address, 60));
    }
    let proxy = servers.proxy(Mode::RegistryOnly, "HTTP", "unverified: resolve");
    let mut silent = proxy.connect(servers.own_address());
    silent.write_all(&request("silent.wild.example")).unwrap();
    let mut clients: Vec<_> =
        hosts.iter().map(|host| (host, proxy.connect(servers.own_address()))).collect();
    for (host, client) in &mut clients {
        client.write_all(&request(host)).unwrap();
    }
    for _ in &hosts {
        let mut upstream = servers.accept();
        let mut head = vec![0; 16];
        upstream.read_exact(&mut head).unwrap();
        upstream.write_all(OK).unwrap();
    }
    for (_, client) in &mut clients {
        read_exactly(client, OK);
    }
    assert_eq!(proxy.sum("egret_dns_claimed_names", &[]), 201.0);
    servers.nobody_came_to_the_workloads_own();
}
