//! LoRA ("Low-Rank Adaptation", arXiv 2106.09685): small matrices that a job adds to a model's layers, as peft computes
//! them unfused. They are kept apart from the weights, so that the next job has the model as it was loaded.
//!
//! Files are read in kohya's format, in peft's, and in those of diffusers before peft.

mod adapt;
mod alphas;
mod content;
mod delta;
mod file;
pub mod kinds;
mod loras;
mod spec;
mod stamp;

pub use adapt::Adaptable;
pub use delta::{Delta, LayerMut, Visit};
pub use loras::Loras;
pub use spec::LoraSpec;
pub use stamp::Stamp;
