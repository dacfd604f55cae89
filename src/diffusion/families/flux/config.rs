//! How a Flux checkpoint is recognised, and what its components are.

use crate::diffusion::{DiffusionError, checkpoint::Checkpoint};

/// diffusers' pipelines of this family; they have the same components.
const PIPELINES: [&str; 3] = ["FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"];

/// Whether a checkpoint says that it is of this family.
pub fn is_flux(checkpoint: &Checkpoint) -> bool {
    checkpoint.index().text("_class_name").is_ok_and(|class| PIPELINES.contains(&class))
}

/// Refuses a checkpoint of another family, or with a component of another class.
pub fn check_pipeline(checkpoint: &Checkpoint) -> Result<(), DiffusionError> {
    let index = checkpoint.index();
    if !is_flux(checkpoint) {
        let expected = format!("one of {}", PIPELINES.join(", "));
        return Err(index.unusable("_class_name", &expected, index.text("_class_name")?));
    }
    for (component, class) in [
        ("transformer", "FluxTransformer2DModel"),
        ("vae", "AutoencoderKL"),
        ("text_encoder", "CLIPTextModel"),
        ("text_encoder_2", "T5EncoderModel"),
        ("scheduler", "FlowMatchEulerDiscreteScheduler"),
    ] {
        let found = checkpoint.class_of(component);
        if found != Some(class) {
            return Err(index.unusable(component, class, found.unwrap_or("none")));
        }
    }
    Ok(())
}
