//! The types that weights are kept in.

use candle_core::{DType, Device};

/// The type that each component's weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// The text encoders.
    pub text_encoder: DType,
    /// The UNet or transformer.
    pub denoiser: DType,
    /// The autoencoder.
    pub vae: DType,
}

impl Precision {
    /// One type for all.
    pub fn all(dtype: DType) -> Self {
        Self { text_encoder: dtype, denoiser: dtype, vae: dtype }
    }
}

/// `text=f16,unet=f16,vae=f32`: what `--dtype` takes.
impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { text_encoder, denoiser, vae } = self;
        write!(f, "text={},unet={},vae={}", text_encoder.as_str(), denoiser.as_str(), vae.as_str())
    }
}

impl From<DType> for Precision {
    fn from(dtype: DType) -> Self {
        Self::all(dtype)
    }
}

/// The type that weights of type `kept` are computed in. A CPU has no arithmetic for 16 bits: half precision saves
/// memory there, and weights are widened when they are used.
pub fn computed_in(kept: DType, device: &Device) -> DType {
    match kept {
        DType::F16 | DType::BF16 if device.is_cpu() => DType::F32,
        other => other,
    }
}
