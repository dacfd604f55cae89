//! How much memory a picture takes beside the weights, estimated from the configurations: the maps that are alive at once
//! where they are most, counted from the code. `benches/memory.rs` measures the same on a CPU; on a GPU it is an estimate.

use candle_core::{DType, Device};

use crate::diffusion::{
    autoencoders::{AutoencoderConfig, VaeConfig},
    networks::unet::UNetConfig,
    ops::{BAND_PIXELS, KEPT_FOR_ALL, KEPT_PER_THREAD, MAX_SCORES, WORKSPACE},
    precision::{Precision, computed_in},
};

/// Bytes of a value in f32.
const FLOAT: u64 = 4;
/// Bytes that do not depend on the picture. On a CPU, beside what threads work in: small tensors, and what the system's
/// allocator has between them. Elsewhere: what products of matrices are laid out in, a weight that is widened.
const SMALL: u64 = 32 << 20;
const SCRATCH: u64 = 256 << 20;
/// Tokens of a prompt. One of several chunks, which weighted prompts can be, takes as many times what it takes.
const TOKENS: u64 = 77;
/// Keys and values.
const OF_TOKEN: u64 = 2;
/// Samples of a picture with guidance.
const GUIDED: u64 = 2;
/// Maps of a transformer in its feed forward layer: 12 of the hidden layer, and what led there.
const TRANSFORMER_MAPS: u64 = 19;
/// Maps that a residual block makes of its output's size.
const RESNET_MAPS: u64 = 4;
/// Maps of the residual block of a tiny autoencoder.
const TINY_MAPS: u64 = 6;
/// Maps of the autoencoder's attention.
const ATTENTION_MAPS: u64 = 10;
/// Levels of an autoencoder that are told apart; deeper ones count as the last.
const LEVELS: usize = 8;
/// Bands that are made of each other: seen, convolved, added, joined.
const BANDS: u64 = 4;
/// Scores of attention on candle's operations: as they are, normalised, and in between.
const SCORES: u64 = 3;
/// Pixels that a convolution of 3x3 without cuDNN lays out for each that it has, and what it makes of them.
const LAID_OUT: u64 = 9 + 3;

/// What a picture is computed with.
#[derive(Debug, Clone, Copy)]
pub struct Arithmetic {
    /// Whether the kernels of a CPU compute: maps of the autoencoder in bands, attention without a matrix of scores.
    on_cpu: bool,
    /// Bytes of a value in the denoiser and in the autoencoder.
    denoiser: u64,
    vae: u64,
    /// That compute on a CPU.
    threads: u64,
}

impl Arithmetic {
    /// That of a device, with weights kept in these types.
    pub fn of(device: &Device, precision: Precision) -> Self {
        let bytes = |kept: DType| computed_in(kept, device).size_in_bytes() as u64;
        Self {
            on_cpu: device.is_cpu(),
            denoiser: bytes(precision.denoiser),
            vae: bytes(precision.vae),
            threads: rayon::current_num_threads() as u64,
        }
    }

    /// Bytes that do not depend on the picture.
    fn fixed(self) -> u64 {
        match self.on_cpu {
            true => SMALL + KEPT_FOR_ALL as u64 + self.threads * KEPT_PER_THREAD as u64,
            false => SCRATCH + SCORES * FLOAT * MAX_SCORES as u64 + WORKSPACE as u64,
        }
    }
}

/// Bytes of activations by the pixels of a picture, for one picture at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activations {
    denoising: Line,
    decoding: Line,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Line {
    fixed: u64,
    per_pixel: u64,
    /// Channels of the widest map that is made in bands at each level, the one with all pixels first.
    banded: [u64; LEVELS],
}

impl Line {
    fn bytes(&self, pixels: u64) -> u64 {
        let band = |(level, channels): (usize, &u64)| {
            channels.saturating_mul((pixels / area_of(level)).min(BAND_PIXELS as u64))
        };
        let bands = self.banded.iter().enumerate().map(band).max().unwrap_or(0);
        let maps = self.per_pixel.saturating_mul(pixels);
        self.fixed.saturating_add(maps).saturating_add(bands.saturating_mul(BANDS * FLOAT))
    }
}

