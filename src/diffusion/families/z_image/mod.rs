//! Z-Image and Z-Image-Turbo (Tongyi 2025): a transformer over picture and caption tokens, trained by flow matching, in the
//! diffusers layout.
//!
//! | file | what lives there |
//! |---|---|
//! | `load` | what the configurations say, and from a checkpoint to a model |
//! | `denoiser` | how the transformer is asked, and what it is told of a picture |
//! | `prompts` | the text encoder with its tokenizer |
//! | `latents` | latents as the transformer's tokens |

mod denoiser;
mod latents;
mod load;
mod prompts;

pub use denoiser::ZImageDenoiser;
pub use load::ZImage;

use candle_core::Device;

use super::{Described, Family};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{Checkpoint, Component, Role},
    footprint::Arithmetic,
    picture::Model,
    precision::Precision,
};

/// The family.
pub struct ZImageFamily;

/// diffusers' pipelines of this family; they have the same components.
const PIPELINES: [&str; 3] = ["ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline"];

const COMPONENTS: [Component; 5] = [
    Component::new("tokenizer", Role::Tokenizer, &[]),
    Component::new("transformer", Role::Denoiser, &["ZImageTransformer2DModel"]),
    Component::new("vae", Role::Autoencoder, &["AutoencoderKL"]),
    Component::new("text_encoder", Role::TextEncoder, &["Qwen3Model", "Qwen3ForCausalLM"]),
    Component::new("scheduler", Role::Scheduler, &["FlowMatchEulerDiscreteScheduler"]),
];

impl Family for ZImageFamily {
    fn pipelines(&self) -> &'static [&'static str] {
        &PIPELINES
    }

    fn components(&self) -> &'static [Component] {
        &COMPONENTS
    }

    fn describe(&self, checkpoint: &Checkpoint, with: Arithmetic) -> Result<Described, DiffusionError> {
        load::describe(checkpoint, with)
    }

    fn load(
        &self,
        checkpoint: &Checkpoint,
        device: &Device,
        precision: Precision,
    ) -> Result<Box<Model>, DiffusionError> {
        Ok(Box::new(load::load(checkpoint, device, precision)?))
    }
}
