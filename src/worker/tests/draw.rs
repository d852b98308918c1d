//! Random choices that a seed repeats.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Replays one seed: `EGRET_SEED=7 cargo test --lib worker::tests`.
const SEED_VARIABLE: &str = "EGRET_SEED";

/// Multiplies the number of seeds: the gate runs more than an engineer waits for.
const MORE_VARIABLE: &str = "EGRET_MORE_SEEDS";

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
#[derive(Debug)]
pub(super) struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of `choices`.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Calls `run` with `count` seeds, or more. A run that panics prints its seed and what it noted.
pub(super) fn for_seeds(count: u64, mut run: impl FnMut(&mut Draw, &mut Vec<String>)) {
    let chosen = std::env::var(SEED_VARIABLE).ok().map(|seed| seed.parse().expect("a number"));
    let more = std::env::var(MORE_VARIABLE).map_or(1, |times| times.parse().expect("a number"));
    let seeds = chosen.map_or(0..count * more, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let (mut draw, mut notes) = (Draw(seed), Vec::new());
        let result = catch_unwind(AssertUnwindSafe(|| run(&mut draw, &mut notes)));
        if let Err(panic) = result {
            eprintln!("{SEED_VARIABLE}={seed} fails:\n  {}", notes.join("\n  "));
            resume_unwind(panic);
        }
    }
}
