//! What a picture's adapters change in a layer, and how layers are shown to them.

use candle_core::{D, Result, Tensor};

use super::delta::{Delta, Gain};
use crate::diffusion::ops;

/// What a picture's adapters change in one layer.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    deltas: Vec<Delta>,
    /// `[out]` in f32: what each of the weight's rows is multiplied by, less 1; none: nothing is.
    outputs: Option<Tensor>,
    /// `[in]`, the same of columns.
    inputs: Option<Tensor>,
}

impl Changes {
    /// Whether the layer is as it was loaded.
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty() && self.outputs.is_none() && self.inputs.is_none()
    }

    /// Adds to the weight.
    pub fn add(&mut self, delta: Delta) {
        self.deltas.push(delta);
    }

    /// Adds the weight as it was loaded, times `gain` less 1. What several add is summed, as peft does with adapters.
    ///
    /// # Errors
    /// What candle says.
    pub fn add_gain(&mut self, gain: &Gain) -> Result<()> {
        let (sum, gain) = match gain {
            Gain::Outputs(gain) => (&mut self.outputs, gain),
            Gain::Inputs(gain) => (&mut self.inputs, gain),
        };
        let more = (gain - 1.0)?;
        *sum = Some(match sum.take() {
            Some(sum) => (sum + more)?,
            None => more,
        });
        Ok(())
    }

    /// What a linear layer makes of `x` with these changes, plus `more` of the shape that comes out.
    ///
    /// # Errors
    /// What candle says.
    pub fn linear(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        more: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut y = match (self.has_gains(), more) {
            (true, _) => {
                let y = self.with_gains(x, D::Minus1, |x| ops::linear(x, weight, None))?;
                let y = bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(&bias.to_dtype(y.dtype())?))?;
                more.map_or(Ok(y.clone()), |more| ops::add(&y, more))?
            }
            (false, None) => ops::linear(x, weight, bias)?,
            (false, Some(more)) => ops::linear_plus(x, weight, bias, more)?,
        };
        for delta in &self.deltas {
            y = delta.add_to_linear(&y, x)?;
        }
        Ok(y)
    }

    /// What a convolution makes of `x` with these changes, plus `more` of the shape that comes out. `bias` is `[out]` or,
    /// with one for each sample, `[batch, out]`.
    ///
    /// # Errors
    /// What candle says.
    pub fn conv2d(
        &self,
        x: &Tensor,
        weight: &Tensor,
        (bias, more): (Option<&Tensor>, Option<&Tensor>),
        stride: usize,
        padding: usize,
    ) -> Result<Tensor> {
        let mut y = match (self.has_gains(), more) {
            (true, _) => {
                let y = self.with_gains(x, D::Minus(3), |x| ops::conv2d(x, weight, None, stride, padding))?;
                let y = match bias {
                    Some(bias) => {
                        let bias = bias.to_dtype(y.dtype())?.reshape(((), y.dim(1)?, 1, 1))?;
                        y.broadcast_add(&bias)?
                    }
                    None => y,
                };
                more.map_or(Ok(y.clone()), |more| ops::add(&y, more))?
            }
            (false, None) => ops::conv2d(x, weight, bias, stride, padding)?,
            (false, Some(more)) => ops::conv2d_plus(x, weight, bias, more, stride, padding)?,
        };
        for delta in &self.deltas {
            y = delta.add_to_conv2d(&y, x, stride, padding)?;
        }
        Ok(y)
    }

    fn has_gains(&self) -> bool {
        self.outputs.is_some() || self.inputs.is_some()
    }

    /// `product` of `x`, and what the gains add to it; channels are along `dim`.
    fn with_gains(&self, x: &Tensor, dim: D, product: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let along = |gain: &Tensor, x: &Tensor| {
            let behind = match dim {
                D::Minus(3) => vec![1, 1],
                _ => vec![],
            };
            gain.to_dtype(x.dtype())?.reshape([&[gain.elem_count()], &behind[..]].concat())
        };
        let y = match (&self.outputs, &self.inputs) {
            (None, Some(inputs)) => return product(&x.broadcast_mul(&along(&(inputs + 1.0)?, x)?)?),
            _ => product(x)?,
        };
        let scaled = match &self.outputs {
            Some(outputs) => y.broadcast_mul(&along(&(outputs + 1.0)?, &y)?)?,
            None => y,
        };
        match &self.inputs {
            Some(inputs) => ops::add(&scaled, &product(&x.broadcast_mul(&along(inputs, x)?)?)?),
            None => Ok(scaled),
        }
    }
}

/// A layer with a weight, of a network that is being changed.
pub struct LayerMut<'a> {
    /// diffusers' name in its component: `down_blocks.0.attentions.0.proj_in`.
    pub name: &'a str,
    /// `[out, in]`; of a convolution `[out, in, kernel, kernel]`.
    pub weight: &'a Tensor,
    /// What is changed in it.
    pub changes: &'a mut Changes,
}

/// What is shown the layers of a network.
pub type Visit<'v> = dyn FnMut(LayerMut<'_>) + 'v;
