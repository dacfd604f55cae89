//! Flux.1 (schnell and dev, Black Forest Labs 2024): a transformer over text and picture tokens, trained by flow
//! matching.
//!
//! | file | what lives there |
//! |---|---|
//! | `files` | files of its makers, and components in files of their own |
//! | `load` | from a checkpoint to a model |
//! | `denoiser` | how the transformer is asked, and what it is told of a picture |
//! | `networks` | what LoRAs change, and what its layers are called in their files |
//! | `prompts` | text encoders and tokenizers together |
//! | `latents` | latents as the transformer's tokens |

mod denoiser;
mod files;
mod latents;
mod load;
mod networks;
mod prompts;

pub use denoiser::FluxDenoiser;
pub use load::Flux;
pub use networks::Networks;
pub use prompts::{PromptEncoder, TextEmbeddings};

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
pub struct FluxFamily;

/// diffusers' pipelines of this family; they have the same components.
const PIPELINES: [&str; 3] = ["FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"];

const COMPONENTS: [Component; 7] = [
    Component::new("tokenizer", Role::Tokenizer, &[]),
    Component::new("tokenizer_2", Role::Tokenizer, &[]),
    Component::new("transformer", Role::Denoiser, &["FluxTransformer2DModel"]),
    Component::new("vae", Role::Autoencoder, &["AutoencoderKL"]),
    Component::new("text_encoder", Role::TextEncoder, &["CLIPTextModel"]),
    Component::new("text_encoder_2", Role::TextEncoder, &["T5EncoderModel"]),
    Component::new("scheduler", Role::Scheduler, &["FlowMatchEulerDiscreteScheduler"]),
];

impl Family for FluxFamily {
    fn pipelines(&self) -> &'static [&'static str] {
        &PIPELINES
    }

    fn components(&self) -> &'static [Component] {
        &COMPONENTS
    }

    fn uses_products_of_candle(&self) -> bool {
        true
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
