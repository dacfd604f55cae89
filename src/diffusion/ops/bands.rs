//! Feature maps in bands of rows: a large map is made and used up band by band, so that few of them are in memory whole
//! at any time. What comes out does not depend on where bands end: norms are over the whole map, and convolutions see
//! the rows beyond.

use std::{collections::VecDeque, ops::Range};

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    Activation, as_type_of,
    cpu::{floats::Floats, lanes::CpuLevel, simd},
    has_kernels,
};
use crate::allocator::leftover;

/// Pixels of a band on a CPU: enough for many threads, few against a large map. A band has one row at least.
pub const BAND_PIXELS: usize = 1 << 15;
/// The pixels of a band where maps are not cut. On a GPU that is so: each band would be as many kernels to start as the
/// whole map is, and the memory is there.
const WHOLE: usize = usize::MAX;
/// What the rows of a band are a multiple of: as many as a convolution computes together.
const ROWS: usize = 4;

/// A map `[batch, channels, height, width]`, of which the first rows may be forgotten.
pub struct Bands {
    /// The first row of each, and its values, `[batch, channels, rows, width]`.
    bands: VecDeque<(usize, Tensor)>,
    height: usize,
    /// Pixels of a band of what is made of this.
    pixels: usize,
}

/// What a norm does to a map.
pub struct Norm {
    of: Of,
    activation: Option<Activation>,
}

enum Of {
    /// Per sample and channel, value by value: `(x - mean) * scale + shift`.
    Channels(Vec<Affine>),
    /// Computed where it is used, from a map that is there whole: nothing of it has to come to the host.
    Map { weight: Tensor, bias: Tensor, groups: usize, eps: f64 },
}

#[derive(Clone, Copy)]
struct Affine {
    mean: f32,
    scale: f32,
    shift: f32,
}

/// Count, mean, and sum of squared distances from it.
#[derive(Clone, Copy)]
struct Statistics {
    count: f64,
    mean: f64,
    squares: f64,
}

/// What a convolution sees of a map, and the zeros around it that it has still to think of.
pub struct Seen {
    /// `[batch, channels, rows, columns]`.
    pub map: Tensor,
    /// Rows and columns of zeros on each side.
    pub padding: usize,
}

/// What a convolution without padding of its own is to see of a map.
pub struct View<'a> {
    /// Rows, counted from the map's first; what is outside of it is zero.
    pub rows: Range<isize>,
    /// Each pixel is seen so many times along a side. Rows are counted after that.
    pub times: usize,
    /// Columns of zeros before and after.
    pub columns: (usize, usize),
    /// What is done to the map's values first; only where each is seen once.
    pub norm: Option<&'a Norm>,
}

impl Bands {
    /// A map that is there whole; what is made of it is in bands of [`BAND_PIXELS`] on a CPU, and whole elsewhere.
    pub fn of(x: Tensor) -> Result<Self> {
        let pixels = if x.device().is_cpu() { BAND_PIXELS } else { WHOLE };
        Self::in_bands(x, pixels)
    }

    /// As [`Self::of`], in bands of another size.
    pub fn in_bands(x: Tensor, pixels: usize) -> Result<Self> {
        let mut bands = Self { bands: VecDeque::new(), height: 0, pixels };
        bands.push(x)?;
        Ok(bands)
    }

    /// A map without rows as yet, to be made of this.
    pub fn like(&self) -> Self {
        Self { bands: VecDeque::new(), height: 0, pixels: self.pixels }
    }

    /// Adds rows below.
    pub fn push(&mut self, band: Tensor) -> Result<()> {
        let rows = band.dim(2)?;
        self.bands.push_back((self.height, band.contiguous()?));
        self.height += rows;
        Ok(())
    }

    /// Rows, forgotten ones too.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The rows of each band of a map of this height and width that is made of this one: a multiple of `ROWS`, if there
    /// are so many.
    pub fn cut(&self, height: usize, width: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = (self.pixels / width.max(1)).max(1);
        let rows = if rows > ROWS { rows - rows % ROWS } else { rows };
        (0..height).step_by(rows).map(move |first| first..(first + rows).min(height))
    }

    /// [`Self::cut`] of this map.
    pub fn parts(&self) -> Result<impl Iterator<Item = Range<usize>> + use<>> {
        Ok(self.cut(self.height, self.width()?))
    }

    /// Columns.
    pub fn width(&self) -> Result<usize> {
        self.any()?.dim(3)
    }

    /// Gives up the memory of bands that end before `row`.
    pub fn forget_before(&mut self, row: usize) {
        while self.bands.front().is_some_and(|(first, band)| first + rows_of(band) <= row) {
            self.bands.pop_front();
        }
    }

