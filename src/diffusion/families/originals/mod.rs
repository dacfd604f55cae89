//! Networks that several families have, in files that are not in the diffusers layout: a component alone, or beside others.
//! How its tensors are named there, and its configuration by their shapes.
//!
//! Each function returns none where the file does not have the network. A configuration that is `given`, that of the folder
//! which the checkpoint begins with, is taken as it is.

mod clip;
mod qwen3;
mod shapes;
mod t5;
mod vae;

pub use clip::{Clip, clip};
pub use qwen3::qwen3;
pub use shapes::{count, groups, heads, put, shape};
pub use t5::t5;
pub use vae::vae;

use crate::diffusion::{
    DiffusionError,
    checkpoint::{MappedFile, what_it_holds},
};

/// Refuses a file that was named for a component and has none.
///
/// # Errors
/// Always: the file, the component, what it is, and what the file holds.
pub fn another<T>(file: &MappedFile, component: &str, what: &str) -> Result<T, DiffusionError> {
    Err(DiffusionError::Config {
        file: file.path().to_owned(),
        key: component.to_owned(),
        expected: format!("{what}, by names that are read"),
        found: what_it_holds(file),
    })
}
