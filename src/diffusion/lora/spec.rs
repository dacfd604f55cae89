//! A LoRA of a request.

use std::path::PathBuf;

/// A LoRA and how strongly it is added.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    /// The name that the request has for it.
    pub name: String,
    /// A safetensors file.
    pub file: PathBuf,
    /// Times what the file adds, in the UNet and in the text encoders; below 0 it is taken away.
    pub strength: f64,
}
