//! Stable Diffusion 1, 2 and XL, and what was distilled from them: a UNet that attends to what CLIP makes of the prompts.
//!
//! | file | what lives there |
//! |---|---|
//! | `variant` | what is different between them |
//! | `load` | from a checkpoint to a model |
//! | `denoiser` | how the UNet is asked |
//! | `steer` | what it is told of a picture: texts, sizes, guidance |
//! | `prompts` | text encoders and tokenizers together |
//! | `networks`, `lora_names` | what a LoRA changes, and what its layers are called in files |

mod denoiser;
mod load;
mod lora_names;
mod networks;
mod prompts;
mod steer;
mod variant;

pub use denoiser::UNetDenoiser;
pub use load::StableDiffusion;
pub use networks::Networks;
pub use prompts::{Encoded, PromptEncoder, Prompts};
pub use variant::Family;
