//! Families of models: how a checkpoint is recognised, what it is made of, and how its network is told what to draw.

pub mod flux;
mod inspect;
pub mod sd;

pub use inspect::{Inspection, inspect};
