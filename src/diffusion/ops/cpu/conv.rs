//! Convolution on the CPU: what some output pixels see is laid out as columns, some channels at a time, so that they
//! stay in the cache, and the weights pass by. Most 3x3 convolutions go another way, [`winograd`].

use std::{ops::Range, slice};

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    floats::Floats,
    lanes::CpuLevel,
    parts::Parts,
    scratch::Scratch,
    tile::{Product, Start},
    wide_weights::{Weight, WideWeights},
    winograd,
};
use crate::allocator::leftover;

/// Values of columns at once (512 KiB).
const COLUMNS: usize = 1 << 17;
/// Pieces of work for each thread, so that none waits long for another.
const PIECES: usize = 4;
/// Output channels below which laying out columns does not pay.
const FEW_CHANNELS: usize = 48;
/// Values between copied rows of weights: without them, rows of some lengths fall on the same places of the cache.
const PAD: usize = 16;

/// Sides of what a convolution reads and writes.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    samples: usize,
    inputs: usize,
    outputs: usize,
    height: usize,
    width: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: usize,
    out_height: usize,
    out_width: usize,
}

/// As [`ops::conv2d`](crate::diffusion::ops::conv2d), with `bias` `[samples or 1, outputs]`, and `more` added, which is contiguous and has the output's
/// shape. All are f32 on the CPU and have values, but the weight may be of half precision, and the kernel is not larger
/// than the padded input.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    more: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (samples, inputs, height, width) = x.dims4()?;
    let (outputs, _, kernel_height, kernel_width) = weight.dims4()?;
    let side = |length: usize, kernel: usize| (length + 2 * padding - kernel) / stride + 1;
    let geometry = Geometry {
        samples,
        inputs,
        outputs,
        height,
        width,
        kernel: (kernel_height, kernel_width),
        stride,
        padding,
        out_height: side(height, kernel_height),
        out_width: side(width, kernel_width),
    };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let (x, weight, bias) = (Floats::of(&x), Weight::of(&weight), bias.as_ref().map(Floats::of));
    let (x, weight) = (x.values()?, weight.values()?);
    let bias = bias.as_ref().map(Floats::values).transpose()?;
    let more = more.map(Floats::of);
    let more = more.as_ref().map(Floats::values).transpose()?;
    let mut out = leftover(samples * outputs * geometry.pixels());
    let shape = winograd::Shape { samples, inputs, outputs, height, width, padding };
    if geometry.kernel == (3, 3) && stride == 1 && padding <= 1 && shape.pays() {
        winograd::convolution(CpuLevel::best(), shape, x, weight, bias, more, &mut out);
    } else {
        geometry.convolution(CpuLevel::best(), x, weight, bias, more, &mut out);
    }
    Tensor::from_vec(out, (samples, outputs, geometry.out_height, geometry.out_width), &Device::Cpu)
}

impl Geometry {
    /// Pixels of an output channel.
    fn pixels(&self) -> usize {
        self.out_height * self.out_width
    }

