//! What can be known of a checkpoint before its weights are loaded.

use std::path::Path;

use candle_core::Device;

use super::{flux, sd::Family};
use crate::diffusion::{
    DiffusionError,
    autoencoders::AutoencoderConfig,
    checkpoint::{Checkpoint, ConfigFile},
    footprint::{Activations, Arithmetic},
    networks::unet::UNetConfig,
    picture::Defaults,
    precision::Precision,
};

/// What a checkpoint's configuration files and the headers of its weights say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inspection {
    /// Width and height, in pixels, that the model was trained on.
    pub native_size: (u32, u32),
    /// What a job gets that names neither.
    pub defaults: Defaults,
    /// Bytes of the weights as they will be kept.
    pub weight_bytes: u64,
    /// Bytes that a picture takes beside them.
    pub activations: Activations,
}

/// Reads the configurations and the headers of the weights of a checkpoint that is to be computed on `device`.
///
/// # Errors
/// What loading would refuse, as far as it can be seen so: the file and the key that are wrong.
pub fn inspect(path: &Path, device: &Device, precision: Precision) -> Result<Inspection, DiffusionError> {
    let with = Arithmetic::of(device, precision);
    let checkpoint = Checkpoint::open(path)?;
    let weight_bytes = checkpoint.weight_bytes(precision)?;
    if flux::Flux::is(&checkpoint) {
        let (native_size, defaults, activations) = flux::inspect(&checkpoint, with)?;
        return Ok(Inspection { native_size, defaults, weight_bytes, activations });
    }
    Family::of(&checkpoint)?;
    let unet_file = checkpoint.config("unet")?;
    let unet = UNetConfig::read(&unet_file)?;
    let vae = AutoencoderConfig::read(&checkpoint.config("vae")?)?;
    unet.check_sizes(&unet_file, vae.factor())?;
    let (height, width) = unet.sample_size;
    let pixels = |latents: usize| u32::try_from(latents * vae.factor()).unwrap_or(u32::MAX);
    Ok(Inspection {
        native_size: (pixels(width), pixels(height)),
        defaults: defaults(&unet, &checkpoint.config("scheduler")?)?,
        weight_bytes,
        activations: Activations::of_unet(&unet, &vae, with),
    })
}

/// No file states how a model wants to be used; what it was distilled to is told by its network and its scheduler:
/// latent consistency models embed the guidance scale (diffusers' default is 8.5), or name their scheduler and need no
/// guidance; Turbo and its kin go down from the last timestep with Euler's method, without guidance.
fn defaults(unet: &UNetConfig, scheduler: &ConfigFile) -> Result<Defaults, DiffusionError> {
    const FEW_STEPS: u32 = 4;
    let class = scheduler.text("_class_name")?;
    if unet.time_cond_proj_dim.is_some() {
        return Ok(Defaults { steps: FEW_STEPS, guidance_scale: 8.5 });
    }
    let turbo = matches!(class, "EulerDiscreteScheduler" | "EulerAncestralDiscreteScheduler")
        && scheduler.text_or("timestep_spacing", "linspace")? == "trailing"
        && scheduler.text_or("prediction_type", "epsilon")? == "epsilon";
    if turbo || class == "LCMScheduler" {
        return Ok(Defaults { steps: FEW_STEPS, guidance_scale: 0.0 });
    }
    Ok(Defaults::default())
}
