//! A checkpoint, loaded: begins pictures, advances them together, finishes them.

use candle_core::Device;
use image::RgbImage;

use super::{
    Denoiser, ImageSpec, Picture,
    passes::{Fit, in_passes, passes},
    pixels,
    preview::Previews,
};
use crate::diffusion::{
    DiffusionError,
    autoencoders::{Autoencoder, LatentShape},
};

/// What latents become pictures with.
pub struct Decoders {
    /// The autoencoder.
    pub vae: Autoencoder,
    /// A tiny autoencoder over the same latents, for previews, where the checkpoint has one.
    pub taesd: Option<Autoencoder>,
    /// Where they are computed.
    pub device: Device,
    /// Maps of latents to colours, made at the first preview.
    previews: Previews,
}

impl Decoders {
    /// Of a checkpoint on `device`.
    pub fn new(vae: Autoencoder, taesd: Option<Autoencoder>, device: &Device) -> Self {
        Self { vae, taesd, device: device.clone(), previews: Previews::default() }
    }
}

/// Weights, configurations and tokenizers of one checkpoint; nothing of a picture. `D` is what its family gives.
pub struct Model<D: ?Sized = dyn Denoiser> {
    decoders: Decoders,
    weight_bytes: u64,
    denoiser: D,
}

impl<D: Denoiser> Model<D> {
    /// Of what a family has loaded; `weight_bytes` are those of all its weights in the types that they are kept in.
    pub fn new(denoiser: D, decoders: Decoders, weight_bytes: u64) -> Self {
        Self { decoders, weight_bytes, denoiser }
    }
}

impl<D: Denoiser + ?Sized> Model<D> {
    /// What its family gives.
    pub fn denoiser(&self) -> &D {
        &self.denoiser
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Autoencoder {
        &self.decoders.vae
    }

    /// The tiny autoencoder that previews are decoded with, if the checkpoint has one.
    pub fn preview_autoencoder(&self) -> Option<&Autoencoder> {
        self.decoders.taesd.as_ref()
    }

    /// Bytes of the weights in the types that they are kept in.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    pub(super) fn device(&self) -> &Device {
        &self.decoders.device
    }

    /// Encodes text and input picture, and draws the first noise. Sides that are not of whole patches are drawn larger,
    /// and cut at the right and below.
    ///
    /// # Errors
    /// The field of the request that this model cannot do, and what computing says.
    pub fn begin(&self, spec: &ImageSpec) -> Result<Picture, DiffusionError> {
        super::begin::begin(self, spec)
    }

    /// One step of each picture that is not done, in the passes that [`Self::passes`] says.
    ///
    /// A picture whose latents are no longer finite is done, and `finish` reports it: it does not fail the others.
    ///
    /// # Errors
    /// When a pass fails. Its pictures are as they were before; those of passes before it have gone their step.
    pub fn advance(&self, pictures: &mut [&mut Picture]) -> Result<(), DiffusionError> {
        let waiting = pictures.iter_mut().map(|picture| &mut **picture).filter(|it| !it.is_done()).collect();
        in_passes(waiting, self.largest_pass(), fit, |together| self.advance_together(together))
    }

    /// Which of these pictures, by index, go their next step in one pass through the network: those of the same latent
    /// size, count of tokens and LoRAs, each at its own timestep. On a CPU a pass is limited
    /// ([`Denoiser::largest_pass_on_cpu`]), and in f32 a picture's bits do not depend on its company.
    pub fn passes(&self, pictures: &[&Picture]) -> Vec<Vec<usize>> {
        passes(pictures.iter().map(|picture| fit(picture)), self.largest_pass())
    }

    /// Pictures of one job that are drawn together. On a CPU one: sharing gains nothing at the sizes that people ask for,
    /// and the first is finished sooner.
    pub fn pictures_together(&self) -> usize {
        if self.device().is_cpu() { 1 } else { usize::MAX }
    }

    fn largest_pass(&self) -> usize {
        if self.device().is_cpu() { self.denoiser.largest_pass_on_cpu() } else { usize::MAX }
    }

    fn advance_together(&self, pictures: &mut [&mut Picture]) -> Result<(), DiffusionError> {
        let asking: Vec<&Picture> = pictures.iter().map(|picture| &**picture).collect();
        let outputs = self.denoiser.predict(&asking)?;
        for (picture, outputs) in pictures.iter_mut().zip(outputs) {
            picture.take_output(&outputs);
        }
        Ok(())
    }

    /// Decodes the latents; what an inpainting mask keeps is the input, pixel for pixel.
    ///
    /// # Errors
    /// Latents or pixels that are not finite, and what computing says.
    pub fn finish(&self, picture: &Picture) -> Result<RgbImage, DiffusionError> {
        if !picture.finite {
            return Err(picture.not_finite("latents"));
        }
        let (planes, widened) = self.vae().draw(&picture.latents, picture.shape, self.device())?;
        if widened {
            picture.warnings.decoded_in_f32();
        }
        if !planes.iter().all(|value| value.is_finite()) {
            return Err(picture.not_finite("pixels"));
        }
        let factor = self.vae().factor();
        let padded = ((picture.shape.2 * factor) as u32, (picture.shape.1 * factor) as u32);
        Ok(picture.restored(pixels::from_planes(&planes, padded, picture.size.0, picture.size.1)))
    }

    /// A cheap look at where the picture is going: at most 256 pixels a side.
    ///
    /// # Errors
    /// Latents that are not finite, and what computing says.
    pub fn preview(&self, picture: &Picture) -> Result<RgbImage, DiffusionError> {
        if !picture.finite {
            return Err(picture.not_finite("latents"));
        }
        let Decoders { vae, taesd, device, previews } = &self.decoders;
        previews.draw(taesd.as_ref().unwrap_or(vae), &picture.clean, picture.shape, device)
    }
}

/// What of a picture decides its pass. LoRAs are told apart by the networks that they were added to, which pictures with
/// the same LoRAs share.
fn fit(picture: &Picture) -> Fit<(LatentShape, super::PassKey)> {
    let (_, height, width) = picture.shape;
    Fit { key: (picture.shape, picture.pass_key()), size: picture.samples() * height * width }
}
