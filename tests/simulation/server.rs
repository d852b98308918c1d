//! A server of HTTP/1: it reads requests, which it knows, and answers each as its plan says.

use std::collections::HashMap;
use std::net::SocketAddr;

use egret::sys::sim::{EndId, Micros, Net};

use crate::client::{Actor, Script, pattern};
use crate::plan::{Client, End, Framing, Plan, Request, Speech};

/// What was sent in response to a request: of which client, which one.
pub(crate) type Responses = HashMap<(usize, usize), Vec<u8>>;

#[derive(Debug)]
pub(crate) struct HttpServer {
    pub(crate) address: SocketAddr,
    pub(crate) actor: Actor,
    /// Whose requests come, once the first one is there.
    pub(crate) client: Option<usize>,
    /// The requests that have begun: their numbers.
    pub(crate) requests: Vec<usize>,
    /// Bytes of `actor.heard` that are of whole requests.
    read: usize,
    /// Responses that are to be sent, and when.
    due: Vec<(Micros, usize)>,
    answered: usize,
    idle_since: Micros,
}

impl HttpServer {
    pub(crate) fn new(address: SocketAddr, end: EndId, plan: &Plan, net: &Net) -> Self {
        // All servers of names read alike: it is not known yet whose connection this is.
        let reader = plan.clients[0].server.reader;
        let actor = Actor::new(end, Vec::new(), Vec::new(), reader, net.now());
        Self {
            address,
            actor,
            client: None,
            requests: Vec::new(),
            read: 0,
            due: Vec::new(),
            answered: 0,
            idle_since: net.now(),
        }
    }

    pub(crate) fn next(&self, plan: &Plan) -> Option<Micros> {
        let due = self.due.first().map(|(at, _)| *at);
        let ends = self.keeps(plan).map(|(_, idle, _)| self.idle_since + idle);
        let ends = ends.filter(|_| self.due.is_empty() && self.actor.ended.is_none());
        [self.actor.next(), due, ends].into_iter().flatten().min()
    }

    /// It ends now that it has answered enough.
    fn keeps(&self, plan: &Plan) -> Option<(usize, Micros, End)> {
        let client = &plan.clients.iter().find(|one| Some(one.number) == self.client)?;
        client.server.keeps.filter(|(count, ..)| self.answered >= *count)
    }

    pub(crate) fn act(
        &mut self,
        plan: &Plan,
        scripts: &[Script],
        net: &mut Net,
        responses: &mut Responses,
    ) {
        self.actor.act(net);
        self.take_requests(plan, scripts, net);
        while let Some(&(at, number)) = self.due.first()
            && at <= net.now()
        {
            self.due.remove(0);
            self.answer(plan, number, net, responses);
        }
        if let Some((_, idle, how)) = self.keeps(plan)
            && self.due.is_empty()
            && self.idle_since + idle <= net.now()
        {
            self.actor.finish(how, net);
        }
        self.actor.act(net);
    }

    /// The requests whose bytes have all come.
    fn take_requests(&mut self, plan: &Plan, scripts: &[Script], net: &Net) {
        loop {
            let new = &self.actor.heard[self.read..];
            let Some((client, number)) = request_line(new) else { return };
            let Some(client) = plan.clients.iter().find(|one| one.number == client) else { return };
            self.client = Some(client.number);
            if self.requests.last() != Some(&number) {
                self.requests.push(number);
            }
            let Some(range) = scripts[client.number].requests.get(number) else { return };
            if new.len() < range.len() {
                return;
            }
            self.read += range.len();
            let pause = requests(client)[number].response.pause_us;
            self.due.push((net.now() + pause, number));
            self.idle_since = net.now() + pause;
        }
    }

    fn answer(&mut self, plan: &Plan, number: usize, net: &mut Net, responses: &mut Responses) {
        if self.actor.is_closed || self.actor.ended.is_some() {
            return;
        }
        let client = plan.clients.iter().find(|one| Some(one.number) == self.client);
        let client = client.expect("a request of it has come");
        let request = &requests(client)[number];
        let bytes = response(client.number, number, request);
        let cut = request.response.cut.map_or(bytes.len(), |(most, _)| most.min(bytes.len()));
        self.actor.say(&bytes[..cut]);
        responses.insert((client.number, number), bytes[..cut].to_vec());
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
}

pub(crate) fn requests(client: &Client) -> &[Request] {
    match &client.speech {
        Speech::Http1(requests) => requests,
        Speech::Opaque(_) | Speech::Tls(..) => &[],
    }
}

/// Client and number of the request that begins here.
fn request_line(bytes: &[u8]) -> Option<(usize, usize)> {
    let line = &bytes[..bytes.windows(2).position(|two| two == b"\r\n")?];
    let target = std::str::from_utf8(line).ok()?.split(' ').nth(1)?;
    let (client, number) = target.strip_prefix("/c")?.split_once("/r")?;
    Some((client.parse().ok()?, number.parse().ok()?))
}

fn response(client: usize, number: usize, request: &Request) -> Vec<u8> {
    let body = pattern(client + number + 1, request.response.body);
    let sends_body = request.method != "HEAD";
    let tag = format!("X-Id: {client}-{number}\r\n");
    let mut bytes = Vec::new();
    let mut head = |text: String| bytes.extend(text.bytes());
    match request.response.framing {
        Framing::Length => {
            head(format!("HTTP/1.1 200 OK\r\n{tag}Content-Length: {}\r\n\r\n", body.len()));
        }
        Framing::Interim => head(format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n{tag}Content-Length: {}\r\n\r\n",
            body.len()
        )),
        Framing::Close => head(format!("HTTP/1.1 200 OK\r\n{tag}Connection: close\r\n\r\n")),
        Framing::Chunked => {
            head(format!("HTTP/1.1 200 OK\r\n{tag}Transfer-Encoding: chunked\r\n\r\n"));
            if sends_body {
                for chunk in body.chunks(9_000) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
            return bytes;
        }
    }
    if sends_body {
        bytes.extend(body);
    }
    bytes
}
