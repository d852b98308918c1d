//! Open connections when the policy changes, and when an operator ends some.

use super::lab::{End, Lab};
use crate::commands::ConnectionFilter;
use crate::config::{Mode, OpenConnections};
use crate::http2::PREFACE;
use crate::metrics::CloseReason;

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// More than one turn looks at.
const MANY: u64 = 1_200;

/// A client that has asked the host of this letter, and one that has been answered, too.
fn asked(lab: &mut Lab, letter: &str) -> End {
    let mut client = lab.connect_beside();
    client.send(format!("GET / HTTP/1.1\r\nHost: {letter}.example\r\n\r\n").as_bytes());
    lab.settle();
    client
}

fn answered(lab: &mut Lab, letter: &str) -> End {
    let client = asked(lab, letter);
    lab.upstreams.last_mut().unwrap().end.send(ANSWER);
    lab.settle();
    client
}

fn was_reset(end: &mut End) -> bool {
    end.read();
    end.was_reset
}

fn changed(lab: &Lab) -> u64 {
    lab.closed(CloseReason::PolicyChanged)
}

#[test]
fn http_whose_last_host_is_forbidden_ends_in_a_request_and_between_two() {
    for ask in [asked, answered] {
        let mut lab = Lab::new(Mode::RegistryOnly, false);
        let (mut of_a, mut of_b) = (ask(&mut lab, "a"), ask(&mut lab, "b"));
        lab.register_only(&["b"], OpenConnections::Close);
        lab.settle();
        assert!(was_reset(&mut of_a) && !was_reset(&mut of_b));
        assert!(lab.upstreams[0].end.was_reset && !lab.upstreams[1].end.has_ended());
        assert_eq!(changed(&lab), 1);
        lab.register_only(&[], OpenConnections::Close);
        lab.settle();
        assert!(was_reset(&mut of_b));
        assert_eq!(changed(&lab), 2);
        lab.close(of_b);
    }
}

#[test]
fn what_is_kept_is_not_looked_at_and_neither_is_it_when_only_addresses_change() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = answered(&mut lab, "a");
    lab.register_only(&[], OpenConnections::Keep);
    lab.settle();
    assert!(!was_reset(&mut client));
    lab.register_only(&["a"], OpenConnections::Close);
    lab.settle();
    lab.forget_all_addresses();
    lab.settle();
    assert!(!was_reset(&mut client));
    assert_eq!(changed(&lab), 0);
    lab.close(client);
}

#[test]
fn what_is_not_decided_waits_for_the_new_policy() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = lab.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a.exam");
    lab.settle();
    lab.register_only(&["b"], OpenConnections::Close);
    lab.settle();
    assert!(!was_reset(&mut client));
    client.send(b"ple\r\n\r\n");
    lab.settle();
    client.read();
    assert!(client.received.starts_with(b"HTTP/1.1 502"), "{:?}", client.received);
    assert_eq!(changed(&lab), 0);
    lab.close(client);
}

#[test]
fn a_passthrough_of_any_protocol_ends_when_only_what_is_registered_may_pass() {
    for first in [&b""[..], b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\nHost: c.example\r\n\r\n", PREFACE]
    {
        let mut lab = Lab::new(Mode::AllowAny, true);
        let mut client = lab.connect();
        client.send(first);
        lab.settle();
        lab.register_only(&["a"], OpenConnections::Close);
        lab.settle();
        assert!(was_reset(&mut client) && lab.upstreams[0].end.was_reset, "{first:?}");
        assert_eq!(changed(&lab), 1, "{first:?}");
        lab.close(client);
    }
}

/// Many connections that pass to where they meant to go.
fn many() -> (Lab, Vec<End>) {
    let mut lab = Lab::new(Mode::AllowAny, true);
    let mut begin = || {
        let mut client = lab.connect_beside();
        client.send(b"SSH-2.0-x\r\n");
        client
    };
    let clients = (0..MANY).map(|_| begin()).collect();
    lab.settle();
    (lab, clients)
}

#[test]
fn a_turn_ends_a_bounded_number() {
    let (mut lab, mut clients) = many();
    lab.register_only(&[], OpenConnections::Close);
    let mut turns = Vec::new();
    while changed(&lab) < MANY {
        let before = changed(&lab);
        lab.turn();
        turns.push(changed(&lab) - before);
    }
    assert_eq!(turns, [1_000, MANY - 1_000]);
    lab.settle();
    assert!(clients.iter_mut().all(was_reset));
    assert!(lab.is_empty());
}

#[test]
fn an_operator_ends_what_the_filter_takes_a_part_at_a_time() {
    let (mut lab, mut clients) = many();
    let of_others = ConnectionFilter { port: Some(1), ..ConnectionFilter::default() };
    let all = ConnectionFilter {
        source: Some("10.244.1.0/24".parse().unwrap()),
        service: Some("passthroughcluster".into()),
        ..ConnectionFilter::default()
    };
    for (filter, ended) in [(of_others, [0, 0]), (all, [1_000, MANY - 1_000])] {
        let first = lab.close_some(0, filter.clone());
        assert_eq!((first.closed, first.next), (ended[0], Some(1_000)));
        let mut next = first.next;
        let mut closed = 0;
        while let Some(from) = next {
            let page = lab.close_some(from, filter.clone());
            closed += page.closed;
            next = page.next;
        }
        assert_eq!(closed, ended[1]);
    }
    assert_eq!(lab.closed(CloseReason::ClosedByAdmin), MANY);
    lab.settle();
    assert!(clients.iter_mut().all(was_reset));
    assert!(lab.is_empty());
}

#[test]
fn an_operator_ends_by_the_name_that_was_shown_last() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let (mut of_a, mut of_b) = (answered(&mut lab, "a"), asked(&mut lab, "b"));
    let by_name = |name: &str| ConnectionFilter {
        name: Some(crate::sniff::Name::parse(name.as_bytes()).unwrap()),
        ..ConnectionFilter::default()
    };
    assert_eq!(lab.close_some(0, by_name("c.example")).closed, 0);
    assert_eq!(lab.close_some(0, by_name("b.example")).closed, 1);
    lab.settle();
    assert!(!was_reset(&mut of_a) && was_reset(&mut of_b));
    let by_service = ConnectionFilter { service: Some("a.example".into()), ..Default::default() };
    assert_eq!(lab.close_some(0, by_service).closed, 1);
    lab.settle();
    assert!(was_reset(&mut of_a));
    lab.close(of_a);
}
