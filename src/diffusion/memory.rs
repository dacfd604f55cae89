//! How much memory a picture takes beside the weights, told from the configurations: the maps that are alive at once where
//! they are most, counted from the code. `benches/memory.rs` measures the same.

use super::{
    config::{AutoencoderConfig, UNetConfig, VaeConfig},
    ops::BAND_PIXELS,
};

/// Bytes of a value: activations are f32 on a CPU.
const FLOAT: u64 = 4;
/// Bytes that do not depend on the picture: what threads lay out for products of matrices, a weight that is widened,
/// prompts.
const SCRATCH: u64 = 256 << 20;
/// Samples of a picture with guidance.
const GUIDED: u64 = 2;
/// Maps of a transformer in its feed forward layer: 12 of the hidden layer, and what led there.
const TRANSFORMER_MAPS: u64 = 19;
/// Maps that a residual block makes of its output's size.
const RESNET_MAPS: u64 = 4;
/// The same of a Flux block, whose projections are one.
const FLUX_MAPS: u64 = 32;
/// Maps of the residual block of a tiny autoencoder.
const TINY_MAPS: u64 = 6;
/// Maps of the autoencoder's attention.
const ATTENTION_MAPS: u64 = 10;
/// Bands that are made of each other: seen, convolved, added, joined.
const BANDS: u64 = 4;

/// Bytes of activations by the pixels of a picture, for one picture at a time, in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activations {
    denoising: Line,
    decoding: Line,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Line {
    fixed: u64,
    per_pixel: u64,
}

impl Activations {
    /// At the peak of a picture of so many pixels.
    pub fn bytes(&self, pixels: u64) -> u64 {
        let at = |line: Line| line.fixed.saturating_add(line.per_pixel.saturating_mul(pixels));
        at(self.denoising).max(at(self.decoding))
    }

    /// Pixels of the largest picture that takes at most so many bytes; none where a single one takes more.
    pub fn pixels(&self, bytes: u64) -> Option<u64> {
        let within = |line: Line| {
            let left = bytes.checked_sub(line.fixed)?;
            Some(left.checked_div(line.per_pixel).unwrap_or(u64::MAX))
        };
        Some(within(self.denoising)?.min(within(self.decoding)?)).filter(|pixels| *pixels > 0)
    }

    /// Of a UNet and its autoencoder.
    pub(super) fn of_unet(unet: &UNetConfig, vae: &AutoencoderConfig) -> Self {
        let area = (vae.factor() * vae.factor()) as u64;
        let per_pixel = (GUIDED * FLOAT * unet_maps(unet)).div_ceil(area);
        Self { denoising: Line { fixed: SCRATCH, per_pixel }, decoding: of_autoencoder(vae) }
    }

    /// Of a transformer of this width, over `words` and a token for each square of `side` pixels.
    pub(super) fn of_transformer(width: usize, words: usize, side: usize, vae: &VaeConfig) -> Self {
        let token = FLUX_MAPS * FLOAT * width as u64;
        let per_pixel = token.div_ceil((side * side) as u64);
        let denoising = Line { fixed: SCRATCH + words as u64 * token, per_pixel };
        Self { denoising, decoding: of_autoencoder(&AutoencoderConfig::Kl(vae.clone())) }
    }
}

/// Values for each latent of a sample, at the level of the UNet where they are most: on the way up, when what the way
/// down left is still there.
fn unet_maps(config: &UNetConfig) -> u64 {
    let channels: Vec<u64> = config.block_out_channels.iter().map(|channels| *channels as u64).collect();
    let mut skips = 0;
    let mut most = 0;
    for (level, own) in channels.iter().enumerate() {
        let area = 1 << (2 * level);
        skips += (own * (config.layers_per_block[level] as u64 + 1)).div_ceil(area);
        let below = channels.get(level + 1).unwrap_or(own);
        // What comes from below, and that joined with the skip.
        let joined = below + (below + own);
        let attends =
            config.down_cross_attention[level] || config.up_cross_attention[channels.len() - 1 - level];
        let resnet = (below + own) + RESNET_MAPS * own;
        let block = if attends { resnet.max(TRANSFORMER_MAPS * own) } else { resnet };
        most = most.max(skips + (joined + block).div_ceil(area));
    }
    most
}

fn of_autoencoder(config: &AutoencoderConfig) -> Line {
    let config = match config {
        AutoencoderConfig::Kl(config) => config,
        AutoencoderConfig::Tiny(config) => {
            let channels = config.encoder_channels.max(config.decoder_channels) as u64;
            return Line { fixed: SCRATCH, per_pixel: TINY_MAPS * FLOAT * channels };
        }
    };
    let channels: Vec<u64> = config.block_out_channels.iter().map(|channels| *channels as u64).collect();
    let mut per_pixel = 0;
    for (level, own) in channels.iter().enumerate() {
        let area = 1 << (2 * level);
        let below = channels.get(level + 1).unwrap_or(own);
        // What comes from below goes while two maps are made of it.
        let mut maps = *below.max(&(2 * own));
        if level + 1 == channels.len() {
            maps = maps.max(ATTENTION_MAPS * own);
        }
        per_pixel = per_pixel.max((FLOAT * maps).div_ceil(area));
    }
    let largest = channels.iter().max().copied().unwrap_or(0);
    // The picture is there as values, as bytes and as a file.
    Line {
        fixed: SCRATCH + BANDS * FLOAT * largest * BAND_PIXELS as u64,
        per_pixel: per_pixel + 4 * 3 * FLOAT,
    }
}
