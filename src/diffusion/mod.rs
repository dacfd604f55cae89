//! One picture, computed: a Stable Diffusion checkpoint in the diffusers layout, on candle's primitives.
//!
//! Everything is read from the checkpoint's own configuration and agrees with Hugging Face diffusers within float
//! error (`tests/parity.rs`). No network, no queue, no runtime: [`StableDiffusion`] holds the weights and nothing of
//! a picture, [`Denoising`] is one picture between two steps.

mod begin;
mod checkpoint;
mod conditioning;
mod config;
mod denoising;
mod embedding_cache;
mod error;
pub mod flux;
mod inspect;
mod layers;
mod lora;
pub mod masking;
mod memory;
mod noise;
pub mod ops;
mod passes;
mod picture;
mod pipeline;
mod precision;
mod preview;
mod progress;
pub mod prompt;
mod resnet;
mod schedulers;
mod spec;
mod text_encoder;
mod tokenizer;
mod unet;
mod vae;
mod warnings;

pub use candle_core::{DType, Device};
pub use checkpoint::{BEGINNING, Checkpoint, FileKind, Part, sha256, what_is};
pub use conditioning::{Added, Conditioning};
pub use denoising::Denoising;
pub use embedding_cache::{EmbeddingCache, EmbeddingKey};
pub use error::{DiffusionError, says_device_failed};
pub use inspect::{Defaults, Inspection, inspect};
pub use lora::{LoraFileError, Loras, Stamp};
pub use memory::{Activations, Arithmetic};
pub use noise::TorchRng;
pub(crate) use passes::{Fit, passes};
pub use picture::is_drawn_anew;
pub use pipeline::StableDiffusion;
pub use precision::Precision;
pub use progress::{Progress, ProgressError, Trajectory};
pub use schedulers::{Memory as SchedulerMemory, MemoryError, SchedulerKind};
pub use spec::{ImageSpec, LoraSpec, Source};
pub use text_encoder::{HiddenStates, TextEncoder, TextOutput};
pub use tokenizer::{ClipTokenizer, Tokens};
pub use unet::UNet;
pub use vae::{Autoencoder, Moments};
