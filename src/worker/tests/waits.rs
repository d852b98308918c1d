//! What a connection waits for, and how long: each wait has its bound and its end.

use std::time::Duration;

use super::lab::{End, Lab, Server};
use crate::config::Mode;
use crate::metrics::CloseReason;

const ASKED: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A client whose first request is with its server.
fn asked(lab: &mut Lab) -> End {
    let mut client = lab.connect();
    client.send(ASKED);
    lab.settle();
    assert_eq!(lab.upstreams[0].end.received, ASKED);
    client
}

/// The same, and the response is with the client.
fn answered(lab: &mut Lab) -> End {
    let mut client = asked(lab);
    lab.upstreams[0].end.send(ANSWER);
    lab.settle();
    client.read();
    assert_eq!(client.received, ANSWER);
    client
}

#[test]
fn a_silent_connection_that_no_address_allows_waits_and_is_judged_by_its_name() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = lab.connect();
    lab.pass(60);
    assert_eq!(lab.phase(), "waiting");
    client.send(ASKED);
    lab.settle();
    assert_eq!(lab.upstreams[0].server, Server::A);
    assert_eq!(lab.upstreams[0].end.received, ASKED);
    lab.close(client);
}

#[test]
fn a_silent_connection_ends_when_an_idle_one_does() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = lab.connect();
    lab.later(Duration::from_secs(3595));
    assert_eq!(lab.phase(), "waiting");
    lab.pass(10);
    client.read();
    assert!(client.has_ended() && !client.was_reset && lab.is_empty());
    assert_eq!(lab.closed(CloseReason::Idle), 1);
}

#[test]
fn a_silent_connection_that_neither_address_nor_name_allows_ends_at_the_deadline() {
    let mut lab = Lab::new(Mode::RegistryOnly, true);
    let mut client = lab.connect();
    lab.pass(4);
    assert_eq!(lab.phase(), "waiting");
    lab.pass(3);
    client.read();
    assert!(client.has_ended() && !client.was_reset);
    assert_eq!((lab.closed(CloseReason::BlackHole), lab.upstreams.len()), (1, 0));
    lab.close(client);
}

#[test]
fn where_the_address_allows_it_the_server_may_speak_first() {
    let mut lab = Lab::new(Mode::AllowAny, false);
    let mut client = lab.connect();
    lab.pass(4);
    assert_eq!((lab.phase(), lab.upstreams.len()), ("waiting", 0));
    lab.pass(3);
    assert_eq!(lab.upstreams[0].server, Server::Destination);
    lab.upstreams[0].end.send(b"220 hello\r\n");
    lab.settle();
    client.read();
    assert_eq!(client.received, b"220 hello\r\n");
    lab.close(client);
}

#[test]
fn from_the_first_byte_to_a_known_protocol_the_deadline_counts() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = lab.connect();
    lab.pass(30);
    client.send(b"\x16");
    lab.pass(4);
    assert_eq!(lab.phase(), "recognising");
    // More of the same does not begin it anew.
    client.send(b"\x03");
    lab.pass(4);
    client.read();
    assert!(client.has_ended() && !client.was_reset);
    assert_eq!(lab.closed(CloseReason::BlackHole), 1);
    lab.close(client);
}

#[test]
fn half_a_head_is_answered_408_after_thirty_seconds_however_it_drips() {
    for behind in [false, true] {
        let mut lab = Lab::new(Mode::RegistryOnly, false);
        let mut client = if behind { answered(&mut lab) } else { lab.connect() };
        client.received.clear();
        client.send(b"GET / HTTP/1.1\r\nHost: a.exa");
        for _ in 0..9 {
            lab.pass(3);
            client.send(b"a");
        }
        client.read();
        assert!(client.received.is_empty(), "behind another: {behind}");
        lab.pass(6);
        client.read();
        let text = String::from_utf8_lossy(&client.received).into_owned();
        assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{text}");
        assert!(client.has_ended() && !client.was_reset);
        assert_eq!(lab.closed(CloseReason::HeadTimeout), 1);
        lab.close(client);
    }
}

