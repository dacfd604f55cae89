//! The down, middle and up blocks, with and without cross attention.

use candle_core::{Result, Tensor};

use super::{
    UNetConfig,
    context::{KeyValue, Layers},
    transformer::SpatialTransformer,
};
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::resnet::{Downsample, ResnetBlock, ResnetOptions, Upsample},
    lora::Visit,
};

fn resnet_options(config: &UNetConfig) -> ResnetOptions {
    ResnetOptions {
        groups: config.norm_num_groups,
        eps: config.norm_eps,
        activation: config.activation,
        time_embed_dim: Some(config.time_embed_dim),
    }
}

/// A residual layer and the attention after it.
#[derive(Clone)]
struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

impl Layer {
    fn forward(&self, x: &Tensor, time: &Tensor, context: &mut Layers<'_>) -> Result<Tensor> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.attention {
            Some(attention) => attention.forward(&x, context),
            None => Ok(x),
        }
    }

    fn read_text(&self, text: &Tensor, layers: &mut Vec<KeyValue>) -> Result<()> {
        self.attention.iter().try_for_each(|attention| attention.read_text(text, layers))
    }

    fn visit(&mut self, visit: &mut Visit<'_>) {
        self.resnet.visit(visit);
        self.attention.iter_mut().for_each(|attention| attention.visit(visit));
    }
}

/// DownBlock2D and CrossAttnDownBlock2D.
#[derive(Clone)]
pub struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Downsample>,
}

impl DownBlock {
    /// Reads `down_blocks.<index>`.
    pub fn load(
        at: &Scope<'_>,
        config: &UNetConfig,
        index: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        let at = at.at(format_args!("down_blocks.{index}"));
        let outputs = config.block_out_channels[index];
        let inputs = config.block_out_channels[index.saturating_sub(1)];
        let mut layers = Vec::new();
        for i in 0..config.layers_per_block[index] {
            let inputs = if i == 0 { inputs } else { outputs };
            let resnet = at.at(format_args!("resnets.{i}"));
            let resnet = ResnetBlock::load(&resnet, inputs, outputs, resnet_options(config))?;
            let attention = match config.down_cross_attention[index] {
                true => {
                    Some(SpatialTransformer::load(&at.at(format_args!("attentions.{i}")), config, index)?)
                }
                false => None,
            };
            layers.push(Layer { resnet, attention });
        }
        let downsample = if index + 1 < config.block_out_channels.len() {
            Some(Downsample::load(&at.at("downsamplers.0"), outputs, config.downsample_padding)?)
        } else {
            None
        };
        Ok(Self { layers, downsample })
    }

    /// Adds what its layers attend to in a text.
    pub fn read_text(&self, text: &Tensor, layers: &mut Vec<KeyValue>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.read_text(text, layers))
    }

    /// Leaves what each layer made in `skips`.
    pub fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        context: &mut Layers<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, time, context)?;
            skips.push(x.clone());
        }
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.layers.iter_mut().for_each(|layer| layer.visit(visit));
        self.downsample.iter_mut().for_each(|downsample| downsample.visit(visit));
    }
}

/// UNetMidBlock2DCrossAttn.
#[derive(Clone)]
pub struct MidBlock {
    before: ResnetBlock,
    attention: SpatialTransformer,
    after: ResnetBlock,
}

impl MidBlock {
    /// Reads `mid_block`.
    pub fn load(at: &Scope<'_>, config: &UNetConfig) -> std::result::Result<Self, DiffusionError> {
        let at = at.at("mid_block");
        let last = config.block_out_channels.len() - 1;
        let channels = config.block_out_channels[last];
        let options = resnet_options(config);
        Ok(Self {
            before: ResnetBlock::load(&at.at("resnets.0"), channels, channels, options)?,
            attention: SpatialTransformer::load(&at.at("attentions.0"), config, last)?,
            after: ResnetBlock::load(&at.at("resnets.1"), channels, channels, options)?,
        })
    }

    /// Adds what its layers attend to in a text.
    pub fn read_text(&self, text: &Tensor, layers: &mut Vec<KeyValue>) -> Result<()> {
        self.attention.read_text(text, layers)
    }

    /// The same shape.
    pub fn forward(&self, x: &Tensor, time: &Tensor, context: &mut Layers<'_>) -> Result<Tensor> {
        let x = self.before.forward(x, Some(time))?;
        let x = self.attention.forward(&x, context)?;
        self.after.forward(&x, Some(time))
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.before.visit(visit);
        self.attention.visit(visit);
        self.after.visit(visit);
    }
}

/// UpBlock2D and CrossAttnUpBlock2D.
#[derive(Clone)]
pub struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    /// Reads `up_blocks.<index>`, counted from the middle outwards.
    pub fn load(
        at: &Scope<'_>,
        config: &UNetConfig,
        index: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        let at = at.at(format_args!("up_blocks.{index}"));
        let last = config.block_out_channels.len() - 1;
        let mirrored = last - index;
        let outputs = config.block_out_channels[mirrored];
        let before = config.block_out_channels[(mirrored + 1).min(last)];
        let skip_inputs = config.block_out_channels[mirrored.saturating_sub(1)];
        let count = config.layers_per_block[mirrored] + 1;
        let mut layers = Vec::new();
        for i in 0..count {
            let inputs = if i == 0 { before } else { outputs };
            let skip = if i + 1 == count { skip_inputs } else { outputs };
            let resnet = at.at(format_args!("resnets.{i}"));
            let resnet = ResnetBlock::load(&resnet, inputs + skip, outputs, resnet_options(config))?;
            let attention = match config.up_cross_attention[index] {
                true => {
                    Some(SpatialTransformer::load(&at.at(format_args!("attentions.{i}")), config, mirrored)?)
                }
                false => None,
            };
            layers.push(Layer { resnet, attention });
        }
        let upsample =
            if index < last { Some(Upsample::load(&at.at("upsamplers.0"), outputs)?) } else { None };
        Ok(Self { layers, upsample })
    }

    /// Adds what its layers attend to in a text.
    pub fn read_text(&self, text: &Tensor, layers: &mut Vec<KeyValue>) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.read_text(text, layers))
    }

    /// Takes as many `skips` as there are layers, and grows to the size of the next one: sides of the latents need
    /// not be a multiple of what the down blocks divide by.
    pub fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        context: &mut Layers<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            let skip = skips.pop().ok_or_else(|| {
                candle_core::Error::Msg("up blocks have more layers than the down blocks left skips".into())
            })?;
            x = layer.forward(&Tensor::cat(&[&x, &skip], 1)?, time, context)?;
        }
        match &self.upsample {
            Some(upsample) => {
                let size = match skips.last() {
                    Some(skip) => Some((skip.dim(2)?, skip.dim(3)?)),
                    None => None,
                };
                upsample.forward(&x, size)
            }
            None => Ok(x),
        }
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.layers.iter_mut().for_each(|layer| layer.visit(visit));
        self.upsample.iter_mut().for_each(|upsample| upsample.visit(visit));
    }
}
