//! A measured load: connections that follow their schedule until the run ends.
//!
//! Each thread has a [`Worker`], which all its connections share. The loads that exchange messages
//! differ only in their [`Exchange`] and in whether they keep their connections.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use monoio::task::JoinHandle;

use crate::arguments::{Command, Common, Direction, Measurement, Mixed};
use crate::connection::Connector;
use crate::exchange::{After, Echo, Exchange, Fault};
use crate::http::{self, Get, Requests};
use crate::payload::Check;
use crate::record::{Intervals, Record};
use crate::runtime::{self, Share};
use crate::schedule::{Pacer, Turn, Turns, Window};
use crate::watch::{Expired, Slot, Watch};
use crate::{blackhole, bulk, report};

/// Time for all threads to set up their rings before the first request is due.
const SET_UP: Duration = Duration::from_millis(20);

/// After a connect that failed, so that a refusing server is not asked in a busy loop.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// A load, as its command line describes it.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) profile: &'static str,
    pub(crate) common: &'a Common,
    pub(crate) measurement: &'a Measurement,
    /// Connections that follow the schedule.
    pub(crate) connections: usize,
    /// Requests per second; none: closed loop.
    pub(crate) rate: Option<f64>,
    /// Where bulk flows go, and how many.
    pub(crate) bulk: Option<(SocketAddr, usize)>,
}

impl<'a> Plan<'a> {
    fn of(command: &'a Command) -> Self {
        let (profile, common, measurement, pace) = match command {
            Command::Rr(rr) => ("rr", &rr.common, &rr.measurement, Some(&rr.pace)),
            Command::Churn(churn) => {
                ("churn", &churn.common, &churn.measurement, Some(&churn.pace))
            }
            Command::Mixed(mixed) => {
                let rr = &mixed.messages;
                ("mixed", &rr.common, &rr.measurement, Some(&rr.pace))
            }
            Command::Blackhole(hole) => {
                ("blackhole", &hole.common, &hole.measurement, Some(&hole.pace))
            }
            Command::Http(http) => ("http", &http.common, &http.measurement, Some(&http.pace)),
            Command::Bulk(bulk) => ("bulk", &bulk.common, &bulk.measurement, None),
            Command::Serve(_) | Command::Idle(_) => unreachable!("they have no schedule"),
        };
        let bulk = match command {
            Command::Bulk(bulk) => Some((bulk.common.target, bulk.streams as usize)),
            Command::Mixed(mixed) => Some((mixed.bulk_target, mixed.streams as usize)),
            _ => None,
        };
        let connections = pace.map_or(0, |pace| pace.connections as usize);
        let rate = pace.and_then(|pace| pace.rate);
        Self { profile, common, measurement, connections, rate, bulk }
    }
}

/// Run the load that the command line asks for, and print its result.
pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    let plan = Plan::of(command);
    runtime::require_descriptors(plan.connections + plan.bulk.map_or(0, |(_, streams)| streams))?;
    let requests = match command {
        Command::Http(http) => http::prepare(&http.host),
        _ => &[],
    };
    let kept = if plan.measurement.hlog.is_some() { Intervals::Kept } else { Intervals::Summed };
    let start = Instant::now() + SET_UP;
    let from = start + plan.measurement.warmup;
    let window = Window { start, from, until: from + plan.measurement.seconds };
    let begun = std::time::SystemTime::now() + SET_UP + plan.measurement.warmup;
    let records = runtime::on_each_core(&plan.common.cpus, |share| {
        runtime::block_on(async {
            let worker = Worker::new(&plan, share, window, kept);
            let tasks = spawn(command, &plan, &worker, requests);
            worker.finish(tasks).await
        })?
    })?;
    let record = records.into_iter().reduce(Record::merge).expect("there is a thread");
    report::write(&plan, &record, begun)
}

/// The connections of one thread, each a task.
fn spawn(
    command: &Command,
    plan: &Plan<'_>,
    worker: &Rc<Worker>,
    requests: Requests,
) -> Vec<JoinHandle<()>> {
    let check = Check::from(plan.common.verify);
    let places = worker.share.of(plan.connections).enumerate();
    let connections = places.map(|(place, number)| {
        let worker = worker.clone();
        match command {
            Command::Churn(churn) => {
                let exchange = Echo::new(number, churn.message, check);
                monoio::spawn(open_each_time(worker, place, number, exchange))
            }
            Command::Rr(rr) | Command::Mixed(Mixed { messages: rr, .. }) => {
                let exchange = Echo::new(number, rr.message, check);
                monoio::spawn(keep_open(worker, place, number, exchange))
            }
            Command::Http(_) => {
                let exchange = Get::new(number, requests, check);
                monoio::spawn(keep_open(worker, place, number, exchange))
            }
            Command::Blackhole(hole) => {
                monoio::spawn(blackhole::until_closed(worker, place, number, hole.message))
            }
            Command::Bulk(_) | Command::Serve(_) | Command::Idle(_) => {
                unreachable!("they have no such connections")
            }
        }
    });
    let mut tasks: Vec<_> = connections.collect();
    let direction = match command {
        Command::Bulk(bulk) => bulk.direction,
        _ => Direction::Up,
    };
    if let Some((target, streams)) = plan.bulk {
        let connector = Connector { target, ..worker.connector.clone() };
        tasks.extend(worker.share.of(streams).map(|number| {
            let (worker, connector) = (worker.clone(), connector.clone());
            monoio::spawn(bulk::flow(worker, connector, number, direction, check))
        }));
    }
    tasks
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    share: Share,
    pub(crate) window: Window,
    pacer: Option<Rc<Pacer>>,
    pub(crate) watch: Rc<Watch>,
    pub(crate) connector: Connector,
    pub(crate) record: RefCell<Record>,
}

