//! HTTP/2 as the peers speak it (RFC 9113): frames, and a server.

use std::ops::Range;

use egret::internals::http2::testing::field;
pub(crate) use egret::internals::http2::testing::frame;
use egret::sys::sim::{Micros, Net};

use crate::client::Actor;
use crate::plan::{Plan, Protocol, Speech, Stream};
use crate::script::pattern;

pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const HEADER_BYTES: usize = 9;

/// The HEADERS of client `number`'s stream.
pub(crate) fn request(number: usize, index: usize, id: u32, stream: &Stream) -> Vec<u8> {
    let mut block = Vec::new();
    field(&mut block, ":method", if stream.body.is_some() { "POST" } else { "GET" });
    field(&mut block, ":scheme", "http");
    field(&mut block, ":path", &format!("/c{number}/s{index}"));
    field(&mut block, ":authority", stream.host);
    let ends = if stream.body.is_some() { 0 } else { END_STREAM };
    frame(HEADERS, END_HEADERS | ends, id, &block)
}

/// What a server answers on stream `id` of client `number`.
fn response(number: usize, index: usize, id: u32, stream: &Stream) -> Vec<u8> {
    let mut block = Vec::new();
    field(&mut block, ":status", "200");
    field(&mut block, "x-id", &format!("{number}-{index}"));
    let body = pattern(number + 31 * index, stream.response);
    let mut bytes = frame(HEADERS, END_HEADERS, id, &block);
    bytes.extend(frame(DATA, END_STREAM, id, &body));
    bytes
}

/// One frame, and where its payload is.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Range<usize>,
}

/// The frame that begins at `at`, if it is there whole.
pub(crate) fn frame_at(bytes: &[u8], at: usize) -> Option<Frame> {
    let header = bytes.get(at..at + HEADER_BYTES)?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    let from = at + HEADER_BYTES;
    let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    let frame = Frame { kind: header[3], flags: header[4], stream, payload: from..from + length };
    (bytes.len() >= frame.payload.end).then_some(frame)
}

/// A request that a server has heard.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) client: usize,
    /// `None`: the request of HTTP/1 that was upgraded.
    pub(crate) index: Option<usize>,
    id: u32,
    /// When its HEADERS had come, and all of it.
    pub(crate) at: Micros,
    pub(crate) body: Vec<u8>,
    pub(crate) is_whole: bool,
}

/// The streams of a server's connection.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Where in what was heard the next frame begins.
    at: usize,
    has_greeted: bool,
    pub(crate) heard: Vec<Heard>,
    due: Vec<(Micros, usize)>,
    /// What cannot have been sent.
    pub(crate) broken: Option<String>,
}

impl Streams {
    /// A connection that was upgraded behind `at` bytes, by a request of this client.
    pub(crate) fn upgraded(at: usize, client: usize, due: Micros) -> Self {
        let first = Heard { client, index: None, id: 1, at: due, body: Vec::new(), is_whole: true };
        Self { at, heard: vec![first], due: vec![(due, 0)], ..Self::default() }
    }

    pub(crate) fn next(&self) -> Option<Micros> {
        self.due.iter().map(|(at, _)| *at).min()
    }

    /// Everything that has come whole is answered.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.due.is_empty()
    }

    pub(crate) fn act(&mut self, plan: &Plan, actor: &mut Actor, net: &mut Net) {
        if !self.has_greeted {
            self.has_greeted = true;
            actor.say(&frame(SETTINGS, 0, 0, &[]));
        }
        self.read(plan, actor, net);
        while let Some(place) = self.due.iter().position(|(at, _)| *at <= net.now()) {
            let (_, which) = self.due.remove(place);
            let Heard { client, index, id, .. } = self.heard[which];
            let stream = stream_of(plan, client, index);
            if actor.ended.is_none() && !actor.is_closed {
                actor.say(&response(client, index.unwrap_or(99), id, &stream));
            }
        }
        actor.act(net);
    }

    fn read(&mut self, plan: &Plan, actor: &mut Actor, net: &Net) {
        if self.broken.is_some() {
            return;
        }
        if self.heard.is_empty() && self.at == 0 || self.expects_preface(&actor.heard) {
            if actor.heard.len() < self.at + PREFACE.len() {
                return;
            }
            self.at += PREFACE.len();
        }
        while let Some(frame) = frame_at(&actor.heard, self.at) {
            self.at = frame.payload.end;
            let payload = &actor.heard[frame.payload.clone()];
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => answer(actor, SETTINGS, &[]),
                PING if frame.flags & ACK == 0 => {
                    let payload = payload.to_vec();
                    answer(actor, PING, &payload);
                }
                HEADERS => match path(payload) {
                    Some((client, index)) => {
                        let (id, at) = (frame.stream, net.now());
                        let index = Some(index);
                        let body = Vec::new();
                        self.heard.push(Heard { client, index, id, at, body, is_whole: false });
                        self.ended(plan, &frame, net);
                    }
                    None => self.broken = Some(format!("HEADERS of nobody: {payload:?}")),
                },
                DATA => {
                    match self.heard.iter_mut().find(|one| one.id == frame.stream) {
                        Some(heard) => heard.body.extend_from_slice(payload),
                        None => self.broken = Some(format!("DATA of no stream: {frame:?}")),
                    }
                    self.ended(plan, &frame, net);
                }
                SETTINGS | PING | RESET | GOAWAY | WINDOW_UPDATE => {}
                _ => self.broken = Some(format!("no frame: {frame:?}")),
            }
        }
    }

    /// Behind an upgrade the preface comes, too.
    fn expects_preface(&self, heard: &[u8]) -> bool {
        heard.get(self.at..).is_some_and(|rest| rest.starts_with(b"PRI"))
    }

    fn ended(&mut self, plan: &Plan, frame: &Frame, net: &Net) {
        if frame.flags & END_STREAM == 0 {
            return;
        }
        let place = self.heard.iter().position(|one| one.id == frame.stream);
        let Some(which) = place else { return };
        let heard = &mut self.heard[which];
        heard.is_whole = true;
        let pause = stream_of(plan, heard.client, heard.index).pause_us;
        self.due.push((net.now() + pause, which));
    }
}

