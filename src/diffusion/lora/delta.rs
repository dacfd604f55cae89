//! What a LoRA adds to one layer, and how layers are shown to it.

use candle_core::{Result, Tensor};

use crate::diffusion::ops;

/// A product of two small matrices that is added to what a layer computes: `scale * up(down(x))`.
#[derive(Debug, Clone)]
pub struct Delta {
    /// `[rank, in]`; of a convolution `[rank, in, kernel, kernel]`.
    pub down: Tensor,
    /// `[out, rank]`; of a convolution `[out, rank, 1, 1]`.
    pub up: Tensor,
    /// Strength times alpha by rank.
    pub scale: f64,
}

impl Delta {
    /// To be added to what a linear layer makes of `x`.
    pub fn of_linear(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(&ops::linear(x, &self.down, None)?, &self.up, None)? * self.scale
    }

    /// To be added to what a convolution makes of `x`.
    pub fn of_conv2d(&self, x: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
        let low = ops::conv2d(x, &self.down, None, stride, padding)?;
        ops::conv2d(&low, &self.up, None, 1, 0)? * self.scale
    }

    /// Bytes of both matrices.
    pub fn bytes(&self) -> usize {
        [&self.down, &self.up].iter().map(|x| x.elem_count() * x.dtype().size_in_bytes()).sum()
    }
}

/// A layer with a weight, of a network that is being changed.
pub struct LayerMut<'a> {
    /// diffusers' name in its component: `down_blocks.0.attentions.0.proj_in`.
    pub name: &'a str,
    /// `[out, in]`; of a convolution `[out, in, kernel, kernel]`.
    pub weight: &'a Tensor,
    /// What is added to it.
    pub deltas: &'a mut Vec<Delta>,
}

/// What is shown the layers of a network.
pub type Visit<'v> = dyn FnMut(LayerMut<'_>) + 'v;
