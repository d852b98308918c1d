//! What a seed means: everything that is drawn before a scenario begins, so that parts of it can be
//! left out.

use egret::config::{Action, Mode};
use egret::sys::kernel::Errno;
use egret::sys::sim::{Draw, Habits, Link, Micros, Outcome};

/// A scenario.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// For what is drawn while it runs.
    pub(crate) seed: u64,
    /// What decides at first.
    pub(crate) ruling: Ruling,
    pub(crate) habits: Habits,
    pub(crate) descriptors: usize,
    pub(crate) ports: u16,
    pub(crate) pipe_bytes: usize,
    /// Connections that may be open at a time.
    pub(crate) connections: u32,
    /// Bytes that may be held back.
    pub(crate) held_bytes: u64,
    /// What a blackholed connection sees, and whether TLS is told first.
    pub(crate) black_hole: (Action, bool),
    pub(crate) logs: bool,
    /// When the control plane asks for the connections.
    pub(crate) asks: Vec<Micros>,
    /// What a connect to the second endpoint of `a.example` meets.
    pub(crate) second: Outcome,
    pub(crate) reloads: Vec<Reload>,
    /// When the process begins to drain, and what it gives its connections; else at the end.
    pub(crate) drain: Option<(Micros, Micros)>,
    pub(crate) clients: Vec<Client>,
}

/// A change of the registry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reload {
    pub(crate) at: Micros,
    pub(crate) ruling: Ruling,
}

/// What decides, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ruling {
    pub(crate) mode: Mode,
    pub(crate) b: Entry,
}

/// The entry of `b.example`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Gone,
    Here,
    /// With another endpoint.
    Moved,
}

/// One connection of a workload, and how the servers behave that it meets.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) number: usize,
    /// Clients of one pod share its address.
    pub(crate) pod: u8,
    pub(crate) at: Micros,
    pub(crate) link: Link,
    pub(crate) place: Place,
    pub(crate) speech: Speech,
    /// What it does, each after a pause.
    pub(crate) steps: Vec<(Micros, Step)>,
    pub(crate) reader: Reader,
    pub(crate) server: Server,
}

/// Where a client means to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// To a port on which names decide.
    Named,
    /// To an address that an entry has.
    Registered,
    /// To a port and an address that no entry has.
    Unknown,
    /// To an address of an entry that has endpoints.
    Pooled,
    /// To a port on which no name is read (`names.opaquePorts`).
    OpaquePort,
}

/// What a client says.
#[derive(Debug, Clone)]
pub(crate) enum Speech {
    /// So many bytes of no protocol.
    Opaque(usize),
    /// Requests; the last one may ask for another protocol.
    Http1(Vec<Request>, Option<Switch>),
    Tls(Tls),
    /// Requests, by prior knowledge.
    Http2(Vec<Stream>),
}

/// The other protocol, which the last request of HTTP/1 asks for.
#[derive(Debug, Clone)]
pub(crate) struct Switch {
    pub(crate) to: Protocol,
    pub(crate) is_agreed: bool,
    /// The client says nothing of it before it has been agreed.
    pub(crate) waits: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Protocol {
    /// So many bytes either way.
    Opaque(usize),
    /// HTTP/2, whose first stream is the request itself.
    Http2(Vec<Stream>),
}

/// A ClientHello.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tls {
    pub(crate) name: &'static str,
    /// In two records.
    pub(crate) is_split: bool,
    /// The name of a second one.
    pub(crate) second: Option<&'static str>,
    /// So many bytes follow.
    pub(crate) rest: usize,
}

/// What a server of TLS says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hello {
    Noise,
    Server,
    /// HelloRetryRequest.
    Retry,
}

/// A request of HTTP/2, and how large its response is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) host: &'static str,
    /// `None`: there is none, the HEADERS end the stream.
    pub(crate) body: Option<usize>,
    pub(crate) response: usize,
    pub(crate) pause_us: Micros,
}

