//! Names that a workload claims and Egret resolves: who waits, and where the bytes go.

use std::net::IpAddr;

use super::lab::{End, Lab, Server};
use crate::config::Mode;
use crate::metrics::{CloseReason, ResolvedClaim};
use crate::questions::Found;
use crate::sniff::testing::hello;

const NAME: &str = "a.wild.example";
const GET: &[u8] = b"GET /secret HTTP/1.1\r\nHost: a.wild.example\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// The preface, SETTINGS, and a GET of `/` from `a.wild.example`.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x13\x01\x05\0\0\0\x01\x82\x86\x84\x01\x0ea.wild.example";
const BOTH: [Mode; 2] = [Mode::RegistryOnly, Mode::AllowAny];

fn at(addresses: &[&str]) -> Found {
    let parsed: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Found::Addresses(parsed.into())
}

/// A client that has sent this, and waits.
fn waiting(lab: &mut Lab, bytes: &[u8]) -> End {
    let mut client = lab.connect();
    client.send(bytes);
    lab.settle();
    assert_eq!((lab.phase(), lab.upstreams.len()), ("resolving", 0));
    client
}

#[test]
fn what_a_name_is_claimed_for_goes_to_the_addresses_of_the_name_and_nowhere_else() {
    for mode in BOTH {
        for (protocol, bytes) in [("HTTP", GET), ("HTTP2", HTTP2), ("TLS", &hello(NAME))] {
            let mut lab = Lab::resolving(mode, protocol);
            let mut client = waiting(&mut lab, bytes);
            let question = lab.question().expect("it is asked for");
            assert_eq!(question.name.as_str(), "a.wild.example");
            assert_eq!(question.source, lab.source());
            assert!(lab.question().is_none(), "it is asked for once");
            lab.answer(question, at(&["127.0.0.1"]));
            assert_eq!(lab.upstreams.len(), 1);
            assert_eq!(lab.upstreams[0].server, Server::A);
            assert_eq!(lab.upstreams[0].end.received, bytes, "{protocol}");
            assert_eq!(lab.resolved(ResolvedClaim::Same), 1);
            lab.upstreams[0].end.send(b"answer");
            lab.settle();
            client.read();
            assert!(!client.was_reset);
            lab.close(client);
        }
    }
}

#[test]
fn a_name_at_another_address_than_the_workload_meant_is_counted() {
    // Nobody listens at the first one.
    let mut lab = Lab::resolving(Mode::RegistryOnly, "HTTP");
    let client = waiting(&mut lab, GET);
    let question = lab.question().unwrap();
    lab.answer(question, at(&["127.0.0.9"]));
    assert_eq!(lab.resolved(ResolvedClaim::Other), 1);
    assert_eq!(lab.closed(CloseReason::ConnectRefused), 0, "the 503 is on its way");
    assert!(lab.upstreams.is_empty());
    lab.close(client);
    // The next address is tried when one fails.
    let mut lab = Lab::resolving(Mode::RegistryOnly, "HTTP");
    let client = waiting(&mut lab, GET);
    let question = lab.question().unwrap();
    lab.answer(question, at(&["::2", "127.0.0.9", "127.0.0.1"]));
    assert_eq!(lab.upstreams[0].server, Server::A);
    lab.close(client);
}

#[test]
fn the_guard_of_upstream_addresses_judges_what_dns_says() {
    let mut lab = Lab::resolving(Mode::RegistryOnly, "HTTP");
    let mut client = waiting(&mut lab, GET);
    let question = lab.question().unwrap();
    lab.answer(question, at(&["169.254.169.254", "0.0.0.0", "::1"]));
    client.read();
    assert!(client.received.starts_with(b"HTTP/1.1 503 "), "{:?}", client.received);
    lab.close(client);
}