impl Worker {
    fn new(plan: &Plan<'_>, share: Share, window: Window, kept: Intervals) -> Rc<Self> {
        let pacer = plan.rate.map(|rate| Pacer::new(window.start, rate, share, plan.connections));
        Rc::new(Self {
            share,
            window,
            pacer: pacer.map(Rc::new),
            watch: Rc::new(Watch::new(plan.common.timeout)),
            connector: Connector::new(plan.common),
            record: RefCell::new(Record::new(window, kept)),
        })
    }

    /// Wait for all tasks, and take what was counted.
    async fn finish(self: Rc<Self>, tasks: Vec<JoinHandle<()>>) -> anyhow::Result<Record> {
        let watch = self.watch.clone();
        monoio::spawn(async move { watch.run().await });
        let pacing = self.pacer.clone().map(|pacer| {
            let until = self.window.until;
            monoio::spawn(async move { pacer.run(until).await })
        });
        if let Some(pacing) = pacing {
            pacing.await?;
        }
        for task in tasks {
            task.await;
        }
        let empty = Record::new(self.window, Intervals::Summed);
        Ok(self.record.replace(empty))
    }

    pub(crate) fn turns(&self, place: usize) -> Turns {
        Turns::new(self.window, self.pacer.clone(), place)
    }

    /// Connect, and count it.
    pub(crate) async fn open(&self, connector: &Connector, number: usize) -> Option<TcpStream> {
        match connector.open(number).await {
            Ok(stream) => {
                self.opened();
                Some(stream)
            }
            Err(error) => {
                self.not_opened(&error).await;
                None
            }
        }
    }

    pub(crate) fn opened(&self) {
        self.record.borrow_mut().connections += 1;
    }

    /// Count a connect that failed, and pause.
    pub(crate) async fn not_opened(&self, error: &io::Error) {
        self.record.borrow_mut().not_opened(error);
        monoio::time::sleep(CONNECT_PAUSE).await;
    }

    /// One exchange, watched and counted. `None`: it failed, and the connection with it.
    async fn exchange<E: Exchange>(
        &self,
        slot: &Slot,
        stream: &mut TcpStream,
        exchange: &mut E,
        turn: Turn,
    ) -> Option<After> {
        let result = watched(slot, stream, turn.begun, async |stream| exchange.run(stream).await);
        let result = result.await;
        let mut record = self.record.borrow_mut();
        match result {
            Ok(exchanged) => {
                if exchanged.status.is_some_and(|status| !(200..400).contains(&status)) {
                    record.failed(Fault::Status);
                }
                record.answered(turn, exchanged);
                Some(exchanged.after)
            }
            Err(fault) => {
                record.failed(fault);
                None
            }
        }
    }

    pub(crate) fn missed(&self, turns: &Turns) {
        let mut record = self.record.borrow_mut();
        turns.missed().for_each(|due| record.missed(due));
    }
}

/// Do something with a stream that the watch may end.
pub(crate) async fn watched<T>(
    slot: &Slot,
    stream: &mut TcpStream,
    now: Instant,
    operation: impl AsyncFnOnce(&mut TcpStream) -> Result<T, Fault>,
) -> Result<T, Fault> {
    slot.begin(stream, now);
    let result = operation(stream).await;
    match slot.end() {
        Expired::Yes => Err(Fault::Timeout),
        Expired::No => result,
    }
}

/// `rr` and `http`: one connection after the other, each for as long as it lasts.
async fn keep_open<E: Exchange>(worker: Rc<Worker>, place: usize, number: usize, mut exchange: E) {
    let slot = worker.watch.slot();
    let mut turns = worker.turns(place);
    while !turns.is_over() {
        let Some(mut stream) = worker.open(&worker.connector, number).await else { continue };
        while let Some(turn) = turns.next().await {
            let after = worker.exchange(&slot, &mut stream, &mut exchange, turn).await;
            if after != Some(After::Kept) {
                break;
            }
        }
    }
    worker.missed(&turns);
}

/// `churn`: a connection for each exchange, whose latency has the connect in it.
async fn open_each_time<E: Exchange>(
    worker: Rc<Worker>,
    place: usize,
    number: usize,
    mut exchange: E,
) {
    let slot = worker.watch.slot();
    let mut turns = worker.turns(place);
    while let Some(turn) = turns.next().await {
        let Some(mut stream) = worker.open(&worker.connector, number).await else { continue };
        // Whatever came of it was counted, and the connection ends either way.
        let _ = worker.exchange(&slot, &mut stream, &mut exchange, turn).await;
    }
    worker.missed(&turns);
}
