//! Addresses that could not be connected to a moment ago: where a service has others, they are
//! tried last.
//!
//! Shared by all workers: an address that is dead costs one connection its time, not one of each
//! worker. The lock is taken only while there is such an address, by connections with a choice.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an address is tried last: then one connection finds out whether it is back.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Of a service with more dead endpoints than that, some are tried in turn.
const ADDRESSES_MAX: usize = 1024;

type Map = HashMap<SocketAddr, Instant, foldhash::fast::RandomState>;

/// See the module.
#[derive(Debug, Default)]
pub struct FailedAddresses {
    /// How many there are, so that nobody needs the lock to see that there are none.
    count: AtomicUsize,
    until: Mutex<Map>,
}

impl FailedAddresses {
    /// `address` has failed at `now`.
    pub fn note(&self, address: SocketAddr, now: Instant) {
        let mut all = self.lock();
        if all.len() >= ADDRESSES_MAX {
            all.retain(|_, until| *until > now);
        }
        if all.len() < ADDRESSES_MAX {
            all.insert(address, now + REMEMBERED);
        }
        self.count.store(all.len(), Ordering::Relaxed);
    }

    /// `address` has been connected to.
    pub fn forget(&self, address: SocketAddr) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut all = self.lock();
        all.remove(&address);
        self.count.store(all.len(), Ordering::Relaxed);
    }

    /// Whether `address` has failed lately.
    #[must_use]
    pub fn contains(&self, address: SocketAddr, now: Instant) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut all = self.lock();
        match all.get(&address) {
            Some(until) if *until > now => true,
            Some(_) => {
                all.remove(&address);
                self.count.store(all.len(), Ordering::Relaxed);
                false
            }
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        // Each change is one insertion or removal: none can be seen half done.
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    #[test]
    fn an_address_is_remembered_for_a_while_or_until_it_is_connected_to() {
        let (failed, now) = (FailedAddresses::default(), Instant::now());
        assert!(!failed.contains(address(1), now));
        failed.note(address(1), now);
        failed.note(address(2), now);
        assert!(failed.contains(address(1), now + REMEMBERED / 2));
        assert!(!failed.contains(address(3), now));
        assert!(!failed.contains(address(1), now + REMEMBERED));
        failed.forget(address(2));
        assert!(!failed.contains(address(2), now));
        assert_eq!(failed.count.load(Ordering::Relaxed), 0, "the lock is taken for nothing");
    }

    #[test]
    fn there_is_a_limit() {
        let (failed, now) = (FailedAddresses::default(), Instant::now());
        for n in 0..2_000 {
            failed.note(address(n), now);
        }
        assert_eq!(failed.count.load(Ordering::Relaxed), ADDRESSES_MAX);
        failed.note(address(3_000), now + REMEMBERED);
        assert_eq!(failed.count.load(Ordering::Relaxed), 1, "those of before make room");
    }
}
