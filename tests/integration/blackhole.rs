//! What the policy gives no way out: closed, counted, and never connected.

use std::io::Write;
use std::net::TcpListener;

use egret::config::{Action, Mode};

use crate::support::peer::{expect_end, read_to_reset};
use crate::support::{Proxy, Setup, eventually};

fn registry_only(action: Action) -> Setup {
    // The address decides at once: nothing waits for a first byte.
    let names = "enabled: false".to_owned();
    Setup { mode: Mode::RegistryOnly, action, names, destination_ip: true, ..Setup::default() }
}

fn assert_accounted(proxy: &Proxy, count: f64) {
    let cluster = ("destination_service_name", "BlackHoleCluster");
    let labels = [cluster, ("response_flags", "UH"), ("destination_ip", "127.0.0.1")];
    eventually("the close is counted", || {
        proxy.sum("istio_tcp_connections_closed_total", &labels) == count
    });
    proxy.is_quiet();
    assert_eq!(proxy.sum("istio_tcp_connections_opened_total", &labels), count);
    for absent in ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"] {
        assert!(proxy.samples(absent, &[cluster]).is_empty(), "{absent} has a blackhole series");
    }
    let reason = [("reason", "blackhole")];
    assert_eq!(proxy.sum("egret_connections_closed_total", &reason), count);
}

#[test]
fn close_sends_fin_even_to_a_client_that_has_spoken() {
    let proxy = Proxy::start(registry_only(Action::Close));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    for spoken in [0, 1, 10_000] {
        let mut client = proxy.connect(listener.local_addr().unwrap());
        client.write_all(&vec![1; spoken]).unwrap();
        expect_end(&mut client);
    }
    assert_accounted(&proxy, 3.0);
    let error = listener.accept().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "an upstream connection was made");
}

#[test]
fn reset_sends_rst() {
    let proxy = Proxy::start(registry_only(Action::Reset));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = proxy.connect(listener.local_addr().unwrap());
    assert_eq!(read_to_reset(&mut client), (true, 0));
    assert_accounted(&proxy, 1.0);
}

#[test]
fn a_client_that_never_closes_is_closed_after_the_linger_time() {
    let proxy = Proxy::start(registry_only(Action::Close));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = proxy.connect(listener.local_addr().unwrap());
    expect_end(&mut client);
    assert_accounted(&proxy, 1.0);
    drop(client);
}
