//! Lives of the data plane: a whole worker on a kernel made of values (`egret::sys::sim`), with
//! workloads, servers, reloads and a drain that are drawn from a seed.
//!
//! A seed that fails prints itself, a scenario made as short as it still fails, the trace of that,
//! and the command that replays it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accounts;
mod client;
mod coverage;
mod differential;
mod faults;
mod http2;
mod oracle;
mod plan;
mod registry;
mod run;
mod scenario;
mod script;
mod server;
mod shrink;

use run::{fresh, number, run_all};

/// The seed to replay, or to begin with.
const SEED: &str = "EGRET_SEED";

/// Runs so many seeds (`scripts/simulate.sh`).
const COUNT: &str = "EGRET_SEEDS";

/// Where the fresh seeds begin, for a run that is to be the same each time.
const FROM: &str = "EGRET_FRESH_FROM";

/// A seed that fails does not end the run.
const GOES_ON: &str = "EGRET_GOES_ON";

/// Seeds of every run of the tests: always the same ones, so that what fails was just changed.
const USUAL: u64 = 2_000;

/// Seeds that are run as well: each has once found a fault of the product, or meets a cell of the
/// coverage table that is rarely met.
const KEPT: &[u64] = &[
    2001, 2060, 2087, 2101, 2112, 2147, 2153, 2156, 2166, 2204, 2243, 2436, 2468, 2643, 2697, 2713,
    3650, 3735, 3862, 3886, 3928, 4035, 4058, 4117, 4151, 4199, 4229, 4260, 4291, 4300, 4484, 4538,
    4666, 4735, 4764, 4941, 5324, 5725, 5913, 6045, 6145, 6306, 6315, 7133, 7453, 7784,
];

/// Fresh seeds of every run of the tests.
const FRESH: u64 = if cfg!(debug_assertions) { 2_000 } else { 20_000 };

#[test]
fn lives_of_the_data_plane() {
    scenario::quiet_panics();
    let goes_on = std::env::var(GOES_ON).is_ok();
    let met = match (number(SEED), number(COUNT)) {
        (None, None) => {
            let met = run_all((0..USUAL).chain(KEPT.iter().copied()), false);
            let first = number(FROM).unwrap_or_else(fresh);
            eprintln!("fresh seeds from {first} on");
            run_all(first..first + FRESH, false);
            coverage::print(&met);
            return coverage::is_complete(&met);
        }
        (Some(seed), None) => run_all(seed..=seed, goes_on),
        (first, Some(count)) => {
            let first = first.unwrap_or_else(fresh);
            eprintln!("seeds from {first} on");
            run_all(first..first + count, goes_on)
        }
    };
    coverage::print(&met);
}
