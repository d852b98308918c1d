//! How long the pure operations take: `cargo bench -p egret-micro`.

#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use egret_micro::OPERATIONS;

const WARM_UP: Duration = Duration::from_millis(500);

fn pure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pure");
    // Some operations take microseconds, some a large part of a second, and the inputs of all
    // calls of a sample are in memory at once.
    group.sampling_mode(SamplingMode::Flat).sample_size(20).warm_up_time(WARM_UP);
    for operation in OPERATIONS {
        group.bench_function(operation.name, |bencher| {
            bencher.iter_custom(|calls| {
                let calls = usize::try_from(calls).expect("a count that fits");
                let mut call = operation.prepare(calls);
                let start = Instant::now();
                (0..calls).for_each(|_| call());
                start.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pure);
criterion_main!(benches);
