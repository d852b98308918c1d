//! How long the pure operations take: `cargo bench -p egret-micro`.

#![allow(missing_docs, reason = "criterion's macros make functions without")]

use std::time::Instant;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use egret_micro::OPERATIONS;

fn pure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pure");
    // Some operations take microseconds, some a large part of a second.
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
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