impl Activations {
    /// At the peak of a picture of so many pixels.
    pub fn bytes(&self, pixels: u64) -> u64 {
        self.denoising.bytes(pixels).max(self.decoding.bytes(pixels))
    }

    /// Pixels of the largest picture that takes at most so many bytes; none where a single one takes more.
    pub fn pixels(&self, bytes: u64) -> Option<u64> {
        let fits = |pixels: u64| self.bytes(pixels) <= bytes;
        if fits(u64::MAX) {
            return Some(u64::MAX);
        }
        // More pixels never take less.
        let (mut least, mut beyond) = (0, u64::MAX);
        while beyond - least > 1 {
            let middle = least + (beyond - least) / 2;
            if fits(middle) { least = middle } else { beyond = middle }
        }
        Some(least).filter(|pixels| *pixels > 0)
    }

    /// Of a UNet and its autoencoder.
    pub(super) fn of_unet(unet: &UNetConfig, vae: &AutoencoderConfig, with: Arithmetic) -> Self {
        let area = (vae.factor() * vae.factor()) as u64;
        let per_pixel = (GUIDED * with.denoiser * unet_maps(unet)).div_ceil(area);
        // Computed once for a picture, and there until it is decoded.
        let prompts = attending_width(unet).saturating_mul(GUIDED * with.denoiser * TOKENS * OF_TOKEN);
        let denoising = Line { fixed: with.fixed().saturating_add(prompts), per_pixel, ..Line::default() };
        let decoding = of_autoencoder(vae, with);
        Self { denoising, decoding: Line { fixed: decoding.fixed.saturating_add(prompts), ..decoding } }
    }

    /// Of a transformer of this width, over `words` and a token for each square of `side` pixels, whose blocks make `maps`
    /// maps of what goes into them.
    pub(super) fn of_transformer(
        width: usize,
        words: usize,
        side: usize,
        maps: u64,
        vae: &VaeConfig,
        with: Arithmetic,
    ) -> Self {
        let token = maps * with.denoiser * width as u64;
        let per_pixel = token.div_ceil((side * side) as u64);
        let denoising = Line { fixed: with.fixed() + words as u64 * token, per_pixel, ..Line::default() };
        Self { denoising, decoding: of_autoencoder(&AutoencoderConfig::Kl(vae.clone()), with) }
    }
}

