//! The process' signals, on a thread of their own: a drain begins, and a second signal ends the
//! process, whatever the other threads are doing or waiting for.
//!
//! They are taken before the first file is read. Until the control plane runs, SIGTERM and SIGINT
//! end the process at once, and SIGHUP, which kills by default, is kept for later.

use std::fmt;
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
    aim: Arc<Aim<Shared>>,
}

/// What the signals act on, once it is there, and the SIGHUP that waits for it.
struct Aim<T> {
    target: OnceLock<Weak<T>>,
    is_hung_up: AtomicBool,
}

impl<T> fmt::Debug for Aim<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aim").field("is_hung_up", &self.is_hung_up).finish_non_exhaustive()
    }
}

impl<T> Aim<T> {
    const fn new() -> Self {
        Self { target: OnceLock::new(), is_hung_up: AtomicBool::new(false) }
    }

    /// The target is there; it is returned if a SIGHUP waits for it.
    fn set(&self, target: &Arc<T>) -> Option<Arc<T>> {
        let _ = self.target.set(Arc::downgrade(target));
        self.due()
    }

    /// A SIGHUP has come; returns what it acts on, unless it has to wait for that.
    fn hang_up(&self) -> Option<Arc<T>> {
        // As a swap it sees what the other thread's swap in `due` has seen, if that came first.
        self.is_hung_up.swap(true, Ordering::AcqRel);
        self.due()
    }

    /// Both sides ask this after their own part: the one that comes second finds both.
    fn due(&self) -> Option<Arc<T>> {
        let target = self.target.get()?.upgrade()?;
        self.is_hung_up.swap(false, Ordering::AcqRel).then_some(target)
    }
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
        let aim = Arc::new(Aim::new());
        let trap = Self { aim: Arc::clone(&aim) };
        let run = move || wait_for(&signals, &aim);
        std::thread::Builder::new().name("egret-signals".into()).spawn(run)?;
        Ok(trap)
    }

    /// From here on the signals act on `shared`, for as long as it lives.
    pub(super) fn aim_at(&self, shared: &Arc<Shared>) {
        reload(self.aim.set(shared));
    }
}

fn reload(due: Option<Arc<Shared>>) {
    if let Some(shared) = due {
        shared.hang_up();
        say(|| tracing::info!("signal; reloading"));
    }
}

fn wait_for(signals: &SigSet, aim: &Aim<Shared>) {
    let mut is_ending = false;
    loop {
        match signals.wait() {
            Ok(Signal::SIGHUP) => reload(aim.hang_up()),
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

impl Aim<Shared> {
    /// The first signal drains.
    fn end(&self) {
        let Some(shared) = self.target.get() else {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sighup_that_meets_the_start_acts_once_and_is_never_lost() {
        let target = Arc::new(());
        for round in 0..2_000 {
            let aim = Aim::new();
            let acted: usize = std::thread::scope(|scope| {
                let signal = scope.spawn(|| aim.hang_up().iter().count());
                aim.set(&target).iter().count() + signal.join().unwrap()
            });
            assert_eq!(acted, 1, "round {round}");
            assert!(aim.due().is_none());
        }
    }

    #[test]
    fn a_sighup_before_and_one_after_the_start_both_act() {
        let (aim, target) = (Aim::new(), Arc::new(()));
        assert!(aim.hang_up().is_none());
        assert!(aim.set(&target).is_some());
        assert!(aim.hang_up().is_some());
        drop(target);
        assert!(aim.hang_up().is_none(), "the process is ending");
    }
}
