//! Bytes, ends and resets through the relay, copied and spliced.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;

use crate::support::peer::{await_acknowledged, expect_end};
use crate::support::{Pattern, Proxy, Setup, eventually, reset, uninterrupted};

#[test]
fn bytes_pass_both_ways_whatever_their_number_and_pieces() {
    let proxy = Proxy::start(Setup::default());
    let mut sent = (0, 0);
    for (seed, (up, down, piece)) in [
        (0, 0, 1),
        (1, 1, 1),
        (100, 70_000, 7),
        (32_768, 32_769, 1448),
        (200_000, 3, 65_536),
        (5_000_000, 9_000_001, 100_000),
        (20_000_000, 1_000, 1_000_000),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut client, mut server) = proxy.pair();
        let seed = seed as u64;
        let far = thread::spawn(move || {
            let mut writer = server.try_clone().unwrap();
            let sender = thread::spawn(move || {
                Pattern::new(seed + 1000).send(&mut writer, down, piece);
                writer.shutdown(Shutdown::Write).unwrap();
            });
            Pattern::new(seed).expect(&mut server, up);
            expect_end(&mut server);
            sender.join().unwrap();
        });
        let mut writer = client.try_clone().unwrap();
        let sender = thread::spawn(move || {
            Pattern::new(seed).send(&mut writer, up, piece);
            writer.shutdown(Shutdown::Write).unwrap();
        });
        Pattern::new(seed + 1000).expect(&mut client, down);
        expect_end(&mut client);
        sender.join().unwrap();
        far.join().unwrap();
        sent = (sent.0 + up, sent.1 + down);
    }
    proxy.is_quiet();
    assert_eq!(proxy.sum("istio_tcp_received_bytes_total", &[]), sent.0 as f64);
    assert_eq!(proxy.sum("istio_tcp_sent_bytes_total", &[]), sent.1 as f64);
    let copied = proxy.sum("egret_copied_bytes_total", &[]);
    let spliced = proxy.sum("egret_spliced_bytes_total", &[]);
    assert_eq!(copied + spliced, (sent.0 + sent.1) as f64);
    assert!(spliced > 20_000_000.0, "bulk is spliced: {spliced} of {copied}");
    assert!(copied > 300_000.0, "what is not bulk is copied: {copied}");
}

#[test]
fn half_close_flushes_before_fin_and_keeps_the_other_direction_open() {
    const ANSWER: usize = 10 << 20;
    let proxy = Proxy::start(Setup::default());
    for first in ["client", "server"] {
        let (client, server) = proxy.pair();
        let (mut asks, mut answers) =
            if first == "client" { (client, server) } else { (server, client) };
        asks.write_all(b"question").unwrap();
        asks.shutdown(Shutdown::Write).unwrap();
        let far = thread::spawn(move || {
            let mut question = Vec::new();
            answers.read_to_end(&mut question).unwrap();
            assert_eq!(question, b"question");
            Pattern::new(3).send(&mut answers, ANSWER, 30_000);
        });
        Pattern::new(3).expect(&mut asks, ANSWER);
        expect_end(&mut asks);
        far.join().unwrap();
    }
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_connections_closed_total", &[("reason", "finished")]), 2.0);
}

#[test]
fn a_reset_becomes_a_reset_after_the_bytes_before_it() {
    let proxy = Proxy::start(Setup::default());
    // Who reads late leaves bytes unacknowledged in the proxy when the reset comes.
    let rounds = [(0, true), (1, true), (100_000, true), (10_000, false), (3_000_000, false)];
    for (size, reads_late) in rounds {
        for from_client in [true, false] {
            let (mut client, mut server) = proxy.pair();
            // A reset before the proxy has seen its connect succeed is a failed connect.
            Pattern::new(1).send(&mut client, 1, 1);
            Pattern::new(1).expect(&mut server, 1);
            let (mut dies, mut lives) =
                if from_client { (client, server) } else { (server, client) };
            if reads_late {
                setsockopt(&lives, RcvBuf, &8_192).unwrap();
            }
            let (begin, begins) = channel();
            let far = thread::spawn(move || {
                begins.recv().unwrap();
                let mut want = Pattern::new(9);
                let (mut got, mut wanted) = (vec![0; 65_536], vec![0; 65_536]);
                let mut total = 0;
                loop {
                    match uninterrupted(|| lives.read(&mut got)) {
                        Ok(0) => panic!("a reset looked like FIN after {total} of {size} bytes"),
                        Ok(count) => {
                            want.fill(&mut wanted[..count]);
                            assert!(got[..count] == wanted[..count]);
                            total += count;
                        }
                        Err(error) => break (error.kind(), total),
                    }
                }
            });
            if !reads_late {
                begin.send(()).unwrap();
            }
            Pattern::new(9).send(&mut dies, size, 50_000);
            // A reset throws away what the peer's own kernel has not sent yet.
            await_acknowledged(&dies);
            reset(dies);
            if reads_late {
                begin.send(()).unwrap();
            }
            let (kind, total) = far.join().unwrap();
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{size} bytes");
            assert_eq!(total, size, "late: {reads_late}");
        }
    }
    proxy.is_quiet();
    let closed = |reason| proxy.sum("egret_connections_closed_total", &[("reason", reason)]);
    assert_eq!((closed("downstream_reset"), closed("upstream_reset")), (5.0, 5.0));
    let flagged =
        |flags| proxy.sum("istio_tcp_connections_closed_total", &[("response_flags", flags)]);
    assert_eq!((flagged("DC"), flagged("UR")), (5.0, 5.0));
}

