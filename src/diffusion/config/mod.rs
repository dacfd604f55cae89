//! A checkpoint's configuration files in the diffusers layout. What we cannot compute is refused by name.

mod file;
mod text;
mod unet;
mod vae;

pub use file::ConfigFile;
pub use text::TextConfig;
pub use unet::UNetConfig;
pub use vae::VaeConfig;

use super::{Checkpoint, DiffusionError};

/// Activation functions of diffusers' and transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// With the error function, as torch's default.
    GeluErf,
    /// With tanh, as `gelu_new`.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`, CLIP's own.
    QuickGelu,
}

/// Refuses a checkpoint whose pipeline is no Stable Diffusion of the kind computed here.
pub fn check_pipeline(checkpoint: &Checkpoint) -> Result<(), DiffusionError> {
    const PIPELINES: [&str; 3] =
        ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];
    let index = checkpoint.index();
    let class = index.text("_class_name")?;
    if !PIPELINES.contains(&class) {
        return Err(index.unusable("_class_name", &format!("one of {}", PIPELINES.join(", ")), class));
    }
    for (component, class) in
        [("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"), ("text_encoder", "CLIPTextModel")]
    {
        let found = checkpoint.class_of(component);
        if found != Some(class) {
            return Err(index.unusable(component, class, found.unwrap_or("none")));
        }
    }
    Ok(())
}
