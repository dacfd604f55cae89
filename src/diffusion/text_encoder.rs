//! CLIPTextModel: token ids to text embeddings.

use candle_core::{DType, Device, Result, Tensor};

use super::{
    DiffusionError,
    checkpoint::Scope,
    config::{Activation, TextConfig},
    layers::{LayerNorm, Linear},
    ops::{self, AttentionOptions},
};

/// The network.
pub struct TextEncoder {
    config: TextConfig,
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<EncoderLayer>,
    final_norm: LayerNorm,
    device: Device,
    dtype: DType,
}

impl TextEncoder {
    /// Reads all weights; names with and without the leading `text_model` are taken.
    pub fn load(config: TextConfig, at: &Scope<'_>) -> std::result::Result<Self, DiffusionError> {
        let inner = at.at("text_model");
        let at = if inner.has("embeddings.token_embedding.weight") || inner.has("final_layer_norm.weight") {
            inner
        } else {
            at.clone()
        };
        let width = config.hidden_size;
        let tokens = at.tensor("embeddings.token_embedding.weight", &[config.vocab_size, width])?;
        let layers = (0..config.layers)
            .map(|i| EncoderLayer::load(&at.at(format_args!("encoder.layers.{i}")), &config))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            positions: at
                .tensor("embeddings.position_embedding.weight", &[config.max_position_embeddings, width])?,
            layers,
            final_norm: LayerNorm::load(&at.at("final_layer_norm"), width, config.layer_norm_eps)?,
            device: tokens.device().clone(),
            dtype: at.computed_in(),
            tokens,
            config,
        })
    }

    /// Transformer layers, so that a caller can bound `clip_skip`.
    pub fn layers(&self) -> usize {
        self.config.layers
    }

    /// Prompts of the same length (at most `max_position_embeddings` ids) to `[batch, tokens, width]`.
    /// The last `clip_skip` layers are left out; the final norm is always applied.
    pub fn forward(&self, prompts: &[Vec<u32>], clip_skip: usize) -> Result<Tensor> {
        let (batch, length) = (prompts.len(), prompts.first().map_or(0, Vec::len));
        let ids = Tensor::from_vec(prompts.concat(), batch * length, &self.device)?;
        let x = ops::embedding(&self.tokens, &ids, self.dtype)?;
        let x = x.reshape((batch, length, self.config.hidden_size))?;
        let mut x = x.broadcast_add(&self.positions.narrow(0, 0, length)?.to_dtype(self.dtype)?)?;
        let kept = self.layers.len().saturating_sub(clip_skip);
        for layer in &self.layers[..kept] {
            x = layer.forward(&x)?;
        }
        self.final_norm.forward(&x)
    }
}

/// CLIPEncoderLayer.
struct EncoderLayer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    options: AttentionOptions,
}

impl EncoderLayer {
    fn load(at: &Scope<'_>, config: &TextConfig) -> std::result::Result<Self, DiffusionError> {
        let width = config.hidden_size;
        let attention = at.at("self_attn");
        let project = |name: &str| Linear::load(&attention.at(name), width, width);
        Ok(Self {
            norm1: LayerNorm::load(&at.at("layer_norm1"), width, config.layer_norm_eps)?,
            q: project("q_proj")?,
            k: project("k_proj")?,
            v: project("v_proj")?,
            out: project("out_proj")?,
            norm2: LayerNorm::load(&at.at("layer_norm2"), width, config.layer_norm_eps)?,
            fc1: Linear::load(&at.at("mlp.fc1"), width, config.intermediate_size)?,
            fc2: Linear::load(&at.at("mlp.fc2"), config.intermediate_size, width)?,
            activation: config.activation,
            options: AttentionOptions { heads: config.heads, causal: true, upcast: false },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let h =
            ops::attention(&self.q.forward(&h)?, &self.k.forward(&h)?, &self.v.forward(&h)?, self.options)?;
        let x = (self.out.forward(&h)? + x)?;
        let h = self.fc1.forward(&self.norm2.forward(&x)?)?;
        self.fc2.forward(&ops::activate(&h, self.activation)?)? + x
    }
}
