//! Flux.1 (schnell and dev, Black Forest Labs 2024): a transformer over text and picture tokens, trained by flow
//! matching, in the diffusers layout.
//!
//! The networks are our own and not those of candle-transformers: weights in half precision are widened layer by
//! layer on a CPU (12 billion parameters do not fit otherwise, and candle has no bf16 product there), attention is
//! done in parts of bounded memory, and rotary angles are computed in f64 and applied in f32 whatever the weights
//! are, as diffusers does; candle-transformers rounds them to the weights' type (in bf16 the cosines of a row's
//! positions are then off by 1.4 %, relative L2).

mod begin;
mod config;
mod denoising;
mod latents;
mod model;
mod schedule;
#[cfg(test)]
mod schedule_parity;
mod t5;
mod t5_tokenizer;
mod transformer;

pub use denoising::FluxDenoising;
pub use model::{Flux, TextEmbeddings, inspect};
pub use schedule::{FlowConfig, FlowSchedule};
pub use t5::T5Encoder;
pub use t5_tokenizer::T5Tokenizer;
pub use transformer::{FluxTransformer, TransformerInput};
