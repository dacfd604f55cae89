//! Which family of models a checkpoint belongs to, by `model_index.json`.

use crate::diffusion::{DiffusionError, checkpoint::Checkpoint};

/// What a family's pipelines do differently in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Stable Diffusion 1 and 2 and what was distilled from them: one text encoder, its last hidden states.
    StableDiffusion {
        /// diffusers' class of the checkpoint is a latent consistency model's: a picture made from another goes all steps
        /// with its own scheduler.
        consistency: bool,
    },
    /// SDXL: two text encoders (its refiner: one), their last hidden states but one, pooled text and sizes.
    Xl {
        /// A negative prompt that is not given is all zeros, not the empty text.
        zeros_for_no_negative: bool,
        /// The refiner: a score instead of the target size, and pictures are refined, not drawn from noise.
        aesthetics_score: bool,
    },
}

const STABLE_DIFFUSION: [&str; 3] =
    ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"];
const CONSISTENCY: [&str; 2] = ["LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"];
const XL: [&str; 3] =
    ["StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"];

impl Family {
    /// Refuses a checkpoint that is of no family computed here, or that has a component of another class.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, DiffusionError> {
        let index = checkpoint.index();
        let class = index.text("_class_name")?;
        let consistency = CONSISTENCY.contains(&class);
        let family = if consistency || STABLE_DIFFUSION.contains(&class) {
            Self::StableDiffusion { consistency }
        } else if XL.contains(&class) {
            Self::Xl {
                zeros_for_no_negative: index.flag_or("force_zeros_for_empty_prompt", true)?,
                aesthetics_score: index.flag_or("requires_aesthetics_score", false)?,
            }
        } else {
            let known = [&STABLE_DIFFUSION[..], &CONSISTENCY[..], &XL[..]].concat().join(", ");
            return Err(index.unusable("_class_name", &format!("one of {known}"), class));
        };
        require(checkpoint, "unet", &["UNet2DConditionModel"])?;
        require(checkpoint, "vae", &["AutoencoderKL", "AutoencoderTiny"])?;
        for (encoder, _, class) in family.text_encoders(checkpoint) {
            require(checkpoint, encoder, &[class])?;
        }
        Ok(family)
    }

    /// Text encoder, tokenizer and class of each; SDXL's refiner has the second only.
    pub fn text_encoders(self, checkpoint: &Checkpoint) -> Vec<(&'static str, &'static str, &'static str)> {
        let first = ("text_encoder", "tokenizer", "CLIPTextModel");
        let second = ("text_encoder_2", "tokenizer_2", "CLIPTextModelWithProjection");
        match self {
            Self::StableDiffusion { .. } => vec![first],
            Self::Xl { .. } if checkpoint.class_of(first.0).is_none() => vec![second],
            Self::Xl { .. } => vec![first, second],
        }
    }
}

fn require(checkpoint: &Checkpoint, component: &str, classes: &[&str]) -> Result<(), DiffusionError> {
    match checkpoint.class_of(component) {
        Some(class) if classes.contains(&class) => Ok(()),
        other => {
            let found = other.unwrap_or("none");
            Err(checkpoint.index().unusable(component, &classes.join(" or "), found))
        }
    }
}
