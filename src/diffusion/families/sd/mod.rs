//! Stable Diffusion 1, 2 and XL, and what was distilled from them.

mod begin;
mod denoising;
mod lora_names;
mod networks;
mod pipeline;
mod prompts;
mod variant;

pub use denoising::Denoising;
pub use networks::Networks;
pub use pipeline::StableDiffusion;
pub use prompts::{Encoded, PromptEncoder, Prompts};
pub use variant::Family;
