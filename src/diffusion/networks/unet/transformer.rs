//! Transformer2DModel: self attention over the pixels, cross attention to the text, gated feed-forward.

use candle_core::{Error, Result, Tensor};

use super::{
    UNetConfig,
    context::{KeyValue, Layers},
};
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Conv2d, GroupNorm, LayerNorm, Linear},
    lora::Visit,
    ops::{self, AttentionOptions},
};

/// Epsilons that diffusers fixes for this model.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;

/// Into and out of the transformer's width: linear layers or 1x1 convolutions.
#[derive(Clone)]
enum Projection {
    Linear(Linear),
    Conv(Conv2d),
}

impl Projection {
    fn load(at: &Scope<'_>, channels: usize, linear: bool) -> std::result::Result<Self, DiffusionError> {
        Ok(if linear {
            Self::Linear(Linear::load(at, channels, channels)?)
        } else {
            Self::Conv(Conv2d::load_1x1(at, channels, channels)?)
        })
    }

    fn visit(&mut self, visit: &mut Visit<'_>) {
        match self {
            Self::Linear(linear) => linear.visit(visit),
            Self::Conv(conv) => conv.visit(visit),
        }
    }
}

/// The transformer of one attention layer of a block.
#[derive(Clone)]
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Projection,
    layers: Vec<TransformerLayer>,
    proj_out: Projection,
}

impl SpatialTransformer {
    /// Reads the transformer of block `block` (counted from the picture inwards).
    pub fn load(
        at: &Scope<'_>,
        config: &UNetConfig,
        block: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        let channels = config.block_out_channels[block];
        let layers = (0..config.transformer_layers[block])
            .map(|i| TransformerLayer::load(&at.at(format_args!("transformer_blocks.{i}")), config, block))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            norm: GroupNorm::load(&at.at("norm"), channels, config.norm_num_groups, GROUP_NORM_EPS)?,
            proj_in: Projection::load(&at.at("proj_in"), channels, config.use_linear_projection)?,
            layers,
            proj_out: Projection::load(&at.at("proj_out"), channels, config.use_linear_projection)?,
        })
    }

    /// Adds what its layers attend to in a text `[batch, tokens, width]`.
    pub fn read_text(&self, text: &Tensor, layers: &mut Vec<KeyValue>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| {
            layers.push(layer.cross_attention.key_value(text)?);
            Ok(())
        })
    }

    /// `x` `[batch, channels, height, width]`; the same shape. Takes its layers of the context.
    pub fn forward(&self, x: &Tensor, context: &mut Layers<'_>) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let to_tokens = |h: &Tensor| ops::swap_tokens_and_channels(&h.flatten_from(2)?);
        let to_pixels =
            |h: &Tensor| ops::swap_tokens_and_channels(h)?.reshape((batch, channels, height, width));
        let h = self.norm.forward(x)?;
        let mut h = match &self.proj_in {
            Projection::Linear(linear) => linear.forward(&to_tokens(&h)?)?,
            Projection::Conv(conv) => to_tokens(&conv.forward(&h)?)?,
        };
        for layer in &self.layers {
            let text = context.next().ok_or_else(|| {
                Error::Msg("the context has fewer layers than the network attends with".into())
            })?;
            h = layer.forward(&h, text)?;
        }
        match &self.proj_out {
            Projection::Linear(linear) => ops::add(&to_pixels(&linear.forward(&h)?)?, x),
            Projection::Conv(conv) => conv.forward_plus(&to_pixels(&h)?, x),
        }
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.proj_in.visit(visit);
        self.layers.iter_mut().for_each(|layer| layer.visit(visit));
        self.proj_out.visit(visit);
    }
}

/// BasicTransformerBlock.
#[derive(Clone)]
struct TransformerLayer {
    norm1: LayerNorm,
    self_attention: Attention,
    norm2: LayerNorm,
    cross_attention: Attention,
    norm3: LayerNorm,
    feed_in: Linear,
    feed_out: Linear,
}

impl TransformerLayer {
    fn load(at: &Scope<'_>, config: &UNetConfig, block: usize) -> std::result::Result<Self, DiffusionError> {
        let width = config.block_out_channels[block];
        let inner = 4 * width;
        let options =
            AttentionOptions { heads: config.heads[block], causal: false, upcast: config.upcast_attention };
        Ok(Self {
            norm1: LayerNorm::load(&at.at("norm1"), width, LAYER_NORM_EPS)?,
            self_attention: Attention::load(&at.at("attn1"), width, width, options)?,
            norm2: LayerNorm::load(&at.at("norm2"), width, LAYER_NORM_EPS)?,
            cross_attention: Attention::load(
                &at.at("attn2"),
                width,
                config.cross_attention_dim[block],
                options,
            )?,
            norm3: LayerNorm::load(&at.at("norm3"), width, LAYER_NORM_EPS)?,
            feed_in: Linear::load(&at.at("ff.net.0.proj"), width, 2 * inner)?,
            feed_out: Linear::load(&at.at("ff.net.2"), inner, width)?,
        })
    }

    fn forward(&self, x: &Tensor, text: &KeyValue) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let x = self.self_attention.forward(&h, &self.self_attention.key_value(&h)?, x)?;
        let x = self.cross_attention.forward(&self.norm2.forward(&x)?, text, &x)?;
        let h = self.feed_in.forward_geglu(&self.norm3.forward(&x)?)?;
        self.feed_out.forward_plus(&h, &x)
    }

    fn visit(&mut self, visit: &mut Visit<'_>) {
        self.self_attention.visit(visit);
        self.cross_attention.visit(visit);
        self.feed_in.visit(visit);
        self.feed_out.visit(visit);
    }
}

/// Attention of `width` channels over a context.
#[derive(Clone)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    options: AttentionOptions,
}

impl Attention {
    fn load(
        at: &Scope<'_>,
        width: usize,
        context_width: usize,
        options: AttentionOptions,
    ) -> std::result::Result<Self, DiffusionError> {
        Ok(Self {
            to_q: Linear::load_no_bias(&at.at("to_q"), width, width)?,
            to_k: Linear::load_no_bias(&at.at("to_k"), context_width, width)?,
            to_v: Linear::load_no_bias(&at.at("to_v"), context_width, width)?,
            to_out: Linear::load(&at.at("to_out.0"), width, width)?,
            options,
        })
    }

    /// What is attended to in `context` `[batch, tokens, width]`.
    fn key_value(&self, context: &Tensor) -> Result<KeyValue> {
        Ok(KeyValue { k: self.to_k.forward(context)?, v: self.to_v.forward(context)? })
    }

    /// What `x` attends to, plus `more`.
    fn forward(&self, x: &Tensor, KeyValue { k, v }: &KeyValue, more: &Tensor) -> Result<Tensor> {
        let q = self.to_q.forward(x)?;
        self.to_out.forward_plus(&ops::attention(&q, k, v, self.options)?, more)
    }

    fn visit(&mut self, visit: &mut Visit<'_>) {
        for linear in [&mut self.to_q, &mut self.to_k, &mut self.to_v, &mut self.to_out] {
            linear.visit(visit);
        }
    }
}
