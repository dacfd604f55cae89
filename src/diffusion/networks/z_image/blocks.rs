//! One kind of block, for the picture, for the caption and for both: the caption's alone is not modulated by time.

use candle_core::{D, DType, Result, Tensor};

use super::TransformerConfig;
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Linear, RmsNorm, Rotation},
    ops::{self, Activation, AttentionOptions},
};

/// Epsilon that diffusers fixes for the norms of queries and keys.
const EPS: f64 = 1e-5;

/// ZImageTransformerBlock.
pub struct Block {
    modulation: Option<Linear>,
    norm_1: RmsNorm,
    attention: Attention,
    norm_2: RmsNorm,
    norm_3: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    norm_4: RmsNorm,
}

/// What time scales and gates, of attention and of the feed-forward layers: `[batch, 1, width]` each.
struct Modulation {
    scales: [Tensor; 2],
    gates: [Tensor; 2],
}

impl Block {
    /// Reads a block; `dtype` is the type to compute in.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(
        at: &Scope<'_>,
        config: &TransformerConfig,
        is_modulated: bool,
        dtype: DType,
    ) -> std::result::Result<Self, DiffusionError> {
        let (width, inner) = (config.width, config.inner_width());
        let norm = |name: &str| RmsNorm::load(&at.at(name), width, config.eps, dtype);
        let feed_forward = at.at("feed_forward");
        Ok(Self {
            modulation: match is_modulated {
                true => Some(Linear::load(&at.at("adaLN_modulation.0"), config.time_width(), 4 * width)?),
                false => None,
            },
            norm_1: norm("attention_norm1")?,
            attention: Attention::load(&at.at("attention"), config)?,
            norm_2: norm("attention_norm2")?,
            norm_3: norm("ffn_norm1")?,
            gate: Linear::load_no_bias(&feed_forward.at("w1"), width, inner)?,
            up: Linear::load_no_bias(&feed_forward.at("w3"), width, inner)?,
            down: Linear::load_no_bias(&feed_forward.at("w2"), inner, width)?,
            norm_4: norm("ffn_norm2")?,
        })
    }

    /// `x` `[1, tokens, width]`, `time` `[1, time_width]`; a block that is not modulated does not look at time.
    pub fn forward(&self, x: &Tensor, time: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let modulation = self.modulation(time)?;
        let scaled = |x: Tensor, part: usize| match &modulation {
            Some(modulation) => x.broadcast_mul(&modulation.scales[part]),
            None => Ok(x),
        };
        let gated = |x: Tensor, part: usize| match &modulation {
            Some(modulation) => x.broadcast_mul(&modulation.gates[part]),
            None => Ok(x),
        };
        let h = self.attention.forward(&scaled(self.norm_1.forward(x)?, 0)?, rotation)?;
        let x = (x + gated(self.norm_2.forward(&h)?, 0)?)?;
        let h = scaled(self.norm_3.forward(&x)?, 1)?;
        let gate = ops::activate(&self.gate.forward(&h)?, Activation::Silu)?;
        let h = self.down.forward(&(gate * self.up.forward(&h)?)?)?;
        &x + gated(self.norm_4.forward(&h)?, 1)?
    }

    fn modulation(&self, time: &Tensor) -> Result<Option<Modulation>> {
        let Some(layer) = &self.modulation else {
            return Ok(None);
        };
        let parts = layer.forward(time)?.unsqueeze(1)?.chunk(4, D::Minus1)?;
        Ok(Some(Modulation {
            scales: [(&parts[0] + 1.0)?, (&parts[2] + 1.0)?],
            gates: [parts[1].tanh()?, parts[3].tanh()?],
        }))
    }
}

/// Attention of all tokens to all, with normalised queries and keys that are turned by place.
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    heads: usize,
}

impl Attention {
    fn load(at: &Scope<'_>, config: &TransformerConfig) -> std::result::Result<Self, DiffusionError> {
        let (width, head) = (config.width, config.head_width());
        let project = |name: &str| Linear::load_no_bias(&at.at(name), width, width);
        // In f32, as their inputs are turned.
        let norm = |name: &str| RmsNorm::load(&at.at(name), head, EPS, DType::F32);
        Ok(Self {
            q: project("to_q")?,
            k: project("to_k")?,
            v: project("to_v")?,
            out: project("to_out.0")?,
            norm_q: norm("norm_q")?,
            norm_k: norm("norm_k")?,
            heads: config.heads,
        })
    }

    fn forward(&self, x: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let turned = |x: Tensor, norm: &RmsNorm| {
            let of_heads = x.reshape((batch, tokens, self.heads, ()))?.to_dtype(DType::F32)?;
            rotation.turn(&norm.forward(&of_heads)?, x.dtype())
        };
        let (q, k) = (turned(self.q.forward(x)?, &self.norm_q)?, turned(self.k.forward(x)?, &self.norm_k)?);
        let options = AttentionOptions { heads: self.heads, causal: false, upcast: false };
        self.out.forward(&ops::attention(&q, &k, &self.v.forward(x)?, options)?)
    }
}
