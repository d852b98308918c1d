//! The composition root: binds every address, starts every thread, waits, and takes them down
//! again.
//!
//! ```text
//! main ── App::start ─┬─ worker 0..n    one per processor, pinned   data plane
//!                     └─ egret-control  tokio, one thread           admin, metrics, names, reload
//! ```
//!
//! Nothing accepts before everything is bound: a port that is taken or a kernel without io_uring is
//! an error of the start, in words that name the fix.

mod budget;
mod instance;
mod listen;
mod panics;
mod threads;
mod watchdog;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::access_log::{self, AccessLog};
use crate::admission::Admission;
use crate::commands::{Command, CommandSender};
use crate::config::{Capture, Config};
use crate::control::{self, BindError, Control, reload};
use crate::diagnostics::{Diagnostic, Severity};
use crate::drain::Drain;
use crate::failed_addresses::FailedAddresses;
use crate::load::{self, Loaded};
use crate::metrics::MetricsHub;
use crate::questions;
use crate::registry::{Answers, Registry, Snapshot};
use crate::sys::instance::Instance;
use crate::sys::kernel::{Kernel, Recorded};
use crate::sys::socket::Listener;
use crate::sys::thread;
use crate::sys::uring::{SetupError, Uring};
use crate::sys::waker::Waker;
use crate::upstream_guard::ThisHost;
use crate::worker::Parts;
use budget::Budget;
pub use instance::AlreadyRunning;
pub use panics::install as end_process_on_panic;
use threads::Threads;

/// How often the host's own addresses are looked up again.
const ADDRESSES_PERIOD: Duration = Duration::from_secs(1);

/// How long the start waits for the addresses of the registry's names, so that the first
/// connections find them. Enough for a resolver near by; without one, the rest must not wait.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

/// What surrounds the data plane.
pub struct Options {
    /// Read again when it, or a file that it names, changes.
    pub config_file: PathBuf,
    /// The process' signals; `None` where they are somebody else's (tests that run many proxies in
    /// one process).
    pub signals: Option<control::Trap>,
    /// Whether the admin server offers `/debug/`.
    pub debug_endpoints: control::DebugEndpoints,
    /// Changes the log level while running.
    pub set_log_level: control::SetLogLevel,
}

/// A running proxy.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub addresses: Addresses,
    shared: Shared,
    threads: Threads,
    control: control::Handle,
    instance: Option<Instance>,
}

/// The addresses that are really bound; they tell the ports where 0 was asked for.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Where redirected connections are accepted.
    pub listen: Vec<SocketAddr>,
    /// Admin, metrics and health.
    pub control: control::Addresses,
}

/// What the threads share.
#[derive(Debug, Clone)]
struct Shared {
    registry: Registry,
    admission: Arc<Admission>,
    failed_addresses: Arc<FailedAddresses>,
    metrics: MetricsHub,
    access_log: AccessLog,
    drain: Drain,
    questions: questions::Sender,
}

impl App {
    /// Starts on the kernel's io_uring and sockets.
    ///
    /// # Errors
    /// What keeps it from serving, and how to mend that.
    pub fn start(loaded: Loaded, options: Options) -> Result<Self> {
        Self::start_on(loaded, options, Uring::new)
    }

    /// Starts on what `make_kernel` makes, on each worker's thread, for a number of buffers.
    ///
    /// # Errors
    /// As [`App::start`].
    pub fn start_on<K, F>(loaded: Loaded, options: Options, make_kernel: F) -> Result<Self>
    where
        K: Kernel<Listener = Listener>,
        F: Fn(u16) -> Result<K, SetupError> + Clone + Send + 'static,
    {
        let config = Arc::clone(&loaded.config);
        let (snapshot, diagnostics) = first_generation(&loaded);
        listen::check_mark(&config)?;
        let instance = instance::take(config.listen.port)?;
        let budget = Budget::plan(&config)?;
        let listeners = listen::bind(&config, budget.workers)?;
        let control = instance::patiently(|| Control::bind(&config), BindError::is_taken)?;
        let addresses =
            Addresses { listen: listen::addresses(&listeners)?, control: control.addresses() };
        let source = reload_source(loaded, diagnostics, options.config_file);
        let (questions, asked) = questions::channel();
        let (access_log, access_log_queue) = access_log::open(&config.access_log);
        let shared = Shared {
            registry: Registry::new(snapshot),
            admission: Admission::new(ThisHost::new([], own_ports(&addresses))),
            failed_addresses: Arc::default(),
            metrics: MetricsHub::new(config.metrics.series_max, budget.workers),
            access_log,
            drain: Drain::default(),
            questions,
        };
        refresh_own_addresses(&shared.admission);
        let mut threads = Threads::new();
        let mut senders = Vec::new();
        for (id, listeners) in listeners.into_iter().enumerate() {
            let (sender, inbox, waker) = command_channel()?;
            senders.push(sender);
            let parts = shared.parts(id, listeners, (inbox, waker), &config, &budget);
            let (make_kernel, buffers) = (make_kernel.clone(), budget.buffers_per_worker);
            let make_kernel = move || make_kernel(buffers);
            threads.start(parts, budget.processor(id), make_kernel)?;
        }
        threads.await_ready()?;
        let control = control
            .start(control::Inputs {
                registry: shared.registry.clone(),
                drain: shared.drain.clone(),
                workers: senders.clone(),
                questions: asked,
                metrics: shared.metrics.clone(),
                access_log: access_log_queue,
                source,
                set_log_level: options.set_log_level,
                signals: options.signals,
                debug: options.debug_endpoints,
            })
            .context("starting the control thread")?;
        control.await_first_answers(FIRST_ANSWERS);
        shared.serve(budget.connections_max(&config)?, &addresses, &budget);
        threads.go();
        watchdog::start(senders)?;
        Ok(Self { addresses, shared, threads, control, instance })
    }

