//! Convolution on the CPU: what a tile of output pixels sees is laid out as columns, some channels at a time, so that
//! they stay in the cache, and multiplied with the weights into the output.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::floats::{Floats, Matrix, Output};

/// Pixels and channels of the output in a tile, and values of columns at once (512 KiB). Fixed, and each sample has
/// tiles of its own: bits depend on neither threads nor batch.
const PIXELS: usize = 1024;
const CHANNELS: usize = 640;
const COLUMNS: usize = 1 << 17;

/// Sides of what a convolution reads and writes.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    height: usize,
    width: usize,
    kernel: (usize, usize),
    stride: usize,
    padding: usize,
    out_height: usize,
    out_width: usize,
}

/// As [`super::conv2d`], with `bias` `[samples or 1, outputs]`; all are f32 on the CPU and have values, and the kernel
/// is not larger than the padded input.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (samples, inputs, height, width) = x.dims4()?;
    let (outputs, _, kernel_height, kernel_width) = weight.dims4()?;
    let side = |length: usize, kernel: usize| (length + 2 * padding - kernel) / stride + 1;
    let geometry = Geometry {
        height,
        width,
        kernel: (kernel_height, kernel_width),
        stride,
        padding,
        out_height: side(height, kernel_height),
        out_width: side(width, kernel_width),
    };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let bias = bias.map(|bias| bias.broadcast_as((samples, outputs))?.contiguous()).transpose()?;
    let (x, weight, bias) = (Floats::of(&x), Floats::of(&weight), bias.as_ref().map(Floats::of));
    let (x, weight) = (x.values()?, weight.values()?);
    let bias = bias.as_ref().map(Floats::values).transpose()?;
    let pixels = geometry.out_height * geometry.out_width;
    let mut out = vec![0.0; samples * outputs * pixels];
    let output = Output::new(&mut out);
    // Whole rows of pixels.
    let lines = (PIXELS / geometry.out_width).clamp(1, geometry.out_height);
    let (down, across) = (geometry.out_height.div_ceil(lines), outputs.div_ceil(CHANNELS));
    (0..samples * down * across).into_par_iter().for_each_init(Vec::new, |columns, task| {
        let (sample, line, channel) =
            (task / across / down, task / across % down * lines, task % across * CHANNELS);
        let lines = line..(line + lines).min(geometry.out_height);
        let (first, count) = (line * geometry.out_width, lines.len() * geometry.out_width);
        let channels = CHANNELS.min(outputs - channel);
        let start = (sample * outputs + channel) * pixels + first;
        // SAFETY: tasks have tiles that do not overlap.
        let mut out = unsafe { output.matrix(start, (channels, count), pixels) };
        if let Some(bias) = bias {
            let bias = &bias[sample * outputs + channel..];
            (0..channels).for_each(|channel| out.row(channel).fill(bias[channel]));
        }
        let area = kernel_height * kernel_width;
        let depth = inputs * area;
        let weight = &weight[channel * depth..];
        let picture = &x[sample * inputs * height * width..][..inputs * height * width];
        if area == 1 && stride == 1 && padding == 0 {
            let weight = Matrix::new(weight, (channels, inputs), (inputs, 1));
            let seen = Matrix::new(&picture[first..], (inputs, count), (pixels, 1));
            return out.product(weight, seen, 1.0, true);
        }
        let at_once = (COLUMNS / (count * area)).clamp(1, inputs);
        columns.resize(at_once * area * count, 0.0);
        for input in (0..inputs).step_by(at_once) {
            let taken = at_once.min(inputs - input);
            let rows = taken * area;
            geometry.fill(&picture[input * height * width..], lines.clone(), &mut columns[..rows * count]);
            let weight = Matrix::new(&weight[input * area..], (channels, rows), (depth, 1));
            out.product(weight, Matrix::new(columns, (rows, count), (count, 1)), 1.0, true);
        }
    });
    let dims = (samples, outputs, geometry.out_height, geometry.out_width);
    Tensor::from_vec(out, dims, &Device::Cpu)
}

impl Geometry {
    /// Lays out what `lines` of output see of the channels from the first of `picture` on: a row of `columns` for each
    /// channel and place in the kernel.
    fn fill(&self, picture: &[f32], lines: std::ops::Range<usize>, columns: &mut [f32]) {
        let count = lines.len() * self.out_width;
        let (kernel_height, kernel_width) = self.kernel;
        for (row, columns) in columns.chunks_mut(count).enumerate() {
            let (channel, place) =
                (row / (kernel_height * kernel_width), row % (kernel_height * kernel_width));
            let (down, right) = (place / kernel_width, place % kernel_width);
            let channel = &picture[channel * self.height * self.width..][..self.height * self.width];
            for (line, columns) in lines.clone().zip(columns.chunks_mut(self.out_width)) {
                match (line * self.stride + down).checked_sub(self.padding) {
                    Some(y) if y < self.height => {
                        self.fill_line(&channel[y * self.width..][..self.width], right, columns);
                    }
                    _ => columns.fill(0.0),
                }
            }
        }
    }

    /// One line: pixel `i` sees `line[i * stride + right - padding]`, or zero beyond either end.
    fn fill_line(&self, line: &[f32], right: usize, columns: &mut [f32]) {
        let Self { stride, padding, width, .. } = *self;
        let before = padding.saturating_sub(right).div_ceil(stride).min(columns.len());
        // The first pixel that sees beyond the end.
        let after = (width + padding).saturating_sub(right).div_ceil(stride).clamp(before, columns.len());
        columns[..before].fill(0.0);
        columns[after..].fill(0.0);
        if before == after {
            return;
        }
        let seen = &line[before * stride + right - padding..];
        let columns = &mut columns[before..after];
        if stride == 1 {
            columns.copy_from_slice(&seen[..columns.len()]);
        } else {
            for (column, x) in columns.iter_mut().zip(seen.iter().step_by(stride)) {
                *column = *x;
            }
        }
    }
}
