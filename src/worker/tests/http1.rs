//! HTTP/1: requests, responses and the ends of either side, between any two pieces.

use std::ops::Range;

use super::lab::{Lab, Server, Upstream};
use super::seeds::for_seeds;
use crate::config::Mode;
use crate::sys::sim::Draw;

const RUNS: u64 = 400;

/// What a client sends on one connection.
#[derive(Debug, Default)]
struct Script {
    bytes: Vec<u8>,
    requests: Vec<Request>,
    /// Where the bytes of another protocol begin, if the last request asks for one.
    tail: Option<usize>,
}

#[derive(Debug)]
struct Request {
    bytes: Range<usize>,
    /// Where it may go; `None`: nowhere.
    to: Option<Server>,
    is_head: bool,
    upgrades: bool,
}

fn leads_to(host: &str, mode: Mode) -> Option<Server> {
    match (host, mode) {
        ("a.example", _) => Some(Server::A),
        ("b.example", _) => Some(Server::B),
        (_, Mode::AllowAny) => Some(Server::Destination),
        (_, Mode::RegistryOnly) => None,
    }
}

impl Script {
    fn draw(draw: &mut Draw, mode: Mode) -> Self {
        let mut script = Self::default();
        for number in 0..=draw.below(5) {
            let is_last = script.request(draw, mode, number);
            if is_last {
                break;
            }
        }
        script
    }

