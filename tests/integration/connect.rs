//! Upstream connections that are not made, and the times that bound a connection.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::peer::{expect_end, read_to_reset};
use crate::support::{Proxy, Setup, eventually, nobody, reset};

/// A loopback address that answers nothing: a listener whose queue is full drops further SYNs.
pub(crate) struct Silent {
    pub(crate) address: SocketAddr,
    _listener: std::os::fd::OwnedFd,
    _queued: Vec<std::net::TcpStream>,
}

impl Silent {
    pub(crate) fn new() -> Self {
        use nix::sys::socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen,
            socket,
        };
        use std::os::fd::AsRawFd;
        let family = AddressFamily::Inet;
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&fd, Backlog::new(0).unwrap()).unwrap();
        let local: SockaddrIn = getsockname(fd.as_raw_fd()).unwrap();
        let address = SocketAddr::from((local.ip(), local.port()));
        let short = Duration::from_millis(100);
        let mut queued = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, short) {
            queued.push(stream);
            assert!(queued.len() < 100, "the queue never filled");
        }
        Self { address, _listener: fd, _queued: queued }
    }
}

fn failed(proxy: &Proxy, reason: &str) -> f64 {
    let flags = [("response_flags", "UF,URX")];
    let counted = proxy.sum("egret_connections_closed_total", &[("reason", reason)]);
    for metric in ["closed", "opened"] {
        let metric = format!("istio_tcp_connections_{metric}_total");
        assert_eq!(proxy.sum(&metric, &flags), counted);
        assert_eq!(proxy.sum(&metric, &[]), counted);
    }
    counted
}

#[test]
fn a_refused_connect_resets_the_downstream_at_once() {
    let proxy = Proxy::start(Setup::default());
    let closed = nobody();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(read_to_reset(&mut proxy.connect(closed)), (true, 0));
    }
    // 10 ms each; one slow turn of a busy machine is allowed for.
    assert!(began.elapsed() < Duration::from_millis(20 * 10 + 500), "{:?}", began.elapsed());
    eventually("20 are counted", || failed(&proxy, "connect_refused") == 20.0);
    proxy.is_quiet();
}

#[test]
fn an_unreachable_destination_resets_the_downstream() {
    let proxy = Proxy::start(Setup { upstream_allow: "255.255.255.255", ..Setup::default() });
    // The limited broadcast address: connect(2) fails with ENETUNREACH for TCP.
    let nowhere = SocketAddr::from(([255, 255, 255, 255], 80));
    assert_eq!(read_to_reset(&mut proxy.connect(nowhere)), (true, 0));
    eventually("it is counted", || failed(&proxy, "connect_unreachable") == 1.0);
    proxy.is_quiet();
}

#[test]
fn a_silent_destination_is_given_up_at_the_connect_timeout() {
    let connect = Duration::from_millis(600);
    let proxy = Proxy::start(Setup { connect, ..Setup::default() });
    let silent = Silent::new();
    let began = Instant::now();
    assert_eq!(read_to_reset(&mut proxy.connect(silent.address)), (true, 0));
    let took = began.elapsed();
    assert!(took >= connect && took < connect * 2, "{took:?}");
    eventually("it is counted", || failed(&proxy, "connect_timeout") == 1.0);
    proxy.is_quiet();
}

#[test]
fn a_client_that_is_reset_while_connecting_frees_its_slot() {
    let connect = Duration::from_secs(60);
    let proxy = Proxy::start(Setup { connect, ..Setup::default() });
    let silent = Silent::new();
    let client = proxy.connect(silent.address);
    eventually("it is connecting", || proxy.sum("egret_connections_active", &[]) == 1.0);
    reset(client);
    proxy.is_quiet();
    let reason = [("reason", "downstream_reset")];
    assert_eq!(proxy.sum("egret_connections_closed_total", &reason), 1.0);
}

#[test]
fn an_idle_connection_is_closed_on_both_sides() {
    let idle = Duration::from_millis(400);
    let proxy = Proxy::start(Setup { idle, ..Setup::default() });
    let began = Instant::now();
    let (mut client, mut server) = proxy.pair();
    expect_end(&mut client);
    expect_end(&mut server);
    assert!(began.elapsed() >= idle);
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_connections_closed_total", &[("reason", "idle")]), 1.0);
}

#[test]
fn a_half_closed_connection_that_moves_nothing_is_reset() {
    let half_close = Duration::from_millis(400);
    let proxy = Proxy::start(Setup { half_close, ..Setup::default() });
    let (mut client, mut server) = proxy.pair();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    expect_end(&mut server);
    // FIN would make what the server has sent look whole.
    assert_eq!(read_to_reset(&mut client), (true, 0));
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_connections_closed_total", &[("reason", "half_close")]), 1.0);
}

#[test]
fn over_the_connection_limit_the_downstream_is_reset_and_the_others_go_on() {
    let proxy = Proxy::start(Setup { connections: 3, ..Setup::default() });
    let open: Vec<_> = (0..3).map(|_| proxy.pair()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut refused = proxy.connect(listener.local_addr().unwrap());
    assert_eq!(read_to_reset(&mut refused), (true, 0));
    let flags = [("response_flags", "UO")];
    assert_eq!(proxy.sum("istio_tcp_connections_closed_total", &flags), 1.0);
    for (mut client, mut server) in open {
        crate::support::Pattern::new(1).send(&mut client, 1000, 100);
        crate::support::Pattern::new(1).expect(&mut server, 1000);
    }
    proxy.is_quiet();
    let (client, server) = proxy.pair();
    drop((client, server));
    proxy.is_quiet();
}

#[test]
fn a_connection_that_was_not_redirected_is_refused() {
    let proxy = Proxy::start(Setup::default());
    let mut direct = std::net::TcpStream::connect(proxy.address()).unwrap();
    assert_eq!(read_to_reset(&mut direct), (true, 0));
    assert_eq!(proxy.sum("egret_self_calls_total", &[]), 1.0);
    let samples = proxy.samples("istio_tcp_connections_closed_total", &[]);
    assert!(samples.is_empty(), "{samples:?}");
}

#[test]
fn own_addresses_and_ports_are_refused_and_a_loop_ends_at_its_second_turn() {
    let proxy = Proxy::start(Setup::default());
    let control = &proxy.app().addresses.control;
    let own = [proxy.address(), control.admin, control.metrics, control.health];
    for destination in own {
        for ip in ["127.0.0.1", "127.8.9.10", "::1"] {
            let destination = SocketAddr::new(ip.parse().unwrap(), destination.port());
            assert_eq!(read_to_reset(&mut proxy.connect(destination)), (true, 0));
        }
    }
    assert_eq!(proxy.sum("egret_self_calls_total", &[]), 12.0);
    proxy.is_quiet();
}
