//! A checkpoint, loaded: begins pictures, advances them together, finishes them.

use std::{
    path::Path,
    sync::{OnceLock, atomic::Ordering},
};

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::{
    Denoising, DiffusionError, ImageSpec, SchedulerKind,
    checkpoint::{Checkpoint, Weights},
    config::{self, TextConfig, UNetConfig, VaeConfig},
    picture,
    precision::{Precision, computed_in},
    preview::PreviewMap,
    schedulers::SchedulerConfig,
    text_encoder::TextEncoder,
    tokenizer::ClipTokenizer,
    unet::UNet,
    vae::Vae,
};

/// Weights, configurations and tokenizer of one checkpoint; nothing of a picture.
pub struct StableDiffusion {
    pub(super) tokenizer: ClipTokenizer,
    pub(super) text_encoder: TextEncoder,
    pub(super) unet: UNet,
    pub(super) vae: Vae,
    pub(super) scheduler: SchedulerConfig,
    pub(super) device: Device,
    pub(super) dtype: DType,
    weight_bytes: u64,
    preview: OnceLock<PreviewMap>,
}

impl StableDiffusion {
    /// Reads a folder in the diffusers layout or a single file in the original layout. `precision` is the type that weights are kept in, whatever type the
    /// files have.
    pub fn load(
        path: &Path,
        device: &Device,
        precision: impl Into<Precision>,
    ) -> Result<Self, DiffusionError> {
        let precision = precision.into();
        let checkpoint = Checkpoint::open(path)?;
        config::check_pipeline(&checkpoint)?;
        let unet_file = checkpoint.config("unet")?;
        let unet_config = UNetConfig::read(&unet_file)?;
        let vae_file = checkpoint.config("vae")?;
        let vae_config = VaeConfig::read(&vae_file)?;
        let text_config = TextConfig::read(&checkpoint.config("text_encoder")?)?;
        let scheduler = SchedulerConfig::read(checkpoint.config("scheduler")?)?.for_latents();
        if vae_config.latent_channels != unet_config.out_channels {
            let expected = format!("{} as the UNet's out_channels", unet_config.out_channels);
            return Err(vae_file.unusable("latent_channels", &expected, vae_config.latent_channels));
        }
        if let Some(width) = unet_config.cross_attention_dim.iter().find(|w| **w != text_config.hidden_size) {
            let expected = format!("{} as the text encoder's hidden_size", text_config.hidden_size);
            return Err(unet_file.unusable("cross_attention_dim", &expected, width));
        }
        let tokenizer = checkpoint.tokenizer("tokenizer", &text_config)?;
        let unet_weights = checkpoint.weights("unet", device, precision.denoiser)?;
        let vae_weights = checkpoint.weights("vae", device, precision.vae)?;
        let text_weights = checkpoint.weights("text_encoder", device, precision.text_encoder)?;
        Ok(Self {
            tokenizer,
            text_encoder: TextEncoder::load(text_config, &text_weights.root())?,
            unet: UNet::load(unet_config, &unet_weights.root())?,
            vae: Vae::load(vae_config, &vae_weights.root(), computed_in(precision.vae, device))?,
            scheduler,
            device: device.clone(),
            dtype: computed_in(precision.denoiser, device),
            weight_bytes: [unet_weights, vae_weights, text_weights].iter().map(Weights::bytes_taken).sum(),
            preview: OnceLock::new(),
        })
    }

    /// Width and height, in pixels, that the model was trained on.
    pub fn native_size(&self) -> (u32, u32) {
        let (height, width) = self.unet.config().sample_size;
        let factor = self.vae.config().factor();
        ((width * factor) as u32, (height * factor) as u32)
    }

