//! A proxy to test and peers to test it with.

#[allow(dead_code, reason = "the control plane's own tests ask more of it")]
#[path = "../../src/control/dns/testing.rs"]
pub(crate) mod dns;
pub(crate) mod faults;
pub(crate) mod peer;
pub(crate) mod proxy;
#[path = "../netns/retry.rs"]
pub(crate) mod retry;
#[allow(dead_code, reason = "the unit tests ask more of it")]
#[path = "../../src/sniff/testing.rs"]
pub(crate) mod tls;
pub(crate) mod web;

pub(crate) use faults::{Kind, Outcome};
pub(crate) use peer::{Pattern, reset};
pub(crate) use proxy::{Proxy, Setup};
pub(crate) use retry::uninterrupted;
pub(crate) use web::Web;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The longest that anything here may take; a failure, not a measure.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// An address that refuses connections, each time another one. Everybody else here is at 127.0.0.1:
/// a port of that which was given back may be given to another test.
pub(crate) fn nobody() -> SocketAddr {
    static PORTS: AtomicU16 = AtomicU16::new(1);
    SocketAddr::from(([127, 0, 0, 2], PORTS.fetch_add(1, Ordering::Relaxed)))
}

/// Waits until `condition` holds; fails with `what` if it does not in time.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true within {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
