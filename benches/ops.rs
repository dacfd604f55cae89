//! Operations at the shapes of Stable Diffusion 1.5 at 512x512 and SDXL at 1024x1024 (guidance on: two samples), the
//! kernels beside candle's own form of the same.
//!
//! `cargo bench --bench ops`, or with a part of a name behind it: `cargo bench --bench ops -- "SDXL attention"`. What begins
//! with `threads` is computed by one thread and by two, or by as many as `BENCH_THREADS=1,8,64` says.

use std::{hint::black_box, time::Duration};

use candle_core::{Device, Result, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use sd_worker_rbee::diffusion::ops::{self, Activation, AttentionOptions, plain};

const SD15: &str = "SD 1.5";
const SDXL: &str = "SDXL";

fn random(dims: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, dims, &Device::Cpu).expect("values for a benchmark")
}

/// Times `kernels` and `candle` under one name.
fn compare(
    criterion: &mut Criterion,
    name: &str,
    kernels: impl Fn() -> Result<Tensor>,
    candle: impl Fn() -> Result<Tensor>,
) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group
        .bench_function("kernels", |bench| bench.iter(|| black_box(kernels().expect("the kernels compute"))));
    group.bench_function("candle", |bench| bench.iter(|| black_box(candle().expect("candle computes"))));
    group.finish();
}

/// Samples, queries, keys, width, heads.
const ATTENTIONS: [(&str, [usize; 5]); 9] = [
    (SD15, [2, 4096, 4096, 320, 8]),
    (SD15, [2, 1024, 1024, 640, 8]),
    (SD15, [2, 256, 256, 1280, 8]),
    (SD15, [2, 4096, 77, 320, 8]),
    (SD15, [1, 4096, 4096, 512, 1]),
    (SDXL, [2, 4096, 4096, 640, 10]),
    (SDXL, [2, 1024, 1024, 1280, 20]),
    (SDXL, [2, 4096, 77, 640, 10]),
    (SDXL, [2, 1024, 77, 1280, 20]),
];

fn attention(criterion: &mut Criterion) {
    for (model, [samples, n, m, width, heads]) in ATTENTIONS {
        let q = random(&[samples, n, width]);
        let (k, v) = (random(&[samples, m, width]), random(&[samples, m, width]));
        let options = AttentionOptions { heads, causal: false, upcast: false };
        compare(
            criterion,
            &format!("{model} attention {samples} x {n} x {m}, {heads} heads of {}", width / heads),
            || ops::attention(&q, &k, &v, options),
            || plain::attention(&q, &k, &v, options),
        );
    }
}

/// Samples, channels in and out, side, kernel, stride. Those with one sample are the autoencoder's; its last at
/// 1024x1024 are left out, for which candle needs 5 GB.
const CONVOLUTIONS: [(&str, [usize; 6]); 16] = [
    (SD15, [2, 320, 320, 64, 3, 1]),
    (SD15, [2, 640, 640, 32, 3, 1]),
    (SD15, [2, 1280, 1280, 16, 3, 1]),
    (SD15, [2, 1280, 1280, 8, 3, 1]),
    (SD15, [2, 320, 320, 64, 3, 2]),
    (SD15, [2, 320, 320, 64, 1, 1]),
    (SD15, [2, 1280, 1280, 16, 1, 1]),
    (SD15, [1, 512, 512, 64, 3, 1]),
    (SD15, [1, 256, 256, 256, 3, 1]),
    (SDXL, [2, 320, 320, 128, 3, 1]),
    (SDXL, [2, 640, 640, 64, 3, 1]),
    (SDXL, [2, 1280, 1280, 32, 3, 1]),
    (SDXL, [2, 2560, 1280, 32, 3, 1]),
    (SDXL, [2, 640, 640, 64, 3, 2]),
    (SDXL, [2, 960, 320, 128, 1, 1]),
    (SDXL, [1, 512, 512, 128, 3, 1]),
];

fn convolution(criterion: &mut Criterion) {
    for (model, [samples, inputs, outputs, side, kernel, stride]) in CONVOLUTIONS {
        let x = random(&[samples, inputs, side, side]);
        let (weight, bias) = (random(&[outputs, inputs, kernel, kernel]), random(&[outputs]));
        compare(
            criterion,
            &format!(
                "{model} convolution {kernel}x{kernel}/{stride} {samples} x {inputs} to {outputs}, {side}x{side}"
            ),
            || ops::conv2d(&x, &weight, Some(&bias), stride, kernel / 2),
            || plain::conv2d(&x, &weight, Some(&bias), stride, kernel / 2),
        );
    }
}

/// Tokens of one sample, width in and out.
const LINEARS: [(&str, [usize; 3]); 12] = [
    (SD15, [4096, 320, 320]),
    (SD15, [4096, 320, 2560]),
    (SD15, [4096, 1280, 320]),
    (SD15, [1024, 640, 5120]),
    (SD15, [256, 1280, 10240]),
    (SD15, [77, 768, 320]),
    (SDXL, [4096, 640, 640]),
    (SDXL, [4096, 640, 5120]),
    (SDXL, [1024, 1280, 1280]),
    (SDXL, [1024, 1280, 10240]),
    (SDXL, [1024, 5120, 1280]),
    (SDXL, [77, 2048, 1280]),
];

