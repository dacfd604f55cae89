//! AutoencoderKL.

#[cfg(test)]
mod band_tests;
mod blocks;
mod coder;
#[cfg(test)]
mod precision_tests;

use candle_core::{DType, Result, Tensor};

use self::coder::{Decoder, Encoder};
use super::VaeConfig;
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::Conv2d,
    ops::{self, Bands},
};

/// The log of a latent's variance is kept within these bounds, as diffusers does.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// Mean and standard deviation of a picture's latents, each `[batch, latent_channels, height, width]`, unscaled.
pub struct Moments {
    /// Mean.
    pub mean: Tensor,
    /// Standard deviation; none of an autoencoder that knows only one latent of a picture.
    pub std: Option<Tensor>,
}

/// Encoder, decoder and the 1x1 convolutions around the latents.
pub struct Vae {
    config: VaeConfig,
    dtype: DType,
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
}

impl Vae {
    /// Reads all weights; `dtype` is the type to compute in, unless the configuration forces f32.
    pub fn load(
        config: VaeConfig,
        at: &Scope<'_>,
        dtype: DType,
    ) -> std::result::Result<Self, DiffusionError> {
        let latent = config.latent_channels;
        Ok(Self {
            encoder: Encoder::load(&at.at("encoder"), &config)?,
            quant_conv: match config.use_quant_conv {
                true => Some(Conv2d::load_1x1(&at.at("quant_conv"), 2 * latent, 2 * latent)?),
                false => None,
            },
            post_quant_conv: match config.use_post_quant_conv {
                true => Some(Conv2d::load_1x1(&at.at("post_quant_conv"), latent, latent)?),
                false => None,
            },
            decoder: Decoder::load(&at.at("decoder"), &config)?,
            dtype: if config.force_upcast { DType::F32 } else { dtype },
            config,
        })
    }

    /// What the network is made of.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The type that it is computed in: that of inputs and outputs.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `pictures` `[batch, 3, height, width]` in -1..1, sides a multiple of the factor.
    pub fn encode(&self, pictures: &Tensor) -> Result<Moments> {
        let moments = self.encoder.forward(Bands::of(pictures.clone())?)?;
        let moments = match &self.quant_conv {
            Some(conv) => conv.forward(&moments)?,
            None => moments,
        };
        let latent = self.config.latent_channels;
        let log_variance = moments.narrow(1, latent, latent)?.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)?;
        Ok(Moments { mean: moments.narrow(1, 0, latent)?, std: Some((log_variance * 0.5)?.exp()?) })
    }

    /// `latents` `[batch, latent_channels, height, width]`, unscaled, to pictures in about -1..1.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let latents = match &self.post_quant_conv {
            Some(conv) => conv.forward(latents)?,
            None => latents.clone(),
        };
        let _uploads = ops::keep_uploads(latents.device());
        self.decoder.forward(Bands::of(latents)?)
    }

    /// [`Vae::decode`] with f32 in and out. Where half precision overflows (NaN or infinity comes out) the weights are
    /// widened and it is done once more in f32; the second value says so.
    pub fn decode_finite(&self, latents: &Tensor) -> Result<(Tensor, bool)> {
        let picture = self.decode(&latents.to_dtype(self.dtype)?)?.to_dtype(DType::F32)?;
        if self.dtype.size_in_bytes() >= DType::F32.size_in_bytes() || is_finite(&picture)? {
            return Ok((picture, false));
        }
        Ok((self.decode(&latents.to_dtype(DType::F32)?)?, true))
    }
}

/// Zero times infinity or NaN is NaN, and one NaN makes the sum NaN.
fn is_finite(x: &Tensor) -> Result<bool> {
    Ok((x * 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}
