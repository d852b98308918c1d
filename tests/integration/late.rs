//! Completions that come late: in each phase of a connection each kind of operation that can still
//! be in flight is held back, and then ends in each way. Nothing may be left of the connection.
//!
//! What a phase has no row for cannot be in flight in it: nothing is received while Egret answers,
//! and a retired or lingering connection makes no other one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use egret::config::Mode;

use crate::connect::Silent;
use crate::names::{destination, entry};
use crate::support::peer::expect_end;
use crate::support::{Kind, LONG, Outcome, Proxy, Setup, eventually, nobody, reset, uninterrupted};

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const OUTCOMES: [Outcome; 4] =
    [Outcome::AsItCame, Outcome::Ended, Outcome::Lost, Outcome::Cancelled];

/// Where a connection goes that shows no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nameless {
    Blocked,
    ToServer,
    ToSilent,
}

/// A way to have an operation of a kind in flight in a phase.
struct Row {
    phase: &'static str,
    kind: Kind,
    nameless: Nameless,
    idle: Duration,
    script: Script,
}

/// Opens a connection, and has the ring hold a completion of it.
type Script = fn(&Stage) -> Open;

/// What a script has opened: the client, if it lives, and its upstream.
type Open = (Option<TcpStream>, Option<TcpStream>);

/// A proxy, and whom it can reach.
struct Stage {
    proxy: Proxy,
    server: TcpListener,
    _silent: Silent,
}

impl Stage {
    /// `a` leads to the server, `dead` to nobody, `silent` to who does not answer.
    fn new(row: &Row) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let silent = Silent::new();
        let mut entries: Vec<_> = [("a", at), ("dead", nobody()), ("silent", silent.address)]
            .map(|(name, endpoint)| entry(&format!("{name}.test"), "HTTP", endpoint))
            .into();
        match row.nameless {
            Nameless::Blocked => {}
            Nameless::ToServer => entries.push(entry("any.test", "TCP", at)),
            Nameless::ToSilent => entries.push(entry("any.test", "TCP", silent.address)),
        }
        let proxy = Proxy::start(Setup {
            mode: Mode::RegistryOnly,
            registry: entries.concat(),
            names: "deadline: 200ms".to_owned(),
            idle: row.idle,
            ..Setup::default()
        });
        proxy.faults.receive_singly();
        Self { proxy, server, _silent: silent }
    }

    fn hold(&self, kind: Kind, skipped: u32) {
        self.proxy.faults.hold(kind, skipped);
    }

    fn send(&self, bytes: impl AsRef<[u8]>) -> TcpStream {
        let mut client = self.proxy.connect(destination());
        client.write_all(bytes.as_ref()).unwrap();
        client
    }

    fn accept(&self) -> TcpStream {
        let (upstream, _) = self.server.accept().unwrap();
        upstream.set_read_timeout(Some(LONG)).unwrap();
        upstream
    }

    /// A request, and its answer.
    fn exchange(&self) -> (TcpStream, TcpStream) {
        let mut client = self.send(get("a"));
        let mut upstream = self.accept();
        upstream.read_exact(&mut vec![0; get("a").len()]).unwrap();
        upstream.write_all(ANSWER).unwrap();
        client.read_exact(&mut [0; ANSWER.len()]).unwrap();
        (client, upstream)
    }

    /// HTTP/2, whose greeting is under way when the request comes.
    fn greeted(&self, name: &str) -> Open {
        self.hold(Kind::Sent, 0);
        let mut client = self.send(PREFACE);
        eventually("the greeting is sent", || self.proxy.faults.is_holding());
        let authority = format!("{name}.test");
        let length = u8::try_from(authority.len()).unwrap();
        let head = [0, 0, 5 + length, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 1, length];
        client.write_all(&[&head[..], authority.as_bytes()].concat()).unwrap();
        (Some(client), None)
    }

    fn phase(&self) -> Option<String> {
        let (_, text) = self.proxy.get(self.proxy.app().addresses.control.admin, "/connections");
        let connections: serde_json::Value = serde_json::from_str(&text).unwrap();
        Some(connections["connections"].get(0)?["phase"].as_str()?.to_owned())
    }

    /// Has `row` happen, and its completion come as `outcome`.
    fn run(&self, row: &Row, outcome: Outcome) {
        let (client, upstream) = (row.script)(self);
        let what = format!("{:?} in {}, {outcome:?}", row.kind, row.phase);
        let mut seen = None;
        eventually(&what, || {
            let is_there = self.proxy.faults.is_holding() && seen.as_deref() == Some(row.phase);
            seen = self.phase();
            is_there
        });
        self.proxy.faults.release(outcome);
        if let Some(client) = client {
            reset(client);
        }
        if let Some(mut upstream) = upstream {
            // Its descriptor is closed, or the read ends by its timeout.
            let end = upstream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
            assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)), "{what}: {end:?}");
        }
        self.proxy.is_quiet();
        assert!(!self.proxy.faults.is_holding(), "{what}: it has come");
    }
}

fn get(name: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {name}.test\r\n\r\n")
}

/// The first requests of a kept connection pass; this one does what it says.
fn then_ask(stage: &Stage, name: &str) -> Open {
    let (mut client, upstream) = stage.exchange();
    // The request itself comes before what its retired upstream has to say.
    stage.hold(Kind::Received, 1);
    client.write_all(get(name).as_bytes()).unwrap();
    (Some(client), Some(upstream))
}

fn ask(stage: &Stage, kind: Kind, name: &str) -> Open {
    stage.hold(kind, 0);
    (Some(stage.send(get(name))), None)
}

