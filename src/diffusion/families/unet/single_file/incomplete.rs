//! Files that have the UNet of Stable Diffusion and lack another component.

use super::{UNET, VAE};
use crate::diffusion::{DiffusionError, checkpoint::MappedFile};

/// Refuses a file without an autoencoder.
pub fn has_vae(file: &MappedFile) -> Result<(), DiffusionError> {
    if file.names().iter().any(|name| VAE.iter().any(|prefix| name.starts_with(prefix))) {
        return Ok(());
    }
    Err(DiffusionError::Config {
        file: file.path().to_owned(),
        key: VAE[0].trim_end_matches('.').to_owned(),
        expected: format!("the model's VAE: tensors whose names begin with {}", VAE.join(" or ")),
        found: "none: it was saved without its VAE; take the file that has it (\"baked VAE\"), or a folder in the \
                diffusers layout with a `vae` in it"
            .into(),
    })
}

/// The error of a file without a text encoder; `signs` are the tensors that tell one.
pub fn no_text_encoder(file: &MappedFile, signs: &[&str]) -> DiffusionError {
    let others = file.names().iter().filter(|name| !name.starts_with(UNET)).count();
    let what =
        if others == 0 { "a file of the UNet alone cannot draw" } else { "a file without one cannot draw" };
    DiffusionError::Config {
        file: file.path().to_owned(),
        key: "cond_stage_model".into(),
        expected: format!("the model's text encoder: one of {}", signs.join(", ")),
        found: format!(
            "none ({what}); take the file of the whole checkpoint, or a folder in the diffusers layout with a \
             `text_encoder` in it"
        ),
    }
}
