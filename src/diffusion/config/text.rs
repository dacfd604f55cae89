//! `text_encoder/config.json` of a CLIPTextModel.

use super::{Activation, ConfigFile};
use crate::diffusion::DiffusionError;

/// What the text encoder is made of.
#[derive(Debug, Clone)]
pub struct TextConfig {
    /// Tokens known.
    pub vocab_size: usize,
    /// Width of an embedding.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Attention heads.
    pub heads: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Tokens per prompt, with start and end.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of the LayerNorms.
    pub layer_norm_eps: f64,
}

impl TextConfig {
    /// Reads and checks the configuration.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        let hidden_size = file.integer_or("hidden_size", 512)?;
        let heads = file.integer_or("num_attention_heads", 8)?;
        if hidden_size % heads != 0 {
            let expected = format!("a divisor of hidden_size {hidden_size}");
            return Err(file.unusable("num_attention_heads", &expected, heads));
        }
        file.only("use_attention_mask", &[false.into()])?;
        Ok(Self {
            vocab_size: file.integer_or("vocab_size", 49408)?,
            hidden_size,
            intermediate_size: file.integer_or("intermediate_size", 2048)?,
            heads,
            layers: file.integer_or("num_hidden_layers", 12)?,
            max_position_embeddings: file.integer_or("max_position_embeddings", 77)?,
            activation: file.activation_or("hidden_act", "quick_gelu")?,
            layer_norm_eps: file.number_or("layer_norm_eps", 1e-5)?,
        })
    }
}
