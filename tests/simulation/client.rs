//! A workload's connection: it says what its plan says, and keeps what it hears.

use std::ops::Range;

use egret::sys::kernel::Errno;
use egret::sys::sim::{EndId, Micros, Net};

use crate::plan::{End, Reader, Speech, Step};

/// Of no length that anything here has a multiple of.
const BLOCK: usize = 16_127;

thread_local! {
    /// Above 0x7f: no protocol begins so.
    static NOISE: Vec<u8> =
        (0..BLOCK).map(|at| 0x80 | u8::try_from((at * 31 + at / 127) % 128).unwrap()).collect();
}

/// Bytes that name their sender and their place in the stream.
pub(crate) fn pattern(sender: usize, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    let mut from = (sender * 911) % BLOCK;
    NOISE.with(|noise| {
        while bytes.len() < length {
            let until = BLOCK.min(from + length - bytes.len());
            bytes.extend_from_slice(&noise[from..until]);
            from = 0;
        }
    });
    bytes
}

/// All that one client would say, and where each request is in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) says: Vec<u8>,
    pub(crate) requests: Vec<Range<usize>>,
}

pub(crate) fn script(number: usize, speech: &Speech) -> Script {
    match speech {
        Speech::Opaque(length) => Script { says: pattern(number, *length), requests: Vec::new() },
        Speech::Tls(name, length) => {
            let mut bytes = client_hello(name, number);
            bytes.extend(pattern(number, *length));
            Script { says: bytes, requests: Vec::new() }
        }
        Speech::Http1(requests) => {
            let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
            for (index, request) in requests.iter().enumerate() {
                let start = bytes.len();
                let mut head = format!(
                    "{} /c{number}/r{index} HTTP/1.1\r\nHost: {}\r\n",
                    request.method, request.host
                );
                let body = pattern(number, request.body);
                if request.is_chunked {
                    head += "Transfer-Encoding: chunked\r\n\r\n";
                    bytes.extend(head.bytes());
                    for chunk in body.chunks(7_000) {
                        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                        bytes.extend(chunk);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(b"0\r\n\r\n");
                } else {
                    if request.method == "POST" {
                        head += &format!("Content-Length: {}\r\n", body.len());
                    }
                    bytes.extend((head + "\r\n").bytes());
                    bytes.extend(body);
                }
                ranges.push(start..bytes.len());
            }
            Script { says: bytes, requests: ranges }
        }
    }
}

/// A TLS 1.2 ClientHello with one extension, server_name (RFC 6066).
fn client_hello(name: &str, number: usize) -> Vec<u8> {
    let long = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let mut sni = vec![0];
    sni.extend(long(name.len()));
    sni.extend(name.bytes());
    let mut extension = vec![0, 0];
    extension.extend(long(sni.len() + 2));
    extension.extend(long(sni.len()));
    extension.extend(sni);
    let mut hello = vec![3, 3];
    // The random says whose it is.
    hello.extend([u8::try_from(number).unwrap(); 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
    hello.extend(long(extension.len()));
    hello.extend(extension);
    let mut record = vec![22, 3, 1];
    record.extend(long(hello.len() + 4));
    record.extend([1, 0]);
    record.extend(long(hello.len()));
    record.extend(hello);
    record
}

/// How a stream ended for the one who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It has not.
    More,
    End,
    Error(Errno),
}

/// An actor's end of a connection: steps that it does in time, and a reader.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) end: EndId,
    pub(crate) says: Vec<u8>,
    pub(crate) said: usize,
    pub(crate) heard: Vec<u8>,
    pub(crate) ear: Heard,
    /// What it has done to end it.
    pub(crate) ended: Option<End>,
    pub(crate) is_closed: bool,
    steps: Vec<(Micros, Step)>,
    at_step: usize,
    step_at: Micros,
    to_say: usize,
    /// How it ends when all of that is said.
    ends_behind: Option<End>,
    reader: Reader,
    read_at: Micros,
    /// When it closes, if it does nothing more: an actor does not wait for ever.
    gives_up_at: Micros,
    /// When bytes or an end last moved here.
    pub(crate) active_at: Micros,
    pub(crate) ear_at: Micros,
    /// When how much had been said.
    pub(crate) said_at: Vec<(Micros, usize)>,
}

/// What a step may wait for: longer than any timeout.
const PATIENCE_US: Micros = 400_000_000;

/// What a trace shows: bytes said and heard, how its ear and itself have ended.
pub(crate) type State = (usize, usize, Heard, Option<End>);

impl Actor {
    pub(crate) fn state(&self) -> State {
        (self.said, self.heard.len(), self.ear, self.ended)
    }

    pub(crate) fn new(
        end: EndId,
        says: Vec<u8>,
        steps: Vec<(Micros, Step)>,
        reader: Reader,
        now: Micros,
    ) -> Self {
        let step_at = now + steps.first().map_or(0, |(pause, _)| *pause);
        Self {
            end,
            says,
            said: 0,
            heard: Vec::new(),
            ear: Heard::More,
            ended: None,
            is_closed: false,
            steps,
            at_step: 0,
            step_at,
            to_say: 0,
            ends_behind: None,
            reader,
            read_at: now,
            gives_up_at: now + PATIENCE_US,
            active_at: now,
            ear_at: 0,
            said_at: vec![(now, 0)],
        }
    }

    /// More to say, at once.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.says.extend_from_slice(bytes);
        self.to_say += bytes.len();
    }

    pub(crate) fn next(&self) -> Option<Micros> {
        if self.is_closed {
            return None;
        }
        let step = (self.to_say == 0 && self.at_step < self.steps.len()).then_some(self.step_at);
        let reads =
            (self.ear == Heard::More && self.read_at != Micros::MAX).then_some(self.read_at);
        [step, Some(self.gives_up_at), reads].into_iter().flatten().min()
    }

    pub(crate) fn act(&mut self, net: &mut Net) {
        if self.is_closed {
            return;
        }
        let before = (self.said, self.heard.len());
        let ear = self.ear;
        self.wake(net);
        self.listen(net);
        self.speak(net);
        if before != (self.said, self.heard.len()) {
            self.active_at = net.now();
            self.said_at.push((net.now(), self.said));
        }
        if ear != self.ear {
            self.ear_at = net.now();
        }
        if !self.is_closed && self.is_over() {
            self.close(net);
        }
    }

    /// Both directions are at their end, or it has waited in vain.
    fn is_over(&self) -> bool {
        let has_said = self.ended.is_some() || matches!(self.ear, Heard::Error(_));
        has_said && self.ear != Heard::More
    }

    fn listen(&mut self, net: &mut Net) {
        if self.ear != Heard::More || self.read_at > net.now() {
            return;
        }
        match net.read(self.end, self.reader.most) {
            Ok(bytes) if bytes.is_empty() => self.ear = Heard::End,
            Ok(bytes) => {
                self.heard.extend(bytes);
                self.read_at = net.now() + self.reader.every_us;
                if let Some((after, pause)) = self.reader.stops
                    && self.heard.len() >= after
                {
                    self.read_at = net.now() + pause;
                    self.reader.stops = None;
                }
            }
            Err(Errno::EAGAIN) => self.read_at = Micros::MAX,
            Err(error) => self.ear = Heard::Error(error),
        }
    }

    /// Something has come: it reads again.
    fn wake(&mut self, net: &Net) {
        if self.read_at == Micros::MAX && net.is_readable(self.end) {
            self.read_at = net.now() + self.reader.every_us;
        }
    }

    fn speak(&mut self, net: &mut Net) {
        while self.ended.is_none() {
            while self.to_say > 0 {
                let until = (self.said + self.to_say).min(self.says.len());
                match net.write(self.end, &self.says[self.said..until]) {
                    Ok(count) => {
                        self.said += count;
                        self.to_say -= count;
                    }
                    Err(Errno::EAGAIN) => return,
                    Err(error) => {
                        if self.ear == Heard::More {
                            self.ear = Heard::Error(error);
                        }
                        return self.close(net);
                    }
                }
            }
            if let Some(how) = self.ends_behind.take() {
                return self.finish(how, net);
            }
            let Some(&(_, step)) = self.steps.get(self.at_step) else { break };
            if self.step_at > net.now() {
                break;
            }
            self.at_step += 1;
            self.step_at = net.now() + self.steps.get(self.at_step).map_or(0, |(pause, _)| *pause);
            match step {
                Step::Send(most) => self.to_say = most.min(self.says.len() - self.said),
                Step::End(how) => self.finish(how, net),
            }
        }
        if self.gives_up_at <= net.now() && !self.is_closed {
            self.close(net);
        }
    }

    /// Ends when all is said.
    pub(crate) fn finish_behind(&mut self, how: End, net: &mut Net) {
        self.ends_behind = Some(how);
        self.act(net);
    }

    pub(crate) fn finish(&mut self, how: End, net: &mut Net) {
        if self.is_closed || self.ended.is_some() {
            return;
        }
        self.ended = Some(how);
        match how {
            End::Finish => {
                // The peer may have reset it.
                let _ = net.finish(self.end);
            }
            End::Reset => {
                self.is_closed = true;
                net.reset(self.end);
            }
            End::Close => self.close(net),
        }
    }

    fn close(&mut self, net: &mut Net) {
        self.ended.get_or_insert(End::Close);
        self.is_closed = true;
        net.close(self.end);
    }
}
