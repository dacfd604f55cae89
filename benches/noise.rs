//! The first latents of a picture: torch's normal numbers from a seed.
//!
//! `cargo bench --bench noise`

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sd_worker_rbee::diffusion::TorchRng;

/// Sides in pixels of what Stable Diffusion 1.5 and SDXL draw, with 4 numbers for each square of 8x8.
const SIDES: [u64; 2] = [512, 1024];

fn noise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("torch's noise");
    for side in SIDES {
        let count = 4 * (side / 8).pow(2);
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{side}x{side}"), |bench| {
            bench.iter(|| TorchRng::new(black_box(1)).normal(count as usize));
        });
    }
    group.finish();
}

criterion_group!(benches, noise);
criterion_main!(benches);
