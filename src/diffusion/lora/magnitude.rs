//! DoRA ("Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353): rows or columns of the changed weight are brought to
//! lengths that were learned.

use candle_core::{DType, Result, Tensor};

use super::delta::{Factors, Gain};

/// What is added to a length before something is divided by it, as LyCORIS does.
const EPS: f64 = f32::EPSILON as f64;

/// The lengths of one layer, and what those of its changed weight follow from at any strength: the squares of both weights
/// and their product are summed once.
pub struct Magnitude {
    axis: Axis,
    /// `[out]` or `[in]`, in f32, as are the next three.
    lengths: Tensor,
    own: Tensor,
    mixed: Tensor,
    added: Tensor,
}

/// What has a length of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Each row of the weight.
    Outputs,
    /// Each column.
    Inputs,
}

impl Magnitude {
    /// Of a layer with this weight, to which `factors` are added.
    ///
    /// # Errors
    /// What candle says.
    pub fn new(axis: Axis, lengths: &Tensor, weight: &Tensor, factors: &Factors) -> Result<Self> {
        let (weight, delta) = (weight.to_dtype(DType::F32)?, factors.whole()?);
        let sums = |x: Tensor| match axis {
            Axis::Outputs => x.flatten_from(1)?.sum(1),
            Axis::Inputs => x.reshape((x.dim(0)?, x.dim(1)?, ()))?.sum(2)?.sum(0),
        };
        Ok(Self {
            axis,
            lengths: lengths.to_dtype(DType::F32)?.flatten_all()?,
            own: sums(weight.sqr()?)?,
            mixed: sums((&weight * &delta)?)?,
            added: sums(delta.sqr()?)?,
        })
    }

    /// What the weight with the factors times `scale` is multiplied by.
    ///
    /// # Errors
    /// What candle says.
    pub fn gain(&self, scale: f64) -> Result<Gain> {
        let squares = ((&self.own + (&self.mixed * (2.0 * scale))?)? + (&self.added * (scale * scale))?)?;
        let gain = (&self.lengths / (squares.relu()?.sqrt()? + EPS)?)?;
        Ok(match self.axis {
            Axis::Outputs => Gain::Outputs(gain),
            Axis::Inputs => Gain::Inputs(gain),
        })
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        4 * self.lengths.elem_count() * size_of::<f32>()
    }
}
