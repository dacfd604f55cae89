//! The encoder, the decoder and the middle block that both have.

use candle_core::{Result, Tensor};

use super::blocks::{Downsample, EPS, ResnetBlock, Upsample, convolve, load_3x3};
use crate::diffusion::{
    DiffusionError,
    autoencoders::VaeConfig,
    checkpoint::Scope,
    layers::{Conv2d, GroupNorm, Linear},
    ops::{self, Activation, AttentionOptions, Bands},
};

/// Pictures to moments.
pub struct Encoder {
    conv_in: Conv2d,
    blocks: Vec<(Vec<ResnetBlock>, Option<Downsample>)>,
    mid: MidBlock,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    /// Reads `encoder`.
    pub fn load(at: &Scope<'_>, config: &VaeConfig) -> std::result::Result<Self, DiffusionError> {
        let channels = &config.block_out_channels;
        let last = channels.len() - 1;
        let mut blocks = Vec::new();
        for (index, &outputs) in channels.iter().enumerate() {
            let at = at.at(format_args!("down_blocks.{index}"));
            let resnets = load_resnets(
                &at,
                channels[index.saturating_sub(1)],
                outputs,
                config.layers_per_block,
                config,
            )?;
            let downsample = match index < last {
                true => Some(Downsample::load(&at.at("downsamplers.0"), outputs)?),
                false => None,
            };
            blocks.push((resnets, downsample));
        }
        Ok(Self {
            conv_in: load_3x3(&at.at("conv_in"), 3, channels[0], 1)?,
            blocks,
            mid: MidBlock::load(&at.at("mid_block"), config)?,
            norm_out: GroupNorm::load(&at.at("conv_norm_out"), channels[last], config.norm_num_groups, EPS)?,
            conv_out: load_3x3(&at.at("conv_out"), channels[last], 2 * config.latent_channels, 1)?,
        })
    }

    /// `[batch, 3, height, width]` to `[batch, 2 * latent_channels, height / factor, width / factor]`.
    pub fn forward(&self, pictures: Bands) -> Result<Tensor> {
        let mut x = convolve(pictures, None, &self.conv_in)?;
        for (resnets, downsample) in &self.blocks {
            for resnet in resnets {
                x = resnet.forward(x)?;
            }
            if let Some(downsample) = downsample {
                x = downsample.forward(x)?;
            }
        }
        let x = self.mid.forward(x)?;
        convolve(x, Some((&self.norm_out, Activation::Silu)), &self.conv_out)?.whole()
    }
}

/// Latents to pictures.
pub struct Decoder {
    conv_in: Conv2d,
    mid: MidBlock,
    blocks: Vec<(Vec<ResnetBlock>, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    /// Reads `decoder`.
    pub fn load(at: &Scope<'_>, config: &VaeConfig) -> std::result::Result<Self, DiffusionError> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let last = channels.len() - 1;
        let mut blocks = Vec::new();
        for (index, &outputs) in channels.iter().enumerate() {
            let at = at.at(format_args!("up_blocks.{index}"));
            let inputs = channels[index.saturating_sub(1)];
            let resnets = load_resnets(&at, inputs, outputs, config.layers_per_block + 1, config)?;
            let upsample = match index < last {
                true => Some(Upsample::load(&at.at("upsamplers.0"), outputs)?),
                false => None,
            };
            blocks.push((resnets, upsample));
        }
        Ok(Self {
            conv_in: load_3x3(&at.at("conv_in"), config.latent_channels, channels[0], 1)?,
            mid: MidBlock::load(&at.at("mid_block"), config)?,
            blocks,
            norm_out: GroupNorm::load(&at.at("conv_norm_out"), channels[last], config.norm_num_groups, EPS)?,
            conv_out: load_3x3(&at.at("conv_out"), channels[last], 3, 1)?,
        })
    }

    /// `[batch, latent_channels, height, width]` to `[batch, 3, height * factor, width * factor]`.
    pub fn forward(&self, latents: Bands) -> Result<Tensor> {
        let x = convolve(latents, None, &self.conv_in)?;
        let mut x = self.mid.forward(x)?;
        for (resnets, upsample) in &self.blocks {
            for resnet in resnets {
                x = resnet.forward(x)?;
            }
            if let Some(upsample) = upsample {
                x = upsample.forward(x)?;
            }
        }
        convolve(x, Some((&self.norm_out, Activation::Silu)), &self.conv_out)?.whole()
    }
}

fn load_resnets(
    at: &Scope<'_>,
    inputs: usize,
    outputs: usize,
    count: usize,
    config: &VaeConfig,
) -> std::result::Result<Vec<ResnetBlock>, DiffusionError> {
    (0..count)
        .map(|i| {
            let inputs = if i == 0 { inputs } else { outputs };
            ResnetBlock::load(&at.at(format_args!("resnets.{i}")), inputs, outputs, config)
        })
        .collect()
}

/// UNetMidBlock2D: residual, attention over all pixels, residual.
struct MidBlock {
    before: ResnetBlock,
    attention: Option<MidAttention>,
    after: ResnetBlock,
}

impl MidBlock {
    fn load(at: &Scope<'_>, config: &VaeConfig) -> std::result::Result<Self, DiffusionError> {
        let channels = config.block_out_channels[config.block_out_channels.len() - 1];
        Ok(Self {
            before: ResnetBlock::load(&at.at("resnets.0"), channels, channels, config)?,
            attention: match config.mid_block_add_attention {
                true => Some(MidAttention::load(&at.at("attentions.0"), channels, config.norm_num_groups)?),
                false => None,
            },
            after: ResnetBlock::load(&at.at("resnets.1"), channels, channels, config)?,
        })
    }

    fn forward(&self, x: Bands) -> Result<Bands> {
        let mut x = self.before.forward(x)?;
        if let Some(attention) = &self.attention {
            let mut attended = x.like();
            attended.push(attention.forward(&x.whole()?)?)?;
            x = attended;
        }
        self.after.forward(x)
    }
}

/// One head over all pixels.
struct MidAttention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl MidAttention {
    /// Checkpoints of 2022 call the same layers `query`, `key`, `value` and `proj_attn`.
    fn load(at: &Scope<'_>, channels: usize, groups: usize) -> std::result::Result<Self, DiffusionError> {
        let names = match at.has("query.weight") {
            true => ["query", "key", "value", "proj_attn"],
            false => ["to_q", "to_k", "to_v", "to_out.0"],
        };
        let [q, k, v, out] = names.map(|name| Linear::load(&at.at(name), channels, channels));
        Ok(Self {
            norm: GroupNorm::load(&at.at("group_norm"), channels, groups, EPS)?,
            q: q?,
            k: k?,
            v: v?,
            out: out?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let h = ops::swap_tokens_and_channels(&self.norm.forward(x)?.flatten_from(2)?)?;
        let options = AttentionOptions { heads: 1, causal: false, upcast: true };
        let h = ops::attention(&self.q.forward(&h)?, &self.k.forward(&h)?, &self.v.forward(&h)?, options)?;
        let h = ops::swap_tokens_and_channels(&self.out.forward(&h)?)?;
        ops::add(&h.reshape((batch, channels, height, width))?, x)
    }
}
