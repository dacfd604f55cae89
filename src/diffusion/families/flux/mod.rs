//! Flux.1 (schnell and dev, Black Forest Labs 2024): a transformer over text and picture tokens, trained by flow
//! matching, in the diffusers layout.

mod begin;
mod config;
mod denoising;
mod latents;
mod model;

pub use denoising::FluxDenoising;
pub use model::{Flux, TextEmbeddings, inspect};