/// A request, and what its server makes of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) host: &'static str,
    pub(crate) method: &'static str,
    pub(crate) body: usize,
    pub(crate) is_chunked: bool,
    /// The body waits for a 100 (Continue).
    pub(crate) expects: bool,
    pub(crate) response: Response,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Response {
    pub(crate) body: usize,
    pub(crate) framing: Framing,
    pub(crate) pause_us: Micros,
    /// It comes when the head has come, whatever has come of the body.
    pub(crate) is_early: bool,
    /// The server sends only so much of it, and ends.
    pub(crate) cut: Option<(usize, End)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    /// It ends with the connection.
    Close,
    /// Behind a 100 (Continue).
    Interim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Finish,
    Reset,
    /// close(2) without having read everything.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// At most so many bytes.
    Send(usize),
    /// Goes on when something more is heard, or after this time.
    Hear(Micros),
    /// Goes on when a 101 is heard; else it ends after this time.
    Switch(Micros),
    End(End),
}

/// How fast an actor reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) every_us: Micros,
    pub(crate) most: usize,
    /// After so many bytes it reads no more for as long as this.
    pub(crate) stops: Option<(usize, Micros)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) outcome: Outcome,
    pub(crate) link: Link,
    /// Of TLS.
    pub(crate) hello: Hello,
    /// Of an opaque connection.
    pub(crate) steps: Vec<(Micros, Step)>,
    pub(crate) reader: Reader,
    /// Of an HTTP connection: it ends after so many responses, when it has idled so long.
    pub(crate) keeps: Option<(usize, Micros, End)>,
}

const SECOND: Micros = 1_000_000;

/// `timeouts.halfClose` and `timeouts.idle`.
pub(crate) const HALF_CLOSE_US: Micros = 8 * SECOND;
pub(crate) const IDLE_US: Micros = 20 * SECOND;

const NAMES: [&str; 4] = ["a.example", "a.example", "b.example", "c.example"];

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let draw = &mut draw;
        let size = if draw.one_in(12) { Size::Bulk } else { Size::Mixed };
        let clients = draw.pick(&[1, 1, 2, 2, 3, 4]);
        Self {
            seed,
            ruling: Ruling { b: Entry::Here, ..ruling(draw) },
            habits: habits(draw, size),
            descriptors: if draw.one_in(10) { 2 + draw.below(8) } else { 1_000 },
            ports: if draw.one_in(20) { draw.pick(&[0, 1, 2]) } else { 1_000 },
            pipe_bytes: draw.pick(&[0, 64 * 1024, 1 << 20, 1 << 20]),
            connections: if draw.one_in(6) { draw.pick(&[1, 2, 3]) } else { 1_000 },
            held_bytes: if draw.one_in(20) { 32 << 10 } else { 1 << 26 },
            black_hole: (draw.pick(&[Action::Close, Action::Reset]), draw.one_in(2)),
            logs: draw.one_in(4),
            asks: (0..draw.pick(&[0, 0, 0, 3])).map(|_| draw.up_to(2 * SECOND)).collect(),
            second: outcome(draw),
            reloads: (0..draw.pick(&[0, 0, 0, 1, 2, 4])).map(|_| reload(draw)).collect(),
            drain: draw
                .one_in(6)
                .then(|| (draw.up_to(SECOND), draw.pick(&[0, SECOND, 60 * SECOND]))),
            clients: (0..clients).map(|number| client(&mut draw.branch(), number, size)).collect(),
        }
    }
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Mixed,
    /// So much, and so fast, that pipes pay.
    Bulk,
}

fn habits(draw: &mut Draw, size: Size) -> Habits {
    Habits {
        buffers: match size {
            Size::Mixed => draw.pick(&[1, 2, 4, 64, 64, 64]),
            Size::Bulk => 64,
        },
        fails_one_in: draw.pick(&[0, 0, 3, 20]),
        reorders: !draw.one_in(3),
        turn_completions: draw.pick(&[1, 2, 64]),
        turn_us: draw.pick(&[0, 5, 100, 20_000]),
        turns_max: 400_000,
    }
}