#[test]
fn a_reset_of_a_side_that_has_sent_fin_is_noticed() {
    let proxy = Proxy::start(Setup::default());
    let (client, mut server) = proxy.pair();
    client.shutdown(Shutdown::Write).unwrap();
    expect_end(&mut server);
    reset(client);
    proxy.is_quiet();
    let reason = [("reason", "downstream_reset")];
    assert_eq!(proxy.sum("egret_connections_closed_total", &reason), 1.0);
    let error = server.write_all(b"late").unwrap_err();
    let kind = error.kind();
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    assert!(matches!(kind, ConnectionReset | BrokenPipe), "{error}");
}

#[test]
fn a_reader_that_does_not_read_costs_little_and_stalls_nobody() {
    let proxy = Proxy::start(Setup::default());
    let stuck: Vec<_> = (0..50).map(|_| proxy.pair()).collect();
    for (client, _) in &stuck {
        client.set_nonblocking(true).unwrap();
        let chunk = vec![7; 1 << 20];
        eventually("the writer is stopped", || {
            loop {
                match (&*client).write(&chunk) {
                    Ok(count) => assert_ne!(count, 0),
                    Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
                }
            }
        });
    }
    let (mut client, mut server) = proxy.pair();
    for round in 0..1000_u32 {
        client.write_all(&round.to_le_bytes()).unwrap();
        let mut echo = [0; 4];
        server.read_exact(&mut echo).unwrap();
        assert_eq!(u32::from_le_bytes(echo), round);
    }
    drop((client, server, stuck));
    proxy.is_quiet();
}

#[test]
fn a_slow_reader_still_gets_what_was_sent_before_fin() {
    const SIZE: usize = 8 << 20;
    let proxy = Proxy::start(Setup::default());
    let (mut client, mut server) = proxy.pair();
    let writer = thread::spawn(move || {
        Pattern::new(5).send(&mut client, SIZE, 200_000);
        client.shutdown(Shutdown::Write).unwrap();
        client
    });
    let mut want = Pattern::new(5);
    for _ in 0..SIZE / 65_536 {
        want.expect(&mut server, 65_536);
        thread::yield_now();
    }
    expect_end(&mut server);
    drop((writer.join().unwrap(), server));
    proxy.is_quiet();
}