    /// Adds a request; whether nothing may come behind it as a request of its own.
    fn request(&mut self, draw: &mut Draw, mode: Mode, number: usize) -> bool {
        let host = draw.pick(&["a.example", "a.example", "b.example", "blocked.example"]);
        let method = draw.pick(&["GET", "GET", "POST", "HEAD"]);
        let start = self.bytes.len();
        let mut text = format!("{method} /{number} HTTP/1.1\r\nHost: {host}\r\n");
        let upgrades = draw.one_in(10);
        let is_malformed = draw.one_in(20);
        if upgrades {
            text += "Connection: Upgrade\r\nUpgrade: echo\r\n";
        }
        if is_malformed {
            text += "Host: a.example\r\n";
        }
        let body = draw.pick(&[0, 0, 1, 7, 300, 40_000]);
        let letter = ["p", "q", "r", "s", "t", "u"][number];
        match (method, draw.below(3)) {
            ("POST", 0) => {
                let chunk = letter.repeat(body.max(1));
                text += "Transfer-Encoding: chunked\r\n\r\n";
                text += &format!("{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len());
            }
            ("POST", _) => {
                text += &format!("Content-Length: {body}\r\n\r\n{}", letter.repeat(body));
            }
            _ => text += "\r\n",
        }
        self.bytes.extend_from_slice(text.as_bytes());
        // What cannot be judged goes where it meant to go, if it goes anywhere.
        let to = leads_to(if is_malformed { "malformed" } else { host }, mode);
        let bytes = start..self.bytes.len();
        self.requests.push(Request { bytes, to, is_head: method == "HEAD", upgrades });
        if upgrades && !is_malformed {
            self.tail = Some(self.bytes.len());
            // Bytes of the other protocol that would be a blocked request in this one.
            self.bytes.extend_from_slice(b"GET /tail HTTP/1.1\r\nHost: blocked.example\r\n\r\n");
            let to = leads_to("blocked.example", mode);
            let bytes = self.tail.unwrap()..self.bytes.len();
            self.requests.push(Request { bytes, to, is_head: false, upgrades: false });
        }
        is_malformed || upgrades
    }

    /// The first request of which `received` are the first bytes: there must be one, and all that
    /// follows must be for the same server, or behind an upgrade that this server has agreed to.
    fn origin_of(&self, received: &[u8], server: Server, agreed: bool) -> Option<usize> {
        self.requests.iter().position(|first| {
            let from = first.bytes.start;
            let until = from + received.len();
            let mut met = self
                .requests
                .iter()
                .filter(|request| request.bytes.start < until && request.bytes.end > from);
            let may_go = |request: &Request| {
                let is_tail = self.tail == Some(request.bytes.start);
                request.to == Some(server) || (is_tail && agreed)
            };
            self.bytes[from..].starts_with(received) && met.all(may_go)
        })
    }
}

/// How many requests have come whole, judged by what a server knows.
fn answerable(script: &Script, received: &[u8], server: Server) -> Vec<usize> {
    let Some(first) = script.origin_of(received, server, true) else { return Vec::new() };
    let until = script.requests[first].bytes.start + received.len();
    let whole = |request: &&Request| request.bytes.end <= until;
    let count = script.requests[first..].iter().take_while(whole).count();
    (first..first + count).collect()
}

/// What a server has done on one connection.
#[derive(Debug, Default)]
struct Served {
    answered: usize,
    agreed: bool,
}

fn answer(draw: &mut Draw, request: &Request) -> (String, bool) {
    let body = draw.pick(&[0, 2, 500, 40_000]);
    let content = "z".repeat(if request.is_head { 0 } else { body });
    if request.upgrades && draw.one_in(2) {
        return ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n".into(), true);
    }
    let text = match draw.below(8) {
        0 => format!("HTTP/1.1 200 OK\r\n\r\n{content}"),
        1 if !request.is_head => {
            let chunk = "y".repeat(body.max(1));
            let (size, head) = (chunk.len(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked");
            format!("{head}\r\n\r\n{size:x}\r\n{chunk}\r\n0\r\n\r\n")
        }
        2 => {
            let interim = "HTTP/1.1 100 Continue\r\n\r\n";
            format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n{content}")
        }
        3 => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
        _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n{content}"),
    };
    (text, false)
}

/// One connection, from its first byte until nothing is left of it.
fn run(lab: &mut Lab, mode: Mode, observed: bool, draw: &mut Draw, notes: &mut Vec<String>) {
    let script = Script::draw(draw, mode);
    notes.push(String::from_utf8_lossy(&script.bytes).chars().take(2_000).collect());
    let mut client = lab.connect();
    let mut served: Vec<Served> = Vec::new();
    served.resize_with(lab.upstreams.len(), Served::default);
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
            2..=7 if client.is_open && sent < script.bytes.len() => {
                let most = draw.pick(&[1, 20, 60, 200, 100_000]);
                let piece = (1 + draw.below(most)).min(script.bytes.len() - sent);
                notes.push(format!("the client sends {piece} bytes from {sent} on"));
                client.send(&script.bytes[sent..sent + piece]);
                sent += piece;
            }
            _ => serve(lab, &script, &mut served, draw, notes),
        }
        lab.settle();
        served.resize_with(lab.upstreams.len(), Served::default);
        check(lab, &script, &served, mode, observed);
    }
    lab.close(client);
    served.resize_with(lab.upstreams.len(), Served::default);
    check(lab, &script, &served, mode, observed);
}

/// One of the servers does something.
fn serve(
    lab: &mut Lab,
    script: &Script,
    served: &mut [Served],
    draw: &mut Draw,
    notes: &mut Vec<String>,
) {
    if lab.upstreams.is_empty() {
        return;
    }
    let index = draw.below(lab.upstreams.len());
    let upstream = &mut lab.upstreams[index];
    if !upstream.end.is_open {
        return;
    }
    let state = &mut served[index];
    let whole = answerable(script, &upstream.end.received, upstream.server);
    match draw.below(10) {
        0 => {
            notes.push(format!("server {index} ends"));
            upstream.end.finish();
        }
        1 => {
            notes.push(format!("server {index} resets"));
            upstream.end.reset();
        }
        2 if draw.one_in(3) => {
            notes.push(format!("server {index} speaks unasked"));
            upstream.end.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
        }
        _ if state.answered < whole.len() => {
            let request = &script.requests[whole[state.answered]];
            let (text, agreed) = answer(draw, request);
            let cut = if draw.one_in(4) { 1 + draw.below(text.len()) } else { text.len() };
            notes.push(format!("server {index} answers {cut} of {} bytes", text.len()));
            upstream.end.send(&text.as_bytes()[..cut]);
            state.answered += 1;
            if cut < text.len() {
                notes.push(format!("server {index} ends within its answer"));
                match draw.one_in(2) {
                    true => upstream.end.finish(),
                    false => upstream.end.reset(),
                }
            }
            state.agreed |= agreed;
        }
        _ => {}
    }
}

/// The client has ended within its first head, which names nobody: the address decides.
fn is_cut_short(script: &Script, upstream: &Upstream, mode: Mode) -> bool {
    let received = &upstream.end.received;
    let head = script.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    mode == Mode::AllowAny
        && upstream.server == Server::Destination
        && received.len() < head + 4
        && script.bytes.starts_with(received)
}

/// Each server has received nothing but what it may.
fn check(lab: &Lab, script: &Script, served: &[Served], mode: Mode, observed: bool) {
    let mut taken = Vec::new();
    for (upstream, served) in lab.upstreams.iter().zip(served) {
        let received = &upstream.end.received;
        let shown = String::from_utf8_lossy(&received[..received.len().min(300)]);
        if observed {
            assert_eq!(upstream.server, Server::Destination);
            assert!(script.bytes.starts_with(received), "{shown}");
            continue;
        }
        if received.is_empty() {
            continue;
        }
        if is_cut_short(script, upstream, mode) {
            continue;
        }
        let origin = script.origin_of(received, upstream.server, served.agreed);
        let Some(origin) = origin else {
            panic!("{:?} received {} foreign bytes: {shown}", upstream.server, received.len());
        };
        let from = script.requests[origin].bytes.start;
        taken.push(from..from + received.len());
    }
    taken.sort_by_key(|range| range.start);
    let twice = taken.windows(2).find(|pair| pair[0].end > pair[1].start);
    assert!(twice.is_none(), "bytes went to two connections: {twice:?}");
}

#[test]
fn no_byte_of_a_request_reaches_another_server_under_registry_only() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    for_seeds(RUNS, |draw, notes| run(&mut lab, Mode::RegistryOnly, false, draw, notes));
}

#[test]
fn no_byte_of_a_request_reaches_another_server_under_allow_any() {
    let mut lab = Lab::new(Mode::AllowAny, false);
    for_seeds(RUNS, |draw, notes| run(&mut lab, Mode::AllowAny, false, draw, notes));
}

#[test]
fn an_observed_connection_ends_as_its_peers_do() {
    let mut lab = Lab::new(Mode::AllowAny, true);
    for_seeds(RUNS / 4, |draw, notes| run(&mut lab, Mode::AllowAny, true, draw, notes));
}

/// A receive is in flight when the request that was carried is answered: it belongs to the half
/// that waits for nothing, so what it brings must be read on.
#[test]
fn a_lingering_connection_sees_the_end_of_a_client_that_pipelined() {
    let mut lab = Lab::new(Mode::RegistryOnly, false);
    let mut client = lab.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    client.send(b"POST / HTTP/1.1\r\nHost: blocked.example\r\nContent-Length: 9\r\n\r\n");
    lab.settle();
    lab.upstreams[0].end.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    lab.settle();
    assert!(!lab.is_empty(), "it lingers");
    client.send(b"some body");
    lab.settle();
    client.finish();
    lab.settle();
    assert!(lab.is_empty(), "the client has ended, and no time has passed");
}
