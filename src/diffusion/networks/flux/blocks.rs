//! The two kinds of block: text and picture with weights of their own and attention over both, and all as one.

use candle_core::{D, DType, Device, Result, Tensor};

use super::{
    TransformerConfig,
    attention::{PICTURE, Projections, TEXT},
};
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Linear, Rotation},
    lora::Visit,
    ops::{self, Activation, AttentionOptions},
};

/// Epsilon that diffusers fixes for the norms.
const EPS: f64 = 1e-6;
/// Width inside a feed-forward layer, in widths of a token.
const FEED_FORWARD: usize = 4;
/// The largest number of f16: diffusers keeps what flows between blocks within it.
const F16_MAX: f32 = 65504.0;

/// A LayerNorm without weights of its own: time and text scale and shift its result.
#[derive(Clone)]
pub struct PlainNorm {
    ones: Tensor,
    zeros: Tensor,
}

impl PlainNorm {
    /// Over the last dimension, of `width`.
    pub fn new(width: usize, device: &Device, dtype: DType) -> Result<Self> {
        Ok(Self { ones: Tensor::ones(width, dtype, device)?, zeros: Tensor::zeros(width, dtype, device)? })
    }

    /// `norm(x) * (1 + scale) + shift`; `shift` and `scale` are `[batch, 1, width]`.
    pub fn modulated(&self, x: &Tensor, shift: &Tensor, scale: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.ones, &self.zeros, EPS)?.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(shift)
    }
}

fn attend(q: &Tensor, k: &Tensor, v: &Tensor, rotation: &Rotation, heads: usize) -> Result<Tensor> {
    let options = AttentionOptions { heads, causal: false, upcast: false };
    ops::attention(&rotation.turn(q, v.dtype())?, &rotation.turn(k, v.dtype())?, v, options)
}

/// `[batch, width]` to `parts` tensors of `[batch, 1, width]`.
fn modulation(layer: &Linear, condition: &Tensor, parts: usize) -> Result<Vec<Tensor>> {
    layer.forward(condition)?.unsqueeze(1)?.chunk(parts, D::Minus1)
}

fn within_f16(x: Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F16 { x.clamp(-F16_MAX, F16_MAX) } else { Ok(x) }
}

/// The layers of one stream, text or picture, in a double block.
#[derive(Clone)]
struct Stream {
    norm: PlainNorm,
    modulation: Linear,
    projections: Projections,
    out: Linear,
    linear_1: Linear,
    linear_2: Linear,
}

impl Stream {
    fn load(
        at: &Scope<'_>,
        [modulation, out, feed_forward]: [&str; 3],
        projections: [&str; 5],
        config: &TransformerConfig,
        norm: &PlainNorm,
    ) -> std::result::Result<Self, DiffusionError> {
        let (width, inner) = (config.width(), FEED_FORWARD * config.width());
        let feed_forward = at.at(feed_forward);
        Ok(Self {
            norm: norm.clone(),
            modulation: Linear::load(&at.at(modulation), width, 6 * width)?,
            projections: Projections::load(&at.at("attn"), projections, config)?,
            out: Linear::load(&at.at(out), width, width)?,
            linear_1: Linear::load(&feed_forward.at("net.0.proj"), width, inner)?,
            linear_2: Linear::load(&feed_forward.at("net.2"), inner, width)?,
        })
    }

    /// Adds what attention and the feed-forward layers say. `parts`: shift, scale and gate of both, one after the other.
    fn finish(&self, x: &Tensor, attended: &Tensor, parts: &[Tensor]) -> Result<Tensor> {
        let x = (x + self.out.forward(attended)?.broadcast_mul(&parts[2])?)?;
        let h = self.norm.modulated(&x, &parts[3], &parts[4])?;
        let h = ops::activate(&self.linear_1.forward(&h)?, Activation::GeluTanh)?;
        within_f16((&x + self.linear_2.forward(&h)?.broadcast_mul(&parts[5])?)?)
    }

    fn visit(&mut self, visit: &mut Visit<'_>) {
        self.projections.visit(visit);
        for layer in [&mut self.modulation, &mut self.out, &mut self.linear_1, &mut self.linear_2] {
            layer.visit(visit);
        }
    }
}

