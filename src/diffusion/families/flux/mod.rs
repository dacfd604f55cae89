//! Flux.1 (schnell and dev, Black Forest Labs 2024): a transformer over text and picture tokens, trained by flow
//! matching, in the diffusers layout.
//!
//! | file | what lives there |
//! |---|---|
//! | `config` | how a checkpoint is recognised |
//! | `load` | from a checkpoint to a model |
//! | `denoiser` | how the transformer is asked, and what it is told of a picture |
//! | `prompts` | text encoders and tokenizers together |
//! | `latents` | latents as the transformer's tokens |

mod config;
mod denoiser;
mod latents;
mod load;
mod prompts;

pub use denoiser::FluxDenoiser;
pub use load::{Flux, inspect};
pub use prompts::{PromptEncoder, TextEmbeddings};
