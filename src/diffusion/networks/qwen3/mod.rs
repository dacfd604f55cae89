//! Qwen3 (Yang et al. 2025), as an encoder of text: token ids to the hidden states of its layers. What writes text, the last
//! norm and what follows it, is left out.

mod config;

pub use config::Qwen3Config;

use candle_core::{DType, Device, Result, Tensor};

use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Linear, RmsNorm, Rotation},
    ops::{self, Activation, AttentionOptions},
    precision::computed_in,
};

/// The network, up to the last layer that is wanted.
pub struct Qwen3 {
    config: Qwen3Config,
    device: Device,
    dtype: DType,
    tokens: Tensor,
    layers: Vec<Layer>,
}

impl Qwen3 {
    /// Reads the first `layers` layers, at most all; `kept` is the type that weights are kept in. Kept as f16, they are
    /// computed in f32: activations go beyond what f16 holds.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(
        config: Qwen3Config,
        layers: usize,
        at: &Scope<'_>,
        device: &Device,
        kept: DType,
    ) -> std::result::Result<Self, DiffusionError> {
        let dtype = if kept == DType::F16 { DType::F32 } else { computed_in(kept, device) };
        // A model that writes text has the encoder below this name.
        let inner = at.at("model");
        let at = if inner.has("embed_tokens.weight") { inner } else { at.clone() };
        Ok(Self {
            tokens: at.at("embed_tokens").tensor("weight", &[config.vocab_size, config.width])?,
            layers: (0..layers.min(config.layers))
                .map(|i| Layer::load(&at.at(format_args!("layers.{i}")), &config, dtype))
                .collect::<std::result::Result<_, _>>()?,
            device: device.clone(),
            dtype,
            config,
        })
    }

    /// What the last layer that was read makes of `ids`, each of which sees itself and those before it:
    /// `[1, ids, width]`.
    ///
    /// # Errors
    /// What computing says.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let rotation = self.rotation(ids.len())?;
        let ids = Tensor::new(ids, &self.device)?;
        let mut x = ops::embedding(&self.tokens, &ids, self.dtype)?.unsqueeze(0)?;
        for layer in &self.layers {
            x = layer.forward(&x, &rotation)?;
        }
        Ok(x)
    }

    /// Angles in f32, as transformers computes them.
    fn rotation(&self, tokens: usize) -> Result<Rotation> {
        let half = self.config.head_width / 2;
        let frequency =
            |i: usize| 1.0 / (self.config.theta as f32).powf(2.0 * i as f32 / self.config.head_width as f32);
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angles: Vec<f64> = (0..tokens)
            .flat_map(|place| frequencies.iter().map(move |frequency| f64::from(place as f32 * frequency)))
            .collect();
        Rotation::new(&angles, half, &self.device)
    }
}

/// Qwen3DecoderLayer: attention, then a gated feed-forward layer.
struct Layer {
    norm_1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    norm_2: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    heads: usize,
    key_heads: usize,
}

impl Layer {
    fn load(at: &Scope<'_>, config: &Qwen3Config, dtype: DType) -> std::result::Result<Self, DiffusionError> {
        let Qwen3Config { width, inner_width, heads, key_heads, head_width, eps, .. } = *config;
        let (attention, dense) = (at.at("self_attn"), at.at("mlp"));
        Ok(Self {
            norm_1: RmsNorm::load(&at.at("input_layernorm"), width, eps, dtype)?,
            q: Linear::load_no_bias(&attention.at("q_proj"), width, heads * head_width)?,
            k: Linear::load_no_bias(&attention.at("k_proj"), width, key_heads * head_width)?,
            v: Linear::load_no_bias(&attention.at("v_proj"), width, key_heads * head_width)?,
            out: Linear::load_no_bias(&attention.at("o_proj"), heads * head_width, width)?,
            norm_q: RmsNorm::load(&attention.at("q_norm"), head_width, eps, DType::F32)?,
            norm_k: RmsNorm::load(&attention.at("k_norm"), head_width, eps, DType::F32)?,
            norm_2: RmsNorm::load(&at.at("post_attention_layernorm"), width, eps, dtype)?,
            gate: Linear::load_no_bias(&dense.at("gate_proj"), width, inner_width)?,
            up: Linear::load_no_bias(&dense.at("up_proj"), width, inner_width)?,
            down: Linear::load_no_bias(&dense.at("down_proj"), inner_width, width)?,
            heads,
            key_heads,
        })
    }

    fn forward(&self, x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let x = (x + self.attend(&self.norm_1.forward(x)?, rotation)?)?;
        let h = self.norm_2.forward(&x)?;
        let gate = ops::activate(&self.gate.forward(&h)?, Activation::Silu)?;
        &x + self.down.forward(&(gate * self.up.forward(&h)?)?)?
    }

    fn attend(&self, x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let turned = |x: &Tensor, norm: &RmsNorm, heads: usize| {
            let x_of_heads = x.reshape((batch, tokens, heads, ()))?.to_dtype(DType::F32)?;
            rotation.turn_halves(&norm.forward(&x_of_heads)?, x.dtype())
        };
        let q = turned(&self.q.forward(x)?, &self.norm_q, self.heads)?;
        let k = turned(&self.k.forward(x)?, &self.norm_k, self.key_heads)?;
        let v = self.v.forward(x)?;
        // Neighbouring heads of queries share one of keys and values.
        let shared = |x: &Tensor| -> Result<Tensor> {
            let x = x.reshape((batch, tokens, self.key_heads, 1, ()))?;
            let shape = (batch, tokens, self.key_heads, self.heads / self.key_heads, x.dim(4)?);
            x.broadcast_as(shape)?.reshape((batch, tokens, ()))
        };
        let options = AttentionOptions { heads: self.heads, causal: true, upcast: false };
        self.out.forward(&ops::attention(&q, &shared(&k)?, &shared(&v)?, options)?)
    }
}
