//! How many workers, connections, pipes and buffers the host has room for.

use anyhow::{Context, Result};

use crate::config::{Config, Workers};
use crate::sys::thread;

/// Descriptors kept free for the control plane: its HTTP connections, files that are read at a
/// reload.
const DESCRIPTORS_RESERVED: u64 = 24;

/// What is open before the first connection: the program itself and the control plane, and for each
/// worker its ring, two waiters and the listeners.
const DESCRIPTORS_OPEN: u64 = 16;
const DESCRIPTORS_PER_WORKER: u64 = 3;

/// Pipes that a worker lends at most: 64 MiB of pipe memory.
const PIPES_PER_WORKER_MAX: u64 = 64;

/// Buffers of a worker at least.
const BUFFERS_PER_WORKER_MIN: u64 = 256;

/// Buffers of all workers at most: 128 MiB. Only a direction whose reader does not read keeps one,
/// and when all are kept the source that keeps most gives way (`worker::pressure`).
const BUFFERS_MAX: u64 = 4096;

/// What a process with this many processors and descriptors can do.
#[derive(Debug)]
pub(super) struct Budget {
    /// Worker threads.
    pub(super) workers: usize,
    /// The processors that they may run on.
    processors: Vec<usize>,
    /// RLIMIT_NOFILE, after the soft limit was raised to the hard one.
    pub(super) descriptors: u64,
    /// Pipes that each worker may lend at a time.
    pub(super) pipes_per_worker: usize,
    /// Buffers of each worker's pool.
    pub(super) buffers_per_worker: u16,
}

impl Budget {
    /// Plans for `config` on this host.
    ///
    /// # Errors
    /// RLIMIT_NOFILE is too low for anything.
    pub(super) fn plan(config: &Config) -> Result<Self> {
        let descriptors = thread::raise_descriptor_limit().context("reading RLIMIT_NOFILE")?;
        // What it must be is known only to the kernel: a ring that does not fit says so.
        thread::raise_lock_limit().context("reading RLIMIT_MEMLOCK")?;
        let processors = thread::allowed_processors().context("sched_getaffinity")?;
        let workers = match config.workers {
            Workers::Count(count) => usize::from(count.get()),
            // Knows the cgroup's quota, too, which a container may have far below the processors.
            Workers::Auto => {
                let quota = std::thread::available_parallelism().map_or(1, usize::from);
                quota.min(processors.len()).max(1)
            }
        };
        let per_worker = DESCRIPTORS_PER_WORKER + config.listen.addresses.len() as u64;
        let needed = DESCRIPTORS_OPEN + DESCRIPTORS_RESERVED + workers as u64 * per_worker;
        if descriptors < needed + 2 {
            return Err(too_few(descriptors));
        }
        // A 32nd of the descriptors may be pipe ends.
        let pipes = (descriptors / 64 / workers as u64).min(PIPES_PER_WORKER_MAX);
        // A half holds one buffer, and another one may come early.
        let connections = u64::from(config.limits.connections).min(descriptors / 2);
        let buffers = (4 * connections).min(BUFFERS_MAX / workers as u64);
        let buffers = buffers.max(BUFFERS_PER_WORKER_MIN);
        Ok(Self {
            workers,
            processors,
            descriptors,
            pipes_per_worker: usize::try_from(pipes).unwrap_or(0),
            buffers_per_worker: u16::try_from(buffers).unwrap_or(u16::MAX),
        })
    }

    /// The processor of worker `id`.
    pub(super) fn processor(&self, id: usize) -> Option<usize> {
        self.processors.get(id % self.processors.len().max(1)).copied()
    }

    /// How many connections fit into the descriptors that are left, once all else is open: each
    /// needs two.
    ///
    /// # Errors
    /// None fits.
    pub(super) fn connections_max(&self, config: &Config) -> Result<u32> {
        let open = std::fs::read_dir("/proc/self/fd").context("reading /proc/self/fd")?.count();
        let pipes = 2 * (self.pipes_per_worker * self.workers) as u64;
        let used = open as u64 + pipes + DESCRIPTORS_RESERVED;
        let fitting = u32::try_from(self.descriptors.saturating_sub(used) / 2).unwrap_or(u32::MAX);
        if fitting == 0 {
            return Err(too_few(self.descriptors));
        }
        if fitting < config.limits.connections {
            tracing::warn!(
                configured = config.limits.connections,
                possible = fitting,
                descriptors = self.descriptors,
                "limits.connections is lowered to what RLIMIT_NOFILE allows: two descriptors each"
            );
        }
        Ok(fitting.min(config.limits.connections))
    }
}

fn too_few(descriptors: u64) -> anyhow::Error {
    let fix = "raise it (ulimit -n, LimitNOFILE=, --ulimit nofile=)";
    anyhow::anyhow!(
        "RLIMIT_NOFILE is {descriptors}, which leaves no descriptor for connections: {fix}"
    )
}
