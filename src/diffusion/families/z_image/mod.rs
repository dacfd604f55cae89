//! Z-Image and Z-Image-Turbo (Tongyi 2025): a transformer over picture and caption tokens, trained by flow matching.
//!
//! | file | what lives there |
//! |---|---|
//! | `files` | files of its makers, and components in files of their own |
//! | `load` | what the configurations say, and from a checkpoint to a model |
//! | `denoiser` | how the transformer is asked, and what it is told of a picture |
//! | `prompts` | the text encoder with its tokenizer |
//! | `networks` | what a LoRA changes |
//! | `latents` | latents as the transformer's tokens |

mod denoiser;
mod files;
mod latents;
mod load;
mod networks;
mod prompts;

pub use denoiser::ZImageDenoiser;
pub use load::ZImage;
pub use networks::Networks;

use std::sync::Arc;

use candle_core::Device;

use super::{Described, Family};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{Checkpoint, Component, ComponentFile, MappedFile, Role, SingleFile},
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

    fn sign_of_single_file(&self) -> Option<&'static str> {
        Some(files::SIGN)
    }

    fn single_file(&self, file: &Arc<MappedFile>) -> Result<Option<SingleFile>, DiffusionError> {
        files::open(file)
    }

    fn component_file(
        &self,
        component: &str,
        file: &Arc<MappedFile>,
        checkpoint: &Checkpoint,
    ) -> Result<ComponentFile, DiffusionError> {
        files::component(component, file, checkpoint)
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
