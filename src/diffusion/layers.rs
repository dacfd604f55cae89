//! Layers with weights, as torch names them, read from a checkpoint.

use candle_core::{Result, Tensor};

use super::{DiffusionError, checkpoint::Scope, ops};

/// `torch.nn.Linear`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
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
        Ok(Self { weight: at.tensor("weight", &[outputs, inputs])?, bias: None })
    }

    /// `[.., inputs]` to `[.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, self.bias.as_ref())
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
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
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
        Ok(Self { weight, bias: None, stride, padding })
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
        ops::conv2d(x, &self.weight, self.bias.as_ref(), self.stride, self.padding)
    }
}

/// `torch.nn.GroupNorm`.
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
}

/// `torch.nn.LayerNorm`.
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
