//! The process' signals, on a thread of their own: a drain begins, and a second signal ends the
//! process, whatever the other threads are doing or waiting for.
//!
//! They are taken before the first file is read. Until the control plane runs, SIGTERM and SIGINT
//! end the process at once, and SIGHUP, which kills by default, is kept for later.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::Shared;

/// How long a log line may keep a signal waiting: what reads the log may have stopped.
const LINE_PATIENCE: Duration = Duration::from_millis(100);

/// The signals are taken. What they act on comes later.
#[derive(Debug, Clone)]
pub struct Trap {
    aim: Arc<Aim>,
}

#[derive(Debug, Default)]
struct Aim {
    shared: OnceLock<Weak<Shared>>,
    /// SIGHUP came before there was anything to reload.
    was_hung_up: AtomicBool,
}

impl Trap {
    /// Takes SIGTERM, SIGINT and SIGHUP for this process. No other thread may run yet: those that
    /// are started later inherit that the signals are blocked.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn set() -> io::Result<Self> {
        let signals: SigSet =
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        let aim = Arc::<Aim>::default();
        let trap = Self { aim: Arc::clone(&aim) };
        let run = move || wait_for(&signals, &aim);
        std::thread::Builder::new().name("egret-signals".into()).spawn(run)?;
        Ok(trap)
    }

    /// From here on the signals act on `shared`, for as long as it lives.
    pub(super) fn aim_at(&self, shared: &Arc<Shared>) {
        let _ = self.aim.shared.set(Arc::downgrade(shared));
        if self.aim.was_hung_up.load(Ordering::Acquire) {
            shared.hang_up();
        }
    }
}

fn wait_for(signals: &SigSet, aim: &Aim) {
    let mut is_ending = false;
    loop {
        match signals.wait() {
            Ok(Signal::SIGHUP) => aim.hang_up(),
            Ok(_) if is_ending => {
                say(|| tracing::warn!("second signal; ending at once"));
                std::process::exit(1);
            }
            Ok(_) => {
                is_ending = true;
                aim.end();
            }
            // EINTR: sigwait(3) does not fail otherwise.
            Err(_) => {}
        }
    }
}

impl Aim {
    fn hang_up(&self) {
        match self.shared.get() {
            Some(shared) => {
                let Some(shared) = shared.upgrade() else { return };
                shared.hang_up();
                say(|| tracing::info!("signal; reloading"));
            }
            None => self.was_hung_up.store(true, Ordering::Release),
        }
    }

    /// The first signal drains.
    fn end(&self) {
        let Some(shared) = self.shared.get() else {
            say(|| tracing::info!("signal; ending before serving"));
            std::process::exit(0);
        };
        // It is gone when the process is ending anyway.
        let Some(shared) = shared.upgrade() else { return };
        shared.begin_drain();
        let metrics = shared.metrics.clone();
        drop(shared);
        say(move || {
            tracing::info!(connections = metrics.connections_active(), "signal; draining");
        });
    }
}

/// Writes a line, which may take longer than a signal can wait.
fn say(line: impl FnOnce() + Send + 'static) {
    let (done, is_done) = sync_channel::<()>(0);
    let write = move || {
        line();
        drop(done);
    };
    if std::thread::Builder::new().name("egret-say".into()).spawn(write).is_ok() {
        let _ = is_done.recv_timeout(LINE_PATIENCE);
    }
}
