//! HTTP/1 against a model of it, which was written from the rules and not from the code: which
//! bytes of a client may pass to which upstream connection.

use std::net::SocketAddr;

use proptest::prelude::*;

use crate::config::Mode;
use crate::gate::testing::world::{A, B, C, DESTINATION, World, X, snapshot};
use crate::gate::testing::{Moves, Show};
use crate::http2::PREFACE;
use crate::relay::Side;

/// The rules of HTTP/1 where names decide.
#[derive(Debug, Default)]
struct Model<'a> {
    requests: &'a [Request],
    /// All bytes of the client; so many have come, and so many have passed.
    bytes: &'a [u8],
    sent: usize,
    at: usize,
    /// The request whose turn it is; whether its head has passed, and its response has ended.
    turn: usize,
    has_begun: bool,
    is_answered: bool,
    up: Option<SocketAddr>,
    is_open: bool,
    /// Where the bytes of another protocol begin.
    switched_at: Option<usize>,
    is_over: bool,
    upstreams: Vec<(SocketAddr, Vec<u8>)>,
}

impl Model<'_> {
    fn pass(&mut self) {
        while let Some(request) = self.requests.get(self.turn).filter(|_| !self.is_over) {
            if !self.has_begun && self.sent < request.seen_at {
                return;
            }
            if !self.has_begun {
                let Some(to) = request.to else { return self.is_over = true };
                // What cannot be judged is no HTTP from there on.
                self.is_open = request.drawn.fault.is_some();
                if self.up.replace(to) != Some(to) {
                    self.upstreams.push((to, Vec::new()));
                }
                self.has_begun = true;
            }
            self.pass_until(if self.is_open { self.open_until() } else { self.until(request) });
            if self.is_open || self.at < request.end || !self.is_answered {
                return;
            }
            (self.turn, self.has_begun, self.is_answered) = (self.turn + 1, false, false);
        }
    }

    /// How much of a request whose head has passed may pass.
    fn until(&self, request: &Request) -> usize {
        let end = if self.is_answered { request.end } else { request.held_at };
        let until = match self.sent < request.end {
            // Trailers pass when all of them have come.
            true => self.sent.min(request.trailers_at),
            false => self.sent,
        };
        until.min(end).max(self.at)
    }

    /// What is no HTTP passes as it comes; but what may be the preface of HTTP/2 behind a change of
    /// the protocol waits until that is known.
    fn open_until(&self) -> usize {
        let begins =
            |at: &usize| *at < self.sent && PREFACE.starts_with(&self.bytes[*at..self.sent]);
        self.switched_at.filter(begins).unwrap_or(self.sent)
    }

    fn pass_until(&mut self, until: usize) {
        if let Some((_, passed)) = self.upstreams.last_mut() {
            passed.extend_from_slice(&self.bytes[self.at..until]);
            self.at = until;
        }
    }

    /// `is_end`: the response that is on its way has no other end, so nothing comes behind it.
    fn upstream_ends(&mut self, is_end: bool) {
        self.is_answered |= is_end;
        if is_end {
            self.requests = &self.requests[..=self.turn];
        }
        self.pass_until(self.at);
        if !self.is_open && self.is_answered && self.at == self.requests[self.turn].end {
            (self.turn, self.has_begun, self.is_answered) = (self.turn + 1, false, false);
        }
        match self.has_begun {
            // Nothing behind the request that passes.
            true if !self.is_open => self.requests = &self.requests[..=self.turn],
            true => {}
            false => {
                self.up = None;
                self.pass();
                self.is_over |= !self.has_begun;
            }
        }
    }

    fn is_within_a_bad_head(&self) -> bool {
        let request = self.requests.get(self.turn).filter(|_| !self.has_begun);
        request.is_some_and(|request| request.drawn.fault.is_some() && self.sent < request.seen_at)
    }

    /// Before a name has come the address decides.
    fn client_ends(&mut self, mode: Mode) {
        if self.turn == 0 && !self.has_begun && !self.is_over {
            self.is_over = true;
            if mode == Mode::AllowAny {
                self.upstreams.push((DESTINATION, self.bytes[..self.sent].to_vec()));
            }
        }
    }
}

