//! A server of the web: it reads requests, which it knows, and answers each as its plan says. It
//! takes HTTP/1, HTTP/2 by prior knowledge, and what a request of HTTP/1 switches to.

use std::collections::HashMap;
use std::net::SocketAddr;

use egret::sys::sim::{EndId, Micros, Net};

use crate::client::{Actor, Heard};
use crate::http2::{PREFACE, Streams};
use crate::plan::{Client, End, Framing, Plan, Protocol, Request, Speech, Switch};
use crate::script::{Script, chunked, pattern};

/// What was sent in response to a request: of which client, which one.
pub(crate) type Responses = HashMap<(usize, usize), Vec<u8>>;

/// What a server reads.
#[derive(Debug)]
pub(crate) enum Reads {
    Http1,
    Http2(Streams),
    /// Behind a 101.
    Opaque,
}

#[derive(Debug)]
pub(crate) struct WebServer {
    pub(crate) address: SocketAddr,
    pub(crate) actor: Actor,
    pub(crate) reads: Reads,
    /// Whose requests come, once the first one is there.
    pub(crate) client: Option<usize>,
    /// The requests of HTTP/1 that have begun: their numbers.
    pub(crate) requests: Vec<usize>,
    /// Bytes of `actor.heard` that are of whole requests.
    read: usize,
    /// Of the request behind them: whether a 100 was sent, and the response.
    has_continued: bool,
    has_answered: bool,
    /// Responses that are to be sent, and when.
    due: Vec<(Micros, usize)>,
    answered: usize,
    idle_since: Micros,
}

impl WebServer {
    pub(crate) fn new(address: SocketAddr, end: EndId, plan: &Plan, net: &Net) -> Self {
        // All servers of names read alike: it is not known yet whose connection this is.
        let reader = plan.clients[0].server.reader;
        let actor = Actor::new(end, Vec::new(), Vec::new(), reader, net.now());
        Self {
            address,
            actor,
            reads: Reads::Http1,
            client: None,
            requests: Vec::new(),
            read: 0,
            has_continued: false,
            has_answered: false,
            due: Vec::new(),
            answered: 0,
            idle_since: net.now(),
        }
    }

    pub(crate) fn next(&self, plan: &Plan) -> Option<Micros> {
        let due = self.due.first().map(|(at, _)| *at);
        let stream = match &self.reads {
            Reads::Http2(streams) => streams.next(),
            Reads::Http1 | Reads::Opaque => None,
        };
        let ends = self.keeps(plan).map(|(_, idle, _)| self.idle_since + idle);
        [self.actor.next(), due, stream, ends].into_iter().flatten().min()
    }

    /// It ends now that it has answered enough.
    fn keeps(&self, plan: &Plan) -> Option<(usize, Micros, End)> {
        let client = plan.clients.iter().find(|one| Some(one.number) == self.client)?;
        let is_at_rest = self.due.is_empty() && self.actor.ended.is_none();
        let is_http1 = matches!(self.reads, Reads::Http1);
        client.server.keeps.filter(|(count, ..)| is_at_rest && is_http1 && self.answered >= *count)
    }

    pub(crate) fn act(
        &mut self,
        plan: &Plan,
        scripts: &[Script],
        net: &mut Net,
        responses: &mut Responses,
    ) {
        self.actor.act(net);
        let is_first = matches!(self.reads, Reads::Http1) && self.requests.is_empty();
        if is_first && self.actor.heard.starts_with(&PREFACE[..4]) {
            self.reads = Reads::Http2(Streams::default());
        }
        match &mut self.reads {
            Reads::Http1 => self.serve(plan, scripts, net, responses),
            Reads::Http2(streams) => {
                streams.act(plan, &mut self.actor, net);
                // It closes when the client has.
                if self.actor.ear == Heard::End && streams.is_at_rest() {
                    self.actor.finish_behind(End::Finish, net);
                }
            }
            Reads::Opaque => {
                if self.actor.ear == Heard::End {
                    self.actor.finish_behind(End::Finish, net);
                }
            }
        }
        self.actor.act(net);
    }

    fn serve(&mut self, plan: &Plan, scripts: &[Script], net: &mut Net, responses: &mut Responses) {
        self.take_requests(plan, scripts, net, responses);
        while let Some(&(at, number)) = self.due.first()
            && at <= net.now()
        {
            self.due.remove(0);
            self.answer(plan, number, net, responses);
        }
        if let Some((_, idle, how)) = self.keeps(plan)
            && self.idle_since + idle <= net.now()
        {
            self.actor.finish(how, net);
        }
    }

