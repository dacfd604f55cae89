//! T5EncoderModel (T5 1.1, Raffel et al. 2020): token ids to text embeddings.

mod config;

pub use config::T5Config;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Linear, RmsNorm},
    ops::{self, Activation},
    precision::computed_in,
};

/// The encoder.
pub struct T5Encoder {
    config: T5Config,
    device: Device,
    dtype: DType,
    tokens: Tensor,
    /// `[buckets, heads]`: what each distance adds to attention scores, in all layers.
    distances: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

impl T5Encoder {
    /// Reads all weights; `kept` is the type that they are kept in. Kept as f16, they are computed in f32: activations
    /// of the published encoder go beyond what f16 holds.
    pub fn load(
        config: T5Config,
        at: &Scope<'_>,
        device: &Device,
        kept: DType,
    ) -> std::result::Result<Self, DiffusionError> {
        let dtype = if kept == DType::F16 { DType::F32 } else { computed_in(kept, device) };
        let encoder = at.at("encoder");
        let tokens = match at.has("shared.weight") {
            true => at.at("shared"),
            false => encoder.at("embed_tokens"),
        };
        let norm = |at: Scope<'_>| RmsNorm::load(&at, config.width, config.eps, dtype);
        Ok(Self {
            tokens: tokens.tensor("weight", &[config.vocab_size, config.width])?,
            distances: encoder
                .at("block.0.layer.0.SelfAttention.relative_attention_bias")
                .tensor("weight", &[config.buckets, config.heads])?
                .to_dtype(dtype)?,
            layers: (0..config.layers)
                .map(|i| Layer::load(&encoder.at(format_args!("block.{i}.layer")), &config, dtype))
                .collect::<std::result::Result<_, _>>()?,
            norm: norm(encoder.at("final_layer_norm"))?,
            device: device.clone(),
            dtype,
            config,
        })
    }

    /// A prompt's ids to `[1, ids, width]`. Padding is attended to, as in FluxPipeline.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let count = ids.len();
        let x = self.tokens.embedding(&Tensor::new(ids, &self.device)?)?;
        let mut x = x.to_dtype(self.dtype)?.unsqueeze(0)?;
        let buckets: Vec<u32> =
            (0..count).flat_map(|from| (0..count).map(move |to| self.bucket(from, to))).collect();
        let bias = self.distances.embedding(&Tensor::from_vec(buckets, count * count, &self.device)?)?;
        let bias = bias.t()?.reshape((1, self.config.heads, count, count))?;
        for layer in &self.layers {
            x = layer.forward(&x, &bias)?;
        }
        self.norm.forward(&x)
    }

    /// Near distances have a bucket each, far ones share buckets that grow with the logarithm.
    fn bucket(&self, from: usize, to: usize) -> u32 {
        let half = self.config.buckets / 2;
        let exact = half / 2;
        let distance = from.abs_diff(to);
        let bucket = if distance < exact {
            distance
        } else {
            let reach = (self.config.max_distance as f64 / exact as f64).ln() as f32;
            let part = (distance as f32 / exact as f32).ln() / reach * (half - exact) as f32;
            (exact + part as usize).min(half - 1)
        };
        (bucket + if to > from { half } else { 0 }) as u32
    }
}

/// T5Block: attention, then gated GELU.
struct Layer {
    norm_1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm_2: RmsNorm,
    gate: Linear,
    linear: Linear,
    linear_out: Linear,
    heads: usize,
}

impl Layer {
    fn load(at: &Scope<'_>, config: &T5Config, dtype: DType) -> std::result::Result<Self, DiffusionError> {
        let (width, inner, all_heads) = (config.width, config.inner_width, config.heads * config.head_width);
        let (attention, dense) = (at.at("0.SelfAttention"), at.at("1.DenseReluDense"));
        Ok(Self {
            norm_1: RmsNorm::load(&at.at("0.layer_norm"), width, config.eps, dtype)?,
            q: Linear::load_no_bias(&attention.at("q"), width, all_heads)?,
            k: Linear::load_no_bias(&attention.at("k"), width, all_heads)?,
            v: Linear::load_no_bias(&attention.at("v"), width, all_heads)?,
            out: Linear::load_no_bias(&attention.at("o"), all_heads, width)?,
            norm_2: RmsNorm::load(&at.at("1.layer_norm"), width, config.eps, dtype)?,
            gate: Linear::load_no_bias(&dense.at("wi_0"), width, inner)?,
            linear: Linear::load_no_bias(&dense.at("wi_1"), width, inner)?,
            linear_out: Linear::load_no_bias(&dense.at("wo"), inner, width)?,
            heads: config.heads,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let x = (x + self.attend(&self.norm_1.forward(x)?, bias)?)?;
        let h = self.norm_2.forward(&x)?;
        let gate = ops::activate(&self.gate.forward(&h)?, Activation::GeluTanh)?;
        &x + self.linear_out.forward(&(gate * self.linear.forward(&h)?)?)?
    }

    /// T5 does not divide the scores by the root of the head's width.
    fn attend(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (batch, count, _) = x.dims3()?;
        let split = |layer: &Linear| -> Result<Tensor> {
            layer.forward(x)?.reshape((batch, count, self.heads, ()))?.transpose(1, 2)?.contiguous()
        };
        let scores = split(&self.q)?.matmul(&split(&self.k)?.t()?)?.broadcast_add(bias)?;
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let x = weights.matmul(&split(&self.v)?)?.transpose(1, 2)?.reshape((batch, count, ()))?;
        self.out.forward(&x)
    }
}