/// A request, by where it stands in all that the client sends.
#[derive(Debug, Clone)]
struct Request {
    /// Where its head ends, or its fault is seen.
    seen_at: usize,
    /// Until its answer, no more of it passes: behind it stands what could be a request.
    held_at: usize,
    /// Where its trailers begin.
    trailers_at: usize,
    end: usize,
    to: Option<SocketAddr>,
    drawn: Drawn,
}

/// What a request and its response are made of.
#[derive(Debug, Clone)]
struct Drawn {
    host: &'static str,
    method: &'static str,
    body: Option<(bool, usize)>,
    fault: Option<&'static str>,
    upgrades: bool,
    response: Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    Length(usize),
    Chunked,
    Nothing,
    Interim,
    UntilClose,
    Unframed,
    BadChunk,
    Switch,
}

/// What the end of a response is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndsBy {
    Itself,
    Fin,
    Nothing,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many bytes.
    Client(usize),
    Server(usize),
    /// A response that nothing asked for, if there is no request.
    Unasked,
    ClientEnds,
    ServerEnds,
}

const HOSTS: [(&str, Option<SocketAddr>); 7] = [
    ("a.example", Some(A)),
    ("A.Example.:8080", Some(A)),
    ("x.b.example", Some(B)),
    // Each is resolved.
    ("x.c.example", Some(X)),
    ("y.c.example", Some(C)),
    ("else.example", None),
    ("192.0.2.7", None),
];

const FAULTS: [&str; 4] = [
    "Host: a.example\r\n",
    "Folded: x\r\n y\r\n",
    "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
    "Bare: x\n",
];

/// What stands behind the last chunk.
const TRAILERS: &str = "T: u\r\n\r\n";

/// The body of a response that only FIN ends, which is whole wherever that comes.
const END: &str = "end";

impl Drawn {
    /// The head's bytes and the body's.
    fn text(&self) -> (String, String) {
        let Self { host, method, body, fault, upgrades, response: _ } = self;
        let mut head = format!("{method} /x HTTP/1.1\r\nHost: {host}\r\n");
        head += fault.unwrap_or_default();
        if *upgrades {
            head += "Connection: Upgrade\r\nUpgrade: echo\r\n";
        }
        let (fields, body) = match body {
            None => (String::new(), String::new()),
            Some((true, length)) => {
                let chunk = format!("{:x};x=y\r\n{}\r\n", length + 1, "c".repeat(length + 1));
                ("Transfer-Encoding: chunked\r\n".into(), chunk + "0\r\n" + TRAILERS)
            }
            Some((false, length)) => {
                // A request in a body is none.
                let body = "GET /y HTTP/1.1\r\nHost: b.example\r\n\r\n".repeat(30);
                (format!("Content-Length: {length}\r\n"), body[..*length].to_owned())
            }
        };
        (head + &fields + "\r\n", body)
    }

    fn response(&self) -> String {
        let is_head = self.method == "HEAD";
        let content = |text: String| if is_head { String::new() } else { text };
        match self.response {
            Response::Switch if self.upgrades => {
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n".into()
            }
            Response::Length(length) => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
                    + &content("z".repeat(length))
            }
            Response::Chunked => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
                head + &content("3\r\nabc\r\n0\r\n\r\n".into())
            }
            Response::Nothing | Response::Switch => "HTTP/1.1 204 No Content\r\n\r\n".into(),
            Response::Interim => {
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
                    .into()
            }
            Response::UntilClose => "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &content(END.into()),
            Response::Unframed => {
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned()
                    + &content("x".into())
            }
            Response::BadChunk => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
                head + &content("3\r\nabcd\r\n0\r\n\r\n".into())
            }
        }
    }

    fn ends_by(&self) -> EndsBy {
        match self.response {
            Response::Unframed => EndsBy::Nothing,
            _ if self.method == "HEAD" => EndsBy::Itself,
            Response::UntilClose => EndsBy::Fin,
            Response::BadChunk => EndsBy::Nothing,
            Response::Length(_)
            | Response::Chunked
            | Response::Nothing
            | Response::Interim
            | Response::Switch => EndsBy::Itself,
        }
    }
}

