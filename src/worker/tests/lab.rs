//! One worker, its servers, and the two ends of what passes between them.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::ring::{StepKernel, View};
use crate::access_log;
use crate::admission::Admission;
use crate::commands::{ClosedPage, Command, CommandSender, ConnectionFilter};
use crate::config::{Config, Mode, OpenConnections};
use crate::drain::Drain;
use crate::metrics::{CloseReason, Format, MetricsHub, ResolvedClaim};
use crate::questions::{self, Found, Question};
use crate::registry::service_entry;
use crate::registry::snapshot::Answers;
use crate::registry::{Registry, Retired, Snapshot};
use crate::sys::kernel::{Kernel, Recorded};
use crate::sys::socket::{Listener, Reach};
use crate::sys::waker::Waker;
use crate::upstream_guard::ThisHost;
use crate::worker::connection::Event;
use crate::worker::{KEEPALIVE, Parts, Worker};
use crate::workload::Workloads;

const BUFFERS: u16 = 64;

/// A file that registers nothing.
const NO_ENTRIES: &str = "kind: List\napiVersion: v1\nitems: []\n";

/// Turns in which nothing completes, after which the kernel has nothing more to tell: over
/// loopback what one socket sends is in the other one's queue when the call returns.
const QUIET_TURNS: u32 = 3;

/// The most turns that one step can keep a worker busy for.
const TURNS_MAX: u32 = 10_000;

/// A server. Each is the way of hosts that begin with its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    /// `a.example`, found by name.
    A,
    /// `b.example`, found by name.
    B,
    /// Where the client meant to go: for what is not registered, if that is allowed.
    Destination,
}

const SERVERS: [Server; 3] = [Server::A, Server::B, Server::Destination];

/// One end of a connection, in the test's hands.
#[derive(Debug)]
pub(super) struct End {
    stream: TcpStream,
    pub(super) received: Vec<u8>,
    pub(super) is_open: bool,
    ended: Cell<bool>,
    /// It has ended by a reset.
    pub(super) was_reset: bool,
}

impl End {
    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let (received, ended) = Default::default();
        Self { stream, received, is_open: true, ended, was_reset: false }
    }

    /// Sends `bytes`, which may meet a reset.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("the socket's queue is larger than all that a test sends")
            }
            Err(_) => self.is_open = false,
        }
    }

    /// Sends until no queue on the way takes any more.
    pub(super) fn fill(&mut self) {
        while self.stream.write(&[0; 64 * 1024]).is_ok() {}
    }

    pub(super) fn finish(&mut self) {
        // A peer that has been reset has no more to be told.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.is_open = false;
    }

    /// The connection is closed, and the other end told by a reset.
    pub(super) fn reset(&mut self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &linger).unwrap();
        // The descriptor must go for the reset to be sent.
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let unused = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        unused.set_nonblocking(true).unwrap();
        drop(std::mem::replace(&mut self.stream, unused));
        self.is_open = false;
        self.ended.set(true);
    }

    /// Whether the other end has told the end.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Takes what has come.
    pub(super) fn read(&mut self) {
        let mut chunk = [0; 16 * 1024];
        while !self.ended.get() {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended.set(true),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.was_reset = true;
                    self.ended.set(true);
                }
            }
        }
    }
}

/// A connection that the worker has made.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) server: Server,
    pub(super) end: End,
}

/// The control plane's part.
#[derive(Debug)]
struct Control {
    commands: CommandSender,
    asked: questions::Receiver,
    registry: Registry,
    retired: Retired,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lab {
    worker: Worker<StepKernel>,
    view: Rc<View>,
    door: SocketAddr,
    listeners: [TcpListener; 3],
    control: Control,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) drain: Drain,
    hub: MetricsHub,
}

impl Lab {
    /// A worker that decides by name under `mode`; `observed`: by the address, whatever the name.
    pub(super) fn new(mode: Mode, observed: bool) -> Self {
        Self::start(mode, |[a, b, destination]| match observed {
            true => NO_ENTRIES.to_owned(),
            false => entry("a", a, destination.port()) + &entry("b", b, destination.port()),
        })
    }