#[test]
fn a_head_that_becomes_whole_in_time_passes() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = lab.connect();
    let (first, rest) = ASKED.split_at(20);
    client.send(first);
    lab.pass(25);
    client.send(rest);
    lab.settle();
    assert_eq!(lab.upstreams[0].end.received, ASKED);
    // The time is that of one head.
    lab.pass(25);
    assert_eq!(lab.closed(CloseReason::HeadTimeout), 0);
    lab.close(client);
}

#[test]
fn a_client_that_has_ended_behind_a_request_holds_its_slot_for_half_close_and_hears_a_reset() {
    // What the client has sent behind its request.
    let table: [&[u8]; 4] = [
        b"",
        ASKED,
        b"GET / HTTP/1.1\r\nHost: blocked.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nx\r\n\r\n",
    ];
    for behind in table {
        let mut lab = Lab::new(Mode::RegistryOnly, false);
        let mut client = asked(&mut lab);
        client.send(behind);
        client.finish();
        lab.pass(45);
        assert!(!lab.is_empty());
        lab.pass(10);
        client.read();
        assert!(lab.is_empty(), "{behind:?}");
        assert!(client.was_reset, "FIN would make the response look whole: {behind:?}");
        assert_eq!(lab.closed(CloseReason::HalfClose), 1);
    }
}

#[test]
fn behind_a_full_buffer_of_requests_a_client_is_not_waited_for_longer() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = asked(&mut lab);
    client.send(&ASKED.repeat(1_200));
    client.finish();
    lab.pass(45);
    assert!(!lab.is_empty());
    lab.pass(12);
    assert!(lab.is_empty());
}

#[test]
fn a_client_that_is_reset_behind_a_full_buffer_is_gone_at_once() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = asked(&mut lab);
    client.send(&ASKED.repeat(1_200));
    lab.pass(5);
    client.reset();
    lab.settle();
    assert!(lab.is_empty());
}

#[test]
fn a_drain_ends_in_peace_who_has_nothing_outstanding() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut idle = answered(&mut lab);
    lab.drain.begin(Duration::from_secs(20));
    lab.pass(2);
    idle.read();
    assert!(idle.has_ended() && !idle.was_reset && idle.received == ANSWER);
    lab.upstreams[0].end.read();
    assert!(lab.upstreams[0].end.has_ended() && !lab.upstreams[0].end.was_reset);
    lab.close(idle);
    assert_eq!(lab.closed(CloseReason::Drained), 1);
}

#[test]
fn a_drain_lets_a_response_end_and_then_the_connection() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut busy = asked(&mut lab);
    lab.drain.begin(Duration::from_secs(20));
    lab.pass(5);
    lab.upstreams[0].end.send(ANSWER);
    lab.pass(2);
    busy.read();
    assert!(busy.has_ended() && !busy.was_reset && busy.received == ANSWER);
    lab.close(busy);
}

#[test]
fn at_the_drains_deadline_a_raw_connection_ends_by_fin_if_nothing_is_on_its_way() {
    for outstanding in [false, true] {
        let mut lab = Lab::new(Mode::AllowAny, true);
        let mut client = lab.connect();
        client.send(b"\0raw");
        lab.settle();
        if outstanding {
            // More than all queues on the way take: it is held.
            lab.upstreams[0].end.fill();
        }
        lab.drain.begin(Duration::from_secs(5));
        lab.pass(4);
        assert!(!lab.is_empty());
        lab.pass(8);
        client.read();
        assert!(client.has_ended() && lab.is_empty());
        assert_eq!(client.was_reset, outstanding);
        assert_eq!(lab.closed(CloseReason::DrainDeadline), 1);
    }
}

#[test]
fn a_drain_ends_who_has_sent_nothing() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = lab.connect();
    lab.drain.begin(Duration::from_secs(20));
    lab.pass(2);
    client.read();
    assert!(client.has_ended() && !client.was_reset);
    lab.close(client);
}
