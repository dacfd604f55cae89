//! What can be known of a checkpoint before its weights are loaded.

use std::path::Path;

use super::{
    Checkpoint, DiffusionError, Precision,
    config::{AutoencoderConfig, Family, UNetConfig},
};

/// What a checkpoint's configuration files and the headers of its weights say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// Width and height, in pixels, that the model was trained on.
    pub native_size: (u32, u32),
    /// Bytes of the weights as they will be kept.
    pub weight_bytes: u64,
}

/// Reads the configurations and the headers of the weights of a checkpoint.
///
/// # Errors
/// What loading would refuse, as far as it can be seen so: the file and the key that are wrong.
pub fn inspect(path: &Path, precision: Precision) -> Result<Inspection, DiffusionError> {
    let checkpoint = Checkpoint::open(path)?;
    Family::of(&checkpoint)?;
    let unet = UNetConfig::read(&checkpoint.config("unet")?)?;
    let vae = AutoencoderConfig::read(&checkpoint.config("vae")?)?;
    let (height, width) = unet.sample_size;
    let pixels = |latents: usize| u32::try_from(latents * vae.factor()).unwrap_or(u32::MAX);
    Ok(Inspection {
        native_size: (pixels(width), pixels(height)),
        weight_bytes: checkpoint.weight_bytes(precision)?,
    })
}
