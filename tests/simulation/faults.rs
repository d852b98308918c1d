//! Faults that are planted in the product, one at a time: each must be found.

use std::ops::ControlFlow;
use std::sync::Mutex;

use egret::internals::probe::Fault;
use strum::VariantArray;

use crate::plan::Plan;
use crate::run::on_all_processors;
use crate::scenario;

/// So many seeds find each of them.
const SEEDS_MAX: u64 = 10_000;

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless optimised: --profile count")]
fn planted_faults_are_found() {
    scenario::quiet_panics();
    let found = Mutex::new(Vec::new());
    let faults = Fault::VARIANTS;
    on_all_processors(0..faults.len() as u64, |at| {
        let fault = faults[usize::try_from(at).unwrap()];
        let fails = |seed: &u64| scenario::try_run(&Plan::draw(*seed), Some(fault), false).err();
        let first = (0..SEEDS_MAX).find_map(|seed| Some((seed + 1, fails(&seed)?)));
        found.lock().unwrap().push((fault, first));
        ControlFlow::Continue(())
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(fault, _)| *fault as usize);
    for (fault, first) in &found {
        match first {
            Some((seeds, how)) => {
                let how = how.lines().next().unwrap_or_default();
                eprintln!("{:24} {seeds:>6} {how}", format!("{fault:?}"));
            }
            None => eprintln!("{:24} {:>6}", format!("{fault:?}"), "none"),
        }
    }
    let missed: Vec<_> = found.iter().filter(|(_, first)| first.is_none()).collect();
    assert!(missed.is_empty(), "not found within {SEEDS_MAX} seeds: {missed:?}");
}
