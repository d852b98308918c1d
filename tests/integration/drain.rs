//! The end of a proxy: nothing that was accepted, or could still be, is lost before the deadline.

use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::peer::{expect_end, read_to_reset};
use crate::support::{LONG, Pattern, Proxy, Setup, eventually, uninterrupted};

#[test]
fn open_connections_finish_and_then_the_proxy_ends() {
    let proxy = Proxy::start(Setup { workers: 2, ..Setup::default() });
    let (mut client, mut server) = proxy.pair();
    proxy.app().drain(LONG);
    eventually("it is not ready", || {
        proxy.get(proxy.app().addresses.control.health, "/healthz/ready").0 == 503
    });
    Pattern::new(1).send(&mut client, 100_000, 1000);
    Pattern::new(1).expect(&mut server, 100_000);
    drop(client);
    expect_end(&mut server);
    drop(server);
    let began = Instant::now();
    proxy.finish(LONG);
    assert!(began.elapsed() < LONG / 2, "it waited for the deadline");
}

#[test]
fn what_is_open_at_the_deadline_is_closed_and_reset_if_bytes_are_on_their_way() {
    let proxy = Proxy::start(Setup::default());
    let (mut client, mut server) = proxy.pair();
    let began = Instant::now();
    proxy.finish(Duration::from_millis(500));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500) && took < LONG / 2, "{took:?}");
    assert_eq!(read_to_reset(&mut client), (false, 0));
    assert_eq!(read_to_reset(&mut server), (false, 0));

    let proxy = Proxy::start(Setup::default());
    let (client, mut server) = proxy.pair();
    server.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while uninterrupted(|| server.write(&[0; 65_536])).is_ok() {}
    proxy.finish(Duration::from_millis(500));
    assert!(read_to_reset(&mut server).0, "the client has not read all of it");
    drop(client);
}

#[test]
fn no_connection_that_was_established_is_lost_by_a_drain_under_load() {
    let proxy = Proxy::start(Setup { workers: 2, ..Setup::default() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let destination = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                Pattern::new(1).expect(&mut stream, 1000);
                Pattern::new(2).send(&mut stream, 1000, 1000);
            });
        }
    });
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let connector = proxy.connector();
            thread::spawn(move || {
                let mut served = 0;
                // A connection that is not established is refused, or finds nobody: no loss.
                while let Some(mut client) = connector.try_connect(destination) {
                    Pattern::new(1).send(&mut client, 1000, 1000);
                    Pattern::new(2).expect(&mut client, 1000);
                    served += 1;
                }
                served
            })
        })
        .collect();
    let opened = "istio_tcp_connections_opened_total";
    eventually("the load is on", || proxy.sum(opened, &[]) > 500.0);
    proxy.finish(LONG);
    let served: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(served > 500, "{served}");
}