#[test]
fn connections_do_not_see_each_others_bytes_when_half_of_them_are_aborted() {
    let proxy = Proxy::start(Setup::default());
    let workers: Vec<_> = (0..8_u64)
        .map(|worker| {
            let connect = proxy.connector();
            thread::spawn(move || {
                for round in 0..40_u64 {
                    let (mut client, mut server) = connect.pair();
                    let seed = worker << 32 | round;
                    let aborts = round % 2 == 0;
                    let reader = thread::spawn(move || {
                        let mut want = Pattern::new(seed);
                        let (mut got, mut wanted) = (vec![0; 65_536], vec![0; 65_536]);
                        while let Ok(count @ 1..) = uninterrupted(|| server.read(&mut got)) {
                            want.fill(&mut wanted[..count]);
                            assert!(got[..count] == wanted[..count], "another's bytes");
                        }
                    });
                    Pattern::new(seed).send(&mut client, 900_000, 70_000);
                    if aborts {
                        reset(client)
                    } else {
                        drop(client)
                    }
                    reader.join().unwrap();
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    proxy.is_quiet();
}

#[test]
fn an_idle_pipe_goes_back_to_the_pool_and_the_connection_goes_on() {
    let proxy = Proxy::start(Setup::default());
    let (mut client, mut server) = proxy.pair();
    let mut want = Pattern::new(1);
    let mut source = Pattern::new(1);
    for _ in 0..2 {
        let mut writer = client.try_clone().unwrap();
        let mut sending = source.clone();
        let sender = thread::spawn(move || {
            sending.send(&mut writer, 4 << 20, 1 << 20);
            sending
        });
        want.expect(&mut server, 4 << 20);
        source = sender.join().unwrap();
        eventually("the pipe is put back", || proxy.sum("egret_pipes_in_use", &[]) == 0.0);
        source.send(&mut client, 10, 10);
        want.expect(&mut server, 10);
    }
    assert!(proxy.sum("egret_spliced_bytes_total", &[]) > 4e6);
    drop((client, server));
    proxy.is_quiet();
}

#[test]
fn bytes_that_wait_when_both_sides_have_sent_fin_are_passed_on() {
    const SIZE: usize = 10 << 20;
    let proxy = Proxy::start(Setup::default());
    for _ in 0..5 {
        let (mut client, mut server) = proxy.pair();
        server.shutdown(Shutdown::Write).unwrap();
        expect_end(&mut client);
        let writer = thread::spawn(move || {
            Pattern::new(8).send(&mut client, SIZE, 1 << 20);
            client.shutdown(Shutdown::Write).unwrap();
            client
        });
        Pattern::new(8).expect(&mut server, SIZE);
        expect_end(&mut server);
        drop(writer.join().unwrap());
    }
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_connections_closed_total", &[("reason", "finished")]), 5.0);
}

#[test]
fn an_urgent_byte_makes_no_splicing_half_spin() {
    const BULK: usize = 4 << 20;
    let proxy = Proxy::start(Setup::default());
    let (mut client, mut server) = proxy.pair();
    let sender = thread::spawn(move || {
        Pattern::new(1).send(&mut client, BULK, 1 << 20);
        client
    });
    Pattern::new(1).expect(&mut server, BULK);
    let mut client = sender.join().unwrap();
    let before = proxy.sum("egret_worker_turns_total", &[]);
    for _ in 0..20 {
        use std::os::fd::AsRawFd;
        let flags = nix::sys::socket::MsgFlags::MSG_OOB;
        nix::sys::socket::send(client.as_raw_fd(), b"!", flags).unwrap();
        Pattern::new(2).send(&mut client, 100, 100);
        Pattern::new(2).expect(&mut server, 100);
    }
    let turns = proxy.sum("egret_worker_turns_total", &[]) - before;
    assert!(turns < 2000.0, "{turns} turns");
    assert!(proxy.sum("egret_spliced_bytes_total", &[]) > 1e6);
    drop((client, server));
    proxy.is_quiet();
}

#[test]
fn the_death_of_a_sender_whose_receiver_does_not_read_is_noticed() {
    let proxy = Proxy::start(Setup::default());
    let (client, server) = proxy.pair();
    client.set_nonblocking(true).unwrap();
    let chunk = vec![7; 1 << 20];
    eventually("the writer is stopped", || {
        loop {
            match (&client).write(&chunk) {
                Ok(count) => assert_ne!(count, 0),
                Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    });
    reset(client);
    eventually("the reset is counted", || {
        proxy.sum("egret_connections_closed_total", &[("reason", "downstream_reset")]) == 1.0
    });
    drop(server);
    proxy.is_quiet();
}

#[test]
fn a_drain_ends_while_a_half_closed_peer_does_not_read() {
    let proxy = Proxy::start(Setup::default());
    let pairs: Vec<_> = (0..20).map(|_| proxy.pair()).collect();
    for (client, server) in &pairs {
        server.shutdown(Shutdown::Write).unwrap();
        client.set_nonblocking(true).unwrap();
        let chunk = vec![7; 1 << 20];
        while (&*client).write(&chunk).is_ok_and(|count| count > 0) {}
    }
    proxy.finish(Duration::from_millis(300));
}

#[test]
fn a_connection_that_was_still_for_long_is_parked_and_goes_on_both_ways() {
    let proxy = Proxy::start(Setup::default());
    let (mut client, mut server) = proxy.pair();
    let exchange = |from: &mut TcpStream, to: &mut TcpStream, bytes: usize| {
        Pattern::new(bytes as u64).send(from, bytes, 700);
        Pattern::new(bytes as u64).expect(to, bytes);
    };
    for round in 1..=2 {
        exchange(&mut client, &mut server, 100 * round);
        exchange(&mut server, &mut client, 3000 * round);
        let completions = || proxy.sum("egret_worker_completions_total", &[]);
        let before = completions();
        // Nothing but the end of its two receives completes while it is still.
        eventually("its receives were given up", || completions() >= before + 2.0);
    }
    // A FIN, too, ends the waiting.
    client.shutdown(Shutdown::Write).unwrap();
    expect_end(&mut server);
    exchange(&mut server, &mut client, 10);
    drop((client, server));
    proxy.is_quiet();
    assert_eq!(proxy.sum("egret_connections_closed_total", &[("reason", "finished")]), 1.0);
}

#[test]
fn a_piece_that_comes_while_the_one_before_is_sent_in_silence_waits_for_nothing_else() {
    const TRIES: usize = 21;
    let proxy = Proxy::start(Setup::default());
    let mut pairs = [proxy.pair(), proxy.pair()];
    let mut times: Vec<Duration> = (0..TRIES)
        .map(|_| {
            for (client, server) in &mut pairs {
                client.write_all(b"zero").unwrap();
                server.read_exact(&mut [0; 4]).unwrap();
            }
            // Two pieces of each connection come in one turn of the worker, the last of them
            // together, so that they are sent through the ring.
            proxy.faults.gather(4, 2);
            pairs[0].0.write_all(b"one").unwrap();
            eventually("it is gathered", || proxy.faults.gathering() == 1);
            pairs[1].0.write_all(b"one").unwrap();
            eventually("it is gathered", || proxy.faults.gathering() == 2);
            pairs[0].0.write_all(b"two").unwrap();
            pairs[1].0.write_all(b"two").unwrap();
            let began = Instant::now();
            proxy.faults.resume();
            for (_, server) in &mut pairs {
                let mut read = [0; 6];
                server.read_exact(&mut read).unwrap();
                assert_eq!(&read, b"onetwo");
            }
            began.elapsed()
        })
        .collect();
    times.sort();
    // Else a timer of the worker would end the wait, 31 ms after it began the last time.
    assert!(times[TRIES / 2] < Duration::from_millis(15), "{times:?}");
}

#[test]
fn small_pieces_to_a_reader_that_does_not_read_come_early_and_in_order() {
    const PIECE: usize = 1000;
    let proxy = Proxy::start(Setup::default());
    let (mut client, mut server) = proxy.pair();
    // More than the sockets between the two hold, in pieces that never ask for a pipe.
    let writer = {
        let mut client = client.try_clone().unwrap();
        thread::spawn(move || Pattern::new(4).send(&mut client, 40_000 * PIECE, PIECE))
    };
    let mut before = 0.0;
    eventually("nothing more fits between the two", || {
        let read = proxy.sum("istio_tcp_received_bytes_total", &[]);
        read > 0.0 && std::mem::replace(&mut before, read) == read
    });
    Pattern::new(5).send(&mut server, 100, 10);
    Pattern::new(5).expect(&mut client, 100);
    Pattern::new(4).expect(&mut server, 40_000 * PIECE);
    writer.join().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect_end(&mut server);
    drop((client, server));
    proxy.is_quiet();
    assert_eq!(
        proxy.sum("istio_tcp_received_bytes_total", &[]),
        proxy.sum("egret_copied_bytes_total", &[]) + proxy.sum("egret_spliced_bytes_total", &[])
            - 100.0
    );
}

#[test]
fn the_list_of_connections_counts_what_was_written_to_the_workload() {
    let proxy = Proxy::start(Setup::default());
    let (client, mut server) = proxy.pair();
    server.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    // Until nothing moves: the client does not read, so the proxy holds bytes that it has read.
    while uninterrupted(|| server.write(&[0; 65_536])).is_ok() {}
    let admin = proxy.app().addresses.control.admin;
    let listed = || {
        let (_, text) = proxy.get(admin, "/connections");
        let page: serde_json::Value = serde_json::from_str(&text).unwrap();
        page["connections"][0]["sentBytes"].as_f64().unwrap()
    };
    let sent = || proxy.sum("istio_tcp_sent_bytes_total", &[]);
    eventually("nothing moves", || sent() > 0.0 && sent() == listed());
    let read =
        proxy.sum("egret_copied_bytes_total", &[]) + proxy.sum("egret_spliced_bytes_total", &[]);
    assert!(listed() < read, "{} of {read} bytes", listed());
    reset(server);
    drop(client);
    proxy.is_quiet();
}
