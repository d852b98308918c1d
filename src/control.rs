//! The control plane: one thread that may be slow, because nothing on the data path waits for it.
//!
//! It runs the admin, metrics and health servers and resolves the registry's names ([`dns`]);
//! helper threads of its own take the signals ([`signals`]), read changed files ([`reload`]), write
//! the [`access_log`], and write a scrape while it lasts. It reaches the workers through what they
//! publish (counters, the registry snapshot, the drain switch) and through their command
//! channels, never through a lock.
//!
//! [`Control::bind`] comes first, so that a taken port is told before anything starts;
//! [`Control::start`] when the workers exist. It neither starts nor ends workers: `app` does.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::access_log::{self, AccessLog};
use crate::commands::{Command, CommandSender};
use crate::config::Config;
use crate::drain::Drain;
use crate::metrics::MetricsHub;
use crate::questions;
use crate::registry::Registry;
use crate::sys::thread::give_way;
pub use listen::BindError;
use listen::listen;
pub use signals::Trap;

mod admin;
mod dns;
mod exporter;
mod health;
mod listen;
pub mod reload;
mod serve;
mod signals;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

/// Clients of the admin and health servers, each, and as many of their own on loopback: enough for
/// every prober and operator of a node, and few beside the descriptors that connections need.
const CLIENTS_MAX: usize = 64;
/// Clients of the metrics server. Fewer: each may hold a scrape of 30 MiB (10 000 series) while it
/// reads slowly.
const SCRAPERS_MAX: usize = 16;

/// The three servers, listening but not serving yet.
#[derive(Debug)]
pub struct Control {
    admin: Vec<TcpListener>,
    metrics: Vec<TcpListener>,
    health: Vec<TcpListener>,
    addresses: Addresses,
}

/// Where the servers listen; the real ports if the configuration said 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The admin server.
    pub admin: SocketAddr,
    /// The metrics server.
    pub metrics: SocketAddr,
    /// The health server.
    pub health: SocketAddr,
}

/// What the control plane works with.
pub struct Inputs {
    /// The current snapshot: read by the admin server, replaced by a reload.
    pub registry: Registry,
    /// The switch that ends the process.
    pub drain: Drain,
    /// The workers, in the order of their ids.
    pub workers: Vec<CommandSender>,
    /// What the workers ask for.
    pub questions: questions::Receiver,
    /// The hub that the workers' metrics came from.
    pub metrics: MetricsHub,
    /// What the workers tell the access log.
    pub access_log: access_log::Queue,
    /// Where the next generations come from.
    pub source: reload::Source,
    /// Changes the log level at run time.
    pub set_log_level: SetLogLevel,
    /// The process' signals, if they act on this control plane.
    pub signals: Option<Trap>,
    /// Whether the admin server offers what only tests want.
    pub debug: DebugEndpoints,
}

/// Changes the log level; the error says what levels there are.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Whether the admin server offers `/debug/panic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugEndpoints {
    /// It does not: the path is unknown.
    Off,
    /// It does, for tests of what a dead worker means.
    On,
}

/// The running control plane. Dropping it ends it.
pub struct Handle {
    shared: Arc<Shared>,
    first_answers: Receiver<()>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Ends last: until then the servers and the reload thread may have wishes.
    _access_log: access_log::Writer,
}

