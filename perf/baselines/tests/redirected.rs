//! Each baseline relays what netfilter redirects to it, whole and both ways.
//!
//! Needs root, or a user namespace (`scripts/lab.sh enter cargo test -p egret-baselines`): every
//! test runs on a thread in a network namespace of its own, in which connections to [`PORT`] are
//! redirected to the relay unless they carry its mark.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// Where clients connect, and where the server listens.
const PORT: u16 = 9000;
/// Redirected too, and nobody listens there.
const DEAD_PORT: u16 = 9001;
const RELAY_PORT: u16 = 15001;

const RULES: &str = "table ip baseline { chain output { type nat hook output priority -100; \
     tcp dport { 9000, 9001 } meta mark != 1337 redirect to :15001; }; }";

/// More than any socket buffer holds, so that both directions must move at the same time.
const TRANSFER_BYTES: usize = 32 << 20;

#[test]
fn monoio() {
    relays(env!("CARGO_BIN_EXE_relay-monoio"));
}

#[test]
fn tokio_uring() {
    relays(env!("CARGO_BIN_EXE_relay-tokio-uring"));
}

#[test]
fn tokio() {
    relays(env!("CARGO_BIN_EXE_relay-tokio"));
}

fn relays(program: &'static str) {
    let in_namespace = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root: run under scripts/lab.sh enter");
        run("ip", &["link", "set", "lo", "up"]);
        run("nft", &["--", RULES]);
        let relay = Relay::start(program);
        let open_before = relay.descriptors();
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).unwrap();

        bytes_pass_both_ways_at_once(&server);
        the_other_half_lives_on_after_a_half_close(&server);
        a_client_that_goes_away_ends_the_servers_side(&server);
        what_leads_nowhere_is_closed(DEAD_PORT);
        // Not redirected: connecting there would come back for ever.
        what_leads_nowhere_is_closed(RELAY_PORT);

        let deadline = Instant::now() + Duration::from_secs(5);
        while relay.descriptors() != open_before {
            let now = relay.descriptors();
            assert!(Instant::now() < deadline, "{open_before} descriptors, then {now}");
            thread::sleep(Duration::from_millis(10));
        }
    };
    thread::spawn(in_namespace).join().unwrap();
}

fn bytes_pass_both_ways_at_once(server: &TcpListener) {
    let (client, served) = connect(server);
    let mut readers = Vec::new();
    for (end, seed) in [(&client, 1), (&served, 2)] {
        let (mut to, mut from) = (end.try_clone().unwrap(), end.try_clone().unwrap());
        thread::spawn(move || {
            to.write_all(&pattern(seed)).unwrap();
            to.shutdown(Shutdown::Write).unwrap();
        });
        let other_seed = 3 - seed;
        readers.push(thread::spawn(move || {
            let mut received = Vec::new();
            from.read_to_end(&mut received).unwrap();
            assert!(received == pattern(other_seed), "{} bytes, not the same", received.len());
        }));
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

fn the_other_half_lives_on_after_a_half_close(server: &TcpListener) {
    let (mut client, mut served) = connect(server);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    served.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"question");
    served.write_all(b"answer").unwrap();
    drop(served);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"answer");
}

fn a_client_that_goes_away_ends_the_servers_side(server: &TcpListener) {
    let (client, mut served) = connect(server);
    // Unread bytes: closing now resets.
    served.write_all(b"unread").unwrap();
    client.peek(&mut [0; 1]).unwrap();
    drop(client);
    let mut end = [0; 1];
    assert!(matches!(served.read(&mut end), Ok(0) | Err(_)));
    // Whether by FIN or by RST, nobody reads any more: writing fails within a round trip.
    let deadline = Instant::now() + Duration::from_secs(5);
    while served.write(b"more").is_ok() {
        assert!(Instant::now() < deadline, "the server's side is still open");
        thread::sleep(Duration::from_millis(1));
    }
}

fn what_leads_nowhere_is_closed(port: u16) {
    let mut client = patient(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
    let ended = matches!(client.read(&mut [0; 1]), Ok(0))
        || client.take_error().unwrap().is_some()
        || client.peer_addr().is_err();
    assert!(ended, "a connection to {port} is not closed");
}

/// A redirected connection: the client's end, and the server's.
fn connect(server: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).unwrap();
    let (served, from) = server.accept().unwrap();
    assert_ne!(from, client.local_addr().unwrap(), "the relay was passed by");
    (patient(client), patient(served))
}

/// Nothing may hang.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// A xorshift sequence (Marsaglia, 2003).
fn pattern(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(TRANSFER_BYTES);
    while bytes.len() < TRANSFER_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

struct Relay(Child);

impl Relay {
    fn start(program: &str) -> Self {
        let port = RELAY_PORT.to_string();
        let mut child = Command::new(program).arg(port).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let relay = Self(child);
        // One connection, so that everything it opens once is open.
        what_leads_nowhere_is_closed(RELAY_PORT);
        relay
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0.id())).unwrap().count()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
