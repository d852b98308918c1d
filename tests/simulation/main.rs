//! Lives of the data plane: a whole worker on a kernel made of values (`egret::sys::sim`), with
//! workloads, servers, reloads and a drain that are drawn from a seed.
//!
//! A seed that fails prints itself, a scenario made as short as it still fails, the trace of that,
//! and the command that replays it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod differential;
mod oracle;
mod plan;
mod registry;
mod scenario;
mod server;
mod shrink;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plan::Plan;

/// Replays one seed.
const SEED: &str = "EGRET_SEED";

/// Runs so many fresh seeds (`scripts/simulate.sh`).
const COUNT: &str = "EGRET_SEEDS";

/// Seeds of every run of the tests: always the same ones, so that what fails was just changed.
const USUAL: u64 = 3_000;

const TELL_EVERY: Duration = Duration::from_secs(10);

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
}

/// Runs a seed; what fails is made short and told.
fn run(seed: u64) -> Result<(), String> {
    let plan = Plan::draw(seed);
    let Err(reason) = scenario::try_run(&plan, false) else { return Ok(()) };
    let short = shrink::shrink(&plan);
    let trace = scenario::try_run(&short, true).err().unwrap_or_default();
    Err(format!(
        "{SEED}={seed} fails: {reason}\nreplay: {SEED}={seed} cargo test --test simulation\n\
         shortened: {short:#?}\n{trace}"
    ))
}

/// Runs these seeds on all processors; the first failure ends it.
fn run_all(seeds: Range<u64>) {
    let (next, began) = (AtomicU64::new(seeds.start), Instant::now());
    let (failure, told) = (Mutex::new(None), Mutex::new(began));
    let work = || {
        while failure.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if let Err(text) = run(seed) {
                failure.lock().unwrap().get_or_insert(text);
            }
            let mut told = told.lock().unwrap();
            if told.elapsed() >= TELL_EVERY {
                *told = Instant::now();
                tell(seed - seeds.start, began.elapsed());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    if let Some(text) = failure.into_inner().unwrap() {
        panic!("{text}");
    }
    tell(seeds.end - seeds.start, began.elapsed());
}

fn tell(count: u64, took: Duration) {
    let seconds = took.as_secs_f64();
    eprintln!("{count} scenarios in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
}

#[test]
fn lives_of_the_data_plane() {
    scenario::quiet_panics();
    let fresh = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs()) << 24
    };
    run_all(match (number(SEED), number(COUNT)) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => {
            let first = fresh();
            eprintln!("seeds from {first} on");
            first..first + count
        }
        (None, None) => 0..USUAL,
    });
}
