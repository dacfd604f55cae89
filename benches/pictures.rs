//! What a picture costs beside the networks: its first noise, and its file.
//!
//! `cargo bench --bench pictures`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use image::{Rgb, RgbImage};
use sd_worker_rbee::{
    contract::{Job, Limits, Operation, PromptSyntax},
    diffusion::{ImageSpec, Source, TorchRng},
    engine::Generated,
    worker,
};

/// Sides in pixels of what Stable Diffusion 1.5 and SDXL draw.
const SIDES: [u32; 2] = [512, 1024];

/// Slopes with a little noise: files of the size that photographs have.
fn picture(side: u32) -> RgbImage {
    let noise = TorchRng::new(1).normal((3 * side * side) as usize);
    RgbImage::from_fn(side, side, |x, y| {
        let at = (3 * (y * side + x)) as usize;
        let slopes = [x, y, x + y].map(|value| 255.0 * value as f32 / (2 * side) as f32);
        Rgb([0, 1, 2].map(|i| (slopes[i] + 2.0 * noise[at + i]).round() as u8))
    })
}

/// A job whose picture is to be kept in `format`.
fn job(format: &str, side: u32) -> Job {
    let request = serde_json::json!({
        "operation": "image_generation", "model": "any", "prompt": "a lighthouse at dusk", "output_format": format,
        "width": side, "height": side,
    });
    let operation = Operation::parse(None, request.to_string().as_bytes()).expect("a request");
    Job::new(operation, &Limits::default()).expect("a job")
}

fn files(criterion: &mut Criterion) {
    for side in SIDES {
        let spec = ImageSpec {
            prompt: "a lighthouse at dusk".into(),
            negative_prompt: None,
            prompt_syntax: PromptSyntax::Plain,
            clip_skip: 0,
            steps: 20,
            guidance_scale: 7.5,
            seed: 1,
            scheduler: None,
            loras: Vec::new(),
            source: Source::Text { width: side, height: side },
        };
        let drawn = Generated { index: 0, seed: 1, scheduler: "euler", image: picture(side) };
        let mut group = criterion.benchmark_group(format!("file of {side}x{side}"));
        for format in ["png", "jpeg", "webp"] {
            let job = job(format, side);
            group.bench_function(format, |bench| {
                bench.iter(|| worker::encode(black_box(&job), &spec, "any", &drawn).expect("a file"));
            });
        }
        group.finish();
    }
}

fn noise(criterion: &mut Criterion) {
    for side in SIDES {
        let count = 4 * (side / 8 * side / 8) as usize;
        criterion.bench_function(&format!("torch's noise for {side}x{side}"), |bench| {
            bench.iter(|| TorchRng::new(black_box(1)).normal(count));
        });
    }
}

criterion_group!(benches, files, noise);
criterion_main!(benches);
