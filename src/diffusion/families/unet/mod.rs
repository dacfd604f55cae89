//! What Stable Diffusion and SDXL stand on: a UNet that attends to what CLIP makes of the prompts. It is no family itself:
//! a [`Variant`] says what is different between them.
//!
//! | file | what lives there |
//! |---|---|
//! | `variant` | what is different between them |
//! | `load` | from a checkpoint to a model |
//! | `describe` | what the configurations say before that |
//! | `denoiser` | how the UNet is asked |
//! | `steer` | what it is told of a picture: texts, sizes, guidance |
//! | `prompts` | text encoders and tokenizers together |
//! | `networks`, `lora_names` | what a LoRA changes, and what its layers are called in files |
//! | `single_file/` | files in the original layout |

mod denoiser;
mod describe;
mod load;
mod lora_names;
mod networks;
mod prompts;
pub mod single_file;
mod steer;
mod variant;

pub use denoiser::UNetDenoiser;
pub use describe::describe;
pub use load::{StableDiffusion, load};
pub use networks::Networks;
pub use prompts::{Encoded, PromptEncoder, Prompts};
pub use variant::{Encoder, Hidden, Sizes, Variant};
