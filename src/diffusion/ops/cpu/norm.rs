//! Norms on the CPU: mean and variance in f64, in two passes over values that are in the cache.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{floats::Floats, lanes::CpuLevel, simd};
use crate::allocator::leftover;

/// Rows of a layer norm that a thread does in a row.
const ROWS: usize = 64;

/// As [`ops::group_norm`](crate::diffusion::ops::group_norm), with a SiLU after it where `silu` says so; all are f32 on the CPU and have values.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let (samples, channels) = (dims[0], dims[1]);
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let (x, weight, bias) = (Floats::of(&x), Floats::of(&weight), Floats::of(&bias));
    let (weight, bias) = (weight.values()?, bias.values()?);
    let count = dims.iter().product::<usize>();
    let x = &x.values()?[..count];
    let (pixels, channels_of_group) = (count / samples / channels, channels / groups);
    let level = CpuLevel::best();
    let normalise = if silu { simd::normalise_silu } else { simd::normalise };
    let mut out = leftover(count);
    let size = channels_of_group * pixels;
    out.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(group, (out, x))| {
        let (mean, variance) = simd::moments(level, x);
        let scale = 1.0 / (variance + eps).sqrt();
        let first = group % groups * channels_of_group;
        for (channel, (out, x)) in out.chunks_mut(pixels).zip(x.chunks(pixels)).enumerate() {
            let channel = first + channel;
            let scale = (scale * f64::from(weight[channel])) as f32;
            normalise(level, x, out, mean as f32, scale, bias[channel]);
        }
    });
    Tensor::from_vec(out, dims, &Device::Cpu)
}

/// As [`ops::layer_norm`](crate::diffusion::ops::layer_norm); all are f32 on the CPU and have values.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let width = weight.elem_count();
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let (x, weight, bias) = (Floats::of(&x), Floats::of(&weight), Floats::of(&bias));
    let (weight, bias) = (&weight.values()?[..width], &bias.values()?[..width]);
    let count = dims.iter().product::<usize>();
    let x = &x.values()?[..count];
    let level = CpuLevel::best();
    let mut out = leftover(count);
    out.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(out, x)| {
        for (out, x) in out.chunks_mut(width).zip(x.chunks(width)) {
            let (mean, variance) = simd::moments(level, x);
            let scale = 1.0 / (variance + eps).sqrt();
            simd::normalise_row(level, x, out, (mean as f32, scale as f32), weight, bias);
        }
    });
    Tensor::from_vec(out, dims, &Device::Cpu)
}