/// FluxTransformerBlock.
#[derive(Clone)]
pub struct DoubleBlock {
    picture: Stream,
    text: Stream,
    heads: usize,
}

impl DoubleBlock {
    /// Reads `transformer_blocks.N`.
    pub fn load(
        at: &Scope<'_>,
        config: &TransformerConfig,
        norm: &PlainNorm,
    ) -> std::result::Result<Self, DiffusionError> {
        let (picture, text) = (
            ["norm1.linear", "attn.to_out.0", "ff"],
            ["norm1_context.linear", "attn.to_add_out", "ff_context"],
        );
        Ok(Self {
            picture: Stream::load(at, picture, PICTURE, config, norm)?,
            text: Stream::load(at, text, TEXT, config, norm)?,
            heads: config.heads,
        })
    }

    /// `picture` and `text`, `[batch, tokens, width]`, and the activated condition `[batch, width]`.
    pub fn forward(
        &self,
        picture: &Tensor,
        text: &Tensor,
        condition: &Tensor,
        rotation: &Rotation,
    ) -> Result<(Tensor, Tensor)> {
        let words = text.dim(1)?;
        let prepare = |stream: &Stream, x: &Tensor| {
            let parts = modulation(&stream.modulation, condition, 6)?;
            let h = stream.norm.modulated(x, &parts[0], &parts[1])?;
            Ok::<_, candle_core::Error>((stream.projections.forward(&h)?, parts))
        };
        let (of_picture, picture_parts) = prepare(&self.picture, picture)?;
        let (of_text, text_parts) = prepare(&self.text, text)?;
        let both = |i: usize| Tensor::cat(&[&of_text[i], &of_picture[i]], 1);
        let attended = attend(&both(0)?, &both(1)?, &both(2)?, rotation, self.heads)?;
        let own = |from: usize, count: usize| attended.narrow(1, from, count)?.contiguous();
        Ok((
            self.picture.finish(picture, &own(words, attended.dim(1)? - words)?, &picture_parts)?,
            self.text.finish(text, &own(0, words)?, &text_parts)?,
        ))
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.picture.visit(visit);
        self.text.visit(visit);
    }
}

/// FluxSingleTransformerBlock: attention and feed-forward side by side.
#[derive(Clone)]
pub struct SingleBlock {
    norm: PlainNorm,
    modulation: Linear,
    projections: Projections,
    linear_1: Linear,
    out: Linear,
    heads: usize,
}

impl SingleBlock {
    /// Reads `single_transformer_blocks.N`.
    pub fn load(
        at: &Scope<'_>,
        config: &TransformerConfig,
        norm: &PlainNorm,
    ) -> std::result::Result<Self, DiffusionError> {
        let (width, inner) = (config.width(), FEED_FORWARD * config.width());
        Ok(Self {
            norm: norm.clone(),
            modulation: Linear::load(&at.at("norm.linear"), width, 3 * width)?,
            projections: Projections::load(&at.at("attn"), PICTURE, config)?,
            linear_1: Linear::load(&at.at("proj_mlp"), width, inner)?,
            out: Linear::load(&at.at("proj_out"), width + inner, width)?,
            heads: config.heads,
        })
    }

    /// `x` `[batch, words + rows * columns, width]`, and the activated condition `[batch, width]`.
    pub fn forward(&self, x: &Tensor, condition: &Tensor, rotation: &Rotation) -> Result<Tensor> {
        let parts = modulation(&self.modulation, condition, 3)?;
        let h = self.norm.modulated(x, &parts[0], &parts[1])?;
        let [q, k, v] = self.projections.forward(&h)?;
        let attended = attend(&q, &k, &v, rotation, self.heads)?;
        let inner = ops::activate(&self.linear_1.forward(&h)?, Activation::GeluTanh)?;
        let out = self.out.forward(&Tensor::cat(&[attended, inner], D::Minus1)?)?;
        within_f16((x + out.broadcast_mul(&parts[2])?)?)
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.projections.visit(visit);
        for layer in [&mut self.modulation, &mut self.linear_1, &mut self.out] {
            layer.visit(visit);
        }
    }
}
