//! HTTP/2: frames and the ends of either side, between any two pieces.

use std::ops::Range;

use super::lab::{Lab, Server};
use super::seeds::for_seeds;
use crate::config::Mode;
use crate::http2::PREFACE;
use crate::http2::testing::{field, frame};
use crate::sys::sim::Draw;

const RUNS: u64 = 100;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a client sends on one connection.
#[derive(Debug, Default)]
struct Script {
    bytes: Vec<u8>,
    /// Header blocks, each with where its request may go.
    requests: Vec<(Range<usize>, Option<Server>)>,
    /// The acknowledgement of the server's SETTINGS.
    acknowledgement: Range<usize>,
}

#[test]
fn a_channel_that_connects_long_before_it_calls_is_judged_by_its_first_call() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = lab.connect();
    let mut sent = [PREFACE, &*frame(SETTINGS, 0, 0, &[])].concat();
    client.send(&sent);
    lab.pass(60);
    assert!(lab.upstreams.is_empty(), "nobody is asked for yet");
    let mut block = Vec::new();
    let fields =
        [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "a.example")];
    fields.iter().for_each(|(name, value)| self::field(&mut block, name, value));
    let call = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    client.send(&call);
    sent.extend(call);
    lab.settle();
    assert_eq!(lab.upstreams[0].server, Server::A);
    assert_eq!(lab.upstreams[0].end.received, sent);
    lab.close(client);
}

impl Script {
    fn draw(draw: &mut Draw, mode: Mode) -> Self {
        let mut script = Self { bytes: PREFACE.to_vec(), ..Self::default() };
        script.bytes.extend(frame(SETTINGS, 0, 0, &[]));
        let acknowledged_before = draw.below(4);
        let first_host = draw.pick(&["a.example", "b.example", "blocked.example"]);
        for number in 0..=draw.below(5) {
            if number == acknowledged_before {
                script.acknowledge();
            }
            let other = draw.pick(&["a.example", "b.example", "blocked.example"]);
            let host = if draw.one_in(4) { other } else { first_host };
            script.request(draw, mode, number, host);
            if draw.one_in(4) {
                script.bytes.extend(frame(PING, 0, 0, &[7; 8]));
            }
        }
        if script.acknowledgement.is_empty() {
            script.acknowledge();
        }
        script
    }

    fn acknowledge(&mut self) {
        let from = self.bytes.len();
        self.bytes.extend(frame(SETTINGS, ACK, 0, &[]));
        self.acknowledgement = from..self.bytes.len();
    }

    fn request(&mut self, draw: &mut Draw, mode: Mode, number: usize, host: &str) {
        let stream = u32::try_from(2 * number + 1).unwrap();
        let has_body = draw.one_in(2);
        let mut block = Vec::new();
        field(&mut block, ":method", if has_body { "POST" } else { "GET" });
        field(&mut block, ":scheme", "http");
        field(&mut block, ":path", &format!("/{number}"));
        field(&mut block, ":authority", host);
        let end_stream = if has_body { 0 } else { END_STREAM };
        let from = self.bytes.len();
        match draw.one_in(3) {
            true => {
                let (one, other) = block.split_at(draw.below(block.len()));
                self.bytes.extend(frame(HEADERS, end_stream, stream, one));
                self.bytes.extend(frame(CONTINUATION, END_HEADERS, stream, other));
            }
            false => {
                self.bytes.extend(frame(HEADERS, end_stream | END_HEADERS, stream, &block));
            }
        }
        let to = match (host, mode) {
            ("a.example", _) => Some(Server::A),
            ("b.example", _) => Some(Server::B),
            (_, Mode::AllowAny) => Some(Server::Destination),
            (_, Mode::RegistryOnly) => None,
        };
        self.requests.push((from..self.bytes.len(), to));
        if has_body {
            let body = vec![b'p'; draw.pick(&[1, 500, 16_000])];
            self.bytes.extend(frame(DATA, END_STREAM, stream, &body));
        }
    }

    /// The client's bytes as they are, and without the acknowledgement of SETTINGS, which does not
    /// pass if these were Egret's; each with where what is at `end` is then.
    fn ways(&self, end: usize) -> [(Vec<u8>, usize); 2] {
        let mut without = self.bytes.clone();
        without.drain(self.acknowledgement.clone());
        let is_behind = end > self.acknowledgement.start;
        let end_without = if is_behind { end - self.acknowledgement.len() } else { end };
        [(self.bytes.clone(), end), (without, end_without)]
    }

