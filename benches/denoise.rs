//! The parts of one picture with the shipped checkpoint: prompt and first latents, one step, decode; the text encoder and
//! the VAE decode alone too; and a step of several pictures, in shared passes and one by one (pictures a second, to be set
//! beside each other). Those of a checkpoint of real size are in `parts`.
//!
//! `cargo bench --bench denoise`; `BENCH_MODEL=FOLDER` takes another checkpoint.

use std::{hint::black_box, path::Path};

use candle_core::{DType, Device, Tensor};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sd_worker_rbee::diffusion::{ImageSpec, Picture, Source, StableDiffusion};

fn spec() -> ImageSpec {
    ImageSpec {
        seed: 1,
        ..ImageSpec::new("a large red circle on a blue background", Source::Text { width: 128, height: 128 })
    }
}

/// A turn of so many pictures of a size in pixels.
fn turns(criterion: &mut Criterion) {
    let model = shapes();
    let mut group = criterion.benchmark_group("turn");
    for side in [64, 128, 256] {
        for pictures in [1, 4] {
            let spec = ImageSpec { source: Source::Text { width: side, height: side }, ..spec() };
            let begin = || -> Vec<Picture> {
                let begin = |_| model.begin(&spec).expect("the shipped checkpoint takes the job");
                (0..pictures).map(begin).collect()
            };
            group.throughput(Throughput::Elements(pictures));
            let id = |how| BenchmarkId::new(how, format!("{pictures} pictures of {side}x{side}"));
            group.bench_function(id("one by one"), |bench| {
                let step =
                    |jobs: &mut Vec<Picture>| jobs.iter_mut().try_for_each(|job| model.advance(&mut [job]));
                bench.iter_batched_ref(begin, step, BatchSize::SmallInput);
            });
            group.bench_function(id("shared"), |bench| {
                let step = |jobs: &mut Vec<Picture>| model.advance(&mut jobs.iter_mut().collect::<Vec<_>>());
                bench.iter_batched_ref(begin, step, BatchSize::SmallInput);
            });
        }
    }
    group.finish();
}

fn shapes() -> StableDiffusion {
    let folder = std::env::var_os("BENCH_MODEL").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-shapes"),
        std::path::PathBuf::from,
    );
    StableDiffusion::load(&folder, &Device::Cpu, DType::F32).expect("the checkpoint loads")
}

fn drawn(model: &StableDiffusion) -> Picture {
    let mut job = model.begin(&spec()).expect("the shipped checkpoint takes the job");
    while !job.is_done() {
        model.advance(&mut [&mut job]).expect("the shipped checkpoint draws");
    }
    job
}

fn denoise(criterion: &mut Criterion) {
    let model = shapes();
    let mut group = criterion.benchmark_group("tiny-shapes 128x128, guidance 7.5");
    group.bench_function("begin", |bench| bench.iter(|| model.begin(black_box(&spec()))));
    group.bench_function("step", |bench| {
        bench.iter_batched_ref(
            || model.begin(&spec()).expect("the shipped checkpoint takes the job"),
            |job| model.advance(&mut [job]),
            BatchSize::SmallInput,
        );
    });
    let job = drawn(&model);
    group.bench_function("finish", |bench| bench.iter(|| model.finish(black_box(&job))));
    let ids = model.tokenizer().encode(&spec().prompt).expect("a prompt").ids;
    let encoder = model.prompts().encoders().next().expect("a text encoder");
    let prompts = [ids.clone(), ids];
    group.bench_function("text encoder", |bench| bench.iter(|| encoder.forward(black_box(&prompts), 0)));
    let shape = (1, model.vae().latent_channels(), 16, 16);
    let latents = Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("values for a benchmark");
    group.bench_function("VAE decode", |bench| bench.iter(|| model.vae().decode(black_box(&latents))));
    group.bench_function("preview", |bench| bench.iter(|| model.preview(black_box(&job))));
    group.finish();
}

criterion_group!(benches, denoise, turns);
criterion_main!(benches);
