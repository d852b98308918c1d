//! One scenario: a worker, and all that is outside of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use egret::config::{AccessLogFormat, Config};
use egret::internals::access_log::{self, AccessLog, Queue};
use egret::internals::admission::Admission;
use egret::internals::commands::{Command, CommandSender};
use egret::internals::drain::Drain;
use egret::internals::metrics::{Format, MetricsHub};
use egret::internals::probe::{self, Fault};
use egret::internals::questions;
use egret::internals::registry::{Registry, Retired};
use egret::internals::upstream_guard::ThisHost;
use egret::internals::worker::{Parts, Worker};
use egret::sys::kernel::Recorded;
use egret::sys::sim::{Draw, ListenerId, Micros, Net, Outside, SimKernel, SimListener};
use egret::sys::waker::Waker;

use crate::client::{Actor, State};
use crate::http2::{self, frame_at};
use crate::oracle;
use crate::plan::{IDLE_US, Plan, Ruling, Speech};
use crate::registry::{A, B, Entries, POOL, TLS_PORT, WEB_PORT, destination, speaks_web};
use crate::script::{Script, pattern, script, server_hello};
use crate::server::{Responses, WebServer};

/// How long a connection may outlive both of its peers.
const AFTERLIFE_US: Micros = IDLE_US + 5_000_000;

thread_local! {
    static ENTRIES: Entries = Entries::new();
    /// It is large: one for all runs of a thread.
    static LOG: (AccessLog, Queue) = access_log::open(&Config::default().access_log);
}

/// A server whose bytes mean nothing to it.
#[derive(Debug)]
pub(crate) struct RawServer {
    pub(crate) address: SocketAddr,
    pub(crate) actor: Actor,
}

/// What has happened, for the oracle.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// The clients' numbers, by their place in the plan.
    numbers: Vec<usize>,
    /// The clients, by their place in the plan; `None`: it never began, or was refused.
    pub(crate) clients: Vec<Option<Actor>>,
    pub(crate) raw: Vec<RawServer>,
    pub(crate) http: Vec<WebServer>,
    pub(crate) responses: Responses,
    /// By the client's number.
    pub(crate) scripts: Vec<Script>,
    /// Since when what decides.
    pub(crate) rulings: Vec<(Micros, Ruling)>,
    pub(crate) drained_at: Option<Micros>,
    trace: VecDeque<String>,
    traces: bool,
}

#[derive(Debug)]
struct World {
    plan: Plan,
    listener: ListenerId,
    registry: Registry,
    retired: Retired,
    drain: Drain,
    commands: CommandSender,
    story: Rc<RefCell<Story>>,
    begun: Vec<bool>,
    /// Where each client reads the next frame of HTTP/2.
    frames_at: Vec<Option<usize>>,
    reloads_done: usize,
    asks_done: usize,
    /// Since when no actor is left.
    alone_since: Option<Micros>,
}

/// Runs `plan`; what does not hold is told.
pub(crate) fn try_run(plan: &Plan, fault: Option<Fault>, traces: bool) -> Result<(), String> {
    probe::plant(fault);
    let story = Rc::new(RefCell::new(Story { traces, ..Story::default() }));
    let result = catch_unwind(AssertUnwindSafe(|| run(plan, &story)));
    let Err(panic) = result else { return Ok(()) };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    let trace = match story.try_borrow() {
        Ok(story) if traces => story.trace.iter().cloned().collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    };
    let place = LAST_PLACE.with(|place| place.borrow().clone());
    Err(format!("{text} ({place})\n{trace}"))
}

thread_local! {
    static LAST_PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are results here: where they were is kept, and nothing is printed.
pub(crate) fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        LAST_PLACE.with(|last| last.replace(place));
        if std::thread::current().name().is_some() {
            eprintln!("{info}");
        }
    }));
}

