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
