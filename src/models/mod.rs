//! Which checkpoints there are and where they come from. A model is a Stable Diffusion checkpoint, or a simulation.

mod model;
mod sim;
mod source;

pub use model::{Denoising, Model, ModelError, ModelInfo};
pub use sim::{Sim, SimError};
pub use source::{ModelSource, Origin, SourceError};