#[test]
fn a_name_that_does_not_resolve_is_told_at_once_or_at_the_deadline() {
    for (found, reason) in [
        (Some(Found::Nothing), CloseReason::NameUnresolved),
        (Some(Found::NoRoom), CloseReason::NameLimit),
        (None, CloseReason::NameUnresolved),
    ] {
        for (protocol, bytes, told) in [
            ("HTTP", GET, Some(&b"HTTP/1.1 503 "[..])),
            ("HTTP2", HTTP2, Some(b"\0\0\x06\x04")),
            ("TLS", &hello(NAME), None),
        ] {
            let mut lab = Lab::resolving(Mode::AllowAny, protocol);
            let mut client = waiting(&mut lab, bytes);
            let question = lab.question().unwrap();
            match &found {
                Some(found) => lab.answer(question, found.clone()),
                None => {
                    lab.pass(4);
                    assert_eq!(lab.phase(), "resolving");
                    lab.pass(2);
                }
            }
            lab.pass(1);
            client.read();
            match told {
                Some(told) => assert!(client.received.starts_with(told), "{:?}", client.received),
                None => assert!(client.was_reset && client.received.is_empty()),
            }
            assert!(lab.upstreams.is_empty());
            let unresolved = u64::from(reason == CloseReason::NameUnresolved);
            assert_eq!(lab.resolved(ResolvedClaim::None), unresolved);
            lab.close(client);
            assert_eq!(lab.closed(reason), 1, "{protocol}");
        }
    }
}

#[test]
fn an_answer_that_comes_too_late_changes_nothing() {
    let mut lab = Lab::resolving(Mode::AllowAny, "TLS");
    let mut client = waiting(&mut lab, &hello(NAME));
    let question = lab.question().unwrap();
    lab.pass(6);
    client.read();
    assert!(client.was_reset);
    // Another connection has the slot.
    let other = waiting(&mut lab, &hello(NAME));
    lab.answer(question, at(&["127.0.0.1"]));
    assert_eq!((lab.phase(), lab.upstreams.len()), ("resolving", 0));
    lab.close(other);
}

#[test]
fn a_workload_that_goes_while_it_waits_leaves_nothing_behind() {
    let mut lab = Lab::resolving(Mode::RegistryOnly, "HTTP");
    let mut client = waiting(&mut lab, GET);
    lab.pass(1);
    client.reset();
    lab.pass(1);
    assert!(lab.is_empty());
    let question = lab.question().unwrap();
    lab.answer(question, at(&["127.0.0.1"]));
    assert!(lab.upstreams.is_empty());
    lab.close(client);
}

#[test]
fn what_comes_while_a_name_is_awaited_passes_behind_its_request() {
    let mut lab = Lab::resolving(Mode::RegistryOnly, "HTTP");
    let post = b"POST / HTTP/1.1\r\nHost: a.wild.example\r\nContent-Length: 6\r\n\r\n";
    let mut client = waiting(&mut lab, post);
    for piece in [b"abc", b"def"] {
        client.send(piece);
        lab.settle();
    }
    let question = lab.question().unwrap();
    lab.answer(question, at(&["127.0.0.1"]));
    assert_eq!(lab.upstreams[0].end.received, [&post[..], b"abcdef"].concat());
    lab.close(client);
}

#[test]
fn each_name_on_a_connection_is_resolved_even_if_it_leads_to_the_same_address() {
    let mut lab = Lab::resolving(Mode::RegistryOnly, "HTTP");
    let mut client = waiting(&mut lab, GET);
    let question = lab.question().unwrap();
    lab.answer(question, at(&["127.0.0.1"]));
    lab.upstreams[0].end.send(OK);
    lab.settle();
    // The same name needs no other connection.
    client.send(GET);
    lab.settle();
    assert_eq!(lab.upstreams[0].end.received, GET.repeat(2));
    assert!(lab.question().is_none());
    lab.upstreams[0].end.send(OK);
    lab.settle();
    let other = b"GET / HTTP/1.1\r\nHost: b.wild.example\r\n\r\n";
    client.send(other);
    lab.settle();
    let question = lab.question().expect("another name is asked for");
    assert_eq!(question.name.as_str(), "b.wild.example");
    lab.answer(question, at(&["127.0.0.1"]));
    assert_eq!(lab.upstreams.len(), 2);
    assert_eq!(lab.upstreams[0].end.received, GET.repeat(2));
    assert_eq!(lab.upstreams[1].end.received, other);
    lab.close(client);
}
