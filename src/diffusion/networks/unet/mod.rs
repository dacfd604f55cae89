//! UNet2DConditionModel: predicts what a sampler needs from noisy latents, a timestep per sample and a text.

mod blocks;
mod conditioning;
mod config;
mod context;
mod embedding;
mod prepared;
mod transformer;

pub use conditioning::{Added, Conditioning, Texts};
pub use config::UNetConfig;
pub use context::Context;
pub use embedding::guidance_embedding;
pub use prepared::{Prepared, StepInput};

use candle_core::{DType, Result, Tensor};

use self::{
    blocks::{DownBlock, MidBlock, UpBlock},
    context::ContextsInUse,
    embedding::TimeEmbedding,
};
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Conv2d, ConvShape, GroupNorm},
    lora::Visit,
    ops,
};

/// The network.
#[derive(Clone)]
pub struct UNet {
    config: UNetConfig,
    time: TimeEmbedding,
    conv_in: Conv2d,
    down: Vec<DownBlock>,
    mid: MidBlock,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    contexts: ContextsInUse,
}

impl UNet {
    /// Reads all weights.
    pub fn load(config: UNetConfig, at: &Scope<'_>) -> std::result::Result<Self, DiffusionError> {
        let first = config.block_out_channels[0];
        let blocks = config.block_out_channels.len();
        let down =
            (0..blocks).map(|i| DownBlock::load(at, &config, i)).collect::<std::result::Result<_, _>>()?;
        let up = (0..blocks).map(|i| UpBlock::load(at, &config, i)).collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            time: TimeEmbedding::load(at, &config)?,
            conv_in: same_size(&at.at("conv_in"), config.in_channels, first, config.conv_in_kernel)?,
            down,
            mid: MidBlock::load(at, &config)?,
            up,
            norm_out: GroupNorm::load(
                &at.at("conv_norm_out"),
                first,
                config.norm_num_groups,
                config.norm_eps,
            )?,
            conv_out: same_size(&at.at("conv_out"), first, config.out_channels, config.conv_out_kernel)?,
            contexts: ContextsInUse::default(),
            config,
        })
    }

    /// What the network is made of.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// `latents` `[batch, in_channels, height, width]`, with a timestep and conditioning per sample
    /// → `[batch, out_channels, height, width]`.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        conditioning: &Conditioning,
    ) -> Result<Tensor> {
        let conditioning = conditioning.to_dtype(latents.dtype())?;
        let time = self.time.forward(timesteps, &conditioning, latents.dtype())?;
        self.predict(latents, &StepInput { time, context: self.read_text(&conditioning.text)? })
    }

    /// Computes what is the same whatever the latents are: the embeddings of all `timesteps` of a picture, and what
    /// cross attention attends to. `dtype` is that of the latents to come.
    pub fn prepare(&self, conditioning: &Conditioning, timesteps: &[f32], dtype: DType) -> Result<Prepared> {
        let conditioning = conditioning.to_dtype(dtype)?;
        let time = self.time.table(timesteps, &conditioning, dtype)?;
        let read_text = || self.read_text(&conditioning.text);
        let context = self.contexts.get_or_compute(&conditioning.texts, read_text)?;
        Ok(Prepared::new(time, context, conditioning.tokens()))
    }

    fn read_text(&self, text: &Tensor) -> Result<Context> {
        let mut layers = Vec::new();
        self.down.iter().try_for_each(|block| block.read_text(text, &mut layers))?;
        self.mid.read_text(text, &mut layers)?;
        self.up.iter().try_for_each(|block| block.read_text(text, &mut layers))?;
        Ok(Context::new(layers))
    }

    /// As [`Self::forward`], of samples that were prepared.
    pub fn predict(&self, latents: &Tensor, StepInput { time, context }: &StepInput) -> Result<Tensor> {
        let _uploads = ops::keep_uploads(latents.device());
        let mut context = context.layers();
        let mut x = self.conv_in.forward(latents)?;
        let mut skips = vec![x.clone()];
        for block in &self.down {
            x = block.forward(&x, time, &mut context, &mut skips)?;
        }
        x = self.mid.forward(&x, time, &mut context)?;
        for block in &self.up {
            x = block.forward(&x, time, &mut context, &mut skips)?;
        }
        self.conv_out.forward(&self.norm_out.forward_activated(&x, self.config.activation)?)
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.time.visit(visit);
        self.conv_in.visit(visit);
        self.down.iter_mut().for_each(|block| block.visit(visit));
        self.mid.visit(visit);
        self.up.iter_mut().for_each(|block| block.visit(visit));
        self.conv_out.visit(visit);
    }
}

/// A convolution that keeps the size.
fn same_size(
    at: &Scope<'_>,
    inputs: usize,
    outputs: usize,
    kernel: usize,
) -> std::result::Result<Conv2d, DiffusionError> {
    Conv2d::load(at, ConvShape { inputs, outputs, kernel, stride: 1, padding: (kernel - 1) / 2 })
}
