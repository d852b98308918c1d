//! A proxy to test and peers to test it with.

#[allow(dead_code, reason = "the control plane's own tests ask more of it")]
#[path = "../../src/control/dns/testing.rs"]
pub(crate) mod dns;
pub(crate) mod faults;
pub(crate) mod peer;
pub(crate) mod proxy;
pub(crate) mod web;

pub(crate) use faults::{Kind, Outcome};
pub(crate) use peer::{Pattern, reset};
pub(crate) use proxy::{Proxy, Setup};
pub(crate) use web::Web;

use std::time::{Duration, Instant};

/// The longest that anything here may take; a failure, not a measure.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; fails with `what` if it does not in time.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true within {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
