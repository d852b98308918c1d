//! Runs that a seed repeats.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::sys::sim::Draw;

/// Replays one seed: `EGRET_SEED=7 cargo test --lib worker::tests`.
const SEED_VARIABLE: &str = "EGRET_SEED";

/// Multiplies the number of seeds: the gate runs more than an engineer waits for.
const MORE_VARIABLE: &str = "EGRET_MORE_SEEDS";

/// Calls `run` with `count` seeds, or more. A run that panics prints its seed and what it noted.
pub(super) fn for_seeds(count: u64, mut run: impl FnMut(&mut Draw, &mut Vec<String>)) {
    let chosen = std::env::var(SEED_VARIABLE).ok().map(|seed| seed.parse().expect("a number"));
    let more = std::env::var(MORE_VARIABLE).map_or(1, |times| times.parse().expect("a number"));
    let seeds = chosen.map_or(0..count * more, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let (mut draw, mut notes) = (Draw::new(seed), Vec::new());
        let result = catch_unwind(AssertUnwindSafe(|| run(&mut draw, &mut notes)));
        if let Err(panic) = result {
            eprintln!("{SEED_VARIABLE}={seed} fails:\n  {}", notes.join("\n  "));
            resume_unwind(panic);
        }
    }
}
