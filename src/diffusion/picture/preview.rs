//! A cheap look at latents: a linear map from latents to colours, found once per model.

use std::{borrow::Cow, sync::OnceLock};

use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage, imageops};

use super::pixels;
use crate::diffusion::{
    DiffusionError,
    autoencoders::{Autoencoder, Vae},
    noise::TorchRng,
};

/// The longest side of a preview, pixels.
const LONGEST_SIDE: u32 = 256;
/// The longest side of what a tiny autoencoder decodes, latents: a preview of a large picture costs no more than one of
/// 512 x 512 pixels.
const LONGEST_DECODED: usize = 64;
/// Latents of the picture that the map is fitted on: patches of one colour, `PATCHES` x `PATCHES` of `PATCH` x `PATCH`.
const PATCHES: usize = 5;
const PATCH: usize = 3;
/// Keeps the fit solvable whatever the decoder does.
const RIDGE: f64 = 1e-3;

/// Colour = weights · latent + bias, in -1..1; one row per colour, the bias last.
#[derive(Debug)]
struct PreviewMap {
    rows: [Vec<f64>; 3],
}

impl PreviewMap {
    /// Decodes one small picture of random patches and fits the map to it by least squares.
    fn fit(vae: &Vae, device: &Device) -> Result<Self, DiffusionError> {
        let channels = vae.config().latent_channels;
        let side = PATCHES * PATCH;
        let patches = TorchRng::new(0).normal(channels * PATCHES * PATCHES);
        let patch_at = |channel: usize, y: usize, x: usize| {
            patches[(channel * PATCHES + y / PATCH) * PATCHES + x / PATCH]
        };
        let scaled: Vec<f32> = (0..channels * side * side)
            .map(|i| patch_at(i / (side * side), i / side % side, i % side))
            .collect();
        let scale = 1.0 / vae.config().scaling_factor;
        let latents = Tensor::from_vec(scaled, (1, channels, side, side), device)?
            .affine(scale, vae.config().shift_factor)?;
        let picture = vae.decode_finite(&latents)?.0.squeeze(0)?.to_vec3::<f32>()?;
        let factor = vae.config().factor();
        let mut samples = Vec::with_capacity(PATCHES * PATCHES);
        for y in (PATCH / 2..side).step_by(PATCH) {
            for x in (PATCH / 2..side).step_by(PATCH) {
                let mut inputs: Vec<f64> = (0..channels).map(|c| f64::from(patch_at(c, y, x))).collect();
                inputs.push(1.0);
                let colour = [0, 1, 2].map(|c| mean(&picture[c], y * factor, x * factor, factor));
                samples.push((inputs, colour));
            }
        }
        Ok(Self { rows: [0, 1, 2].map(|c| least_squares(&samples, c)) })
    }

