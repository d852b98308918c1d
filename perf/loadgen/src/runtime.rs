//! Threads, cores, rings, signals: what has to stand before a load can run.

use std::future::Future;
use std::io;
use std::thread;

use anyhow::{Context, anyhow, bail};
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

use crate::arguments::Cpus;

const RING_ENTRIES: u32 = 1024;

/// One of the threads that share the work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// Its number, from 0.
    pub(crate) thread: usize,
    /// How many there are.
    pub(crate) threads: usize,
}

impl Share {
    /// Which of `count` things are this thread's: every `threads`-th.
    pub(crate) fn of(self, count: usize) -> impl ExactSizeIterator<Item = usize> {
        (self.thread..count).step_by(self.threads)
    }
}

/// Run `work` on a thread for each core, and wait for what each returns.
pub(crate) fn on_each_core<T: Send>(
    cpus: &Cpus,
    work: impl Fn(Share) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let threads = cpus.cpus.len().max(1);
    thread::scope(|scope| {
        let spawn = |thread: usize| {
            let work = &work;
            let cpu = cpus.cpus.get(thread).copied();
            scope.spawn(move || {
                cpu.map_or(Ok(()), pin)?;
                work(Share { thread, threads })
            })
        };
        let handles: Vec<_> = (0..threads).map(spawn).collect();
        let join = |handle: thread::ScopedJoinHandle<'_, _>| {
            handle.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        };
        handles.into_iter().map(join).collect()
    })
}

fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("there is no core {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot use core {cpu}"))
}

/// Run a future on a ring of this thread.
pub(crate) fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    Ok(ring()?.block_on(future))
}

fn ring() -> anyhow::Result<Runtime<TimeDriver<IoUringDriver>>> {
    // Fewer wake-ups, where the kernel has it (6.1); plain otherwise.
    let mut settings = io_uring::IoUring::builder();
    settings.setup_single_issuer().setup_defer_taskrun();
    match build(settings) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
            build(io_uring::IoUring::builder()).map_err(explain)
        }
        result => result.map_err(explain),
    }
}

fn build(settings: io_uring::Builder) -> io::Result<Runtime<TimeDriver<IoUringDriver>>> {
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(settings)
        .enable_timer()
        .build()
}

fn explain(error: io::Error) -> anyhow::Error {
    let advice = match error.raw_os_error() {
        Some(nix::libc::ENOSYS) => "this kernel has no io_uring, which loadgen needs",
        Some(nix::libc::EPERM | nix::libc::EACCES) => {
            "io_uring is denied: by the sysctl kernel.io_uring_disabled, or by a container's \
             seccomp profile"
        }
        Some(nix::libc::ENOMEM) => "not enough memory to lock (ulimit -l)",
        _ => "io_uring cannot be set up",
    };
    anyhow::Error::new(error).context(advice)
}

/// As many descriptors as the hard limit allows; the default of 1024 is a few hundred connections.
pub(crate) fn raise_descriptor_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the open file limit")
}

/// Refuse what the limit on descriptors cannot hold, rather than fail half way.
pub(crate) fn require_descriptors(connections: usize) -> anyhow::Result<()> {
    /// Rings, timers, standard streams, and the sockets whose close is still on its way.
    const OTHERS: u64 = 64;
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if connections as u64 + OTHERS > soft {
        bail!("{connections} connections do not fit the limit on open files, {soft} (ulimit -Hn)");
    }
    Ok(())
}

/// Call `act` on a thread of its own at each of these signals. Must come before other threads, so
/// that none of them takes the signal.
pub(crate) fn on_signals(
    signals: &[Signal],
    mut act: impl FnMut(Signal) + Send + 'static,
) -> anyhow::Result<()> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block().context("cannot block signals")?;
    thread::spawn(move || {
        while let Ok(signal) = set.wait() {
            act(signal);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_denies_io_uring_is_told_why() {
        let told = |code| format!("{:#}", explain(io::Error::from_raw_os_error(code)));
        assert!(told(nix::libc::ENOSYS).contains("kernel has no io_uring"));
        assert!(told(nix::libc::EPERM).contains("kernel.io_uring_disabled"));
        assert!(told(nix::libc::ENOMEM).contains("ulimit -l"));
    }

    #[test]
    fn every_thing_belongs_to_one_thread() {
        let threads = 3;
        let mut all: Vec<_> =
            (0..threads).flat_map(|thread| Share { thread, threads }.of(10)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }
}