fn run(plan: &Plan, story: &Rc<RefCell<Story>>) {
    let mut draw = Draw::new(plan.seed).branch();
    let address = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
    let net = Rc::new(RefCell::new(Net::new(draw.branch(), address)));
    net.borrow_mut().limit(plan.descriptors, plan.ports, plan.pipe_bytes);
    serve(&mut net.borrow_mut(), plan);
    let listener = SimListener::new(&net);
    let snapshot = ENTRIES.with(|entries| entries.snapshot(1, plan, plan.ruling));
    let registry = Registry::new(snapshot);
    let hub = MetricsHub::new(100, 1);
    let drain = Drain::default();
    drain.serve();
    let waker = Waker::new().expect("a descriptor");
    let (sender, inbox) = CommandSender::new(waker.clone());
    let access_log = LOG.with(|(log, lines)| {
        let mut settings = Config::default().access_log;
        if plan.logs {
            settings.format = AccessLogFormat::Text;
        }
        log.configure(&settings);
        // Those of a run that has failed.
        let _ = lines.take();
        log.clone()
    });
    let admission = Admission::new(ThisHost::new([address], vec![15001]));
    admission.set_limit(plan.connections);
    story.borrow_mut().rulings.push((0, plan.ruling));
    let most = plan.clients.iter().map(|client| client.number + 1).max().unwrap_or(0);
    story.borrow_mut().scripts.resize_with(most, Script::default);
    for client in &plan.clients {
        story.borrow_mut().scripts[client.number] = script(client.number, &client.speech);
    }
    story.borrow_mut().clients.resize_with(plan.clients.len(), || None);
    story.borrow_mut().numbers = plan.clients.iter().map(|client| client.number).collect();
    let world = World {
        plan: plan.clone(),
        listener: listener.id(),
        registry: registry.clone(),
        retired: Retired::default(),
        drain: drain.clone(),
        commands: sender,
        story: Rc::clone(story),
        begun: vec![false; plan.clients.len()],
        frames_at: vec![None; plan.clients.len()],
        reloads_done: 0,
        asks_done: 0,
        alone_since: None,
    };
    let kernel = SimKernel::new(Rc::clone(&net), Box::new(world), plan.habits, draw.branch());
    let parts = Parts {
        id: 0,
        listeners: vec![listener],
        recorded: Recorded::ByConntrack,
        reader: registry.reader(),
        admission: Arc::clone(&admission),
        failed_addresses: Arc::default(),
        metrics: hub.worker(0),
        access_log,
        drain: drain.clone(),
        inbox,
        waker,
        questions: questions::channel().0,
        pipes_max: 2,
        workers: 1,
    };
    Worker::new(parts, kernel.expect("memory")).run().expect("the ring does not fail");
    let metrics = hub.encode(Format::Text, drain.phase());
    let lines = plan.logs.then(|| LOG.with(|(_, lines)| lines.take()));
    oracle::judge(plan, &story.borrow(), &net.borrow(), &metrics, lines);
    admission.set_limit(1);
    assert!(admission.enter(), "slots are left");
}

/// What connects meet. A name's server behaves as the first client's plan says.
fn serve(net: &mut Net, plan: &Plan) {
    let named = &plan.clients[0].server;
    let pairs = [A, B, POOL].into_iter().flatten();
    for (ip, outcome) in pairs.zip([named.outcome, plan.second].into_iter().cycle()) {
        for port in [WEB_PORT, TLS_PORT] {
            net.serve(SocketAddr::from((ip, port)), outcome, named.link);
        }
    }
    for client in &plan.clients {
        let address = destination(client);
        net.serve(address, client.server.outcome, client.server.link);
    }
}

