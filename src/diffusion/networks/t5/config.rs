//! `config.json` of a T5EncoderModel.

use crate::diffusion::{
    DiffusionError,
    checkpoint::{
        ConfigFile,
        limits::{MAX_BUCKETS, MAX_HEADS, MAX_LAYERS, MAX_WIDTH},
    },
};

/// What T5's encoder is made of.
#[derive(Debug, Clone)]
pub struct T5Config {
    /// Tokens known.
    pub vocab_size: usize,
    /// Width of an embedding.
    pub width: usize,
    /// Width of an attention head.
    pub head_width: usize,
    /// Width inside the feed-forward layers.
    pub inner_width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Buckets of distances between tokens, half of them for each direction.
    pub buckets: usize,
    /// Distances from this on share the last bucket.
    pub max_distance: usize,
    /// Epsilon of the norms.
    pub eps: f64,
}

impl T5Config {
    /// Reads and checks the configuration.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        file.only("feed_forward_proj", &["gated-gelu".into()])?;
        if file.value("feed_forward_proj").is_none() {
            return Err(file.unusable("feed_forward_proj", "gated-gelu", "none (which means relu)"));
        }
        let buckets = file.integer_up_to("relative_attention_num_buckets", 32, MAX_BUCKETS)?;
        let max_distance = file.integer_or("relative_attention_max_distance", 128)?;
        if buckets % 4 != 0 {
            return Err(file.unusable("relative_attention_num_buckets", "a multiple of 4", buckets));
        }
        if max_distance <= buckets / 4 {
            let expected = format!("more than {}, the distances with a bucket each", buckets / 4);
            return Err(file.unusable("relative_attention_max_distance", &expected, max_distance));
        }
        Ok(Self {
            vocab_size: file.integer_or("vocab_size", 32128)?,
            width: file.integer_up_to("d_model", 512, MAX_WIDTH)?,
            head_width: file.integer_up_to("d_kv", 64, MAX_WIDTH)?,
            inner_width: file.integer_up_to("d_ff", 2048, MAX_WIDTH)?,
            layers: file.integer_up_to("num_layers", 6, MAX_LAYERS)?,
            heads: file.integer_up_to("num_heads", 8, MAX_HEADS)?,
            buckets,
            max_distance,
            eps: file.epsilon_or("layer_norm_epsilon", 1e-6)?,
        })
    }
}
