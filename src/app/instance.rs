//! One Egret per port and network namespace.
//!
//! The name is taken before anything is bound: two processes that share a port by SO_REUSEPORT
//! would each get a part of the connections. A process that was killed a moment ago still has its
//! port: the kernel closes what a ring refers to a little later than the rest (60 ms were seen).

use std::io;
use std::time::{Duration, Instant};

use crate::sys::instance::{Instance, holder};

/// How long the start waits for what a process that has just ended has not given back.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// Another Egret serves the port in this network namespace.
#[derive(Debug, thiserror::Error)]
#[error(
    "another Egret (process {}) has port {port} in this network namespace: stop it, or change \
     listen.port", .holder.map_or("unknown".to_owned(), |pid| pid.to_string())
)]
pub struct AlreadyRunning {
    /// `listen.port`.
    port: u16,
    /// Its process id.
    holder: Option<i32>,
}

/// Takes `port` for this process. Port 0, which takes any free one, collides with nobody.
pub(super) fn take(port: u16) -> anyhow::Result<Option<Instance>> {
    if port == 0 {
        return Ok(None);
    }
    let name = format!("egret-{port}");
    let taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    match patiently(|| Instance::take(&name), taken) {
        Ok(instance) => Ok(Some(instance)),
        Err(error) if taken(&error) => Err(AlreadyRunning { port, holder: holder(&name) }.into()),
        Err(error) => Err(anyhow::Error::new(error).context(format!("taking the name @{name}"))),
    }
}

/// Tries until it is no longer taken, or the patience ends.
pub(super) fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_taken(&error) && Instant::now() < give_up => {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}
