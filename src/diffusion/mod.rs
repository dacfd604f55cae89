//! One picture, computed, on candle's primitives. No network, no queue, no runtime.
//!
//! Everything is read from the checkpoint's own configuration and agrees with Hugging Face diffusers within float
//! error (`tests/model/parity`).

mod autoencoders;
mod checkpoint;
mod error;
mod families;
#[cfg(test)]
mod folders_tests;
mod footprint;
mod layers;
mod lora;
mod networks;
mod noise;
pub mod ops;
mod picture;
mod precision;
mod schedulers;
mod text;

pub use autoencoders::{Autoencoder, Moments};
pub use candle_core::{DType, Device};
pub use checkpoint::{Checkpoint, Component, Part, Role, Weights, sha256};
pub use error::{BEGINNING, DiffusionError, FileKind, LoraFileError, says_device_failed, what_is};
pub use families::{
    FAMILIES, Family, Inspection, Named, Opened, by_pipeline,
    flux::Flux,
    inspect, open, open_with,
    unet::{Networks, StableDiffusion, UNetDenoiser},
    z_image::ZImage,
};
pub use footprint::{Activations, Arithmetic};
pub use lora::{EmbeddingSpec, LoraSpec, Loras, Stamp};
pub use networks::{
    clip::{HiddenStates, TextEncoder, TextOutput},
    flux::TransformerInput,
    t5::T5Encoder,
    unet::{Added, Conditioning, UNet},
};
pub use noise::TorchRng;
pub use picture::{
    Defaults, Denoiser, ImageSpec, Model, Picture, Progress, ProgressError, Source, is_drawn_anew, masking,
};
pub(crate) use picture::{Fit, passes};
pub use precision::Precision;
pub use schedulers::{SchedulerKind, SchedulerState, StateError};
pub use text::{ClipTokenizer, EmbeddingCache, EmbeddingKey, T5Tokenizer, Tokens, prompt};
