//! Layers with weights, as torch names them, read from a checkpoint.

pub mod resnet;
mod rms_norm;
mod rotary;
mod waves;

pub use rms_norm::RmsNorm;
pub use rotary::Rotation;
pub use waves::{WAVES, waves};

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    lora::{Changes, LayerMut, Visit},
    ops::{self, Activation, Bands, Norm, Seen},
};

/// `torch.nn.Linear`.
#[derive(Clone)]
pub struct Linear {
    name: Arc<str>,
    weight: Tensor,
    bias: Option<Tensor>,
    changes: Changes,
}

impl Linear {
    /// With a bias.
    pub fn load(at: &Scope<'_>, inputs: usize, outputs: usize) -> std::result::Result<Self, DiffusionError> {
        let bias = Some(at.tensor("bias", &[outputs])?);
        Ok(Self { bias, ..Self::load_no_bias(at, inputs, outputs)? })
    }

    /// Without a bias.
    pub fn load_no_bias(
        at: &Scope<'_>,
        inputs: usize,
        outputs: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        let weight = at.tensor("weight", &[outputs, inputs])?;
        Ok(Self { name: at.place().into(), weight, bias: None, changes: Changes::default() })
    }

    /// `[.., inputs]` to `[.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.changes.linear(x, &self.weight, self.bias.as_ref(), None)
    }

    /// As [`Self::forward`], plus `more` of the shape that comes out.
    pub fn forward_plus(&self, x: &Tensor, more: &Tensor) -> Result<Tensor> {
        self.changes.linear(x, &self.weight, self.bias.as_ref(), Some(more))
    }

    /// `[.., inputs]` to `[.., outputs / 2]`: the first half of the outputs, gated by the GELU of the second.
    pub fn forward_geglu(&self, x: &Tensor) -> Result<Tensor> {
        match self.changes.is_empty() {
            true => ops::linear_geglu(x, &self.weight, self.bias.as_ref()),
            false => ops::geglu(&self.forward(x)?),
        }
    }

    /// Shows the layer to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        visit(LayerMut { name: &self.name, weight: &self.weight, changes: &mut self.changes });
    }
}

/// What a convolution with a square kernel is.
#[derive(Debug, Clone, Copy)]
pub struct ConvShape {
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Pixels in per pixel out, along a side.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

/// `torch.nn.Conv2d` with a square kernel.
#[derive(Clone)]
pub struct Conv2d {
    name: Arc<str>,
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
    changes: Changes,
}

impl Conv2d {
    /// With a bias.
    pub fn load(at: &Scope<'_>, shape: ConvShape) -> std::result::Result<Self, DiffusionError> {
        let bias = Some(at.tensor("bias", &[shape.outputs])?);
        Ok(Self { bias, ..Self::load_no_bias(at, shape)? })
    }

    /// Without a bias.
    pub fn load_no_bias(at: &Scope<'_>, shape: ConvShape) -> std::result::Result<Self, DiffusionError> {
        let ConvShape { inputs, outputs, kernel, stride, padding } = shape;
        let weight = at.tensor("weight", &[outputs, inputs, kernel, kernel])?;
        Ok(Self { name: at.place().into(), weight, bias: None, stride, padding, changes: Changes::default() })
    }

    /// 3x3 that keeps the size.
    pub fn load_3x3(
        at: &Scope<'_>,
        inputs: usize,
        outputs: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        Self::load(at, ConvShape { inputs, outputs, kernel: 3, stride: 1, padding: 1 })
    }

    /// 1x1.
    pub fn load_1x1(
        at: &Scope<'_>,
        inputs: usize,
        outputs: usize,
    ) -> std::result::Result<Self, DiffusionError> {
        Self::load(at, ConvShape { inputs, outputs, kernel: 1, stride: 1, padding: 0 })
    }

    /// `[batch, inputs, height, width]` to `[batch, outputs, ..]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.compute(x, self.bias.as_ref(), None, self.padding)
    }

    /// As [`Self::forward`], plus `more` of the shape that comes out.
    pub fn forward_plus(&self, x: &Tensor, more: &Tensor) -> Result<Tensor> {
        self.compute(x, self.bias.as_ref(), Some(more), self.padding)
    }

    /// Of what is seen of a map, with the zeros around it that it does not have in place of the layer's own padding.
    pub fn forward_seen(&self, x: &Seen) -> Result<Tensor> {
        self.compute(&x.map, self.bias.as_ref(), None, x.padding)
    }

    /// As [`Self::forward_seen`], plus `more` of the shape that comes out.
    pub fn forward_seen_plus(&self, x: &Seen, more: &Tensor) -> Result<Tensor> {
        self.compute(&x.map, self.bias.as_ref(), Some(more), x.padding)
    }

    /// As [`Self::forward`], plus `shift` `[batch, outputs]`: a number for each sample and channel.
    pub fn forward_shifted(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => {
                let bias = shift.broadcast_add(&bias.to_dtype(shift.dtype())?)?;
                self.compute(x, Some(&bias), None, self.padding)
            }
            None => self.compute(x, Some(shift), None, self.padding),
        }
    }

    fn compute(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        more: Option<&Tensor>,
        padding: usize,
    ) -> Result<Tensor> {
        self.changes.conv2d(x, &self.weight, (bias, more), self.stride, padding)
    }

    /// Shows the layer to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        visit(LayerMut { name: &self.name, weight: &self.weight, changes: &mut self.changes });
    }
}

/// `torch.nn.GroupNorm`.
#[derive(Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// `groups` divides `channels`.
    pub fn load(
        at: &Scope<'_>,
        channels: usize,
        groups: usize,
        eps: f64,
    ) -> std::result::Result<Self, DiffusionError> {
        Ok(Self {
            weight: at.tensor("weight", &[channels])?,
            bias: at.tensor("bias", &[channels])?,
            groups,
            eps,
        })
    }

    /// The same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, self.groups, self.eps)
    }

    /// As [`Self::forward`], with an activation after it.
    pub fn forward_activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match activation {
            Activation::Silu => ops::group_norm_silu(x, &self.weight, &self.bias, self.groups, self.eps),
            other => ops::activate(&self.forward(x)?, other),
        }
    }

    /// What it does to a map in bands, with an activation after it.
    pub fn over(&self, x: &Bands, activation: Activation) -> Result<Norm> {
        x.group_norm(&self.weight, &self.bias, self.groups, self.eps, Some(activation))
    }
}

/// `torch.nn.LayerNorm`.
#[derive(Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Over the last dimension, of `width`.
    pub fn load(at: &Scope<'_>, width: usize, eps: f64) -> std::result::Result<Self, DiffusionError> {
        Ok(Self { weight: at.tensor("weight", &[width])?, bias: at.tensor("bias", &[width])?, eps })
    }

    /// The same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}
