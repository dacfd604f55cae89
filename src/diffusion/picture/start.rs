//! The first latents of a picture, drawing noise in diffusers' order.

use image::{GrayImage, RgbImage};

use super::{Source, keep::Keep, pixels};
use crate::diffusion::{
    DiffusionError,
    autoencoders::{Autoencoder, LatentShape},
    noise::TorchRng,
    schedulers::Scheduler,
};
use candle_core::Device;

/// What latents are made with.
pub struct Starter<'a> {
    pub vae: &'a Autoencoder,
    pub device: &'a Device,
    pub scheduler: &'a dyn Scheduler,
    /// The evaluation that the picture begins with.
    pub first: usize,
    pub shape: LatentShape,
    /// Pixels along a side of what the network takes as one.
    pub grain: u32,
    /// Mask and masked picture are inputs of the network.
    pub sees_masks: bool,
    pub rng: TorchRng,
}

impl Starter<'_> {
    /// The latents to begin from, and what a mask keeps.
    pub fn start(&mut self, source: &Source) -> Result<(Vec<f32>, Keep), DiffusionError> {
        match source {
            Source::Text { .. } => {
                let noise = self.noise();
                Ok((self.noise_alone(&noise), Keep::Nothing))
            }
            Source::Image { image, .. } => {
                // The input is sampled first, then the noise is drawn, in every family.
                let clean = self.encode(image)?;
                let noise = self.noise();
                Ok((self.scheduler.add_noise(self.first, &clean, &noise), Keep::Nothing))
            }
            Source::Inpaint { image, mask, strength, .. } => self.start_masked(image, mask, *strength),
        }
    }

    fn start_masked(
        &mut self,
        image: &RgbImage,
        mask: &GrayImage,
        strength: f64,
    ) -> Result<(Vec<f32>, Keep), DiffusionError> {
        let forgets = strength >= 1.0 && self.scheduler.forgets_at_full_strength();
        let clean = match self.sees_masks && forgets {
            true => None,
            false => Some(self.encode(image)?),
        };
        let noise = self.noise();
        let latents = match &clean {
            Some(clean) if !forgets => self.scheduler.add_noise(self.first, clean, &noise),
            _ => self.noise_alone(&noise),
        };
        let padded_mask = pixels::pad_mask(mask, self.grain);
        let latent_mask = pixels::latent_mask(&padded_mask, self.vae.factor() as u32);
        let keep = match clean.filter(|_| !self.sees_masks) {
            Some(clean) => {
                // diffusers encodes the masked picture here too: unused, but it draws from the generator.
                if matches!(self.vae, Autoencoder::Kl(_)) {
                    self.noise();
                }
                Keep::Blend { mask: latent_mask, clean, noise }
            }
            None => {
                let planes = pixels::to_masked_planes(&pixels::pad_rgb(image, self.grain), &padded_mask);
                let masked = self.sample(&planes, padded_mask.dimensions())?;
                Keep::Channels([latent_mask, masked].concat())
            }
        };
        Ok((latents, keep))
    }

    /// As much noise as there are latents.
    fn noise(&mut self) -> Vec<f32> {
        let (channels, height, width) = self.shape;
        self.rng.normal(channels * height * width)
    }

    fn noise_alone(&self, noise: &[f32]) -> Vec<f32> {
        let scale = self.scheduler.initial_scale();
        noise.iter().map(|value| value * scale).collect()
    }

    fn encode(&mut self, image: &RgbImage) -> Result<Vec<f32>, DiffusionError> {
        let padded = pixels::pad_rgb(image, self.grain);
        self.sample(&pixels::to_planes(&padded), padded.dimensions())
    }

    fn sample(&mut self, planes: &[f32], size: (u32, u32)) -> Result<Vec<f32>, DiffusionError> {
        self.vae.sample(planes, size, self.device, &mut self.rng)
    }
}
