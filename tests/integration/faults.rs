//! What the kernel may answer, made to happen.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use egret::sys::kernel::Errno;

use crate::support::peer::{expect_end, read_to_reset};
use crate::support::{Pattern, Proxy, Setup, eventually, uninterrupted};

#[test]
fn operations_that_must_be_repeated_change_no_byte() {
    let proxy = Proxy::start(Setup::default());
    proxy.faults.fail_one_in(3, &[Errno::EAGAIN, Errno::EINTR, Errno::ENOBUFS]);
    for seed in 0..10 {
        let (mut client, mut server) = proxy.pair();
        let sender = thread::spawn(move || {
            Pattern::new(seed).send(&mut client, 300_000, 3_000);
            client.shutdown(Shutdown::Write).unwrap();
            client
        });
        Pattern::new(seed).expect(&mut server, 300_000);
        expect_end(&mut server);
        drop(sender.join().unwrap());
    }
    assert!(proxy.faults.injected() > 50, "{} faults", proxy.faults.injected());
    proxy.is_quiet();
}

#[test]
fn a_failed_accept_costs_that_connection_and_no_other_and_no_spin() {
    let proxy = Proxy::start(Setup::default());
    let (mut client, mut server) = proxy.pair();
    for error in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::ECONNABORTED]
    {
        let before = proxy.sum("egret_worker_turns_total", &[]);
        proxy.faults.fail_accepts([error]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut lost = proxy.connect(listener.local_addr().unwrap());
        let mut byte = [0];
        assert!(matches!(uninterrupted(|| lost.read(&mut byte)), Ok(0) | Err(_)));
        let (mut next, mut peer) = proxy.pair();
        next.write_all(b"x").unwrap();
        peer.read_exact(&mut byte).unwrap();
        client.write_all(b"y").unwrap();
        server.read_exact(&mut byte).unwrap();
        let turns = proxy.sum("egret_worker_turns_total", &[]) - before;
        assert!(turns < 200.0, "{error}: {turns} turns");
    }
    assert_eq!(proxy.sum("egret_accepts_total", &[("result", "error")]), 5.0);
    drop((client, server));
    proxy.is_quiet();
}

#[test]
fn with_four_buffers_a_hundred_senders_all_make_progress() {
    let proxy = Proxy::start(Setup { buffers: Some(4), ..Setup::default() });
    let senders: Vec<_> = (0..100)
        .map(|seed| {
            let (mut client, mut server) = proxy.pair();
            let reader = thread::spawn(move || {
                Pattern::new(seed).expect(&mut server, 200_000);
                expect_end(&mut server);
            });
            thread::spawn(move || {
                Pattern::new(seed).send(&mut client, 200_000, 10_000);
                client.shutdown(Shutdown::Write).unwrap();
                reader.join().unwrap();
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    eventually("a receive found no buffer", || proxy.sum("egret_buffers_starved_total", &[]) > 0.0);
    proxy.is_quiet();
}

#[test]
fn a_reset_after_faults_is_still_a_reset() {
    let proxy = Proxy::start(Setup::default());
    proxy.faults.fail_one_in(2, &[Errno::EAGAIN]);
    let (mut client, mut server) = proxy.pair();
    Pattern::new(1).send(&mut client, 5000, 100);
    Pattern::new(1).expect(&mut server, 5000);
    crate::support::reset(client);
    assert_eq!(read_to_reset(&mut server), (true, 0));
    proxy.is_quiet();
}
