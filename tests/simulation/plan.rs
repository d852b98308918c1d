//! What a seed means: everything that is drawn before a scenario begins, so that parts of it can be
//! left out.

use egret::config::Mode;
use egret::sys::kernel::Errno;
use egret::sys::sim::{Draw, Habits, Link, Micros, Outcome};

/// A scenario.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// For what is drawn while it runs.
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) habits: Habits,
    pub(crate) descriptors: usize,
    pub(crate) ports: u16,
    pub(crate) pipe_bytes: usize,
    pub(crate) reloads: Vec<Reload>,
    /// When the process begins to drain, and what it gives its connections; else at the end.
    pub(crate) drain: Option<(Micros, Micros)>,
    pub(crate) clients: Vec<Client>,
}

/// A change of the registry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reload {
    pub(crate) at: Micros,
    pub(crate) mode: Mode,
    /// The entry of `b.example` is there.
    pub(crate) with_b: bool,
}

/// One connection of a workload, and how the servers behave that it meets.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) number: usize,
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
}

/// What a client says.
#[derive(Debug, Clone)]
pub(crate) enum Speech {
    /// So many bytes of no protocol.
    Opaque(usize),
    /// Requests.
    Http1(Vec<Request>),
    /// A ClientHello with this name, then so many bytes.
    Tls(&'static str, usize),
}

/// A request, and what its server makes of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) host: &'static str,
    pub(crate) method: &'static str,
    pub(crate) body: usize,
    pub(crate) is_chunked: bool,
    pub(crate) response: Response,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Response {
    pub(crate) body: usize,
    pub(crate) framing: Framing,
    pub(crate) pause_us: Micros,
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
    /// Of an opaque connection.
    pub(crate) steps: Vec<(Micros, Step)>,
    pub(crate) reader: Reader,
    /// Of an HTTP connection: it ends after so many responses, when it has idled so long.
    pub(crate) keeps: Option<(usize, Micros, End)>,
}

const SECOND: Micros = 1_000_000;

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let draw = &mut draw;
        let mode = draw.pick(&[Mode::AllowAny, Mode::RegistryOnly]);
        let clients = 1 + draw.below(3);
        Self {
            seed,
            mode,
            habits: habits(draw),
            descriptors: if draw.one_in(10) { 2 + draw.below(8) } else { 1_000 },
            ports: if draw.one_in(20) { draw.pick(&[0, 1, 2]) } else { 1_000 },
            pipe_bytes: draw.pick(&[0, 64 * 1024, 1 << 20, 1 << 20]),
            reloads: (0..draw.pick(&[0, 0, 0, 1, 2, 4])).map(|_| reload(draw)).collect(),
            drain: draw
                .one_in(6)
                .then(|| (draw.up_to(SECOND), draw.pick(&[0, SECOND, 60 * SECOND]))),
            clients: (0..clients).map(|number| client(&mut draw.branch(), number)).collect(),
        }
    }
}

fn habits(draw: &mut Draw) -> Habits {
    Habits {
        buffers: draw.pick(&[1, 2, 4, 64, 64, 64]),
        fails_one_in: draw.pick(&[0, 0, 3, 20]),
        reorders: !draw.one_in(3),
        turn_completions: draw.pick(&[1, 2, 64]),
        turn_us: draw.pick(&[0, 5, 100, 20_000]),
        turns_max: 400_000,
    }
}

fn reload(draw: &mut Draw) -> Reload {
    let mode = draw.pick(&[Mode::AllowAny, Mode::RegistryOnly]);
    Reload { at: draw.up_to(2 * SECOND), mode, with_b: !draw.one_in(3) }
}

fn link(draw: &mut Draw) -> Link {
    Link {
        delay_us: draw.pick(&[0, 10, 200, 5_000, 80_000]),
        jitter_us: draw.pick(&[0, 5, 1_000, 50_000]),
        send_bytes: draw.pick(&[2_000, 20_000, 100_000, 4 << 20]),
        receive_bytes: draw.pick(&[1_000, 20_000, 100_000, 4 << 20]),
    }
}

