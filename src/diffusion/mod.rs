//! One picture, computed, on candle's primitives. No network, no queue, no runtime.
//!
//! Everything is read from the checkpoint's own configuration and agrees with Hugging Face diffusers within float
//! error (`tests/model/parity`).

mod autoencoders;
mod checkpoint;
mod error;
mod families;
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
pub use checkpoint::{BEGINNING, Checkpoint, FileKind, Part, sha256, what_is};
pub use error::{DiffusionError, says_device_failed};
pub use families::{
    Inspection, flux, inspect,
    sd::{Denoising, StableDiffusion},
};
pub use footprint::{Activations, Arithmetic};
pub use lora::{LoraFileError, LoraSpec, Loras, Stamp};
pub use networks::{
    clip::{HiddenStates, TextEncoder, TextOutput},
    flux::TransformerInput,
    t5::T5Encoder,
    unet::{Added, Conditioning, UNet},
};
pub use noise::TorchRng;
pub use picture::{Defaults, ImageSpec, Progress, ProgressError, Source, Trajectory, is_drawn_anew, masking};
pub(crate) use picture::{Fit, passes};
pub use precision::Precision;
pub use schedulers::{FlowConfig, FlowSchedule, Memory as SchedulerMemory, MemoryError, SchedulerKind};
pub use text::{ClipTokenizer, EmbeddingCache, EmbeddingKey, T5Tokenizer, Tokens, prompt};
