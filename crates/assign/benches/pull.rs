//! `cargo bench -p isocenter-assign --bench pull`: what one decision costs, as criterion measures it.

mod network;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use network::Network;

fn decisions(c: &mut Criterion) {
    for waiting in [1_000, 10_000, 100_000] {
        let mut network = Network::new(1, 1_000);
        let mut queue = network.queue(waiting);
        let mut reader = 0;
        c.bench_function(&format!("pull, 1000 readers, {waiting} waiting"), |b| {
            b.iter(|| {
                reader += 1;
                black_box(queue.pick(&network.readers[reader % 1_000], network.now).is_some())
            });
        });
        c.bench_function(&format!("take and return, {waiting} waiting"), |b| {
            b.iter(|| {
                reader += 1;
                let taken = network.decide(&mut queue, reader);
                black_box(taken.and_then(|item| queue.insert(item)))
            });
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