impl World {
    fn begin_clients(&mut self, net: &mut Net, story: &mut Story) {
        for (index, client) in self.plan.clients.iter().enumerate() {
            if self.begun[index] || client.at > net.now() {
                continue;
            }
            self.begun[index] = true;
            let meant = destination(client);
            let port = 40_000 + u16::try_from(client.number).expect("few clients");
            let from = SocketAddr::from(([10, 244, 0, client.pod], port));
            let Some(end) = net.connect(self.listener, from, Some(meant), client.link) else {
                continue;
            };
            story.tell(net, || format!("client {} {end:?} connects to {meant}", client.number));
            let says = story.scripts[client.number].says.clone();
            let steps = client.steps.clone();
            story.clients[index] = Some(Actor::new(end, says, steps, client.reader, net.now()));
        }
    }

    fn accept(&mut self, net: &mut Net, story: &mut Story) {
        while let Some((address, end)) = net.take_arrival() {
            story.tell(net, || format!("{address} accepts {end:?}"));
            let client = self.plan.clients.iter().find(|client| destination(client) == address);
            let speaks_http = match client {
                Some(client) => speaks_web(client),
                None => address.port() != TLS_PORT,
            };
            if speaks_http {
                story.http.push(WebServer::new(address, end, &self.plan, net));
                continue;
            }
            let server = &client.unwrap_or(&self.plan.clients[0]).server;
            let is_tls = client.is_none_or(|client| matches!(client.speech, Speech::Tls(_)));
            let mut says = if is_tls { server_hello(server.hello) } else { Vec::new() };
            says.extend(pattern(100 + story.raw.len(), server.steps.len() * 50_000));
            let actor = Actor::new(end, says, server.steps.clone(), server.reader, net.now());
            story.raw.push(RawServer { address, actor });
        }
    }

    fn reload(&mut self, net: &Net, story: &mut Story) {
        while let Some(reload) = self.plan.reloads.get(self.reloads_done)
            && reload.at <= net.now()
        {
            self.reloads_done += 1;
            let generation = self.reloads_done as u64 + 1;
            let ruling = reload.ruling;
            let snapshot = ENTRIES.with(|entries| entries.snapshot(generation, &self.plan, ruling));
            self.registry.publish(snapshot, &mut self.retired);
            story.rulings.push((net.now(), ruling));
            story.tell(net, || format!("reload: {ruling:?}"));
        }
    }

    /// The control plane asks for the connections.
    fn ask(&mut self, net: &Net) {
        while let Some(at) = self.plan.asks.get(self.asks_done)
            && *at <= net.now()
        {
            self.asks_done += 1;
            let (reply, _) = tokio::sync::oneshot::channel();
            self.commands.send(Command::Connections { from: 0, reply });
        }
    }

    /// A client of HTTP/2 acknowledges the server's SETTINGS.
    fn acknowledge(&mut self, index: usize, story: &mut Story) {
        let client = &self.plan.clients[index];
        let script = &story.scripts[client.number];
        let Some(actor) = &mut story.clients[index] else { return };
        if script.boundaries.is_empty() || actor.is_closed || actor.ended.is_some() {
            return;
        }
        let at = match (self.frames_at[index], &client.speech) {
            (Some(at), _) => at,
            (None, Speech::Http2(_)) => 0,
            (None, _) => match oracle::switched_at(client, &actor.heard, &story.responses) {
                Some(at) => at,
                None => return,
            },
        };
        let mut at = at;
        while let Some(frame) = frame_at(&actor.heard, at) {
            at = frame.payload.end;
            if frame.kind == http2::SETTINGS && frame.flags & http2::ACK == 0 {
                let acknowledgement = http2::frame(http2::SETTINGS, http2::ACK, 0, &[]);
                let bytes = acknowledgement.try_into().expect("it has no payload");
                actor.insert(&script.boundaries, bytes);
            }
        }
        self.frames_at[index] = Some(at);
    }

