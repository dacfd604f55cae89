//! Operations at the shapes of Stable Diffusion 1.5 (512x512, guidance on: two samples), the kernels beside candle's
//! own form of the same.
//!
//! `cargo bench --bench ops`, or with a part of a name behind it: `cargo bench --bench ops -- attention`

use std::{hint::black_box, time::Duration};

use candle_core::{Device, Result, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use sd_worker_rbee::diffusion::ops::{self, Activation, AttentionOptions, plain};

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

fn attention(criterion: &mut Criterion) {
    let cases = [(4096, 4096, 320), (1024, 1024, 640), (256, 256, 1280), (4096, 77, 320)];
    for (n, m, width) in cases {
        let (q, k, v) = (random(&[2, n, width]), random(&[2, m, width]), random(&[2, m, width]));
        let options = AttentionOptions { heads: 8, causal: false, upcast: false };
        compare(
            criterion,
            &format!("attention {n} x {m}, 8 heads of {}", width / 8),
            || ops::attention(&q, &k, &v, options),
            || plain::attention(&q, &k, &v, options),
        );
    }
}

/// Samples, channels in and out, side, kernel, stride.
const CONVOLUTIONS: [[usize; 6]; 9] = [
    [2, 320, 320, 64, 3, 1],
    [2, 640, 640, 32, 3, 1],
    [2, 1280, 1280, 16, 3, 1],
    [2, 1280, 1280, 8, 3, 1],
    [2, 320, 320, 64, 3, 2],
    [2, 320, 320, 64, 1, 1],
    [2, 1280, 1280, 16, 1, 1],
    [1, 512, 512, 64, 3, 1],
    [1, 256, 256, 256, 3, 1],
];

fn convolution(criterion: &mut Criterion) {
    for [samples, inputs, outputs, side, kernel, stride] in CONVOLUTIONS {
        let x = random(&[samples, inputs, side, side]);
        let (weight, bias) = (random(&[outputs, inputs, kernel, kernel]), random(&[outputs]));
        compare(
            criterion,
            &format!(
                "convolution {kernel}x{kernel}/{stride} {samples} x {inputs} to {outputs}, {side}x{side}"
            ),
            || ops::conv2d(&x, &weight, Some(&bias), stride, kernel / 2),
            || plain::conv2d(&x, &weight, Some(&bias), stride, kernel / 2),
        );
    }
}

fn linear(criterion: &mut Criterion) {
    let cases = [
        (4096, 320, 320),
        (4096, 320, 2560),
        (4096, 1280, 320),
        (1024, 640, 5120),
        (256, 1280, 10240),
        (77, 768, 320),
    ];
    for (tokens, inputs, outputs) in cases {
        let x = random(&[2, tokens, inputs]);
        let (weight, bias) = (random(&[outputs, inputs]), random(&[outputs]));
        compare(
            criterion,
            &format!("linear {tokens} x {inputs} to {outputs}"),
            || ops::linear(&x, &weight, Some(&bias)),
            || plain::linear(&x, &weight, Some(&bias)),
        );
    }
}

fn others(criterion: &mut Criterion) {
    let x = random(&[2, 320, 64, 64]);
    let (weight, bias) = (random(&[320]), random(&[320]));
    compare(
        criterion,
        "group norm and SiLU 320 x 64x64",
        || ops::group_norm_silu(&x, &weight, &bias, 32, 1e-5),
        || plain::group_norm(&x, &weight, &bias, 32, 1e-5)?.silu(),
    );
    compare(
        criterion,
        "upsample 320 x 64x64",
        || ops::upsample_nearest(&x, 128, 128),
        || plain::upsample_nearest(&x, 128, 128),
    );
    compare(criterion, "add 320 x 64x64", || ops::add(&x, &x), || &x + &x);
    let flat = x.flatten_from(2).expect("a view");
    compare(
        criterion,
        "swap 320 x 4096",
        || ops::swap_tokens_and_channels(&flat),
        || flat.transpose(1, 2)?.contiguous(),
    );
    let tokens = random(&[2, 4096, 320]);
    compare(
        criterion,
        "layer norm 4096 x 320",
        || ops::layer_norm(&tokens, &weight, &bias, 1e-5),
        || plain::layer_norm(&tokens, &weight, &bias, 1e-5),
    );
    let wide = random(&[2, 4096, 2560]);
    compare(criterion, "GEGLU 4096 x 1280", || ops::geglu(&wide), || plain::geglu(&wide));
    for activation in [Activation::Silu, Activation::QuickGelu, Activation::GeluErf, Activation::GeluTanh] {
        compare(
            criterion,
            &format!("{activation:?} 4096 x 320"),
            || ops::activate(&tokens, activation),
            || plain::activate(&tokens, activation),
        );
    }
}

criterion_group!(benches, attention, convolution, linear, others);
criterion_main!(benches);
