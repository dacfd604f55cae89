//! `text_encoder/config.json` of a CLIPTextModel.

use crate::diffusion::{
    DiffusionError,
    checkpoint::{
        ConfigFile,
        limits::{MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH},
    },
    ops::Activation,
};

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
    /// The token whose place the pooled embedding is taken from.
    pub eos_token_id: u32,
    /// Width of the pooled embedding; only a CLIPTextModelWithProjection has one.
    pub projection_dim: Option<usize>,
}

impl TextConfig {
    /// Reads and checks the configuration.
    ///
    /// `projects`: the class is CLIPTextModelWithProjection.
    pub fn read(file: &ConfigFile, projects: bool) -> Result<Self, DiffusionError> {
        let hidden_size = file.integer_up_to("hidden_size", 512, MAX_WIDTH)?;
        let heads = file.integer_up_to("num_attention_heads", 8, MAX_HEADS)?;
        if hidden_size % heads != 0 {
            let expected = format!("a divisor of hidden_size {hidden_size}");
            return Err(file.unusable("num_attention_heads", &expected, heads));
        }
        file.only("use_attention_mask", &[false.into()])?;
        Ok(Self {
            vocab_size: file.integer_or("vocab_size", 49408)?,
            hidden_size,
            intermediate_size: file.integer_up_to("intermediate_size", 2048, MAX_WIDTH)?,
            heads,
            layers: file.integer_up_to("num_hidden_layers", 12, MAX_LAYERS)?,
            max_position_embeddings: file.integer_up_to("max_position_embeddings", 77, MAX_POSITIONS)?,
            activation: file.activation_or("hidden_act", "quick_gelu")?,
            layer_norm_eps: file.epsilon_or("layer_norm_eps", 1e-5)?,
            eos_token_id: file.natural_or("eos_token_id", 49407)? as u32,
            projection_dim: match projects {
                true => Some(file.integer_up_to("projection_dim", 512, MAX_WIDTH)?),
                false => None,
            },
        })
    }
}