    /// Whether `server` may have received `received`: all up to a request that is not for it, and
    /// from there on what belongs to no stream.
    fn may_have(&self, received: &[u8], server: Server) -> bool {
        let forbidden = self.requests.iter().find(|(_, to)| *to != Some(server));
        let end = forbidden.map_or(self.bytes.len(), |(bytes, _)| bytes.start);
        let is_allowed = |(bytes, end): (Vec<u8>, usize)| {
            [&bytes[..end], &streamless(&bytes[end..])].concat().starts_with(received)
        };
        self.ways(end).into_iter().any(is_allowed)
    }

    /// Whether `received` ends within the first request: if the client has ended there, no name
    /// has come, and the address decides.
    fn ends_within_first(&self, received: &[u8]) -> bool {
        let is_within = |(bytes, end): (Vec<u8>, usize)| bytes[..end - 1].starts_with(received);
        self.ways(self.requests[0].0.end).into_iter().any(is_within)
    }
}

/// The frames among `frames` that belong to no stream.
fn streamless(mut frames: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Some(&[_, high, low, _, _, s0, s1, s2, s3]) = frames.first_chunk::<9>() {
        let (frame, rest) = frames.split_at(9 + usize::from(u16::from_be_bytes([high, low])));
        if [s0, s1, s2, s3] == [0; 4] {
            kept.extend_from_slice(frame);
        }
        frames = rest;
    }
    kept
}

fn run(lab: &mut Lab, mode: Mode, draw: &mut Draw, notes: &mut Vec<String>) {
    let script = Script::draw(draw, mode);
    notes.push(format!("{:?} {:?}", script.requests, script.acknowledgement));
    let mut client = lab.connect();
    let mut sent = 0;
    for _ in 0..6 + draw.below(20) {
        match draw.below(16) {
            0 if sent > 0 => {
                notes.push("the client ends".into());
                client.finish();
            }
            1 if draw.one_in(3) => {
                notes.push("the client resets".into());
                client.reset();
            }
            2..=9 if client.is_open && sent < script.bytes.len() => {
                let most = draw.pick(&[1, 20, 60, 200, 100_000]);
                let piece = (1 + draw.below(most)).min(script.bytes.len() - sent);
                notes.push(format!("the client sends {piece} bytes from {sent} on"));
                client.send(&script.bytes[sent..sent + piece]);
                sent += piece;
            }
            _ => serve(lab, draw, notes),
        }
        lab.settle();
        check(lab, &script, mode);
    }
    lab.close(client);
    check(lab, &script, mode);
}

/// The server does something: a whole frame, a part of one, or its end.
fn serve(lab: &mut Lab, draw: &mut Draw, notes: &mut Vec<String>) {
    let Some(upstream) = lab.upstreams.iter_mut().find(|upstream| upstream.end.is_open) else {
        return;
    };
    match draw.below(8) {
        0 => {
            notes.push("the server ends".into());
            upstream.end.finish();
        }
        1 => {
            notes.push("the server resets".into());
            upstream.end.reset();
        }
        2 => {
            notes.push("the server ends within a frame".into());
            let bytes = frame(DATA, 0, 1, &[b'z'; 300]);
            upstream.end.send(&bytes[..1 + draw.below(bytes.len() - 1)]);
            upstream.end.finish();
        }
        3 => upstream.end.send(&frame(SETTINGS, 0, 0, &[])),
        _ => {
            notes.push("the server answers".into());
            // :status 200 (RFC 7541, appendix A).
            upstream.end.send(&frame(HEADERS, END_HEADERS, 1, &[0x88]));
            upstream.end.send(&frame(DATA, END_STREAM, 1, b"hello"));
        }
    }
}

fn check(lab: &Lab, script: &Script, mode: Mode) {
    assert!(lab.upstreams.len() <= 1, "one upstream connection carries all: {:?}", lab.upstreams);
    for upstream in &lab.upstreams {
        let received = &upstream.end.received;
        let is_cut_short = mode == Mode::AllowAny
            && upstream.server == Server::Destination
            && script.ends_within_first(received);
        assert!(
            is_cut_short || script.may_have(received, upstream.server),
            "{:?} received {} foreign bytes: {:?}",
            upstream.server,
            received.len(),
            script.requests,
        );
    }
}

#[test]
fn no_stream_reaches_another_server_under_registry_only() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    for_seeds(RUNS, |draw, notes| run(&mut lab, Mode::RegistryOnly, draw, notes));
}

#[test]
fn no_stream_reaches_another_server_under_allow_any() {
    let mut lab = Lab::new(Mode::AllowAny, false);
    for_seeds(RUNS, |draw, notes| run(&mut lab, Mode::AllowAny, draw, notes));
}