impl Control {
    /// Listens for the admin, metrics and health servers.
    ///
    /// # Errors
    /// When one of the addresses cannot be had.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let (admin, admin_address) = listen("admin", config.admin.address)?;
        let (metrics, metrics_address) = listen("metrics", config.metrics.address)?;
        let (health, health_address) = listen("health", config.health.address)?;
        let addresses =
            Addresses { admin: admin_address, metrics: metrics_address, health: health_address };
        Ok(Self { admin, metrics, health, addresses })
    }

    /// Where the servers listen.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves on a thread of its own, until the handle is stopped. When this returns, the signals
    /// are taken and the files are watched.
    ///
    /// # Errors
    /// When the threads or the signal handlers cannot be had.
    pub fn start(self, inputs: Inputs) -> io::Result<Handle> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let log = Arc::new(LogControl {
            set: inputs.set_log_level,
            level: Mutex::new(inputs.registry.current().config.log.level.clone()),
        });
        let (wanted, names_wanted) = watch::channel(dns::Wanted::default());
        let counters = inputs.metrics.control();
        let access_log = access_log::Writer::start(inputs.access_log, Arc::clone(counters))?;
        let target = reload::Target {
            registry: inputs.registry.clone(),
            counters: Arc::clone(counters),
            log: Arc::clone(&log),
            access_log: access_log.log().clone(),
            wanted,
        };
        let reload = reload::Handle::start(inputs.source, target)?;
        let (first_answers, first_answers_come) = sync_channel(1);
        let names = dns::Inputs {
            wanted: names_wanted,
            offer: reload.offer(),
            counters: Arc::clone(counters),
            first_answers,
            claims: dns::Claimed { questions: inputs.questions, workers: inputs.workers.clone() },
        };
        let names = dns::spawn(names, &runtime);
        let shared = Arc::new(Shared {
            reload,
            names,
            registry: inputs.registry,
            drain: inputs.drain,
            workers: inputs.workers,
            metrics: inputs.metrics,
            log,
            access_log: access_log.log().clone(),
            debug: inputs.debug,
        });
        self.spawn_servers(&runtime, &shared)?;
        if let Some(trap) = inputs.signals {
            trap.aim_at(&shared);
        }
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("egret-control".into()).spawn(move || {
            // An error means that the handle is gone, which is a stop as well.
            let _ = runtime.block_on(stopped);
            drop(runtime);
        })?;
        Ok(Handle {
            shared,
            first_answers: first_answers_come,
            stop: Some(stop),
            thread: Some(thread),
            _access_log: access_log,
        })
    }

    fn spawn_servers(self, runtime: &Runtime, shared: &Arc<Shared>) -> io::Result<()> {
        let _runtime = runtime.enter();
        let ip = self.addresses.admin.ip();
        let (metrics, drain) = (shared.metrics.clone(), shared.drain.clone());
        for (listeners, router, clients_max) in [
            (self.admin, admin::router(Arc::clone(shared), ip), CLIENTS_MAX),
            (self.metrics, exporter::router(metrics, drain.clone()), SCRAPERS_MAX),
            (self.health, health::router(drain), CLIENTS_MAX),
        ] {
            for listener in listeners {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                runtime.spawn(serve::serve(listener, router.clone(), clients_max));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl Handle {
    /// Begins to drain with this deadline, as SIGTERM does with the configured one.
    pub fn begin_drain(&self, deadline: Duration) {
        self.shared.begin_drain_within(deadline);
    }

    /// Waits until the registry's names were asked for and their addresses are published, but not
    /// longer than `at_most`: a DNS server that does not answer must not keep the proxy from
    /// serving all other destinations.
    pub fn await_first_answers(&self, at_most: Duration) {
        if self.first_answers.recv_timeout(at_most).is_err() {
            tracing::warn!(waited = ?at_most, "some names have no answer yet; serving without");
        }
    }

    /// Ends the servers, the reload thread and the access log; open requests are cut.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended, which is all that is wanted here.
            let _ = thread.join();
        }
    }
}

/// What servers and signals work on.
struct Shared {
    registry: Registry,
    drain: Drain,
    workers: Vec<CommandSender>,
    metrics: MetricsHub,
    reload: reload::Handle,
    names: dns::Names,
    log: Arc<LogControl>,
    access_log: AccessLog,
    debug: DebugEndpoints,
}

impl Shared {
    /// Begins to drain with the deadline of the current generation, and wakes the workers. Returns
    /// whether this call began it.
    fn begin_drain(&self) -> bool {
        self.begin_drain_within(self.registry.current().config.drain.deadline)
    }

    /// SIGHUP: the files are read now, and the access log's file is opened again.
    fn hang_up(&self) {
        self.access_log.reopen();
        // The reload thread logs and counts what comes of it.
        self.reload.ask_soon();
    }

    fn begin_drain_within(&self, deadline: Duration) -> bool {
        let began = self.drain.begin(deadline);
        for worker in &self.workers {
            worker.send(Command::Drain);
        }
        began
    }
}

/// The log level: what it is, and the way to change it.
struct LogControl {
    set: SetLogLevel,
    level: Mutex<String>,
}

impl LogControl {
    fn set(&self, level: &str) -> Result<(), String> {
        (self.set)(level)?;
        level.clone_into(&mut lock(&self.level));
        Ok(())
    }

    fn level(&self) -> String {
        lock(&self.level).clone()
    }
}

/// Locks what a panicked thread may have left: each value here is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread for long work, which gives way where a worker wants the same processor.
fn start_behind_workers(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(move || {
        if let Err(error) = give_way() {
            tracing::debug!(%error, "a thread competes with the workers");
        }
        work();
    })
}