fn requests() -> impl Strategy<Value = Vec<Drawn>> {
    let host = prop::sample::select(vec![0, 0, 0, 1, 2, 2, 3, 3, 4, 5, 6])
        .prop_map(|index| HOSTS[index].0);
    let method = prop::sample::select(vec!["GET", "GET", "POST", "PUT", "HEAD"]);
    let body = prop::option::of((any::<bool>(), 0_usize..900));
    let fault = prop::option::weighted(0.05, prop::sample::select(FAULTS.to_vec()));
    let response = prop_oneof![
        6 => (0_usize..300).prop_map(Response::Length),
        2 => Just(Response::Chunked),
        1 => Just(Response::Nothing),
        1 => Just(Response::Interim),
        1 => Just(Response::UntilClose),
        1 => Just(Response::Unframed),
        1 => Just(Response::BadChunk),
        1 => Just(Response::Switch),
    ];
    let one = (host, method, body, fault, prop::bool::weighted(0.15), response);
    let one = one.prop_map(|(host, method, body, fault, upgrades, response)| {
        // Behind another answer than 101 the rest of the body is thrown away.
        let may_have = !upgrades || response == Response::Switch;
        let body = body.filter(|_| matches!(method, "POST" | "PUT") && may_have);
        Drawn { host, method, body, fault, upgrades, response }
    });
    prop::collection::vec(one, 1..6)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let piece = prop_oneof![Just(1_usize), 2_usize..80, 80_usize..2_000, Just(usize::MAX)];
    let step = prop_oneof![
        12 => piece.clone().prop_map(Step::Client),
        12 => piece.prop_map(Step::Server),
        1 => Just(Step::Unasked),
        1 => Just(Step::ClientEnds),
        2 => Just(Step::ServerEnds),
    ];
    prop::collection::vec(step, 1..60)
}

fn placed(drawn: Vec<Drawn>, mode: Mode) -> (Vec<Request>, Vec<u8>) {
    let (mut requests, mut bytes) = (Vec::new(), Vec::new());
    for drawn in drawn {
        let (head, body) = drawn.text();
        bytes.extend_from_slice(head.as_bytes());
        let (start, head_end) = (bytes.len() - head.len(), bytes.len());
        bytes.extend_from_slice(body.as_bytes());
        let otherwise = (mode == Mode::AllowAny).then_some(DESTINATION);
        let found = HOSTS.iter().find(|(host, _)| *host == drawn.host).unwrap().1;
        let (seen_at, to) = match drawn.fault {
            None => (head_end, found.or(otherwise)),
            Some(fault) if fault.ends_with("\r\n") && !fault.contains("\r\n ") => {
                (head_end, otherwise)
            }
            // At the end of a line, before that of the head.
            Some(fault) => (start + head.find(fault).unwrap() + fault.len(), otherwise),
        };
        let version = body.find("HTTP/1").filter(|_| drawn.upgrades);
        let held_at = version.map_or(bytes.len(), |version| head_end + version + 5);
        let trailers = body.strip_suffix(TRAILERS).map(|body| head_end + body.len());
        let (trailers_at, end) = (trailers.unwrap_or(bytes.len()), bytes.len());
        requests.push(Request { seen_at, held_at, trailers_at, end, to, drawn });
    }
    (requests, bytes)
}

