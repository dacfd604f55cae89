//! What a family says of itself.

use std::sync::Arc;

use candle_core::Device;

use super::FAMILIES;
use crate::diffusion::{
    DiffusionError,
    checkpoint::{Checkpoint, Component, MappedFile, SingleFile},
    footprint::{Activations, Arithmetic},
    picture::{Defaults, Model},
    precision::Precision,
};

/// A family of models.
pub trait Family: Sync {
    /// diffusers' pipelines of it: the classes that `model_index.json` may name.
    fn pipelines(&self) -> &'static [&'static str];

    /// What its checkpoints are made of.
    fn components(&self) -> &'static [Component];

    /// A tensor that files of this family in its original layout have; none where none of its files is read.
    fn sign_of_single_file(&self) -> Option<&'static str> {
        None
    }

    /// A file in the family's original layout as a checkpoint; none where it is not of this family.
    ///
    /// # Errors
    /// A file of this family that lacks a component, or whose tensors have no shapes of one.
    fn single_file(&self, _file: &Arc<MappedFile>) -> Result<Option<SingleFile>, DiffusionError> {
        Ok(None)
    }

    /// Whether its networks multiply by candle's own products on a CPU, whose bits depend on more than the kernels here.
    fn uses_products_of_candle(&self) -> bool {
        false
    }

    /// What the configurations say of its pictures. Nothing is loaded.
    ///
    /// # Errors
    /// What loading would refuse, as far as it can be seen so: the file and the key that are wrong.
    fn describe(&self, checkpoint: &Checkpoint, with: Arithmetic) -> Result<Described, DiffusionError>;

    /// Loads it, whose components are there and of known classes. `precision` is the types that weights are kept in,
    /// whatever types the files have.
    ///
    /// # Errors
    /// The file and the key that are wrong, what was expected and what was found.
    fn load(
        &self,
        checkpoint: &Checkpoint,
        device: &Device,
        precision: Precision,
    ) -> Result<Box<Model>, DiffusionError>;
}

/// What a checkpoint's configurations say of its pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Described {
    /// Width and height, in pixels, that the model was trained on.
    pub native_size: (u32, u32),
    /// What a job gets that names neither.
    pub defaults: Defaults,
    /// Bytes that a picture takes beside the weights.
    pub activations: Activations,
}

/// The family of one of diffusers' pipelines.
pub fn by_pipeline(class: &str) -> Option<&'static dyn Family> {
    FAMILIES.iter().copied().find(|family| family.pipelines().contains(&class))
}
