//! The autoencoder of a checkpoint, large or tiny.

use candle_core::{DType, Device, Result, Tensor};

use super::{AutoencoderConfig, Moments, TinyVae, Vae};
use crate::diffusion::{DiffusionError, checkpoint::Checkpoint, noise::TorchRng, precision::computed_in};

/// Pictures to latents and back.
pub enum Autoencoder {
    /// AutoencoderKL.
    Kl(Box<Vae>),
    /// AutoencoderTiny.
    Tiny(TinyVae),
}

impl Autoencoder {
    /// Reads component `component`, with weights kept as `dtype`. Returns the bytes of the weights too.
    pub fn load(
        checkpoint: &Checkpoint,
        component: &str,
        device: &Device,
        dtype: DType,
    ) -> std::result::Result<(Self, u64), DiffusionError> {
        let config = AutoencoderConfig::read(&checkpoint.config(component)?)?;
        let computed = computed_in(dtype, device);
        let weights = checkpoint.weights(component, device, dtype)?;
        let loaded = match config {
            AutoencoderConfig::Kl(config) => {
                Self::Kl(Box::new(Vae::load(config, &weights.root(), computed)?))
            }
            AutoencoderConfig::Tiny(config) => Self::Tiny(TinyVae::load(config, &weights.root(), computed)?),
        };
        Ok((loaded, weights.bytes_taken()))
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.config().latent_channels,
            Self::Tiny(vae) => vae.config().latent_channels,
        }
    }

    /// Pixels per latent along a side.
    pub fn factor(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.config().factor(),
            Self::Tiny(vae) => vae.config().factor(),
        }
    }

    /// Scale and shift between what is encoded and what is denoised: `(encoded - shift) * scale`.
    pub fn scaling(&self) -> (f64, f64) {
        match self {
            Self::Kl(vae) => (vae.config().scaling_factor, vae.config().shift_factor),
            Self::Tiny(vae) => (vae.config().scaling_factor, vae.config().shift_factor),
        }
    }

    /// The type of its inputs and outputs.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Kl(vae) => vae.dtype(),
            Self::Tiny(vae) => vae.dtype(),
        }
    }

    /// `pictures` `[batch, 3, height, width]` in -1..1, sides a multiple of the factor.
    pub fn encode(&self, pictures: &Tensor) -> Result<Moments> {
        match self {
            Self::Kl(vae) => vae.encode(pictures),
            Self::Tiny(vae) => Ok(Moments { mean: vae.encode(pictures)?, std: None }),
        }
    }

    /// As [`Self::decode`], with f32 in and out; where half precision overflows, in f32 altogether, which the second
    /// value says.
    pub fn decode_finite(&self, latents: &Tensor) -> Result<(Tensor, bool)> {
        match self {
            Self::Kl(vae) => vae.decode_finite(latents),
            Self::Tiny(vae) => {
                Ok((vae.decode(&latents.to_dtype(vae.dtype())?)?.to_dtype(DType::F32)?, false))
            }
        }
    }

    /// `latents` `[batch, latent_channels, height, width]`, unscaled, to pictures in about -1..1.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        match self {
            Self::Kl(vae) => vae.decode(latents),
            Self::Tiny(vae) => vae.decode(latents),
        }
    }

    /// A sample of a picture's latents as they are denoised, `[latent_channels, height / factor, width / factor]`.
    /// `planes` are `[3, height, width]` in -1..1. Noise is drawn only where there is a distribution to draw from.
    pub fn sample(
        &self,
        planes: &[f32],
        (width, height): (u32, u32),
        device: &Device,
        rng: &mut TorchRng,
    ) -> std::result::Result<Vec<f32>, DiffusionError> {
        let shape = (1, 3, height as usize, width as usize);
        let moments = self.encode(&Tensor::from_slice(planes, shape, device)?.to_dtype(self.dtype())?)?;
        let flat = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let mut sample = flat(moments.mean)?;
        if let Some(std) = moments.std {
            let noise = rng.normal(sample.len());
            for ((x, std), noise) in sample.iter_mut().zip(flat(std)?).zip(noise) {
                *x += std * noise;
            }
        }
        let (scale, shift) = self.scaling();
        Ok(sample.iter().map(|x| scale as f32 * (x - shift as f32)).collect())
    }

    /// Latents as they are denoised, `[channels, height, width]`, to `[3, height * factor, width * factor]` in about
    /// -1..1, and whether that took f32 because half precision overflowed.
    pub fn draw(
        &self,
        latents: &[f32],
        (channels, height, width): (usize, usize, usize),
        device: &Device,
    ) -> std::result::Result<(Vec<f32>, bool), DiffusionError> {
        let (scale, shift) = self.scaling();
        let unscaled: Vec<f32> = latents.iter().map(|x| x / scale as f32 + shift as f32).collect();
        let latents = Tensor::from_vec(unscaled, (1, channels, height, width), device)?;
        let (picture, widened) = self.decode_finite(&latents)?;
        Ok((picture.flatten_all()?.to_vec1()?, widened))
    }
}