    /// The requests that have come, or begun to.
    fn take_requests(
        &mut self,
        plan: &Plan,
        scripts: &[Script],
        net: &mut Net,
        responses: &mut Responses,
    ) {
        loop {
            let new = &self.actor.heard[self.read..];
            let Some((client, number)) = request_line(new) else { return };
            let Some(client) = plan.clients.iter().find(|one| one.number == client) else { return };
            self.client = Some(client.number);
            if self.requests.last() != Some(&number) {
                self.requests.push(number);
                (self.has_continued, self.has_answered) = (false, false);
            }
            let script = &scripts[client.number];
            let Some(range) = script.requests.get(number) else { return };
            let (head, whole) = (script.heads[number] - range.start, range.len());
            let (has_head, is_whole) = (new.len() >= head, new.len() >= whole);
            let request = &requests(client)[number];
            let pause = request.response.pause_us;
            if has_head && request.expects && !self.has_continued && self.may_say() {
                self.has_continued = true;
                let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
                self.respond((client.number, number), interim, responses);
                self.actor.act(net);
            }
            let answers = is_whole || (has_head && request.response.is_early);
            if answers && !self.has_answered {
                self.has_answered = true;
                self.due.push((net.now() + pause, number));
                self.idle_since = net.now() + pause;
            }
            if !is_whole {
                return;
            }
            self.read += whole;
        }
    }

    fn may_say(&self) -> bool {
        !self.actor.is_closed && self.actor.ended.is_none()
    }

    fn respond(&mut self, of: (usize, usize), bytes: &[u8], responses: &mut Responses) {
        self.actor.say(bytes);
        responses.entry(of).or_default().extend_from_slice(bytes);
    }

    fn answer(&mut self, plan: &Plan, number: usize, net: &mut Net, responses: &mut Responses) {
        if !self.may_say() {
            return;
        }
        let client = plan.clients.iter().find(|one| Some(one.number) == self.client);
        let client = client.expect("a request of it has come");
        if let Some(switch) = switched(client, number) {
            return self.switch(client.number, number, switch, net, responses);
        }
        let request = &requests(client)[number];
        let bytes = response(client.number, number, request);
        let cut = request.response.cut.map_or(bytes.len(), |(most, _)| most.min(bytes.len()));
        self.respond((client.number, number), &bytes[..cut], responses);
        self.answered += 1;
        self.idle_since = net.now();
        self.actor.act(net);
        let ends = match (request.response.cut, request.response.framing) {
            (Some((_, how)), _) => Some(how),
            (None, Framing::Close) => Some(End::Finish),
            (None, _) => None,
        };
        if let Some(how) = ends {
            self.actor.finish_behind(how, net);
        }
    }

    /// The other protocol is agreed.
    fn switch(
        &mut self,
        client: usize,
        number: usize,
        switch: &Switch,
        net: &mut Net,
        responses: &mut Responses,
    ) {
        let name = match switch.to {
            Protocol::Opaque(_) => "noise",
            Protocol::Http2(_) => "h2c",
        };
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {name}\r\n\r\n"
        );
        self.respond((client, number), head.as_bytes(), responses);
        self.reads = match switch.to {
            Protocol::Opaque(length) => {
                let bytes = pattern(client + 60, length);
                self.respond((client, number), &bytes, responses);
                Reads::Opaque
            }
            Protocol::Http2(_) => Reads::Http2(Streams::upgraded(self.read, client, net.now())),
        };
        self.actor.act(net);
    }
}

/// What request `number` switches to.
pub(crate) fn switched(client: &Client, number: usize) -> Option<&Switch> {
    match &client.speech {
        Speech::Http1(requests, Some(switch)) if number + 1 == requests.len() => {
            Some(switch).filter(|switch| switch.is_agreed)
        }
        Speech::Http1(..) | Speech::Opaque(_) | Speech::Tls(_) | Speech::Http2(_) => None,
    }
}

pub(crate) fn requests(client: &Client) -> &[Request] {
    match &client.speech {
        Speech::Http1(requests, _) => requests,
        Speech::Opaque(_) | Speech::Tls(_) | Speech::Http2(_) => &[],
    }
}

/// Client and number of the request that begins here.
fn request_line(bytes: &[u8]) -> Option<(usize, usize)> {
    let line = &bytes[..bytes.iter().take(64).position(|byte| *byte == b'\r')?];
    let target = std::str::from_utf8(line).ok()?.split(' ').nth(1)?;
    let (client, number) = target.strip_prefix("/c")?.split_once("/r")?;
    Some((client.parse().ok()?, number.parse().ok()?))
}

fn response(client: usize, number: usize, request: &Request) -> Vec<u8> {
    let body = pattern(client + number + 1, request.response.body);
    let sends_body = request.method != "HEAD";
    let tag = format!("X-Id: {client}-{number}\r\n");
    let length = format!("HTTP/1.1 200 OK\r\n{tag}Content-Length: {}\r\n\r\n", body.len());
    let (head, body) = match request.response.framing {
        Framing::Length => (length, body),
        Framing::Interim => (format!("HTTP/1.1 103 Early Hints\r\n\r\n{length}"), body),
        Framing::Close => (format!("HTTP/1.1 200 OK\r\n{tag}Connection: close\r\n\r\n"), body),
        Framing::Chunked => {
            let head = format!("HTTP/1.1 200 OK\r\n{tag}Transfer-Encoding: chunked\r\n\r\n");
            (head, chunked(&body, 9_000))
        }
    };
    let mut bytes = head.into_bytes();
    if sends_body {
        bytes.extend(body);
    }
    bytes
}