fn answer(actor: &mut Actor, kind: u8, payload: &[u8]) {
    if actor.ended.is_none() && !actor.is_closed {
        actor.say(&frame(kind, ACK, 0, payload));
    }
}

/// What a client's plan says of a stream.
pub(crate) fn stream_of(plan: &Plan, client: usize, index: Option<usize>) -> Stream {
    let client = plan.clients.iter().find(|one| one.number == client);
    let streams = client.map(|client| match &client.speech {
        Speech::Http2(streams) => &streams[..],
        Speech::Http1(_, Some(switch)) => match &switch.to {
            Protocol::Http2(streams) => &streams[..],
            Protocol::Opaque(_) => &[],
        },
        Speech::Http1(_, None) | Speech::Opaque(_) | Speech::Tls(_) => &[],
    });
    let stream = streams.and_then(|streams| streams.get(index?)).copied();
    stream.unwrap_or(Stream { host: "", body: None, response: 100, pause_us: 0 })
}

/// Client and number of the stream with this header block.
fn path(block: &[u8]) -> Option<(usize, usize)> {
    let fields = loona_hpack::Decoder::new().decode(block).ok()?;
    let (_, path) = fields.into_iter().find(|(name, _)| name == b":path")?;
    let path = String::from_utf8(path).ok()?;
    let (client, index) = path.strip_prefix("/c")?.split_once("/s")?;
    Some((client.parse().ok()?, index.parse().ok()?))
}

/// What a client has heard on one stream.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: Option<String>,
    /// Who has answered which request: the server's own tag.
    pub(crate) tag: Option<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) is_whole: bool,
}

/// The answers in `bytes`, which a client has heard; whether a GOAWAY was in it.
pub(crate) fn answers(bytes: &[u8]) -> Result<(Vec<(u32, Answer)>, bool), String> {
    let (mut answers, mut at, mut goes): (Vec<(u32, Answer)>, _, _) = (Vec::new(), 0, false);
    while let Some(frame) = frame_at(bytes, at) {
        at = frame.payload.end;
        let payload = &bytes[frame.payload.clone()];
        let place = answers.iter().position(|(id, _)| *id == frame.stream);
        match frame.kind {
            HEADERS => {
                let fields = loona_hpack::Decoder::new().decode(payload);
                let fields = fields.map_err(|error| format!("{error:?} in {payload:?}"))?;
                let value = |wanted: &str| {
                    let found = fields.iter().find(|(name, _)| name == wanted.as_bytes());
                    found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
                };
                if place.is_some() {
                    return Err(format!("stream {} is answered twice", frame.stream));
                }
                let (status, tag) = (value(":status"), value("x-id"));
                let is_whole = frame.flags & END_STREAM != 0;
                let answer = Answer { status, tag, is_whole, ..Answer::default() };
                answers.push((frame.stream, answer));
            }
            DATA => {
                let Some(place) = place else { return Err(format!("no HEADERS: {frame:?}")) };
                answers[place].1.body.extend_from_slice(payload);
                answers[place].1.is_whole |= frame.flags & END_STREAM != 0;
            }
            GOAWAY => goes = true,
            RESET | SETTINGS | PING | WINDOW_UPDATE => {}
            _ => return Err(format!("no frame: {frame:?}")),
        }
    }
    Ok((answers, goes))
}
