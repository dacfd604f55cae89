//! `config.json` of a Qwen3 model.

use crate::diffusion::{
    DiffusionError,
    checkpoint::{
        ConfigFile,
        limits::{MAX_HEADS, MAX_LAYERS, MAX_WIDTH},
    },
};

/// What the network is made of.
#[derive(Debug, Clone)]
pub struct Qwen3Config {
    /// Tokens known.
    pub vocab_size: usize,
    /// Width of an embedding.
    pub width: usize,
    /// Width inside the feed-forward layers.
    pub inner_width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values, which several heads share.
    pub key_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Base of the rotations' periods.
    pub theta: f64,
}

impl Qwen3Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// The key that cannot be used, what was expected and what was found.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        for switch in ["attention_bias", "use_sliding_window"] {
            file.only(switch, &[false.into()])?;
        }
        file.only("hidden_act", &["silu".into()])?;
        file.only("rope_scaling", &[])?;
        let heads = file.integer_up_to("num_attention_heads", 32, MAX_HEADS)?;
        let key_heads = file.integer_up_to("num_key_value_heads", 32, MAX_HEADS)?;
        if heads % key_heads != 0 {
            let expected = format!("a divisor of num_attention_heads {heads}");
            return Err(file.unusable("num_key_value_heads", &expected, key_heads));
        }
        let head_width = file.integer_up_to("head_dim", 128, MAX_WIDTH)?;
        if head_width % 2 != 0 {
            return Err(file.unusable("head_dim", "an even number", head_width));
        }
        file.up_to("head_dim", &[heads * head_width], MAX_WIDTH)?;
        Ok(Self {
            vocab_size: file.integer_or("vocab_size", 151_936)?,
            width: file.integer_up_to("hidden_size", 4096, MAX_WIDTH)?,
            inner_width: file.integer_up_to("intermediate_size", 22_016, MAX_WIDTH)?,
            layers: file.integer_up_to("num_hidden_layers", 32, MAX_LAYERS)?,
            heads,
            key_heads,
            head_width,
            eps: file.epsilon_or("rms_norm_eps", 1e-6)?,
            theta: theta(file)?,
        })
    }
}

/// transformers wrote `rope_theta` until its version 5, and `rope_parameters` since.
fn theta(file: &ConfigFile) -> Result<f64, DiffusionError> {
    let theta = match file.value("rope_parameters") {
        None => file.number_or("rope_theta", 10_000.0)?,
        Some(parameters) => {
            let kind = parameters.get("rope_type").and_then(|kind| kind.as_str()).unwrap_or("default");
            if kind != "default" {
                return Err(file.unusable("rope_parameters.rope_type", "default", kind));
            }
            parameters.get("rope_theta").and_then(|theta| theta.as_f64()).unwrap_or(10_000.0)
        }
    };
    match theta.is_finite() && theta >= 1.0 {
        true => Ok(theta),
        false => Err(file.unusable("rope_theta", "a number from 1 on", theta)),
    }
}