/// The peers, the gate and the model, step by step.
fn run(drawn: Vec<Drawn>, steps: &[Step], mode: Mode, moves: Moves) {
    let (requests, bytes) = placed(drawn, mode);
    let mut model = Model { requests: &requests, bytes: &bytes, ..Model::default() };
    let mut show = Show::new(&snapshot(World::Gated(mode)));
    show.moves = moves;
    let (mut client_open, mut served) = (true, Vec::new());
    // What the present upstream has still to say; `None`: it has ended.
    let mut saying: Option<Vec<u8>> = Some(Vec::new());
    let mut asked = None;
    for step in steps {
        let connections = model.upstreams.len();
        let is_asked = model.has_begun && !model.is_over;
        match *step {
            Step::Client(piece) if client_open => {
                let until = model.sent.saturating_add(piece).min(bytes.len());
                show.send(Side::Downstream, &bytes[model.sent..until]);
                model.sent = until;
                model.pass();
            }
            // When the fault of a head that is not whole is seen is no rule.
            Step::ClientEnds if client_open && !model.is_within_a_bad_head() => {
                client_open = false;
                show.finish(Side::Downstream);
                model.client_ends(mode);
            }
            Step::Server(piece) if is_asked && !model.is_open && saying.is_some() => {
                let request = &requests[model.turn];
                let rest = saying.as_mut().unwrap();
                if rest.is_empty() && asked.replace(model.turn) != Some(model.turn) {
                    *rest = request.drawn.response().into_bytes();
                }
                let said: Vec<u8> = rest.drain(..piece.min(rest.len())).collect();
                let is_all = rest.is_empty() && !model.is_answered && !said.is_empty();
                served.extend_from_slice(&said);
                if is_all && request.drawn.ends_by() == EndsBy::Itself {
                    model.is_answered = true;
                    let switches = request.drawn.response == Response::Switch;
                    model.is_open = switches && request.drawn.upgrades;
                    model.switched_at = model.is_open.then_some(request.end);
                    model.pass();
                }
                show.send(Side::Upstream, &said);
            }
            Step::Unasked if !is_asked && !model.is_over && model.up.is_some() => {
                if saying.is_some() {
                    show.send(Side::Upstream, b"HTTP/1.1 408 Request Timeout\r\n\r\n");
                    model.is_over = true;
                }
            }
            Step::ServerEnds if model.up.is_some() && !model.is_over && saying.is_some() => {
                let unsaid = saying.take().unwrap().len();
                let is_begun = is_asked && asked == Some(model.turn) && unsaid <= END.len();
                let by = requests.get(model.turn).map(|request| request.drawn.ends_by());
                show.finish(Side::Upstream);
                model.upstream_ends(is_begun && by == Some(EndsBy::Fin));
            }
            Step::Client(_)
            | Step::Server(_)
            | Step::Unasked
            | Step::ClientEnds
            | Step::ServerEnds => {}
        }
        if model.upstreams.len() > connections {
            saying = Some(Vec::new());
        }
        assert_eq!(texts(&show.seen.upstreams), texts(&model.upstreams), "at {step:?}");
        let got = &show.seen.client[..show.seen.client.len().min(served.len())];
        assert!(served.starts_with(got), "another response");
    }
}

fn texts(upstreams: &[(SocketAddr, Vec<u8>)]) -> Vec<(SocketAddr, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    upstreams.iter().map(|(address, bytes)| (*address, text(bytes))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn exactly_the_bytes_pass_that_the_rules_let_pass_under_registry_only(
        drawn in requests(), steps in steps()
    ) {
        run(drawn.clone(), &steps, Mode::RegistryOnly, Moves::Copied);
        run(drawn, &steps, Mode::RegistryOnly, Moves::Spliced);
    }

    #[test]
    fn exactly_the_bytes_pass_that_the_rules_let_pass_under_allow_any(
        drawn in requests(), steps in steps()
    ) {
        run(drawn.clone(), &steps, Mode::AllowAny, Moves::Copied);
        run(drawn, &steps, Mode::AllowAny, Moves::Spliced);
    }
}