fn ruling(draw: &mut Draw) -> Ruling {
    Ruling {
        mode: draw.pick(&[Mode::AllowAny, Mode::RegistryOnly]),
        b: draw.pick(&[Entry::Here, Entry::Here, Entry::Gone, Entry::Moved]),
    }
}

fn reload(draw: &mut Draw) -> Reload {
    Reload { at: draw.up_to(2 * SECOND), ruling: ruling(draw) }
}

fn link(draw: &mut Draw, size: Size) -> Link {
    match size {
        Size::Mixed => Link {
            delay_us: draw.pick(&[0, 10, 200, 5_000, 80_000]),
            jitter_us: draw.pick(&[0, 5, 1_000, 50_000]),
            send_bytes: draw.pick(&[2_000, 20_000, 100_000, 4 << 20]),
            receive_bytes: draw.pick(&[1_000, 20_000, 100_000, 4 << 20]),
        },
        Size::Bulk => Link {
            delay_us: draw.pick(&[0, 10, 200]),
            jitter_us: draw.pick(&[0, 5]),
            send_bytes: 4 << 20,
            receive_bytes: draw.pick(&[200_000, 4 << 20]),
        },
    }
}

/// A pause, now and then one that meets a timeout.
fn pause(draw: &mut Draw) -> Micros {
    match draw.below(60) {
        0 => draw.pick(&[2 * SECOND, 6 * SECOND, 9 * SECOND, 25 * SECOND]),
        1..=19 => 0,
        _ => {
            let most = draw.pick(&[10, 1_000, 50_000]);
            draw.up_to(most)
        }
    }
}

fn end(draw: &mut Draw) -> End {
    draw.pick(&[End::Finish, End::Finish, End::Finish, End::Reset, End::Close])
}

fn reader(draw: &mut Draw, size: Size) -> Reader {
    let stops = draw.one_in(8).then(|| (draw.below(200_000), draw.pick(&[SECOND, 15 * SECOND])));
    match size {
        Size::Mixed => Reader {
            every_us: draw.pick(&[0, 0, 10, 1_000]),
            most: draw.pick(&[100, 5_000, 1 << 20]),
            stops,
        },
        Size::Bulk => Reader { every_us: draw.pick(&[0, 10]), most: 1 << 20, stops },
    }
}

fn bytes(draw: &mut Draw, size: Size) -> usize {
    match (draw.below(20), size) {
        (0 | 1, _) => 0,
        (_, Size::Bulk) => 300_000 + draw.below(600_000),
        (2..=12, _) => draw.below(500),
        (13..=18, _) => draw.below(20_000),
        _ => draw.below(200_000),
    }
}

/// Enough steps to say `total` bytes, and an end.
fn steps(draw: &mut Draw, total: usize, stops: &[(usize, Step)]) -> Vec<(Micros, Step)> {
    let (mut steps, mut said) = (Vec::new(), 0);
    let most = match total {
        300_000.. => 1 << 20,
        0..400 => draw.pick(&[1, 20, 100, 1 << 20]),
        400..20_000 => draw.pick(&[100, 1_000, 1 << 20]),
        _ => draw.pick(&[5_000, 20_000, 1 << 20]),
    };
    let mut stops = stops.iter().peekable();
    loop {
        while let Some((_, step)) = stops.next_if(|(at, _)| *at <= said) {
            steps.push((0, *step));
        }
        if said >= total {
            break;
        }
        let until = stops.peek().map_or(total, |(at, _)| total.min(*at));
        let piece = (1 + draw.below(most)).min(until - said);
        steps.push((pause(draw), Step::Send(piece)));
        said += piece;
        if draw.one_in(60) {
            break;
        }
    }
    if !draw.one_in(12) {
        steps.push((pause(draw), Step::End(end(draw))));
    }
    steps
}

