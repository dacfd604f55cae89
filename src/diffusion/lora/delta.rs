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
    /// Adds it to `y`, which a linear layer made of `x`. The scale is of what lies between the matrices, which is small.
    pub fn add_to_linear(&self, y: &Tensor, x: &Tensor) -> Result<Tensor> {
        let low = (ops::linear(x, &self.down, None)? * self.scale)?;
        ops::linear_plus(&low, &self.up, None, y)
    }

    /// Adds it to `y`, which a convolution made of `x`.
    pub fn add_to_conv2d(&self, y: &Tensor, x: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
        let low = (ops::conv2d(x, &self.down, None, stride, padding)? * self.scale)?;
        ops::conv2d_plus(&low, &self.up, None, y, 1, 0)
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