    /// These rows.
    pub fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
        let mut parts = Vec::new();
        for (first, band) in &self.bands {
            let (from, to) = (rows.start.max(*first), rows.end.min(first + rows_of(band)));
            if from < to {
                parts.push(band.narrow(2, from - first, to - from)?);
            }
        }
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            parts => Tensor::cat(parts, 2),
        }
    }

    /// All rows.
    pub fn whole(self) -> Result<Tensor> {
        self.rows(0..self.height)
    }

    /// The map as `view` says, in one tensor.
    pub fn see(&self, view: &View<'_>) -> Result<Seen> {
        let mut seen = match has_kernels(self.any()?) {
            true => Seen { map: self.see_floats(view)?, padding: 0 },
            false => self.see_plain(view)?,
        };
        if let Some(other) = view.norm.and_then(|norm| norm.activation).filter(|of| *of != Activation::Silu) {
            // Every activation leaves the zeros around the map as they are.
            seen.map = super::activate(&seen.map, other)?;
        }
        Ok(seen)
    }

    /// What a group norm over the map, whole, does to it; see [`super::group_norm`].
    pub fn group_norm(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        groups: usize,
        eps: f64,
        activation: Option<Activation>,
    ) -> Result<Norm> {
        if self.pixels == WHOLE && !has_kernels(self.any()?) {
            let of = Of::Map { weight: weight.clone(), bias: bias.clone(), groups, eps };
            return Ok(Norm { of, activation });
        }
        let mut all: Vec<Statistics> = Vec::new();
        for (_, band) in &self.bands {
            let found = moments(band, groups)?;
            match all.is_empty() {
                true => all = found,
                false => all.iter_mut().zip(found).for_each(|(all, found)| *all = all.with(found)),
            }
        }
        let floats = |x: &Tensor| x.to_dtype(DType::F32)?.to_vec1::<f32>();
        let (weight, bias) = (floats(weight)?, floats(bias)?);
        let of_group = weight.len() / groups;
        let samples = all.len() / groups;
        let channels = (0..samples * weight.len()).map(|i| {
            let (sample, channel) = (i / weight.len(), i % weight.len());
            let moments = all[sample * groups + channel / of_group];
            let scale = f64::from(weight[channel]) / (moments.squares / moments.count + eps).sqrt();
            Affine { mean: moments.mean as f32, scale: scale as f32, shift: bias[channel] }
        });
        Ok(Norm { of: Of::Channels(channels.collect()), activation })
    }

    fn any(&self) -> Result<&Tensor> {
        match self.bands.front() {
            Some((_, band)) => Ok(band),
            None => candle_core::bail!("a map without rows"),
        }
    }

    fn see_floats(&self, view: &View<'_>) -> Result<Tensor> {
        let (samples, channels, _, width) = self.any()?.dims4()?;
        let (before, after) = view.columns;
        let (lines, columns) = (view.rows.len(), before + width * view.times + after);
        let floats: Vec<_> =
            self.bands.iter().map(|(first, band)| (*first, rows_of(band), Floats::of(band))).collect();
        let mut bands = Vec::with_capacity(floats.len());
        for (first, rows, floats) in &floats {
            bands.push((*first, *rows, floats.values()?));
        }
        let level = CpuLevel::best();
        let norm = view.norm.map(|norm| Ok::<_, candle_core::Error>((norm, norm.channels()?))).transpose()?;
        let mut out = leftover(samples * channels * lines * columns);
        out.par_chunks_mut(lines * columns).enumerate().for_each(|(channel, out)| {
            for (row, out) in view.rows.clone().zip(out.chunks_mut(columns)) {
                let row = usize::try_from(row).ok().map(|row| row / view.times);
                let band = row.and_then(|row| {
                    let band = bands.iter().find(|(first, rows, _)| (*first..first + rows).contains(&row))?;
                    Some((row, band))
                });
                let Some((row, (first, rows, values))) = band else {
                    out.fill(0.0);
                    continue;
                };
                let line = &values[(channel * rows + row - first) * width..][..width];
                out[..before].fill(0.0);
                out[columns - after..].fill(0.0);
                let out = &mut out[before..columns - after];
                match norm {
                    Some((norm, channels)) => norm.channel(&channels[channel], level, line, out),
                    None if view.times == 1 => out.copy_from_slice(line),
                    None => {
                        out.chunks_mut(view.times).zip(line).for_each(|(out, value)| out.fill(*value));
                    }
                }
            }
        });
        Tensor::from_vec(out, (samples, channels, lines, columns), &Device::Cpu)
    }

    fn see_plain(&self, view: &View<'_>) -> Result<Seen> {
        let times = view.times;
        let height = (self.height * times) as isize;
        let inside = view.rows.start.max(0) as usize..view.rows.end.min(height) as usize;
        let from = inside.start / times..inside.end.div_ceil(times);
        let mut x = self.rows(from.clone())?;
        if let Some(norm) = view.norm {
            x = norm.plain(&x)?;
        }
        if times > 1 {
            let (_, _, rows, width) = x.dims4()?;
            let grown = super::upsample_nearest(&x, rows * times, width * times)?;
            x = grown.narrow(2, inside.start - from.start * times, inside.len())?;
        }
        let above = view.rows.start.min(0).unsigned_abs();
        let below = (view.rows.end - height).max(0) as usize;
        let sides = [above, below, view.columns.0, view.columns.1];
        if self.pixels == WHOLE && sides.iter().all(|side| *side == above) {
            return Ok(Seen { map: x, padding: above });
        }
        let map =
            x.pad_with_zeros(2, above, below)?.pad_with_zeros(D::Minus1, view.columns.0, view.columns.1)?;
        Ok(Seen { map, padding: 0 })
    }
}

