//! What the configurations of a checkpoint with a UNet say of its pictures.

use crate::diffusion::{
    DiffusionError,
    autoencoders::AutoencoderConfig,
    checkpoint::{Checkpoint, ConfigFile},
    families::Described,
    footprint::{Activations, Arithmetic},
    networks::unet::UNetConfig,
    picture::Defaults,
};

/// See [`Family::describe`](crate::diffusion::families::Family::describe).
///
/// # Errors
/// The file and the key that are wrong.
pub fn describe(checkpoint: &Checkpoint, with: Arithmetic) -> Result<Described, DiffusionError> {
    let unet_file = checkpoint.config("unet")?;
    let unet = UNetConfig::read(&unet_file)?;
    let vae = AutoencoderConfig::read(&checkpoint.config("vae")?)?;
    unet.check_sizes(&unet_file, vae.factor())?;
    let (height, width) = unet.sample_size;
    let pixels = |latents: usize| u32::try_from(latents * vae.factor()).unwrap_or(u32::MAX);
    Ok(Described {
        native_size: (pixels(width), pixels(height)),
        defaults: defaults(&unet, &checkpoint.config("scheduler")?)?,
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
