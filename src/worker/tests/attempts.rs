//! Endpoints that are dead: what a connection loses by them, and what is left of the attempts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};

use super::lab::{End, Lab, Server};

/// The time that an attempt has alone.
const ALONE: Duration = Duration::from_millis(250);

/// An address that answers no SYN: its accept queue is full.
pub(super) struct Dead {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Dead {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            queued.push(stream);
        }
        Self { listener, _queued: queued }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

/// An address that refuses.
fn refusing() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// The server that the connection has reached, if it has.
fn reached(lab: &mut Lab, client: &mut End) -> Option<Server> {
    client.send(b"ping");
    lab.settle();
    let [upstream] = lab.upstreams.as_slice() else { return None };
    assert_eq!(upstream.end.received, b"ping");
    Some(upstream.server)
}

#[test]
fn a_dead_endpoint_costs_one_connection_a_quarter_of_a_second() {
    let dead = Dead::new();
    let mut lab = Lab::with_endpoints(|[a, ..]| vec![dead.address(), a]);
    for round in 0..3 {
        // The round robin begins with either.
        let mut slow = 0;
        for _ in 0..6 {
            let mut client = lab.connect();
            if lab.upstreams.is_empty() {
                slow += 1;
                lab.wait(ALONE - Duration::from_millis(20));
                assert!(lab.upstreams.is_empty(), "the other one is tried too early");
                lab.wait(Duration::from_millis(20));
            }
            assert_eq!(reached(&mut lab, &mut client), Some(Server::A));
            drop(client);
            lab.wait(Duration::from_millis(1));
        }
        assert_eq!(slow, 1, "round {round}");
        // Then it is tried in its turn again.
        lab.wait(Duration::from_secs(31));
    }
    let client = lab.connect();
    lab.close(client);
}

#[test]
fn each_dead_endpoint_costs_its_time_and_one_that_refuses_none() {
    let dead = [Dead::new(), Dead::new(), Dead::new()];
    let [one, two, three] = dead.each_ref().map(Dead::address);
    for (others, quarters) in [
        (vec![], 0),
        (vec![refusing(), refusing(), refusing()], 0),
        (vec![one, two], 2),
        (vec![one, refusing(), two, three], 3),
    ] {
        let mut lab = Lab::with_endpoints(|[a, ..]| [others.clone(), vec![a]].concat());
        let mut client = lab.connect();
        for _ in 0..quarters {
            assert!(lab.upstreams.is_empty(), "too early with {others:?}");
            lab.wait(ALONE);
        }
        assert_eq!(reached(&mut lab, &mut client), Some(Server::A), "{others:?}");
        lab.close(client);
    }
}

#[test]
fn nothing_is_left_of_attempts_whose_connection_ends() {
    let dead = [Dead::new(), Dead::new(), Dead::new()];
    for quarters in 0..4 {
        let mut lab = Lab::with_endpoints(|_| dead.iter().map(Dead::address).collect());
        let client = lab.connect();
        for _ in 0..quarters {
            lab.wait(ALONE);
        }
        assert!(lab.upstreams.is_empty());
        lab.close(client);
    }
}

#[test]
fn endpoints_that_are_all_dead_end_the_connection_within_its_time() {
    let dead = [Dead::new(), Dead::new(), Dead::new()];
    let mut lab = Lab::with_endpoints(|_| dead.iter().map(Dead::address).collect());
    let _client = lab.connect();
    // Three quarters, and then `timeouts.connect` for the last two.
    for _ in 0..50 {
        lab.wait(ALONE);
    }
    assert!(lab.is_empty(), "it still waits");
}
