//! The parts of one picture with the shipped checkpoint: prompt and first latents, one step, decode; the text
//! encoder and the VAE decode alone too. Those of a checkpoint of real size are in `parts`.
//!
//! `cargo bench --bench denoise`

use std::{hint::black_box, path::Path};

use candle_core::{DType, Device, Tensor};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sd_worker_rbee::{
    contract::PromptSyntax,
    diffusion::{Denoising, ImageSpec, Source, StableDiffusion},
};

fn spec() -> ImageSpec {
    ImageSpec {
        prompt: "a large red circle on a blue background".into(),
        negative_prompt: None,
        prompt_syntax: PromptSyntax::Plain,
        clip_skip: 0,
        steps: 20,
        guidance_scale: 7.5,
        guidance_interval: None,
        seed: 1,
        scheduler: None,
        loras: Vec::new(),
        source: Source::Text { width: 128, height: 128 },
    }
}

fn drawn(model: &StableDiffusion) -> Denoising {
    let mut job = model.begin(&spec()).expect("the shipped checkpoint takes the job");
    while !job.is_done() {
        model.advance(&mut [&mut job]).expect("the shipped checkpoint draws");
    }
    job
}

fn denoise(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-shapes");
    let model =
        StableDiffusion::load(&folder, &Device::Cpu, DType::F32).expect("the shipped checkpoint loads");
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

criterion_group!(benches, denoise);
criterion_main!(benches);
