//! What a safetensors file holds that is no whole Stable Diffusion, for the error that refuses it.

use super::{UNET, VAE};
use crate::diffusion::{DiffusionError, checkpoint::mapped::MappedFile};

/// Parts of tensors' names that tell a kind of file. The first that is found counts.
const SIGNS: [(&str, &str); 20] = [
    ("lora_down", LORA),
    ("lora_A.", LORA),
    ("lora.down", LORA),
    ("lora_linear_layer", LORA),
    (
        "double_blocks.0.",
        "a Flux transformer; name a folder in the diffusers layout, which has its text encoders",
    ),
    ("single_transformer_blocks.0.", "a Flux transformer; name a folder in the diffusers layout"),
    ("joint_blocks.0.", "Stable Diffusion 3"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("ip_adapter.", "an IP-Adapter"),
    ("emb_params", "a textual inversion"),
    ("encoder.conv_in.weight", "an autoencoder alone"),
    ("decoder.conv_in.weight", "an autoencoder alone"),
    ("conv_in.weight", "one component in the diffusers layout; name its pipeline's folder"),
    ("encoder.block.0.layer.0.SelfAttention", "a T5 text encoder alone"),
    ("text_model.encoder.layers.0.", "a text encoder alone"),
    ("embeddings.position_embedding.weight", "a text encoder alone"),
    ("body.0.rdb1.", "an upscaler"),
    ("model.1.sub.0.RDB1.", "an upscaler"),
];
const LORA: &str =
    "a LoRA, which is no model: put it into the folder of --lora-dir and name it in a job's `loras`";

/// The error of a file without the UNet's first convolution, with what it holds instead.
pub fn unknown_layout(file: &MappedFile, error: DiffusionError) -> DiffusionError {
    let mut names = file.names();
    names.sort();
    let sign = SIGNS.iter().find(|(part, _)| names.iter().any(|name| name.contains(part)));
    let found = match (sign, names.first()) {
        (Some((_, kind)), _) => (*kind).to_owned(),
        (None, Some(first)) => format!("{} tensors, the first `{first}`", names.len()),
        (None, None) => "no tensors".to_owned(),
    };
    match error {
        DiffusionError::Config { file, key, found: missing, .. } if missing == "none" => {
            let expected = "the UNet of Stable Diffusion 1, 2 or XL in the original layout".into();
            DiffusionError::Config { file, key, expected, found }
        }
        other => other,
    }
}

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