    /// `bias` has a value for each channel, or for each sample and channel; `more` is added, in the output's shape.
    fn convolution(
        &self,
        level: CpuLevel,
        x: &[f32],
        weight: WideWeights<'_>,
        bias: Option<&[f32]>,
        more: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let Self { samples, inputs, outputs, .. } = *self;
        let (area, pixels, columns) = (self.kernel.0 * self.kernel.1, self.pixels(), level.columns());
        let depth = inputs * area;
        let panels = pixels.div_ceil(columns);
        let at_once = (COLUMNS / (columns * depth)).clamp(1, panels);
        let wanted = (PIECES * rayon::current_num_threads()).div_ceil(samples);
        let at_once = panels.div_ceil(panels.div_ceil(at_once).max(wanted.min(panels)));
        let across = panels.div_ceil(at_once);
        let down = wanted.div_ceil(across).clamp(1, outputs.div_ceil(FEW_CHANNELS));
        let channels = outputs.div_ceil(down);
        // So many inputs that their columns stay in the cache.
        let inputs_at_once = (COLUMNS / (at_once * columns * area)).clamp(1, inputs);
        let parts = Parts::of(out);
        (0..samples * across * down).into_par_iter().for_each(|task| {
            let (sample, panel, first) =
                (task / down / across, task / down % across * at_once, task % down * channels);
            if first >= outputs {
                return;
            }
            let (last, pixel) = (outputs.min(first + channels), panel * columns);
            let count = (at_once * columns).min(pixels - pixel);
            let most = inputs_at_once * area;
            let mut seen = Scratch::of(at_once * columns * most);
            let mut copied = Scratch::of(level.rows() * (most + PAD));
            let bias = bias.map(|bias| &bias[if bias.len() > outputs { sample * outputs } else { 0 }..]);
            for input in (0..inputs).step_by(inputs_at_once) {
                let taken = inputs_at_once.min(inputs - input);
                let rows = taken * area;
                let picture = &x[(sample * inputs + input) * self.height * self.width..];
                for (from, seen) in (0..count).step_by(columns).zip(seen.chunks_exact_mut(columns * rows)) {
                    let range = pixel + from..pixel + (from + columns).min(count);
                    self.lay_out(picture, range, columns, seen);
                }
                for channel in (first..last).step_by(level.rows()) {
                    let channels = channel..(channel + level.rows()).min(last);
                    for (channel, copied) in channels.clone().zip(copied.chunks_exact_mut(rows + PAD)) {
                        weight.read(channel * depth + input * area, &mut copied[..rows]);
                    }
                    for channel in channels.clone() {
                        let (Some(more), 0) = (more, input) else { break };
                        let start = (sample * outputs + channel) * pixels + pixel;
                        // SAFETY: the place is valid, and no other task has these pixels of this channel.
                        let out = unsafe { slice::from_raw_parts_mut(parts.at(start, count), count) };
                        let shift = bias.map_or(0.0, |bias| bias[channel]);
                        out.iter_mut().zip(&more[start..]).for_each(|(out, more)| *out = more + shift);
                    }
                    for (from, seen) in (0..count).step_by(columns).zip(seen.chunks_exact(columns * rows)) {
                        let columns_there = columns.min(count - from);
                        let start = (sample * outputs + channel) * pixels + pixel + from;
                        level.run(&Product {
                            depth: rows,
                            a: seen.as_ptr(),
                            a_step: columns,
                            b: copied.as_ptr(),
                            b_row: rows + PAD,
                            rows: channels.len(),
                            c: parts.at(start, (channels.len() - 1) * pixels + columns_there),
                            c_row: pixels,
                            columns: columns_there,
                            start: match bias {
                                _ if input > 0 || more.is_some() => Start::Add,
                                Some(bias) => Start::Rows(bias[channels.clone()].as_ptr()),
                                None => Start::Zero,
                            },
                        });
                    }
                }
            }
        });
    }

    /// Lays out what some output pixels see of the channels from the first of `picture` on: a row of `columns` for each
    /// channel and place in the kernel, with zeros after the last pixel.
    fn lay_out(&self, picture: &[f32], pixels: Range<usize>, columns: usize, seen: &mut [f32]) {
        let (kernel_height, kernel_width) = self.kernel;
        for (row, seen) in seen.chunks_exact_mut(columns).enumerate() {
            let (channel, place) =
                (row / (kernel_height * kernel_width), row % (kernel_height * kernel_width));
            let (down, right) = (place / kernel_width, place % kernel_width);
            let channel = &picture[channel * self.height * self.width..][..self.height * self.width];
            let mut pixel = pixels.start;
            while pixel < pixels.end {
                let (line, column) = (pixel / self.out_width, pixel % self.out_width);
                let count = (self.out_width - column).min(pixels.end - pixel);
                let seen = &mut seen[pixel - pixels.start..][..count];
                match (line * self.stride + down).checked_sub(self.padding) {
                    Some(y) if y < self.height => {
                        self.lay_out_line(&channel[y * self.width..][..self.width], column, right, seen);
                    }
                    _ => seen.fill(0.0),
                }
                pixel += count;
            }
            seen[pixels.len()..].fill(0.0);
        }
    }

    /// A part of a line: pixel `first + i` sees `line[(first + i) * stride + right - padding]`, or zero beyond either end.
    fn lay_out_line(&self, line: &[f32], first: usize, right: usize, seen: &mut [f32]) {
        let Self { stride, padding, width, .. } = *self;
        let end = first + seen.len();
        let before = padding.saturating_sub(right).div_ceil(stride).clamp(first, end);
        // The first pixel that sees beyond the end.
        let after = (width + padding).saturating_sub(right).div_ceil(stride).clamp(before, end);
        seen[..before - first].fill(0.0);
        seen[after - first..].fill(0.0);
        if before == after {
            return;
        }
        let from = &line[before * stride + right - padding..];
        let seen = &mut seen[before - first..after - first];
        if stride == 1 {
            seen.copy_from_slice(&from[..seen.len()]);
        } else {
            for (seen, x) in seen.iter_mut().zip(from.iter().step_by(stride)) {
                *seen = *x;
            }
        }
    }
}
