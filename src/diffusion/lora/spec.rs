//! A LoRA of a request, and a word of a file that its prompts have.

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

/// A textual inversion that a prompt names.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingSpec {
    /// What prompts call it.
    pub name: String,
    /// The prompt that does, as on the wire: for errors.
    pub field: &'static str,
    /// A safetensors file.
    pub file: PathBuf,
}
