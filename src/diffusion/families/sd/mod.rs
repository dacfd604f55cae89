//! Stable Diffusion 1 and 2, and what was distilled from them.

use std::sync::Arc;

use candle_core::Device;

use super::{
    Described, Family,
    unet::{
        self, Encoder, Hidden, Variant,
        single_file::{self, Kind},
    },
};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{Checkpoint, Component, ComponentFile, MappedFile, Role, SingleFile},
    footprint::Arithmetic,
    picture::Model,
    precision::Precision,
};

/// The family.
pub struct Sd;

/// Latent consistency models come last.
const PIPELINES: [&str; 5] = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    CONSISTENCY[0],
    CONSISTENCY[1],
];
const CONSISTENCY: [&str; 2] = ["LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"];

const COMPONENTS: [Component; 6] = [
    Component::new("scheduler", Role::Scheduler, &[]),
    Component::new("tokenizer", Role::Tokenizer, &[]),
    Component::new("unet", Role::Denoiser, &["UNet2DConditionModel"]),
    Component::new("vae", Role::Autoencoder, &["AutoencoderKL", "AutoencoderTiny"]),
    Component::new("text_encoder", Role::TextEncoder, &["CLIPTextModel"]),
    Component::beside("taesd", Role::PreviewDecoder),
];

const ENCODERS: [Encoder; 1] =
    [Encoder { component: "text_encoder", tokenizer: "tokenizer", projects: false }];

/// What its pipelines do.
///
/// # Errors
/// When the index names no class.
pub fn variant(checkpoint: &Checkpoint) -> Result<Variant, DiffusionError> {
    Ok(Variant {
        encoders: &ENCODERS,
        hidden: Hidden::LastNormed,
        zeros_for_no_negative: false,
        sizes: None,
        is_consistency_model: CONSISTENCY.contains(&checkpoint.index().text("_class_name")?),
        changes_scheduler: true,
    })
}

impl Family for Sd {
    fn pipelines(&self) -> &'static [&'static str] {
        &PIPELINES
    }

    fn components(&self) -> &'static [Component] {
        &COMPONENTS
    }

    fn sign_of_single_file(&self) -> Option<&'static str> {
        Some(single_file::SIGN)
    }

    fn single_file(&self, file: &Arc<MappedFile>) -> Result<Option<SingleFile>, DiffusionError> {
        match single_file::recognise(file) {
            Some(kind @ (Kind::V1 | Kind::V2)) => single_file::open(file, kind).map(Some),
            Some(Kind::XlBase | Kind::XlRefiner) | None => Ok(None),
        }
    }

    fn component_file(
        &self,
        component: &str,
        file: &Arc<MappedFile>,
        checkpoint: &Checkpoint,
    ) -> Result<ComponentFile, DiffusionError> {
        single_file::component(component, file, checkpoint)
    }

    fn settle(&self, checkpoint: &mut Checkpoint) -> Result<(), DiffusionError> {
        single_file::settle(checkpoint)
    }

    fn describe(&self, checkpoint: &Checkpoint, with: Arithmetic) -> Result<Described, DiffusionError> {
        unet::describe(checkpoint, with)
    }

    fn load(
        &self,
        checkpoint: &Checkpoint,
        device: &Device,
        precision: Precision,
    ) -> Result<Box<Model>, DiffusionError> {
        Ok(Box::new(unet::load(checkpoint, variant(checkpoint)?, device, precision)?))
    }
}