    /// A worker that sends every connection to one of the endpoints that `choose` makes of the
    /// servers' addresses.
    pub(super) fn with_endpoints(choose: impl FnOnce([SocketAddr; 3]) -> Vec<SocketAddr>) -> Self {
        Self::start(Mode::RegistryOnly, |servers| {
            let [.., destination] = servers;
            let endpoint = |to: SocketAddr| {
                format!("{{ address: '{}', ports: {{ main: {} }} }}", to.ip(), to.port())
            };
            let endpoints: Vec<String> = choose(servers).into_iter().map(endpoint).collect();
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                 metadata: {{ name: many, namespace: shop }}\nspec:\n  hosts: [many.example]\n  \
                 addresses: ['{}']\n  ports: [{{ number: {}, name: main, protocol: TCP }}]\n  \
                 resolution: STATIC\n  endpoints: [{}]\n",
                destination.ip(),
                destination.port(),
                endpoints.join(", "),
            )
        })
    }

    /// A worker that resolves every name below `wild.example`, and connects to what it finds at the
    /// port of server A; the names are claimed in `protocol`.
    pub(super) fn resolving(mode: Mode, protocol: &str) -> Self {
        Self::start(mode, |[a, _, destination]| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                 metadata: {{ name: wild, namespace: shop }}\nspec:\n  \
                 hosts: ['*.wild.example']\n  ports:\n  - {{ number: {}, targetPort: {}, \
                 name: main, protocol: {protocol} }}\n  \
                 resolution: DYNAMIC_DNS\n",
                destination.port(),
                a.port(),
            )
        })
    }

    /// The client's address, as the worker knows it.
    pub(super) fn source(&self) -> IpAddr {
        let mut connections = self.worker.connections.iter();
        connections.next().expect("a connection lives").1.source.ip()
    }

    /// The next name that the worker wants resolved.
    pub(super) fn question(&mut self) -> Option<Question> {
        self.control.asked.try_recv().ok()
    }

    /// The worker is told what was found.
    pub(super) fn answer(&mut self, question: Question, found: Found) {
        let Question { name, connection, .. } = question;
        assert!(self.control.commands.send(Command::Resolved { name, connection, found }));
        self.worker.on_commands();
        self.settle();
    }

    /// How many claimed names had this result.
    pub(super) fn resolved(&self, result: ResolvedClaim) -> u64 {
        self.worker.cx.metrics.counters.resolved_claims(result).get()
    }

    fn start(mode: Mode, registry: impl FnOnce([SocketAddr; 3]) -> String) -> Self {
        let listeners = SERVERS.map(|_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let [a, b, destination] = [0, 1, 2].map(|index| listeners[index].local_addr().unwrap());
        let text = registry([a, b, destination]);
        let mut config = Config::default();
        config.upstream.mark = None;
        config.upstream.allow = vec!["127.0.0.0/8".parse().unwrap()];
        config.outbound_traffic_policy.mode = mode;
        let listener =
            Listener::bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Reach::Own, KEEPALIVE)
                .unwrap();
        let door = listener.local_address().unwrap();
        let view = Rc::<View>::default();
        let hub = MetricsHub::new(config.metrics.series_max, 1);
        let (parts, control) = parts(config, &text, listener, &hub);
        let drain = parts.drain.clone();
        let kernel = StepKernel::new(BUFFERS, Rc::clone(&view), destination);
        let mut worker = Worker::new(parts, kernel);
        worker.resume_accepts(0);
        Self { worker, view, door, listeners, control, upstreams: Vec::new(), drain, hub }
    }

    /// A client of the worker.
    pub(super) fn connect(&mut self) -> End {
        self.upstreams.clear();
        self.connect_beside()
    }

    /// Another client of the worker; the upstream connections of the others stay.
    pub(super) fn connect_beside(&mut self) -> End {
        let client = End::new(TcpStream::connect(self.door).unwrap());
        self.settle();
        client
    }

    /// The files say from here on that what is not registered is blocked, that only the servers of
    /// these letters are, and this about open connections.
    pub(super) fn register_only(&mut self, letters: &[&str], open: OpenConnections) {
        let [a, b, port] = [0, 1, 2].map(|index| self.listeners[index].local_addr().unwrap());
        let server = |letter: &&str| entry(letter, if *letter == "a" { a } else { b }, port.port());
        let text: String = letters.iter().map(server).collect();
        let text = if text.is_empty() { NO_ENTRIES } else { &text };
        let mut config = Config::clone(&self.control.registry.current().config);
        config.outbound_traffic_policy.mode = Mode::RegistryOnly;
        config.outbound_traffic_policy.open_connections = open;
        self.publish(Arc::new(config), text);
    }

    /// Nothing is registered any more, as far as the next generation knows, but the files are the
    /// same: so it is with what DNS alone has changed.
    pub(super) fn forget_all_addresses(&mut self) {
        let config = Arc::clone(&self.control.registry.current().config);
        self.publish(config, NO_ENTRIES);
    }

    fn publish(&mut self, config: Arc<Config>, text: &str) {
        let Control { registry, retired, .. } = &mut self.control;
        let entries = service_entry::parse(text, Path::new("registry.yaml")).unwrap().0;
        let generation = registry.current().generation + 1;
        let (workloads, answers) = (Arc::new(Workloads::default()), Answers::default());
        let (snapshot, _) = Snapshot::build(generation, config, &entries, workloads, &answers);
        registry.publish(snapshot, retired);
    }

    /// One turn of the worker.
    pub(super) fn turn(&mut self) {
        self.worker.turn().unwrap();
    }

    /// The worker ends what the filter takes, as far as one command goes.
    pub(super) fn close_some(&mut self, from: usize, filter: ConnectionFilter) -> ClosedPage {
        self.worker.close_some(from, &Arc::new(filter))
    }

    /// `time` passes.
    pub(super) fn wait(&mut self, time: Duration) {
        self.view.later.set(self.view.later.get() + time);
        self.settle();
    }

    /// Lets the worker do all that it can do now, and takes what has come to the servers.
    pub(super) fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            let before = self.view.completions.get();
            self.worker.turn().unwrap();
            self.accept();
            quiet = if self.view.completions.get() == before { quiet + 1 } else { 0 };
            if quiet == QUIET_TURNS {
                return self.upstreams.iter_mut().for_each(|upstream| upstream.end.read());
            }
        }
        panic!("the worker is still busy after {TURNS_MAX} turns");
    }

    fn accept(&mut self) {
        for (server, listener) in SERVERS.into_iter().zip(&self.listeners) {
            while let Ok((stream, _)) = listener.accept() {
                self.upstreams.push(Upstream { server, end: End::new(stream) });
            }
        }
    }

    /// It is so much later.
    pub(super) fn later(&mut self, time: Duration) {
        self.view.later.set(self.view.later.get() + time);
        self.settle();
    }

    /// Lets time go by, in steps in which every connection is visited.
    pub(super) fn pass(&mut self, seconds: u64) {
        (0..seconds * 10).for_each(|_| self.later(Duration::from_millis(100)));
    }

    /// The phase of the only connection.
    pub(super) fn phase(&self) -> &'static str {
        let mut phases = self.worker.connections.iter().map(|(_, one)| one.phase_name());
        phases.next().expect("a connection lives")
    }

    /// How many connections have ended for `reason`.
    pub(super) fn closed(&self, reason: CloseReason) -> u64 {
        self.worker.cx.metrics.counters.closed(reason).get()
    }

    /// Every connection ends for `reason`.
    pub(super) fn end(&mut self, reason: CloseReason) {
        self.worker.visit(0..usize::MAX, || Event::End(reason));
    }

    /// What a scrape shows now.
    pub(super) fn scrape(&self) -> String {
        self.hub.encode(Format::Text, self.drain.phase())
    }

    /// Whether no connection is left, at this moment of the clock.
    pub(super) fn is_empty(&self) -> bool {
        self.worker.connections.is_empty()
    }

    /// Both ends are gone: nothing of the connection may be left, once its timeouts are over.
    pub(super) fn close(&mut self, mut client: End) {
        self.settle();
        client.read();
        client.reset();
        self.upstreams.iter_mut().for_each(|upstream| upstream.end.reset());
        // Each of its waits has an end: the longest is `timeouts.idle`.
        for _ in 0..60 {
            self.settle();
            if self.worker.connections.is_empty() {
                break;
            }
            self.view.later.set(self.view.later.get() + Duration::from_secs(120));
        }
        assert!(self.worker.connections.is_empty(), "{:?}", self.worker.connections);
        assert_eq!(self.worker.cx.kernel.pool().free(), usize::from(BUFFERS), "buffers are left");
        assert_eq!(self.worker.cx.metrics.counters.connections_active.get(), 0);
        assert_eq!(self.worker.cx.metrics.counters.detecting.get(), 0);
        assert_eq!(self.worker.cx.metrics.counters.detecting_bytes.get(), 0);
        assert_eq!(self.worker.cx.metrics.counters.held_bytes.get(), 0);
    }
}

