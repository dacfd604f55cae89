//! What a family says of itself.

use std::sync::Arc;

use candle_core::Device;

use super::FAMILIES;
use crate::diffusion::{
    DiffusionError,
    checkpoint::{Checkpoint, Component, ComponentFile, MappedFile, SingleFile},
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
    fn sign_of_single_file(&self) -> Option<&'static str>;

    /// A file in the family's original layout as a checkpoint, of which it may lack components; none where it is not of this
    /// family.
    ///
    /// # Errors
    /// A file of this family whose tensors have no shapes of its networks.
    fn single_file(&self, file: &Arc<MappedFile>) -> Result<Option<SingleFile>, DiffusionError>;

    /// A component with weights in a file that was named for it, of a checkpoint that may have another.
    ///
    /// # Errors
    /// A file that does not have it.
    fn component_file(
        &self,
        component: &str,
        file: &Arc<MappedFile>,
        checkpoint: &Checkpoint,
    ) -> Result<ComponentFile, DiffusionError>;

    /// What several files say together, once all are known.
    ///
    /// # Errors
    /// Components that do not fit each other.
    fn settle(&self, _checkpoint: &mut Checkpoint) -> Result<(), DiffusionError> {
        Ok(())
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