impl View<'_> {
    /// `rows`, and what a 3x3 convolution that keeps the size sees around them.
    pub fn around(rows: &Range<usize>) -> Self {
        Self { rows: rows.start as isize - 1..rows.end as isize + 1, times: 1, columns: (1, 1), norm: None }
    }
}

impl Norm {
    fn channels(&self) -> Result<&[Affine]> {
        match &self.of {
            Of::Channels(channels) => Ok(channels),
            Of::Map { .. } => candle_core::bail!("a norm of a whole map was used on a map in bands"),
        }
    }

    fn channel(&self, of: &Affine, level: CpuLevel, x: &[f32], out: &mut [f32]) {
        let Affine { mean, scale, shift } = *of;
        match self.activation {
            Some(Activation::Silu) => simd::normalise_silu(level, x, out, mean, scale, shift),
            _ => simd::normalise(level, x, out, mean, scale, shift),
        }
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        if let Of::Map { weight, bias, groups, eps } = &self.of {
            return match self.activation {
                Some(Activation::Silu) => super::group_norm_silu(x, weight, bias, *groups, *eps),
                _ => super::group_norm(x, weight, bias, *groups, *eps),
            };
        }
        let (samples, channels, _, _) = x.dims4()?;
        let affine = self.channels()?;
        let each = |of: fn(&Affine) -> f32| {
            let values: Vec<f32> = affine.iter().map(of).collect();
            Tensor::from_vec(values, (samples, channels, 1, 1), x.device())
        };
        let y = x.to_dtype(DType::F32)?.broadcast_sub(&each(|channel| channel.mean)?)?;
        let y = y.broadcast_mul(&each(|channel| channel.scale)?)?;
        let y = as_type_of(&y.broadcast_add(&each(|channel| channel.shift)?)?, x)?;
        match self.activation {
            Some(Activation::Silu) => super::activate(&y, Activation::Silu),
            _ => Ok(y),
        }
    }
}

impl Statistics {
    /// Of both together (Chan, Golub and LeVeque 1979).
    fn with(self, other: Self) -> Self {
        let count = self.count + other.count;
        let apart = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares + other.squares + apart * apart * self.count * other.count / count,
        }
    }
}

fn rows_of(band: &Tensor) -> usize {
    band.dims()[2]
}

/// Of each sample and group of channels.
fn moments(x: &Tensor, groups: usize) -> Result<Vec<Statistics>> {
    let (samples, channels, rows, width) = x.dims4()?;
    let size = channels / groups * rows * width;
    let count = size as f64;
    if has_kernels(x) {
        let (floats, level) = (Floats::of(x), CpuLevel::best());
        let groups = floats.values()?[..samples * groups * size].par_chunks(size);
        let moments = groups.map(|group| {
            let (mean, variance) = simd::moments(level, group);
            Statistics { count, mean, squares: variance * count }
        });
        return Ok(moments.collect());
    }
    let values = x.to_dtype(DType::F32)?.reshape((samples * groups, size))?;
    let mean = values.mean_keepdim(1)?;
    let squares = values.broadcast_sub(&mean)?.sqr()?.mean(1)?.to_vec1::<f32>()?;
    let mean = mean.squeeze(1)?.to_vec1::<f32>()?;
    let moments = mean.into_iter().zip(squares).map(|(mean, variance)| Statistics {
        count,
        mean: mean.into(),
        squares: f64::from(variance) * count,
    });
    Ok(moments.collect())
}

#[cfg(test)]
#[path = "bands_tests.rs"]
mod tests;
