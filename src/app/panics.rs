//! What a panic means: the end of the process, but for one inside a gate.
//!
//! A proxy without one of its workers would blackhole that worker's share of the connections, and
//! one without its control thread could not be told to end. A supervisor restarts it in a moment. A
//! gate is another matter ([`crate::gate`]): peers choose the bytes that it reads, and what is
//! half-done in it belongs to one connection.

use std::panic::PanicHookInfo;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::gate;

/// Of the panics inside gates one in so long is told: a peer may cause them at will.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What was told, and what was not.
#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    untold: u64,
}

/// Makes every panic of the process end it, unless it is caught by a gate's guard. Once, at the
/// start.
pub fn install() {
    let told = Mutex::new(Told::default());
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !gate::is_inside() {
            print(panic);
            tracing::error!(panic = %panic, "a panic ends the process");
            std::process::abort();
        }
        let untold = told.lock().ok().and_then(|mut told| told.tell(Instant::now()));
        if let Some(untold) = untold {
            log(panic, untold);
        }
    }));
}

fn log(panic: &PanicHookInfo<'_>, untold: u64) {
    tracing::error!(%panic, untold, "a panic while inspecting a connection's bytes; it ends");
}

impl Told {
    /// Whether this panic is told, and how many were not since the last one that was.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < TOLD_EVERY) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_panic_in_ten_seconds_is_told_and_the_others_are_counted() {
        let mut told = Told::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(told.tell(at(0)), Some(0));
        assert_eq!(told.tell(at(1)), None);
        assert_eq!(told.tell(at(9)), None);
        assert_eq!(told.tell(at(10)), Some(2));
        assert_eq!(told.tell(at(20)), Some(0));
    }
}