    /// Begins a drain, as SIGTERM does.
    pub fn drain(&self, deadline: Duration) {
        self.control.begin_drain(deadline);
    }

    /// Waits until a drain is complete, then ends the control plane.
    pub fn wait(self) {
        let mut running = self.threads.count();
        while running > 0 {
            match self.threads.ended.recv_timeout(ADDRESSES_PERIOD) {
                Ok(()) => running -= 1,
                Err(RecvTimeoutError::Timeout) => {
                    refresh_own_addresses(&self.shared.admission);
                    self.instance.iter().for_each(Instance::turn_away);
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.threads.join();
        self.control.stop();
        tracing::info!("stopped");
    }
}

impl Shared {
    /// What worker `id` is made of.
    fn parts(
        &self,
        id: usize,
        listeners: Vec<Listener>,
        (inbox, waker): (Receiver<Command>, Waker),
        config: &Config,
        budget: &Budget,
    ) -> Parts<Listener> {
        Parts {
            id,
            listeners,
            recorded: recorded(config.listen.capture),
            reader: self.registry.reader(),
            admission: Arc::clone(&self.admission),
            metrics: self.metrics.worker(id),
            access_log: self.access_log.clone(),
            drain: self.drain.clone(),
            inbox,
            waker,
            questions: self.questions.clone(),
            failed_addresses: Arc::clone(&self.failed_addresses),
            pipes_max: budget.pipes_per_worker,
            workers: u32::try_from(budget.workers).unwrap_or(u32::MAX),
        }
    }

    /// Lets connections in.
    fn serve(&self, connections_max: u32, addresses: &Addresses, budget: &Budget) {
        self.admission.set_limit(connections_max);
        self.drain.serve();
        tracing::info!(
            workers = budget.workers,
            connections.max = connections_max,
            descriptors = budget.descriptors,
            listen = ?addresses.listen,
            admin = %addresses.control.admin,
            metrics = %addresses.control.metrics,
            health = %addresses.control.health,
            "serving"
        );
    }
}

/// The first snapshot, before any name is resolved, and its diagnostics, which are logged.
fn first_generation(loaded: &Loaded) -> (Snapshot, Vec<Diagnostic>) {
    let (snapshot, diagnostics) = loaded.build(1, &Answers::default());
    for diagnostic in &diagnostics {
        match diagnostic.severity {
            Severity::Warning => tracing::warn!(problem = %diagnostic, "configuration"),
            Severity::Error => tracing::error!(problem = %diagnostic, "document refused"),
        }
    }
    (snapshot, diagnostics)
}

/// Where the later generations come from; `diagnostics` are all those of the first one.
fn reload_source(
    first: Loaded,
    diagnostics: Vec<Diagnostic>,
    config_file: PathBuf,
) -> reload::Source {
    let load = move |in_use: &Loaded| {
        let mut loaded = load::load(&config_file, Some(in_use))?;
        if let Err(error) = listen::check_mark(&loaded.config) {
            // It would fail every upstream connection.
            loaded.diagnostics.push(Diagnostic {
                severity: Severity::Error,
                file: config_file.clone(),
                line: None,
                message: format!("{error:#}"),
                fix: String::new(),
            });
            return Err(loaded.diagnostics);
        }
        Ok(loaded)
    };
    reload::Source {
        load: Box::new(load),
        first,
        diagnostics,
        poll: reload::POLL,
        watching: reload::Watching::EventsAndPoll,
    }
}

fn command_channel() -> Result<(CommandSender, Receiver<Command>, Waker)> {
    let waker = Waker::new().context("eventfd")?;
    let (sender, inbox) = CommandSender::new(waker.clone());
    Ok((sender, inbox, waker))
}

fn recorded(capture: Capture) -> Recorded {
    match capture {
        Capture::Redirect => Recorded::ByConntrack,
        Capture::Tproxy => Recorded::AsLocalAddress,
    }
}

fn own_ports(addresses: &Addresses) -> Vec<u16> {
    let control = [addresses.control.admin, addresses.control.metrics, addresses.control.health];
    let all = addresses.listen.iter().chain(&control);
    let mut ports: Vec<u16> = all.map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn refresh_own_addresses(admission: &Admission) {
    match thread::interface_addresses() {
        Ok(addresses) => admission.set_own_addresses(addresses),
        Err(error) => tracing::warn!(%error, "the host's own addresses could not be read"),
    }
}