fn client(draw: &mut Draw, number: usize, size: Size) -> Client {
    let place = draw.pick(&[
        Place::Named,
        Place::Named,
        Place::Named,
        Place::Named,
        Place::Registered,
        Place::Pooled,
        Place::Unknown,
        Place::OpaquePort,
    ]);
    let speech = match draw.below(12) {
        0..=2 => Speech::Opaque(bytes(draw, size)),
        3 | 4 => Speech::Tls(tls(draw, size)),
        5 | 6 => Speech::Http2(streams(draw)),
        7 => Speech::Http1(requests(draw, size), Some(switch(draw))),
        _ => Speech::Http1(requests(draw, size), None),
    };
    let script = crate::script::script(number, &speech);
    Client {
        number,
        pod: u8::try_from(1 + draw.below(2) * number).unwrap_or(1),
        at: draw.up_to(200_000),
        link: link(draw, size),
        place,
        speech,
        steps: steps(draw, script.says.len(), &script.stops),
        reader: reader(draw, size),
        server: server(draw, size),
    }
}

fn requests(draw: &mut Draw, size: Size) -> Vec<Request> {
    (0..1 + draw.below(5)).map(|_| request(draw, size)).collect()
}

fn switch(draw: &mut Draw) -> Switch {
    let to = match draw.one_in(2) {
        true => Protocol::Http2(streams(draw)),
        false => Protocol::Opaque(draw.below(3_000)),
    };
    let waits = matches!(to, Protocol::Http2(_)) || draw.one_in(2);
    Switch { to, is_agreed: !draw.one_in(4), waits }
}

fn streams(draw: &mut Draw) -> Vec<Stream> {
    let first = draw.pick(&NAMES);
    let stream = |draw: &mut Draw| Stream {
        host: if draw.one_in(5) { draw.pick(&NAMES) } else { first },
        body: draw.one_in(2).then(|| draw.below(3_000)),
        response: draw.below(4_000),
        pause_us: pause(draw),
    };
    (0..1 + draw.below(5)).map(|_| stream(draw)).collect()
}

fn tls(draw: &mut Draw, size: Size) -> Tls {
    let name = draw.pick(&NAMES);
    let second = match draw.below(4) {
        0 => Some(name),
        1 => Some(draw.pick(&NAMES)),
        _ => None,
    };
    Tls { name, is_split: draw.one_in(3), second, rest: bytes(draw, size) }
}

fn request(draw: &mut Draw, size: Size) -> Request {
    let method = draw.pick(&["GET", "GET", "POST", "HEAD"]);
    let is_post = method == "POST";
    Request {
        host: draw.pick(&NAMES),
        method,
        body: if is_post { bytes(draw, size) } else { 0 },
        is_chunked: is_post && draw.one_in(2),
        expects: is_post && draw.one_in(4),
        response: Response {
            body: bytes(draw, size),
            framing: draw.pick(&[
                Framing::Length,
                Framing::Length,
                Framing::Chunked,
                Framing::Close,
                Framing::Interim,
            ]),
            pause_us: pause(draw),
            is_early: draw.one_in(8),
            cut: draw.one_in(8).then(|| (draw.below(300), end(draw))),
        },
    }
}

fn outcome(draw: &mut Draw) -> Outcome {
    match draw.below(16) {
        0 => Outcome::Fails(Errno::ECONNREFUSED, draw.up_to(1_000)),
        1 => Outcome::Fails(Errno::ETIMEDOUT, 127 * SECOND),
        2 => Outcome::Fails(Errno::EHOSTUNREACH, 3 * SECOND),
        3 => Outcome::SeemsAccepted,
        _ => Outcome::Accepted,
    }
}

fn server(draw: &mut Draw, size: Size) -> Server {
    let total = bytes(draw, size);
    Server {
        outcome: outcome(draw),
        link: link(draw, size),
        hello: draw.pick(&[Hello::Noise, Hello::Server, Hello::Retry]),
        steps: steps(draw, total, &[]),
        reader: reader(draw, size),
        keeps: draw
            .one_in(3)
            .then(|| (draw.below(4), draw.pick(&[0, 1_000, 2 * SECOND]), end(draw))),
    }
}
