//! What is done value by value on the CPU, and what only moves values: activations, sums, growing, transposing.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{floats::Floats, lanes::CpuLevel, simd};
use crate::allocator::leftover;
use crate::diffusion::ops::Activation;

/// Values that a thread does in a row.
const CHUNK: usize = 1 << 14;
/// Side of the squares in which a matrix is transposed: both the lines read and those written stay in the cache.
const SQUARE: usize = 16;

/// As [`ops::activate`](crate::diffusion::ops::activate); `x` is f32 on the CPU.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let (x, dims, level) = (x.contiguous()?, x.dims(), CpuLevel::best());
    let floats = Floats::of(&x);
    let x = &floats.values()?[..dims.iter().product()];
    let function = match activation {
        Activation::Silu => simd::silu,
        Activation::GeluErf => simd::gelu_erf,
        Activation::GeluTanh => simd::gelu_tanh,
        Activation::QuickGelu => simd::quick_gelu,
    };
    let mut out = leftover(x.len());
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| function(level, x, out));
    Tensor::from_vec(out, dims, &Device::Cpu)
}

/// As [`ops::relu`](crate::diffusion::ops::relu); `x` is f32 on the CPU.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    let (x, dims) = (x.contiguous()?, x.dims());
    let floats = Floats::of(&x);
    let x = &floats.values()?[..dims.iter().product()];
    let mut out = leftover(x.len());
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
        // What is no number stays none.
        out.iter_mut().zip(x).for_each(|(out, x)| *out = if *x < 0.0 { 0.0 } else { *x });
    });
    Tensor::from_vec(out, dims, &Device::Cpu)
}

/// As [`ops::geglu`](crate::diffusion::ops::geglu); `x` is f32 on the CPU and has values.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let (x, mut dims, level) = (x.contiguous()?, x.dims().to_vec(), CpuLevel::best());
    let floats = Floats::of(&x);
    let x = &floats.values()?[..dims.iter().product()];
    let width = dims.last().map_or(2, |width| width / 2);
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    let rows = (CHUNK / width).max(1);
    let mut out = leftover(x.len() / 2);
    out.par_chunks_mut(rows * width).zip(x.par_chunks(rows * 2 * width)).for_each(|(out, x)| {
        for (out, x) in out.chunks_mut(width).zip(x.chunks(2 * width)) {
            let (x, gate) = x.split_at(width);
            simd::gated(level, x, gate, out);
        }
    });
    Tensor::from_vec(out, dims, &Device::Cpu)
}

/// As [`ops::add`](crate::diffusion::ops::add); both are f32 on the CPU and of the same shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (dims, level) = (x.dims(), CpuLevel::best());
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let floats = [Floats::of(&x), Floats::of(&y)];
    let count = dims.iter().product();
    let (x, y) = (&floats[0].values()?[..count], &floats[1].values()?[..count]);
    let mut out = leftover(count);
    out.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)))
        .for_each(|(out, (x, y))| simd::add(level, x, y, out));
    Tensor::from_vec(out, dims, &Device::Cpu)
}

/// As [`ops::upsample_nearest`](crate::diffusion::ops::upsample_nearest); `x` is f32 on the CPU and has values.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (samples, channels, from_height, from_width) = x.dims4()?;
    let x = x.contiguous()?;
    let floats = Floats::of(&x);
    let x = floats.values()?;
    // As candle rounds.
    let from = |to: usize, size: usize, of: usize| {
        let scale = size as f64 / of as f64;
        ((to as f64 * scale) as usize).min(size - 1)
    };
    let columns: Vec<usize> = (0..width).map(|column| from(column, from_width, width)).collect();
    let mut out = leftover(samples * channels * height * width);
    out.par_chunks_mut(height * width).enumerate().for_each(|(channel, out)| {
        let x = &x[channel * from_height * from_width..][..from_height * from_width];
        let mut before = None;
        for line in 0..height {
            let y = from(line, from_height, height);
            if before == Some(y) {
                out.copy_within((line - 1) * width..line * width, line * width);
                continue;
            }
            let x = &x[y * from_width..][..from_width];
            let out = &mut out[line * width..][..width];
            for (out, column) in out.iter_mut().zip(&columns) {
                *out = x[*column];
            }
            before = Some(y);
        }
    });
    Tensor::from_vec(out, (samples, channels, height, width), &Device::Cpu)
}

/// As [`ops::swap_tokens_and_channels`](crate::diffusion::ops::swap_tokens_and_channels); `x` is f32 on the CPU and has values.
pub fn swap_tokens_and_channels(x: &Tensor) -> Result<Tensor> {
    let (samples, rows, columns) = x.dims3()?;
    let x = x.contiguous()?;
    let floats = Floats::of(&x);
    let x = floats.values()?;
    let mut out = leftover(samples * rows * columns);
    // A part of the output is `SQUARE` columns of a sample.
    out.par_chunks_mut(rows * columns).zip(x.par_chunks(rows * columns)).for_each(|(out, x)| {
        out.par_chunks_mut(SQUARE * rows).enumerate().for_each(|(part, out)| {
            let first = part * SQUARE;
            for start in (0..rows).step_by(SQUARE) {
                let end = (start + SQUARE).min(rows);
                for (column, out) in out.chunks_mut(rows).enumerate() {
                    for row in start..end {
                        out[row] = x[row * columns + first + column];
                    }
                }
            }
        });
    });
    Tensor::from_vec(out, (samples, columns, rows), &Device::Cpu)
}