fn entry(letter: &str, server: SocketAddr, port: u16) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{ name: {letter}, namespace: shop }}\nspec:\n  \
         hosts: [\"{letter}.example\"]\n  \
         ports: [{{ number: {port}, name: main, protocol: HTTP }}]\n  resolution: STATIC\n  \
         endpoints: [{{ address: {}, ports: {{ main: {} }} }}]\n",
        server.ip(),
        server.port(),
    )
}

fn parts(
    config: Config,
    text: &str,
    listener: Listener,
    hub: &MetricsHub,
) -> (Parts<Listener>, Control) {
    let entries = service_entry::parse(text, Path::new("registry.yaml")).unwrap().0;
    let (access_log, _) = access_log::open(&config.access_log);
    let workloads = Arc::new(Workloads::default());
    let (snapshot, _) =
        Snapshot::build(1, Arc::new(config), &entries, workloads, &Answers::default());
    let registry = Registry::new(snapshot);
    let admission = Admission::new(ThisHost::default());
    admission.set_limit(2_000);
    let drain = Drain::default();
    drain.serve();
    let waker = Waker::new().unwrap();
    let (commands, inbox) = CommandSender::new(waker.clone());
    let (questions, asked) = questions::channel();
    let parts = Parts {
        id: 0,
        listeners: vec![listener],
        recorded: Recorded::ByConntrack,
        reader: registry.reader(),
        admission,
        metrics: hub.worker(0),
        access_log,
        drain,
        inbox,
        waker,
        questions,
        failed_addresses: Arc::default(),
        pipes_max: 2,
        workers: 1,
    };
    (parts, Control { commands, asked, registry, retired: Retired::default() })
}
