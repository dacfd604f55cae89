//! Autoencoders: pictures to latents and back.

mod autoencoder;
mod config;
mod kl;
mod tiny;

pub use autoencoder::Autoencoder;
pub use config::{AutoencoderConfig, TinyVaeConfig, VaeConfig};
pub use kl::{Moments, Vae};
pub use tiny::TinyVae;

/// Channels, height and width of latents.
pub type LatentShape = (usize, usize, usize);