/// Values for each latent of a sample, at the level of the UNet where they are most: on the way up, when what the way
/// down left is still there.
fn unet_maps(config: &UNetConfig) -> u64 {
    let channels: Vec<u64> = config.block_out_channels.iter().map(|channels| *channels as u64).collect();
    let mut skips = 0;
    let mut most = 0;
    for (level, own) in channels.iter().enumerate() {
        let area = area_of(level);
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

/// The widths of all layers that attend to a prompt, added up.
fn attending_width(config: &UNetConfig) -> u64 {
    let levels = config.block_out_channels.len();
    let of_level = |level: usize| {
        let layers = config.layers_per_block[level];
        let down = if config.down_cross_attention[level] { layers } else { 0 };
        let up = if config.up_cross_attention[levels - 1 - level] { layers + 1 } else { 0 };
        let middle = usize::from(level + 1 == levels);
        let of_each = [config.transformer_layers[level], config.block_out_channels[level]];
        of_each.into_iter().fold((down + up + middle) as u64, |all, each| all.saturating_mul(each as u64))
    };
    (0..levels).map(of_level).fold(0, u64::saturating_add)
}

/// Pixels of the first level for one of this.
fn area_of(level: usize) -> u64 {
    u32::try_from(2 * level).ok().and_then(|bits| 1_u64.checked_shl(bits)).unwrap_or(u64::MAX)
}

fn of_autoencoder(config: &AutoencoderConfig, with: Arithmetic) -> Line {
    let config = match config {
        AutoencoderConfig::Kl(config) => config,
        AutoencoderConfig::Tiny(config) => {
            let channels = config.encoder_channels.max(config.decoder_channels) as u64;
            let per_pixel = TINY_MAPS * with.vae * channels;
            return Line { fixed: with.fixed(), per_pixel, ..Line::default() };
        }
    };
    let channels: Vec<u64> = config.block_out_channels.iter().map(|channels| *channels as u64).collect();
    if !with.on_cpu {
        // Maps are whole. At the largest, a norm has two in f32 beside what it reads and makes; without cuDNN a
        // convolution has more.
        let first = channels.get(1).copied().unwrap_or(0).max(channels[0]);
        let norm = 2 * FLOAT + 2 * with.vae;
        let convolution = if cfg!(feature = "cudnn") { 0 } else { LAID_OUT * with.vae };
        let per_pixel = first * norm.max(convolution) + 4 * 3 * FLOAT;
        return Line { fixed: with.fixed(), per_pixel, ..Line::default() };
    }
    let mut per_pixel = 0;
    let mut banded = [0; LEVELS];
    for (level, own) in channels.iter().enumerate() {
        let area = area_of(level);
        let below = channels.get(level + 1).unwrap_or(own);
        // What comes from below goes while two maps are made of it.
        let mut maps = *below.max(&(2 * own));
        if level + 1 == channels.len() {
            maps = maps.max(ATTENTION_MAPS * own);
        }
        per_pixel = per_pixel.max((FLOAT * maps).div_ceil(area));
        // What comes from below has this level's pixels before it has its channels.
        let widest = &mut banded[level.min(LEVELS - 1)];
        *widest = (*widest).max(*own).max(*below);
    }
    // The picture is there as values, as bytes and as a file.
    Line { fixed: with.fixed(), per_pixel: per_pixel + 4 * 3 * FLOAT, banded }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::diffusion::{autoencoders::VaeConfig, checkpoint::Checkpoint, families};

    #[test]
    fn a_gpu_has_whole_maps_and_scores_and_half_as_much_of_the_rest_in_f16() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/text");
        let checkpoint = Checkpoint::in_folder(&folder).unwrap();
        let unet = UNetConfig::read(&checkpoint.config("unet").unwrap()).unwrap();
        let vae = AutoencoderConfig::Kl(VaeConfig::read(&checkpoint.config("vae").unwrap()).unwrap());
        let of = |on_cpu, bytes| {
            Activations::of_unet(&unet, &vae, Arithmetic { on_cpu, denoiser: bytes, vae: bytes, threads: 2 })
        };
        let (cpu, gpu, half) = (of(true, 4), of(false, 4), of(false, 2));
        assert!(gpu.denoising.fixed > cpu.denoising.fixed + (MAX_SCORES as u64) * FLOAT);
        assert!(gpu.decoding.per_pixel > cpu.decoding.per_pixel);
        assert_eq!(gpu.denoising.per_pixel, cpu.denoising.per_pixel);
        assert!(half.denoising.per_pixel.abs_diff(gpu.denoising.per_pixel / 2) <= 1);
    }

    #[test]
    fn the_pixels_that_fit_are_the_most_that_do() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/text");
        let inspected = families::inspect(&folder, &Device::Cpu, Precision::all(DType::F32));
        let activations = inspected.unwrap().activations;
        for pixels in [1, 4096, 65_536, 1_000_003, 4 << 20] {
            let bytes = activations.bytes(pixels);
            let found = activations.pixels(bytes).unwrap();
            assert!(found >= pixels && activations.bytes(found) == bytes, "{pixels}: {found}");
            assert!(activations.bytes(found + 1) > bytes, "{pixels}: {found}");
        }
        assert_eq!(activations.pixels(activations.bytes(0)), None);
        assert_eq!(Activations::default().pixels(1), Some(u64::MAX));
    }

    #[test]
    fn each_thread_of_a_cpu_counts_at_every_size() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/text");
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let inspect = || families::inspect(&folder, &Device::Cpu, Precision::all(DType::F32));
            pool.install(inspect).unwrap().activations
        };
        let (few, many) = (with(2), with(64));
        for pixels in [64 * 64, 512 * 512, 2048 * 2048] {
            assert_eq!(many.bytes(pixels) - few.bytes(pixels), 62 * KEPT_PER_THREAD as u64, "{pixels}");
        }
    }
}
