//! Threads, processors and the descriptor limit.

use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// The processors that this thread may run on, in ascending order.
///
/// # Errors
/// More processors than the kernel's mask type holds (EINVAL).
pub fn allowed_processors() -> Result<Vec<usize>, Errno> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// Keeps the calling thread on `processor`.
///
/// # Errors
/// The processor is offline or not allowed (EINVAL).
pub fn pin_to(processor: usize) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Lengthens the time slice of the calling thread by half, if it is scheduled as usual
/// (SCHED_OTHER) and the kernel has slices that can be chosen (Linux 6.12, sched_setattr(2));
/// returns the new one.
///
/// A longer slice is not more time, but a later deadline: a thread that this one wakes on the same
/// processor runs at once, and has often answered before this one would have gone to sleep. How
/// soon this one runs when it is woken beside a busy thread stays the same (see perf/README.md).
///
/// # Errors
/// A seccomp filter denies the calls (EPERM), or hides them (ENOSYS).
pub fn lengthen_slice() -> Result<Option<Duration>, Errno> {
    let mut attributes = scheduling()?;
    // Older kernels know no slice of such a thread and say 0.
    if !is_usual(&attributes) || attributes.sched_runtime == 0 {
        return Ok(None);
    }
    attributes.sched_runtime += attributes.sched_runtime / 2;
    set_scheduling(&attributes)?;
    Ok(Some(Duration::from_nanos(scheduling()?.sched_runtime)))
}

/// Lets other threads go first: the calling thread's nice value rises by 10, if it is scheduled as
/// usual. Where others want the same processor it then gets a tenth of a usual thread's share
/// (sched(7)), and on an idle one it runs as fast as ever.
///
/// # Errors
/// A seccomp filter denies the calls (EPERM), or hides them (ENOSYS).
pub fn give_way() -> Result<(), Errno> {
    const NICER: i32 = 10;
    const NICEST: i32 = 19;
    let mut attributes = scheduling()?;
    if !is_usual(&attributes) {
        return Ok(());
    }
    attributes.sched_nice = (attributes.sched_nice + NICER).min(NICEST);
    // The slice stays the kernel's own.
    attributes.sched_runtime = 0;
    set_scheduling(&attributes)
}

/// How the calling thread is scheduled.
pub(super) fn scheduling() -> Result<libc::sched_attr, Errno> {
    let mut attributes = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes to `attributes`, which is that long, and lives
    // until the call returns.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    Errno::result(done)?;
    Ok(attributes)
}

/// By weight and slice, as nearly all threads are (SCHED_OTHER).
fn is_usual(attributes: &libc::sched_attr) -> bool {
    attributes.sched_policy == libc::SCHED_OTHER.cast_unsigned()
}

/// Schedules the calling thread so from now on.
fn set_scheduling(attributes: &libc::sched_attr) -> Result<(), Errno> {
    // SAFETY: the kernel reads `struct sched_attr` of the size that stands in it, which
    // `attributes` is; it lives until the call returns.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attributes, 0) };
    Errno::result(done).map(drop)
}

/// Processor time that the calling thread has used, in user and kernel mode.
#[must_use]
pub fn processor_time() -> Duration {
    // Every Linux has this clock.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Raises the soft limit on open descriptors to the hard one; returns the limit that now holds.
/// Containers often start with a soft limit of 1024 under a far higher hard one.
///
/// # Errors
/// Only if the kernel refuses what getrlimit(2) says is allowed.
pub fn raise_descriptor_limit() -> Result<u64, Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(soft.max(hard))
}

/// Raises the soft limit on locked memory to the hard one; returns the limit that now holds, in
/// bytes. The kernel counts rings to it where the process lacks CAP_IPC_LOCK.
///
/// # Errors
/// Only if the kernel refuses what getrlimit(2) says is allowed.
pub fn raise_lock_limit() -> Result<u64, Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)?;
    }
    Ok(soft.max(hard))
}

/// The addresses of this host's (network namespace's) interfaces.
///
/// # Errors
/// No netlink socket could be opened, for want of a descriptor or of memory.
pub fn interface_addresses() -> Result<Vec<std::net::IpAddr>, Errno> {
    let mut addresses = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push(v6.ip().into());
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}
