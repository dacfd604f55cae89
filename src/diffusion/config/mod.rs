//! A checkpoint's configuration files in the diffusers layout. What we cannot compute is refused by name.

mod family;
mod file;
pub mod limits;
mod text;
mod unet;
mod vae;

pub use family::Family;
pub use file::{ConfigFile, read_limited};
pub use text::TextConfig;
pub use unet::UNetConfig;
pub use vae::{AutoencoderConfig, TinyVaeConfig, VaeConfig};

/// Activation functions of diffusers' and transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// With the error function, as torch's default.
    GeluErf,
    /// With tanh, as `gelu_new`.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`, CLIP's own.
    QuickGelu,
}