/// A pause, now and then one that meets a timeout.
fn pause(draw: &mut Draw) -> Micros {
    match draw.below(60) {
        0 => draw.pick(&[2 * SECOND, 6 * SECOND, 55 * SECOND, 150 * SECOND]),
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

fn reader(draw: &mut Draw) -> Reader {
    Reader {
        every_us: draw.pick(&[0, 0, 10, 1_000]),
        most: draw.pick(&[100, 5_000, 1 << 20]).max(1),
        stops: draw.one_in(8).then(|| (draw.below(200_000), draw.pick(&[SECOND, 100 * SECOND]))),
    }
}

fn bytes(draw: &mut Draw) -> usize {
    match draw.below(10) {
        0 => 0,
        1..=5 => draw.below(500),
        6..=8 => draw.below(30_000),
        _ => draw.below(700_000),
    }
}

/// Enough steps to say `total` bytes, and an end.
fn steps(draw: &mut Draw, total: usize) -> Vec<(Micros, Step)> {
    let (mut steps, mut left) = (Vec::new(), total);
    let most = match total {
        0..400 => draw.pick(&[1, 20, 100, 1 << 20]),
        400..20_000 => draw.pick(&[100, 1_000, 1 << 20]),
        _ => draw.pick(&[5_000, 20_000, 1 << 20]),
    };
    while left > 0 {
        let piece = (1 + draw.below(most)).min(left);
        steps.push((pause(draw), Step::Send(piece)));
        left -= piece;
        if draw.one_in(40) {
            break;
        }
    }
    if !draw.one_in(12) {
        steps.push((pause(draw), Step::End(end(draw))));
    }
    steps
}

fn client(draw: &mut Draw, number: usize) -> Client {
    let place =
        draw.pick(&[Place::Named, Place::Named, Place::Named, Place::Registered, Place::Unknown]);
    let speech = match draw.below(8) {
        0 | 1 => Speech::Opaque(bytes(draw)),
        2 => Speech::Tls(draw.pick(&["a.example", "b.example", "c.example"]), bytes(draw)),
        _ => Speech::Http1((0..1 + draw.below(5)).map(|_| request(draw)).collect()),
    };
    let total = crate::client::script(number, &speech).says.len();
    Client {
        number,
        at: draw.up_to(200_000),
        link: link(draw),
        place,
        speech,
        steps: steps(draw, total),
        reader: reader(draw),
        server: server(draw),
    }
}

fn request(draw: &mut Draw) -> Request {
    let method = draw.pick(&["GET", "GET", "POST", "HEAD"]);
    let is_post = method == "POST";
    Request {
        host: draw.pick(&["a.example", "a.example", "b.example", "c.example"]),
        method,
        body: if is_post { bytes(draw) / 4 } else { 0 },
        is_chunked: is_post && draw.one_in(2),
        response: Response {
            body: bytes(draw) / 4,
            framing: draw.pick(&[
                Framing::Length,
                Framing::Length,
                Framing::Chunked,
                Framing::Close,
                Framing::Interim,
            ]),
            pause_us: pause(draw),
            cut: draw.one_in(8).then(|| (draw.below(300), end(draw))),
        },
    }
}

fn server(draw: &mut Draw) -> Server {
    let total = bytes(draw);
    Server {
        outcome: match draw.below(16) {
            0 => Outcome::Fails(Errno::ECONNREFUSED, draw.up_to(1_000)),
            1 => Outcome::Fails(Errno::ETIMEDOUT, 127 * SECOND),
            2 => Outcome::Fails(Errno::EHOSTUNREACH, 3 * SECOND),
            3 => Outcome::SeemsAccepted,
            _ => Outcome::Accepted,
        },
        link: link(draw),
        steps: steps(draw, total),
        reader: reader(draw),
        keeps: draw
            .one_in(3)
            .then(|| (draw.below(4), draw.pick(&[0, 1_000, 2 * SECOND]), end(draw))),
    }
}