/// No name comes, so the deadline ends the wait for it, and cancels the receive.
fn say_little(stage: &Stage) -> Open {
    stage.hold(Kind::Received, 1);
    (Some(stage.send("G")), None)
}

fn exchange_while_holding(stage: &Stage, kind: Kind) -> Open {
    stage.hold(kind, 0);
    let (client, upstream) = stage.exchange();
    (Some(client), Some(upstream))
}

/// The client has ended its half, so that its death is watched for.
fn half_close(stage: &Stage) -> (TcpStream, TcpStream) {
    let (client, mut upstream) = stage.exchange();
    stage.hold(Kind::Ready, 0);
    client.shutdown(Shutdown::Write).unwrap();
    expect_end(&mut upstream);
    (client, upstream)
}

fn reset_while_connecting(stage: &Stage, kind: Kind) -> Open {
    let client = stage.send(get("silent"));
    eventually("it connects", || stage.phase().as_deref() == Some("connecting"));
    stage.hold(kind, 0);
    reset(client);
    (None, None)
}

/// The upstream is lost while the client has not taken what came before.
fn lose_upstream(stage: &Stage) -> Open {
    let client = stage.send(b"\0opaque");
    let mut upstream = stage.accept();
    upstream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while uninterrupted(|| upstream.write(&[0; 65_536])).is_ok() {}
    stage.hold(Kind::Received, 0);
    reset(upstream);
    (Some(client), None)
}

fn rows() -> Vec<Row> {
    use Kind::{Connected, Ready, Received, Sent};
    let rows: [(_, _, _, Script); 19] = [
        ("waiting", Sent, Nameless::Blocked, |stage| {
            stage.hold(Sent, 0);
            (Some(stage.send(PREFACE)), None)
        }),
        ("connecting", Received, Nameless::ToSilent, say_little),
        ("connecting", Connected, Nameless::Blocked, |stage| ask(stage, Connected, "a")),
        ("connecting", Sent, Nameless::Blocked, |stage| stage.greeted("silent")),
        ("connecting", Ready, Nameless::Blocked, |stage| reset_while_connecting(stage, Ready)),
        ("relaying", Received, Nameless::ToServer, say_little),
        ("relaying", Received, Nameless::Blocked, |stage| {
            let (mut client, upstream) = stage.exchange();
            stage.hold(Received, 0);
            client.write_all(get("a").as_bytes()).unwrap();
            (Some(client), Some(upstream))
        }),
        ("relaying", Sent, Nameless::Blocked, |stage| exchange_while_holding(stage, Sent)),
        ("relaying", Ready, Nameless::Blocked, |stage| {
            let (client, upstream) = half_close(stage);
            reset(client);
            (None, Some(upstream))
        }),
        ("retiring", Received, Nameless::Blocked, |stage| then_ask(stage, "dead")),
        ("retiring", Received, Nameless::Blocked, |stage| then_ask(stage, "blocked")),
        // The reply waits for the greeting before it.
        ("answering", Sent, Nameless::Blocked, |stage| stage.greeted("dead")),
        ("answering", Sent, Nameless::Blocked, |stage| ask(stage, Sent, "blocked")),
        ("lingering", Received, Nameless::Blocked, say_little),
        ("lingering", Ready, Nameless::Blocked, |stage| {
            stage.hold(Ready, 0);
            let mut client = stage.send(get("blocked"));
            client.read_to_end(&mut Vec::new()).unwrap();
            client.write_all(b"more").unwrap();
            (Some(client), None)
        }),
        ("resetting", Received, Nameless::ToServer, lose_upstream),
        ("closing", Connected, Nameless::Blocked, |stage| reset_while_connecting(stage, Connected)),
        ("closing", Received, Nameless::Blocked, |stage| {
            let (client, upstream) = stage.exchange();
            stage.hold(Received, 0);
            (Some(client), Some(upstream))
        }),
        ("closing", Sent, Nameless::Blocked, |stage| exchange_while_holding(stage, Sent)),
    ];
    let row = |(phase, kind, nameless, script)| {
        // What is closed by nobody else is closed for want of bytes.
        let idle = Duration::from_millis(if phase == "closing" { 400 } else { 60_000 });
        Row { phase, kind, nameless, idle, script }
    };
    rows.into_iter().map(row).collect()
}

/// All outcomes of a row, one after the other.
fn try_row(row: &Row) {
    let stage = Stage::new(row);
    let fits = |outcome: &Outcome| *outcome != Outcome::Ended || row.kind == Kind::Received;
    let mut runs = 0.0;
    for outcome in OUTCOMES.into_iter().filter(fits) {
        stage.run(row, outcome);
        runs += 1.0;
    }
    let ended = stage.proxy.sum("egret_connections_closed_total", &[]);
    assert_eq!(ended, runs, "{:?} in {}: each ends once", row.kind, row.phase);
    for gauge in ["egret_recognising_connections", "egret_recognising_bytes"] {
        assert_eq!(stage.proxy.sum(gauge, &[]), 0.0, "{gauge}");
    }
}

#[test]
fn a_completion_that_comes_late_leaves_nothing_in_any_phase() {
    // Most of the time they wait.
    std::thread::scope(|scope| {
        for row in rows() {
            // Who panics is named.
            let name = format!("{:?} in {}", row.kind, row.phase);
            let thread = std::thread::Builder::new().name(name);
            thread.spawn_scoped(scope, move || try_row(&row)).unwrap();
        }
    });
}