    fn end(&mut self, net: &Net, story: &mut Story) {
        let all_begun = self.begun.iter().all(|begun| *begun);
        let is_alone = all_begun && story.actors().all(|actor| actor.is_closed);
        if let Some((at, given)) = self.plan.drain
            && at <= net.now()
        {
            self.begin_drain(given, net, story);
        }
        if !is_alone || net.is_moving() {
            self.alone_since = None;
            return;
        }
        let since = *self.alone_since.get_or_insert(net.now());
        let left = net.leaked();
        if left.is_empty() {
            return self.begin_drain(0, net, story);
        }
        let waited = net.now() - since;
        assert!(waited <= AFTERLIFE_US, "no peer is left for {waited} us, but {left:?} is");
    }

    fn begin_drain(&self, given: Micros, net: &Net, story: &mut Story) {
        if story.drained_at.is_some() {
            return;
        }
        story.drained_at = Some(net.now());
        story.tell(net, || "the drain begins".into());
        self.drain.begin_until(net.instant(net.now() + given));
        self.commands.send(Command::Drain);
    }
}

impl Outside for World {
    fn step(&mut self, net: &mut Net) {
        let story = Rc::clone(&self.story);
        let story = &mut *story.borrow_mut();
        self.begin_clients(net, story);
        self.reload(net, story);
        self.ask(net);
        self.accept(net, story);
        for index in 0..story.clients.len() {
            if let Some(actor) = &mut story.clients[index] {
                let before = actor.state();
                actor.act(net);
                let after = actor.state();
                story.tell_change(net, "client", index, before, after);
                if before.1 != after.1 {
                    self.acknowledge(index, story);
                }
            }
        }
        for index in 0..story.raw.len() {
            let before = story.raw[index].actor.state();
            story.raw[index].actor.act(net);
            let after = story.raw[index].actor.state();
            story.tell_change(net, "server", index, before, after);
        }
        for index in 0..story.http.len() {
            let before = story.http[index].actor.state();
            story.http[index].act(&self.plan, &story.scripts, net, &mut story.responses);
            let after = story.http[index].actor.state();
            story.tell_change(net, "http", index, before, after);
        }
        self.end(net, story);
    }

    fn next(&self) -> Option<Micros> {
        let story = self.story.borrow();
        let clients = self.plan.clients.iter().zip(&self.begun);
        let begins = clients.filter(|(_, begun)| !**begun).map(|(client, _)| client.at).min();
        let acts = story.clients.iter().flatten().filter_map(Actor::next).min();
        let raw = story.raw.iter().filter_map(|server| server.actor.next()).min();
        let http = story.http.iter().filter_map(|server| server.next(&self.plan)).min();
        let reload = self.plan.reloads.get(self.reloads_done).map(|reload| reload.at);
        let ask = self.plan.asks.get(self.asks_done).copied();
        let drain = self.plan.drain.map(|(at, _)| at).filter(|_| story.drained_at.is_none());
        let judged = self.alone_since.map(|since| since + AFTERLIFE_US + 1);
        [begins, acts, raw, http, reload, ask, drain, judged].into_iter().flatten().min()
    }
}

impl Story {
    fn tell_change(&mut self, net: &Net, who: &str, index: usize, before: State, after: State) {
        if before != after {
            self.tell(net, || format!("{who} {index}: said, heard, ear, ended: {after:?}"));
        }
    }

    fn tell(&mut self, net: &Net, what: impl FnOnce() -> String) {
        if !self.traces {
            return;
        }
        if self.trace.len() == 400 {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>12} {}", net.now(), what()));
    }

    pub(crate) fn actors(&self) -> impl Iterator<Item = &Actor> {
        self.clients.iter().flatten().chain(self.servers())
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &Actor> {
        let raw = self.raw.iter().map(|server| &server.actor);
        raw.chain(self.http.iter().map(|server| &server.actor))
    }

    /// The process was draining at that time.
    pub(crate) fn is_draining(&self, at: Micros) -> bool {
        self.drained_at.is_some_and(|began| began <= at)
    }

    /// The place of the client with this number.
    pub(crate) fn plan_index(&self, number: usize) -> Option<usize> {
        self.numbers.iter().position(|one| *one == number)
    }
}
