//! Families of models: how a checkpoint is recognised, what it is made of, and how its network is told what to draw.

pub mod flux;
mod inspect;
pub mod sd;

pub use inspect::{Inspection, inspect};

use candle_core::Device;

use super::{DiffusionError, checkpoint::Checkpoint, picture::Model, precision::Precision};

/// Loads a checkpoint of any family.
///
/// # Errors
/// The file and the key that are wrong, what was expected and what was found.
pub fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    precision: Precision,
) -> Result<Box<Model>, DiffusionError> {
    Ok(match flux::Flux::is(checkpoint) {
        true => Box::new(flux::Flux::load(checkpoint, device, precision)?),
        false => Box::new(sd::StableDiffusion::open(checkpoint, device, precision)?),
    })
}
