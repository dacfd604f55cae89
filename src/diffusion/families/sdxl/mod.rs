//! SDXL, its refiner, and what was distilled from them.

use std::sync::Arc;

use candle_core::Device;

use super::{
    Described, Family,
    unet::{
        self, Encoder, Hidden, Sizes, Variant,
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
pub struct Sdxl;

const PIPELINES: [&str; 3] =
    ["StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"];

/// The refiner has the second text encoder only.
const COMPONENTS: [Component; 8] = [
    Component::new("scheduler", Role::Scheduler, &[]),
    Component::named("tokenizer", Role::Tokenizer, &[]),
    Component::new("tokenizer_2", Role::Tokenizer, &[]),
    Component::new("unet", Role::Denoiser, &["UNet2DConditionModel"]),
    Component::new("vae", Role::Autoencoder, &["AutoencoderKL", "AutoencoderTiny"]),
    Component::named("text_encoder", Role::TextEncoder, &["CLIPTextModel"]),
    Component::new("text_encoder_2", Role::TextEncoder, &["CLIPTextModelWithProjection"]),
    Component::beside("taesd", Role::PreviewDecoder),
];

const ENCODERS: [Encoder; 2] = [
    Encoder { component: "text_encoder", tokenizer: "tokenizer", projects: false },
    Encoder { component: "text_encoder_2", tokenizer: "tokenizer_2", projects: true },
];

/// What its pipelines do.
///
/// # Errors
/// A key of the index that is no flag.
pub fn variant(checkpoint: &Checkpoint) -> Result<Variant, DiffusionError> {
    let index = checkpoint.index();
    let is_refiner = index.flag_or("requires_aesthetics_score", false)?;
    Ok(Variant {
        encoders: &ENCODERS,
        hidden: Hidden::LastButOne,
        zeros_for_no_negative: index.flag_or("force_zeros_for_empty_prompt", true)?,
        sizes: Some(if is_refiner { Sizes::Score } else { Sizes::Target }),
        is_consistency_model: false,
        changes_scheduler: false,
    })
}

impl Family for Sdxl {
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
            Some(kind @ (Kind::XlBase | Kind::XlRefiner)) => single_file::open(file, kind).map(Some),
            Some(Kind::V1 | Kind::V2) | None => Ok(None),
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
        variant(checkpoint)?;
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