    /// The contract's names of the schedulers there are.
    pub fn schedulers() -> &'static [&'static str] {
        SchedulerKind::NAMES
    }

    /// The checkpoint's own scheduler; one that we lack is an error that names it.
    pub fn default_scheduler(&self) -> Result<SchedulerKind, DiffusionError> {
        self.scheduler.kind()
    }

    /// Bytes of the weights in the types that they are kept in.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// The tokenizer, for tools and tests; so are the next three.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// The text encoder.
    pub fn text_encoder(&self) -> &TextEncoder {
        &self.text_encoder
    }

    /// The network that denoises.
    pub fn unet(&self) -> &UNet {
        &self.unet
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// Tokenises, encodes text and input picture, and draws the first noise.
    pub fn begin(&self, spec: &ImageSpec) -> Result<Denoising, DiffusionError> {
        super::begin::begin(self, spec)
    }

    /// One step of each picture that is not done. On the CPU each is computed alone, so that its bits do not depend
    /// on its company; on other devices pictures of the same latent size share a pass.
    ///
    /// A picture whose latents are no longer finite is done, and `finish` reports it: it does not fail the others.
    pub fn advance(&self, jobs: &mut [&mut Denoising]) -> Result<(), DiffusionError> {
        let mut waiting: Vec<&mut Denoising> =
            jobs.iter_mut().map(|job| &mut **job).filter(|job| !job.is_done()).collect();
        while let Some(first) = waiting.first() {
            let shape = first.shape;
            let alone = self.device.is_cpu();
            let mut taken = 0;
            let (mut together, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|job| {
                let fits = job.shape == shape && !(alone && taken > 0);
                taken += usize::from(fits);
                fits
            });
            self.advance_together(&mut together)?;
            waiting = rest;
        }
        Ok(())
    }

    fn advance_together(&self, jobs: &mut [&mut Denoising]) -> Result<(), DiffusionError> {
        let Some((_, height, width)) = jobs.first().map(|job| job.shape) else {
            return Ok(());
        };
        let mut input = Vec::new();
        let mut timesteps = Vec::new();
        let mut texts = Vec::new();
        for job in jobs.iter() {
            let sample = job.network_input();
            for _ in 0..job.samples() {
                input.extend_from_slice(&sample);
                timesteps.push(job.timestep());
            }
            texts.push(&job.text);
        }
        let channels = self.unet.config().in_channels;
        let input = Tensor::from_vec(input, (timesteps.len(), channels, height, width), &self.device)?;
        let text = Tensor::cat(&texts, 0)?.to_dtype(self.dtype)?;
        let output = self.unet.forward(&input.to_dtype(self.dtype)?, &timesteps, &text)?;
        let output = output.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut rest = output.as_slice();
        for job in jobs.iter_mut() {
            let (own, after) = rest.split_at(job.samples() * job.latents.len());
            job.take_output(own);
            rest = after;
        }
        Ok(())
    }

    /// Decodes the latents; what an inpainting mask keeps is the input, pixel for pixel.
    pub fn finish(&self, job: &Denoising) -> Result<RgbImage, DiffusionError> {
        if !job.finite {
            return Err(job.not_finite("latents"));
        }
        let (planes, widened) = self.decode(&job.latents, job.shape)?;
        if widened {
            job.decoded_in_f32.store(true, Ordering::Relaxed);
        }
        if !planes.iter().all(|value| value.is_finite()) {
            return Err(job.not_finite("pixels"));
        }
        let factor = self.vae.config().factor();
        let padded = ((job.shape.2 * factor) as u32, (job.shape.1 * factor) as u32);
        let mut picture = picture::from_planes(&planes, padded, job.size.0, job.size.1);
        job.restore(&mut picture);
        Ok(picture)
    }

    /// A cheap look at where the picture is going: at most 256 pixels a side.
    pub fn preview(&self, job: &Denoising) -> Result<RgbImage, DiffusionError> {
        if !job.finite {
            return Err(job.not_finite("latents"));
        }
        let map = match self.preview.get() {
            Some(map) => map,
            None => {
                let map = PreviewMap::fit(&self.vae, &self.device)?;
                self.preview.get_or_init(|| map)
            }
        };
        let (_, height, width) = job.shape;
        Ok(map.draw(&job.clean, width as u32, height as u32))
    }

    /// Scaled latents `[channels, height, width]` to `[3, height * factor, width * factor]` in about -1..1, and whether
    /// that took f32 because half precision overflowed.
    fn decode(
        &self,
        latents: &[f32],
        (channels, height, width): (usize, usize, usize),
    ) -> Result<(Vec<f32>, bool), DiffusionError> {
        let VaeConfig { scaling_factor, shift_factor, .. } = *self.vae.config();
        let unscaled: Vec<f32> =
            latents.iter().map(|x| x / scaling_factor as f32 + shift_factor as f32).collect();
        let latents = Tensor::from_vec(unscaled, (1, channels, height, width), &self.device)?;
        let (picture, widened) = self.vae.decode_finite(&latents)?;
        Ok((picture.flatten_all()?.to_vec1()?, widened))
    }
}
