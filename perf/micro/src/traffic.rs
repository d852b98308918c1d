//! A whole worker on a kernel that plays a script: what a connection, or an exchange on a kept one,
//! costs in Egret's own code, from completion to submission.
//!
//! The sockets are real, because the worker asks them things in direct system calls, but no byte
//! goes through them: the ring makes up every completion, and its clock stands still but for a step
//! per turn. So the kernel's work, which is most of what a proxy costs, is not in these counts, and
//! what differs between two of them is what Egret does more in the one than in the other.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use egret::config::Config;
use egret::internals::access_log;
use egret::internals::admission::Admission;
use egret::internals::commands::CommandSender;
use egret::internals::drain::Drain;
use egret::internals::metrics::MetricsHub;
use egret::internals::questions;
use egret::internals::registry::service_entry;
use egret::internals::registry::snapshot::Answers;
use egret::internals::registry::{Registry, Snapshot};
use egret::internals::upstream_guard::ThisHost;
use egret::internals::worker::{Parts, Worker};
use egret::internals::workload::Workloads;
use egret::sys::kernel::{ListenSocket, Recorded};
use egret::sys::socket::{Keepalive, Listener, Reach, Socket};
use egret::sys::waker::Waker;

mod scripted;

use scripted::{Script, Scripted};

const KEEPALIVE: Keepalive = Keepalive { idle_seconds: 60, interval_seconds: 60, probes: 3 };

/// Two hosts in turn, as `perf/loadgen` asks.
const REQUESTS: [&[u8]; 2] = [
    b"GET /v1/orders HTTP/1.1\r\nHost: api.example.com\r\n\
      User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
    b"GET /v1/orders HTTP/1.1\r\nHost: web.example.com\r\n\
      User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
];

/// What nginx answers.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\n\
    Date: Mon, 03 Aug 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n\
    Content-Length: 16\r\nConnection: keep-alive\r\n\r\n{\"orders\":[1,2]}";

/// Bytes of no known protocol.
const OPAQUE: [&[u8]; 1] = [&[0xa5; 64]];

/// Where names decide.
const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
    metadata:\n  name: apis\n  namespace: shop\n\
    spec:\n  hosts:\n  - '*.example.com'\n\
    \x20 ports:\n  - number: PORT\n    name: http\n    protocol: HTTP\n\
    \x20 resolution: NONE\n";

/// Who looks at the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// Nobody: `names.enabled: false`.
    Off,
    /// The address has decided; they pass as they come.
    Watched,
    /// An entry routes by name; each request is judged.
    Gated,
}

/// What is counted: one exchange of many on a kept connection, or a connection with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Exchange,
    Connection,
}

/// What the client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// HTTP requests that repeat.
    Http,
    /// HTTP requests, each with an id of its own, as are the answers.
    HttpFresh,
    /// Something else.
    Opaque,
}

/// The first call does the work of all calls.
pub(crate) fn run(calls: usize, names: Names, counted: Counted, sent: Sent) -> Box<dyn FnMut()> {
    let (connections, exchanges) = match counted {
        Counted::Exchange => (1, calls),
        Counted::Connection => (calls, 1),
    };
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let destination = server.local_addr().expect("it is bound");
    let drain = Drain::default();
    drain.serve();
    let script = Script {
        connections,
        exchanges,
        rounds: rounds(sent, exchanges),
        drain: drain.clone(),
        downstreams: Downstreams::new(),
        server,
        destination,
    };
    let worker = worker(destination, names, drain, Scripted::new(script));
    let mut worker = Some(worker);
    Box::new(move || {
        if let Some(worker) = worker.take() {
            worker.run().expect("the script does not fail");
        }
    })
}

/// Requests with their answers, which are sent in turn.
fn rounds(sent: Sent, exchanges: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let fresh = |bytes: &[u8], number: usize| {
        let text = std::str::from_utf8(bytes).expect("ASCII");
        let (line, rest) = text.split_once("\r\n").expect("a first line");
        let (fields, body) = rest.split_once("\r\n\r\n").expect("the head's end");
        format!("{line}\r\n{fields}\r\nX-Request-Id: {number:032x}\r\n\r\n{body}").into_bytes()
    };
    match sent {
        Sent::Http => REQUESTS.map(|request| (request.to_vec(), ANSWER.to_vec())).to_vec(),
        Sent::HttpFresh => (0..exchanges)
            .map(|number| (fresh(REQUESTS[number % 2], number), fresh(ANSWER, number)))
            .collect(),
        Sent::Opaque => OPAQUE.map(|bytes| (bytes.to_vec(), bytes.to_vec())).to_vec(),
    }
}

/// The sockets of clients that say nothing: the script speaks for them.
#[derive(Debug)]
struct Downstreams {
    listener: Listener,
    address: SocketAddr,
}

impl Downstreams {
    fn new() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(&any, Reach::Own, KEEPALIVE).expect("a port");
        let address = listener.local_address().expect("it is bound");
        Self { listener, address }
    }

    /// The client's end, which must live as long, and Egret's.
    fn connect(&self) -> (TcpStream, Socket) {
        let client = TcpStream::connect(self.address).expect("it listens");
        (client, self.listener.accept_now().expect("the handshake is complete"))
    }
}

fn worker(
    destination: SocketAddr,
    names: Names,
    drain: Drain,
    kernel: Scripted,
) -> Worker<Scripted> {
    let mut config = Config::default();
    config.upstream.mark = None;
    config.upstream.allow = vec!["127.0.0.1/32".parse().expect("a prefix")];
    config.names.enabled = names != Names::Off;
    let entries = match names {
        Names::Gated => {
            let text = ENTRY.replace("PORT", &destination.port().to_string());
            service_entry::parse(&text, Path::new("registry.yaml")).expect("it is valid").0
        }
        Names::Off | Names::Watched => Vec::new(),
    };
    let (access_log, _) = access_log::open(&config.access_log);
    let metrics = MetricsHub::new(config.metrics.series_max, 1).worker(0);
    let workloads = Arc::new(Workloads::default());
    let (snapshot, _) =
        Snapshot::build(1, Arc::new(config), &entries, workloads, &Answers::default());
    let admission = Admission::new(ThisHost::default());
    admission.set_limit(1_000);
    let waker = Waker::new().expect("a descriptor");
    let (_, inbox) = CommandSender::new(Waker::new().expect("a descriptor"));
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let parts = Parts {
        id: 0,
        listeners: vec![Listener::bind(&any, Reach::Own, KEEPALIVE).expect("a port")],
        recorded: Recorded::ByConntrack,
        reader: Registry::new(snapshot).reader(),
        admission,
        metrics,
        access_log,
        drain,
        inbox,
        waker,
        questions: questions::channel().0,
        failed_addresses: Arc::default(),
        pipes_max: 0,
        workers: 1,
    };
    Worker::new(parts, kernel)
}
