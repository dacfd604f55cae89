//! FluxTransformer2DModel: noisy picture tokens, text, time and guidance to the flow's velocity.
//!
//! The network is our own and not that of candle-transformers: weights in half precision are widened layer by
//! layer on a CPU (12 billion parameters do not fit otherwise, and candle has no bf16 product there), attention is
//! done in parts of bounded memory, and rotary angles are computed in f64 and applied in f32 whatever the weights
//! are, as diffusers does; candle-transformers rounds them to the weights' type (in bf16 the cosines of a row's
//! positions are then off by 1.4 %, relative L2).

mod attention;
mod blocks;
mod config;
mod embedding;

pub use config::TransformerConfig;

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor};

use self::{
    attention::Rotations,
    blocks::{DoubleBlock, PlainNorm, SingleBlock},
    embedding::Embedding,
};
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Linear, waves},
    lora::Visit,
    ops,
};

/// It was trained on times and guidance scales times this.
const SCALE: f32 = 1000.0;

/// The network. Copies share weights and rotations.
#[derive(Clone)]
pub struct FluxTransformer {
    config: TransformerConfig,
    device: Device,
    dtype: DType,
    picture_in: Linear,
    text_in: Linear,
    time: Embedding,
    guidance: Option<Embedding>,
    pooled: Embedding,
    double: Vec<DoubleBlock>,
    single: Vec<SingleBlock>,
    norm: PlainNorm,
    modulation: Linear,
    out: Linear,
    rotations: Arc<Rotations>,
}

/// What one pass takes; `batch` samples of one size.
pub struct TransformerInput<'a> {
    /// `[batch, rows * columns, in_channels]`: latents, packed.
    pub latents: &'a Tensor,
    /// `[batch, words, text_width]` from T5.
    pub text: &'a Tensor,
    /// `[batch, pooled_width]` from CLIP.
    pub pooled: &'a Tensor,
    /// How much of each sample is noise, 0 to 1.
    pub sigmas: &'a [f32],
    /// The guidance scale of each sample; not looked at by a network without guidance.
    pub guidance: &'a [f32],
    /// Rows and columns of picture tokens.
    pub grid: (usize, usize),
}

impl FluxTransformer {
    /// Reads all weights; `dtype` is the type to compute in.
    pub fn load(
        config: TransformerConfig,
        at: &Scope<'_>,
        device: &Device,
        dtype: DType,
    ) -> std::result::Result<Self, DiffusionError> {
        let width = config.width();
        let norm = PlainNorm::new(width, device, dtype)?;
        let embed = at.at("time_text_embed");
        Ok(Self {
            picture_in: Linear::load(&at.at("x_embedder"), config.in_channels, width)?,
            text_in: Linear::load(&at.at("context_embedder"), config.text_width, width)?,
            time: Embedding::load_waves(&embed.at("timestep_embedder"), width)?,
            guidance: match config.guidance {
                true => Some(Embedding::load_waves(&embed.at("guidance_embedder"), width)?),
                false => None,
            },
            pooled: Embedding::load(&embed.at("text_embedder"), config.pooled_width, width)?,
            double: (0..config.layers)
                .map(|i| DoubleBlock::load(&at.at(format_args!("transformer_blocks.{i}")), &config, &norm))
                .collect::<std::result::Result<_, _>>()?,
            single: (0..config.single_layers)
                .map(|i| {
                    SingleBlock::load(&at.at(format_args!("single_transformer_blocks.{i}")), &config, &norm)
                })
                .collect::<std::result::Result<_, _>>()?,
            norm,
            modulation: Linear::load(&at.at("norm_out.linear"), width, 2 * width)?,
            out: Linear::load(&at.at("proj_out"), width, config.in_channels)?,
            rotations: Arc::default(),
            device: device.clone(),
            dtype,
            config,
        })
    }

    /// What the network is made of.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// The velocity, noise minus picture: `[batch, rows * columns, in_channels]`, in the computed type.
    pub fn forward(&self, input: &TransformerInput<'_>) -> Result<Tensor> {
        let words = input.text.dim(1)?;
        let mut picture = self.picture_in.forward(&input.latents.to_dtype(self.dtype)?)?;
        let mut text = self.text_in.forward(&input.text.to_dtype(self.dtype)?)?;
        let condition = self.condition(input)?.silu()?;
        let rotation = self.rotations.get(&self.config.axes, (words, input.grid), &self.device)?;
        let _uploads = ops::keep_uploads(&self.device);
        for block in &self.double {
            (picture, text) = block.forward(&picture, &text, &condition, &rotation)?;
        }
        let mut all = Tensor::cat(&[text, picture], 1)?;
        for block in &self.single {
            all = block.forward(&all, &condition, &rotation)?;
        }
        let picture = all.narrow(1, words, all.dim(1)? - words)?;
        // diffusers' order here is scale, shift; in the blocks it is shift, scale.
        let modulation = self.modulation.forward(&condition)?.unsqueeze(1)?.chunk(2, D::Minus1)?;
        let picture = self.norm.modulated(&picture, &modulation[1], &modulation[0])?;
        self.out.forward(&picture)
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        for layer in [&mut self.picture_in, &mut self.text_in, &mut self.modulation, &mut self.out] {
            layer.visit(visit);
        }
        for embedding in [&mut self.time, &mut self.pooled].into_iter().chain(&mut self.guidance) {
            embedding.visit(visit);
        }
        self.double.iter_mut().for_each(|block| block.visit(visit));
        self.single.iter_mut().for_each(|block| block.visit(visit));
    }

    /// Time, guidance and the pooled text: `[batch, width]`.
    fn condition(&self, input: &TransformerInput<'_>) -> Result<Tensor> {
        let embed = |embedding: &Embedding, values: &[f32]| {
            embedding.forward(
                &waves(values.iter().map(|value| value * SCALE), &self.device)?.to_dtype(self.dtype)?,
            )
        };
        let mut condition = embed(&self.time, input.sigmas)?;
        if let Some(guidance) = &self.guidance {
            condition = (condition + embed(guidance, input.guidance)?)?;
        }
        condition + self.pooled.forward(&input.pooled.to_dtype(self.dtype)?)?
    }
}
