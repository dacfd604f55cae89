//! One picture, computed: a Stable Diffusion checkpoint in the diffusers layout, on candle's primitives.
//!
//! Everything is read from the checkpoint's own configuration and agrees with Hugging Face diffusers within float
//! error (`tests/parity.rs`). No network, no queue, no runtime: [`StableDiffusion`] holds the weights and nothing of
//! a picture, [`Denoising`] is one picture between two steps.

mod begin;
mod checkpoint;
mod config;
mod denoising;
mod error;
pub mod flux;
mod layers;
mod noise;
mod ops;
mod picture;
mod pipeline;
mod precision;
mod preview;
mod resnet;
mod schedulers;
mod spec;
mod text_encoder;
mod tokenizer;
mod unet;
mod vae;

pub use candle_core::{DType, Device};
pub use checkpoint::Checkpoint;
pub use denoising::Denoising;
pub use error::DiffusionError;
pub use noise::TorchRng;
pub use pipeline::StableDiffusion;
pub use precision::Precision;
pub use schedulers::SchedulerKind;
pub use spec::{ImageSpec, Source};
pub use text_encoder::TextEncoder;
pub use tokenizer::{ClipTokenizer, Tokens};
pub use unet::UNet;
pub use vae::{Moments, Vae};