    /// `latents` `[channels, height, width]`, scaled, as a picture of at most [`LONGEST_SIDE`].
    fn draw(&self, latents: &[f32], width: u32, height: u32) -> RgbImage {
        let area = (width * height) as usize;
        let small = RgbImage::from_fn(width, height, |x, y| {
            let i = (y * width + x) as usize;
            Rgb([0, 1, 2].map(|c| {
                let (bias, weights) = self.rows[c].split_last().map_or((0.0, &[][..]), |(b, w)| (*b, w));
                let sum: f64 =
                    weights.iter().enumerate().map(|(k, w)| w * f64::from(latents[k * area + i])).sum();
                (((bias + sum) * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8
            }))
        });
        let longest = width.max(height);
        let (times, parts) = if longest <= LONGEST_SIDE {
            (LONGEST_SIDE / longest, 1)
        } else {
            (1, longest.div_ceil(LONGEST_SIDE))
        };
        let size = |side: u32| (side * times / parts).max(1);
        imageops::resize(&small, size(width), size(height), imageops::FilterType::Nearest)
    }
}

/// Previews of one model: by its tiny autoencoder, else by a map that is fitted at the first of them.
#[derive(Debug, Default)]
pub struct Previews {
    map: OnceLock<PreviewMap>,
}

impl Previews {
    /// `latents` `[channels, height, width]`, scaled, as a picture of at most 256 pixels a side.
    pub fn draw(
        &self,
        vae: &Autoencoder,
        latents: &[f32],
        shape: (usize, usize, usize),
        device: &Device,
    ) -> Result<RgbImage, DiffusionError> {
        let (_, height, width) = shape;
        let vae = match vae {
            Autoencoder::Kl(vae) => vae,
            Autoencoder::Tiny(_) => {
                let (latents, (channels, height, width)) = shrunk(latents, shape);
                let (planes, _) = vae.draw(&latents, (channels, height, width), device)?;
                return Ok(from_planes(&planes, width * vae.factor(), height * vae.factor()));
            }
        };
        let map = match self.map.get() {
            Some(map) => map,
            None => {
                let map = PreviewMap::fit(vae, device)?;
                self.map.get_or_init(|| map)
            }
        };
        Ok(map.draw(latents, width as u32, height as u32))
    }
}

/// Latents `[channels, height, width]` as means of squares, so that no side is longer than [`LONGEST_DECODED`].
fn shrunk(
    latents: &[f32],
    (channels, height, width): (usize, usize, usize),
) -> (Cow<'_, [f32]>, (usize, usize, usize)) {
    let side = height.max(width).div_ceil(LONGEST_DECODED);
    if side == 1 {
        return (latents.into(), (channels, height, width));
    }
    let (rows, columns) = ((height / side).max(1), (width / side).max(1));
    let mean = |channel: usize, row: usize, column: usize| {
        let (rows, columns) =
            (row * side..height.min((row + 1) * side), column * side..width.min((column + 1) * side));
        let area = (rows.len() * columns.len()) as f32;
        rows.map(|row| &latents[(channel * height + row) * width..][columns.clone()])
            .map(|line| line.iter().sum::<f32>())
            .sum::<f32>()
            / area
    };
    let small = (0..channels * rows * columns)
        .map(|i| mean(i / (rows * columns), i / columns % rows, i % columns))
        .collect::<Vec<f32>>();
    (small.into(), (channels, rows, columns))
}

/// A decoded picture `[3, height, width]` in about -1..1, made smaller to at most [`LONGEST_SIDE`].
fn from_planes(planes: &[f32], width: usize, height: usize) -> RgbImage {
    let (width, height) = (width as u32, height as u32);
    let picture = pixels::from_planes(planes, (width, height), width, height);
    let parts = width.max(height).div_ceil(LONGEST_SIDE);
    let size = |side: u32| (side / parts).max(1);
    imageops::resize(&picture, size(width), size(height), imageops::FilterType::Triangle)
}

/// The mean of a square of one colour plane.
fn mean(plane: &[Vec<f32>], top: usize, left: usize, side: usize) -> f64 {
    let rows = plane[top..top + side].iter();
    let sum: f64 = rows.flat_map(|row| &row[left..left + side]).map(|value| f64::from(*value)).sum();
    sum / (side * side) as f64
}

/// Solves the normal equations for one colour by Gaussian elimination.
fn least_squares(samples: &[(Vec<f64>, [f64; 3])], colour: usize) -> Vec<f64> {
    let n = samples.first().map_or(0, |(inputs, _)| inputs.len());
    let mut rows: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            let mut row: Vec<f64> =
                (0..n).map(|j| samples.iter().map(|(inputs, _)| inputs[i] * inputs[j]).sum()).collect();
            row[i] += RIDGE;
            row.push(samples.iter().map(|(inputs, target)| inputs[i] * target[colour]).sum());
            row
        })
        .collect();
    // The matrix is symmetric and positive definite: no pivoting is needed.
    for i in 0..n {
        let pivot = rows[i].clone();
        for (k, row) in rows.iter_mut().enumerate() {
            if k != i {
                let times = row[i] / pivot[i];
                row.iter_mut().zip(&pivot).for_each(|(value, pivot)| *value -= times * pivot);
            }
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_squares_finds_a_linear_map_again() {
        let samples: Vec<(Vec<f64>, [f64; 3])> = (0..40)
            .map(|i| {
                let (a, b) = ((f64::from(i) * 0.7).sin(), (f64::from(i) * 1.3).cos());
                (vec![a, b, 1.0], [2.0 * a - b + 0.5, 0.0, 1.0])
            })
            .collect();
        let found = least_squares(&samples, 0);
        for (found, wanted) in found.iter().zip([2.0, -1.0, 0.5]) {
            assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
        }
    }

    #[test]
    fn large_latents_are_shrunk_to_means_and_small_ones_are_left() {
        let latents: Vec<f32> = (0..2 * 130 * 6).map(|i| (i % 6) as f32 + (i / 780 * 100) as f32).collect();
        let (small, shape) = shrunk(&latents, (2, 130, 6));
        assert_eq!(shape, (2, 43, 2));
        assert_eq!(small[..4], [1.0, 4.0, 1.0, 4.0]);
        assert_eq!(small[2 * 43..][..2], [101.0, 104.0]);
        let (same, shape) = shrunk(&latents[..64 * 2], (1, 64, 2));
        assert_eq!((same.len(), shape), (128, (1, 64, 2)));
    }

    #[test]
    fn a_preview_is_at_most_256_pixels_a_side_and_keeps_the_proportions() {
        let map = PreviewMap { rows: [vec![1.0, 0.0], vec![0.0, 0.0], vec![0.0, -1.0]] };
        let picture = map.draw(&[1.0; 64 * 32], 64, 32);
        assert_eq!(picture.dimensions(), (256, 128));
        assert_eq!(*picture.get_pixel(3, 3), Rgb([255, 128, 0]));
        assert_eq!(map.draw(&[0.0; 300 * 10], 300, 10).dimensions(), (150, 5));
    }
}
