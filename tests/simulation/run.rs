//! Runs many seeds, on all processors.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use egret::internals::probe::{self, Met};

use crate::plan::Plan;
use crate::{SEED, scenario, shrink};

/// How often each cell was met, and by which seed first.
pub(crate) type Coverage = BTreeMap<Met, (u64, u64)>;

const TELL_EVERY: Duration = Duration::from_secs(10);

pub(crate) fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
}

/// A seed that no run has begun with.
pub(crate) fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs()) << 24
}

/// A seed that fails is made short and told.
fn explain(seed: u64, plan: &Plan, reason: &str) -> String {
    let short = shrink::shrink(plan);
    let trace = scenario::try_run(&short, None, true).err().unwrap_or_default();
    format!(
        "{SEED}={seed} fails: {reason}\nreplay: {SEED}={seed} cargo test --test simulation\n\
         shortened: {short:#?}\n{trace}"
    )
}

/// Gives the numbers of `range` to `work` on all processors, until it breaks.
pub(crate) fn on_all_processors<I: Iterator<Item = u64> + Send>(
    numbers: I,
    work: impl Fn(u64) -> ControlFlow<()> + Sync,
) {
    let (numbers, is_over) = (Mutex::new(numbers), AtomicBool::new(false));
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let Some(number) = numbers.lock().unwrap().next() else { return };
            if work(number).is_break() {
                is_over.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
}

/// Runs these seeds; the first failure ends it, or with `goes_on` is told and counted. What they
/// have met.
pub(crate) fn run_all(seeds: impl Iterator<Item = u64> + Send, goes_on: bool) -> Coverage {
    let (began, done) = (Instant::now(), AtomicU64::new(0));
    let (failures, told) = (Mutex::new(Vec::new()), Mutex::new(began));
    let coverage = Mutex::new(Coverage::new());
    on_all_processors(seeds, |seed| {
        let plan = Plan::draw(seed);
        let result = scenario::try_run(&plan, None, false);
        let mut all = coverage.lock().unwrap();
        for (met, times) in probe::take_met() {
            let cell = all.entry(met).or_insert((0, seed));
            *cell = (cell.0 + times, cell.1.min(seed));
        }
        drop(all);
        let count = 1 + done.fetch_add(1, Ordering::Relaxed);
        let mut told = told.lock().unwrap();
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            tell(count, began.elapsed());
        }
        drop(told);
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) if goes_on => {
                eprintln!("{SEED}={seed} fails: {}", reason.lines().next().unwrap_or_default());
                failures.lock().unwrap().push(seed.to_string());
                ControlFlow::Continue(())
            }
            Err(reason) => {
                failures.lock().unwrap().push(explain(seed, &plan, &reason));
                ControlFlow::Break(())
            }
        }
    });
    tell(done.into_inner(), began.elapsed());
    let failures = failures.into_inner().unwrap();
    if goes_on && !failures.is_empty() {
        crate::coverage::print(&coverage.lock().unwrap());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    coverage.into_inner().unwrap()
}

fn tell(count: u64, took: Duration) {
    let seconds = took.as_secs_f64();
    eprintln!("{count} scenarios in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
}
