//! ZImageTransformer2DModel (Z-Image, Tongyi 2025): one stream of tokens, the picture's and then the caption's, to the
//! flow's velocity. What fills either up to a multiple of 32 tokens is learned and attended to.

mod blocks;
mod config;
mod places;

pub use config::{PATCH, TransformerConfig};

use candle_core::{DType, Device, Result, Tensor};

use self::blocks::Block;
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Linear, RmsNorm, Rotation, WAVES, waves},
    ops,
};

/// Width inside the embedding of time.
const TIME_INNER: usize = 1024;
/// Epsilon that diffusers fixes for the last norm.
const EPS: f64 = 1e-6;

/// The network.
pub struct ZImageTransformer {
    config: TransformerConfig,
    device: Device,
    dtype: DType,
    picture_in: Linear,
    picture_fill: Tensor,
    time_1: Linear,
    time_2: Linear,
    caption_norm: RmsNorm,
    caption_in: Linear,
    caption_fill: Tensor,
    picture_blocks: Vec<Block>,
    caption_blocks: Vec<Block>,
    blocks: Vec<Block>,
    ones: Tensor,
    zeros: Tensor,
    modulation: Linear,
    out: Linear,
}

/// A caption as the network reads it: the same at every step.
#[derive(Debug, Clone)]
pub struct Caption {
    /// `[1, words, width]`, filled up.
    tokens: Tensor,
    rotation: Rotation,
    /// Tokens before it was filled up.
    words: usize,
}

impl ZImageTransformer {
    /// Reads all weights; `dtype` is the type to compute in.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(
        config: TransformerConfig,
        at: &Scope<'_>,
        device: &Device,
        dtype: DType,
    ) -> std::result::Result<Self, DiffusionError> {
        let (width, time) = (config.width, config.time_width());
        let blocks = |name: &str, count: usize, is_modulated: bool| {
            (0..count)
                .map(|i| Block::load(&at.at(format_args!("{name}.{i}")), &config, is_modulated, dtype))
                .collect::<std::result::Result<_, _>>()
        };
        let fill = |name: &str| -> std::result::Result<Tensor, DiffusionError> {
            Ok(at.tensor(name, &[1, width])?.to_dtype(dtype)?.unsqueeze(0)?)
        };
        let last = at.at("all_final_layer.2-1");
        Ok(Self {
            picture_in: Linear::load(&at.at("all_x_embedder.2-1"), config.token(), width)?,
            picture_fill: fill("x_pad_token")?,
            time_1: Linear::load(&at.at("t_embedder.mlp.0"), WAVES, TIME_INNER)?,
            time_2: Linear::load(&at.at("t_embedder.mlp.2"), TIME_INNER, time)?,
            caption_norm: RmsNorm::load(&at.at("cap_embedder.0"), config.caption_width, config.eps, dtype)?,
            caption_in: Linear::load(&at.at("cap_embedder.1"), config.caption_width, width)?,
            caption_fill: fill("cap_pad_token")?,
            picture_blocks: blocks("noise_refiner", config.refiner_layers, true)?,
            caption_blocks: blocks("context_refiner", config.refiner_layers, false)?,
            blocks: blocks("layers", config.layers, true)?,
            ones: Tensor::ones(width, dtype, device)?,
            zeros: Tensor::zeros(width, dtype, device)?,
            modulation: Linear::load(&last.at("adaLN_modulation.1"), time, width)?,
            out: Linear::load(&last.at("linear"), width, config.token())?,
            device: device.clone(),
            dtype,
            config,
        })
    }

    /// What the network is made of.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Reads a caption, `[1, words, caption_width]` of at least one word.
    ///
    /// # Errors
    /// What computing says.
    pub fn read_caption(&self, words: &Tensor) -> Result<Caption> {
        let count = words.dim(1)?;
        let rotation = places::of_caption(&self.config, count, &self.device)?;
        let tokens = self.caption_in.forward(&self.caption_norm.forward(&words.to_dtype(self.dtype)?)?)?;
        let mut tokens = fill_up(&tokens, &self.caption_fill)?;
        // Blocks of the caption do not look at time.
        for block in &self.caption_blocks {
            tokens = block.forward(&tokens, &tokens, &rotation)?;
        }
        Ok(Caption { tokens, rotation, words: count })
    }

    /// The negative velocity, picture minus noise, at a `time` from 0 (noise) to 1 (picture): of `tokens`
    /// `[1, rows * columns, numbers]`, as many in the computed type.
    ///
    /// # Errors
    /// What computing says.
    pub fn forward(
        &self,
        tokens: &Tensor,
        grid: (usize, usize),
        caption: &Caption,
        time: f32,
    ) -> Result<Tensor> {
        let own = places::of_picture(&self.config, caption.words, grid, &self.device)?;
        let time = self.time(time)?;
        let picture = self.picture_in.forward(&tokens.to_dtype(self.dtype)?)?;
        let mut picture = fill_up(&picture, &self.picture_fill)?;
        let _uploads = ops::keep_uploads(&self.device);
        for block in &self.picture_blocks {
            picture = block.forward(&picture, &time, &own)?;
        }
        let both = Rotation {
            cos: Tensor::cat(&[&own.cos, &caption.rotation.cos], 0)?,
            sin: Tensor::cat(&[&own.sin, &caption.rotation.sin], 0)?,
        };
        let mut all = Tensor::cat(&[&picture, &caption.tokens], 1)?;
        for block in &self.blocks {
            all = block.forward(&all, &time, &both)?;
        }
        let picture = all.narrow(1, 0, grid.0 * grid.1)?.contiguous()?;
        let scale = (self.modulation.forward(&time.silu()?)?.unsqueeze(1)? + 1.0)?;
        let picture = ops::layer_norm(&picture, &self.ones, &self.zeros, EPS)?.broadcast_mul(&scale)?;
        self.out.forward(&picture)
    }

    /// `[1, time_width]`.
    fn time(&self, time: f32) -> Result<Tensor> {
        let scaled = time * self.config.time_scale as f32;
        let waves = waves(std::iter::once(scaled), &self.device)?.to_dtype(self.dtype)?;
        self.time_2.forward(&self.time_1.forward(&waves)?.silu()?)
    }
}

/// `[1, tokens, width]` with as many of `fill` `[1, 1, width]` behind them as there must be.
fn fill_up(x: &Tensor, fill: &Tensor) -> Result<Tensor> {
    let tokens = x.dim(1)?;
    match places::filled(tokens) - tokens {
        0 => Ok(x.clone()),
        more => Tensor::cat(&[x, &fill.repeat((1, more, 1))?], 1),
    }
}