fn linear(criterion: &mut Criterion) {
    for (model, [tokens, inputs, outputs]) in LINEARS {
        let x = random(&[2, tokens, inputs]);
        let (weight, bias) = (random(&[outputs, inputs]), random(&[outputs]));
        compare(
            criterion,
            &format!("{model} linear {tokens} x {inputs} to {outputs}"),
            || ops::linear(&x, &weight, Some(&bias)),
            || plain::linear(&x, &weight, Some(&bias)),
        );
    }
}

/// What is bound by memory: a model, and the shape of its largest pictures and of its largest texts.
const OTHERS: [(&str, [usize; 2], [usize; 2]); 2] =
    [(SD15, [320, 64], [4096, 320]), (SDXL, [320, 128], [4096, 640])];

fn others(criterion: &mut Criterion) {
    for (model, [channels, side], [tokens, width]) in OTHERS {
        pictures(criterion, model, channels, side);
        texts(criterion, model, tokens, width);
    }
}

fn pictures(criterion: &mut Criterion, model: &str, channels: usize, side: usize) {
    let x = random(&[2, channels, side, side]);
    let (weight, bias) = (random(&[channels]), random(&[channels]));
    compare(
        criterion,
        &format!("{model} group norm and SiLU {channels} x {side}x{side}"),
        || ops::group_norm_silu(&x, &weight, &bias, 32, 1e-5),
        || plain::group_norm(&x, &weight, &bias, 32, 1e-5)?.silu(),
    );
    compare(
        criterion,
        &format!("{model} upsample {channels} x {side}x{side}"),
        || ops::upsample_nearest(&x, 2 * side, 2 * side),
        || plain::upsample_nearest(&x, 2 * side, 2 * side),
    );
    compare(criterion, &format!("{model} add {channels} x {side}x{side}"), || ops::add(&x, &x), || &x + &x);
    let flat = x.flatten_from(2).expect("a view");
    compare(
        criterion,
        &format!("{model} swap {channels} x {}", side * side),
        || ops::swap_tokens_and_channels(&flat),
        || flat.transpose(1, 2)?.contiguous(),
    );
}

fn texts(criterion: &mut Criterion, model: &str, tokens: usize, width: usize) {
    let x = random(&[2, tokens, width]);
    let (weight, bias) = (random(&[width]), random(&[width]));
    compare(
        criterion,
        &format!("{model} layer norm {tokens} x {width}"),
        || ops::layer_norm(&x, &weight, &bias, 1e-5),
        || plain::layer_norm(&x, &weight, &bias, 1e-5),
    );
    let wide = random(&[2, tokens, 8 * width]);
    compare(
        criterion,
        &format!("{model} GEGLU {tokens} x {}", 4 * width),
        || ops::geglu(&wide),
        || plain::geglu(&wide),
    );
    for activation in [Activation::Silu, Activation::QuickGelu, Activation::GeluErf, Activation::GeluTanh] {
        compare(
            criterion,
            &format!("{model} {activation:?} {tokens} x {width}"),
            || ops::activate(&x, activation),
            || plain::activate(&x, activation),
        );
    }
}

/// The operations that a step of Stable Diffusion 1.5 spends its time in, by several counts of threads.
fn threads(criterion: &mut Criterion) {
    let counts = std::env::var("BENCH_THREADS").unwrap_or_else(|_| "1,2".into());
    let counts: Vec<usize> =
        counts.split(',').map(|count| count.parse().expect("a count of threads")).collect();
    let convolutions = CONVOLUTIONS.iter().filter(|(_, [.., kernel, stride])| (*kernel, *stride) == (3, 1));
    for (model, [samples, inputs, outputs, side, ..]) in convolutions {
        let x = random(&[*samples, *inputs, *side, *side]);
        let weight = random(&[*outputs, *inputs, 3, 3]);
        let name =
            format!("threads: {model} convolution 3x3 {samples} x {inputs} to {outputs}, {side}x{side}");
        by_threads(criterion, &name, &counts, || ops::conv2d(&x, &weight, None, 1, 1));
    }
    let [q, k, v] = [0; 3].map(|_| random(&[2, 4096, 320]));
    let options = AttentionOptions { heads: 8, causal: false, upcast: false };
    by_threads(criterion, "threads: SD 1.5 attention", &counts, || ops::attention(&q, &k, &v, options));
    let weight = random(&[2560, 320]);
    by_threads(criterion, "threads: SD 1.5 linear", &counts, || ops::linear(&q, &weight, None));
}

fn by_threads(
    criterion: &mut Criterion,
    name: &str,
    counts: &[usize],
    operation: impl Fn() -> Result<Tensor> + Sync,
) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for count in counts {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(*count).build().expect("threads");
        group.bench_function(format!("{count} threads"), |bench| {
            bench.iter(|| black_box(pool.install(|| operation().expect("the kernels compute"))));
        });
    }
    group.finish();
}

criterion_group!(benches, attention, convolution, linear, others, threads);
criterion_main!(benches);
