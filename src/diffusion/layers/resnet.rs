//! The residual block and the two samplers that UNet and VAE share (diffusers' ResnetBlock2D, Downsample2D, Upsample2D).

use candle_core::{Result, Tensor};

use super::{Conv2d, ConvShape, GroupNorm, Linear};
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    lora::Visit,
    ops::{self, Activation},
};

/// What all residual blocks of a network have in common.
#[derive(Debug, Clone, Copy)]
pub struct ResnetOptions {
    /// Groups of the norms.
    pub groups: usize,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Between norm and convolution.
    pub activation: Activation,
    /// Width of the time embedding; none in a VAE.
    pub time_embed_dim: Option<usize>,
}

/// Norm, activation, convolution, twice, with the time embedding added between.
#[derive(Clone)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    activation: Activation,
}

impl ResnetBlock {
    /// Reads a block from `inputs` to `outputs` channels.
    pub fn load(
        at: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        options: ResnetOptions,
    ) -> std::result::Result<Self, DiffusionError> {
        let ResnetOptions { groups, eps, activation, time_embed_dim } = options;
        Ok(Self {
            norm1: GroupNorm::load(&at.at("norm1"), inputs, groups, eps)?,
            conv1: Conv2d::load_3x3(&at.at("conv1"), inputs, outputs)?,
            time: match time_embed_dim {
                Some(width) => Some(Linear::load(&at.at("time_emb_proj"), width, outputs)?),
                None => None,
            },
            norm2: GroupNorm::load(&at.at("norm2"), outputs, groups, eps)?,
            conv2: Conv2d::load_3x3(&at.at("conv2"), outputs, outputs)?,
            shortcut: if inputs == outputs {
                None
            } else {
                Some(Conv2d::load_1x1(&at.at("conv_shortcut"), inputs, outputs)?)
            },
            activation,
        })
    }

    /// `time` is the activated time embedding `[batch, time_embed_dim]`, for blocks that were loaded with one.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let h = self.norm1.forward_activated(x, self.activation)?;
        let h = match (&self.time, time) {
            (Some(projection), Some(time)) => self.conv1.forward_shifted(&h, &projection.forward(time)?)?,
            _ => self.conv1.forward(&h)?,
        };
        let h = self.norm2.forward_activated(&h, self.activation)?;
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_plus(&h, &shortcut.forward(x)?),
            None => self.conv2.forward_plus(&h, x),
        }
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.conv1.visit(visit);
        self.time.iter_mut().for_each(|time| time.visit(visit));
        self.conv2.visit(visit);
        self.shortcut.iter_mut().for_each(|shortcut| shortcut.visit(visit));
    }
}

/// Half the size by a convolution of stride 2.
#[derive(Clone)]
pub struct Downsample {
    conv: Conv2d,
    pad_after: bool,
}

impl Downsample {
    /// With padding 0, one row and column of zeros is added after, as diffusers does.
    pub fn load(
        at: &Scope<'_>,
        channels: usize,
        padding: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        let conv = Conv2d::load(
            &at.at("conv"),
            ConvShape { inputs: channels, outputs: channels, kernel: 3, stride: 2, padding },
        )?;
        Ok(Self { conv, pad_after: padding == 0 })
    }

    /// `[batch, channels, height, width]` to half of it.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.pad_after {
            self.conv.forward(&x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?)
        } else {
            self.conv.forward(x)
        }
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.conv.visit(visit);
    }
}

/// Twice the size, or a given size, by nearest neighbour, then a convolution.
#[derive(Clone)]
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    /// Reads the convolution.
    pub fn load(at: &Scope<'_>, channels: usize) -> std::result::Result<Self, DiffusionError> {
        Ok(Self { conv: Conv2d::load_3x3(&at.at("conv"), channels, channels)? })
    }

    /// To `size` (height, width), or to twice the size.
    pub fn forward(&self, x: &Tensor, size: Option<(usize, usize)>) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        let (height, width) = size.unwrap_or((2 * height, 2 * width));
        self.conv.forward(&ops::upsample_nearest(x, height, width)?)
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.conv.visit(visit);
    }
}
