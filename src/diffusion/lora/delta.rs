//! What an adapter adds to the weight of one layer.

use candle_core::{DType, Result, Tensor};

use super::names::Rows;
use crate::diffusion::ops;

/// What is added to a layer's weight, times `scale`.
#[derive(Debug, Clone)]
pub struct Delta {
    /// What it is made of.
    pub factors: Factors,
    /// Strength times alpha by rank.
    pub scale: f64,
}

/// A weight as it is kept: what it is a product of, where that is less to compute.
#[derive(Debug, Clone)]
pub enum Factors {
    /// The product of two small matrices: `up(down(x))`.
    Pair {
        /// `[rank, in]`; of a convolution `[rank, in, kernel, kernel]`.
        down: Tensor,
        /// `[out, rank]`; of a convolution `[out, rank, 1, 1]`.
        up: Tensor,
    },
    /// A Kronecker product: `left` says how often `right` is in each place of the weight.
    Kronecker {
        /// `[a, b]`.
        left: Tensor,
        /// `[out / a, in / b]`; of a convolution `[out / a, in / b, kernel, kernel]`.
        right: Tensor,
    },
    /// As large as the layer's own weight.
    Whole(Tensor),
}

/// The matrices down and up, and what is between them times.
pub type Pair<'a> = (&'a Tensor, &'a Tensor, f64);

impl Delta {
    /// Two matrices, if it is that.
    pub fn pair(&self) -> Option<Pair<'_>> {
        match &self.factors {
            Factors::Pair { down, up } => Some((down, up, self.scale)),
            Factors::Kronecker { .. } | Factors::Whole(_) => None,
        }
    }

    /// Adds it to `y`, which a linear layer made of `x`. The scale is of what is small.
    pub fn add_to_linear(&self, y: &Tensor, x: &Tensor) -> Result<Tensor> {
        match &self.factors {
            Factors::Pair { down, up } => {
                let low = (ops::linear(x, down, None)? * self.scale)?;
                ops::linear_plus(&low, up, None, y)
            }
            Factors::Kronecker { left, right } => {
                let ((outer, parts), (inner, width)) = (left.dims2()?, right.dims2()?);
                let samples = x.dim(0)?;
                let low = ops::linear(&x.reshape((samples, (), width))?, right, None)?;
                let low = ops::swap_tokens_and_channels(&low.reshape(((), parts, inner))?)?;
                let left = (left * self.scale)?;
                let sums = ops::linear(&low.reshape((samples, (), parts))?, &left, None)?;
                let sums = ops::swap_tokens_and_channels(&sums.reshape(((), inner, outer))?)?;
                ops::add(y, &sums.reshape(y.shape())?)
            }
            Factors::Whole(weight) => ops::add(y, &(ops::linear(x, weight, None)? * self.scale)?),
        }
    }

    /// Adds it to `y`, which a convolution made of `x`.
    pub fn add_to_conv2d(&self, y: &Tensor, x: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
        match &self.factors {
            Factors::Pair { down, up } => {
                let low = (ops::conv2d(x, down, None, stride, padding)? * self.scale)?;
                ops::conv2d_plus(&low, up, None, y, 1, 0)
            }
            Factors::Kronecker { left, right } => {
                let (samples, _, rows, columns) = x.dims4()?;
                let (outer, parts) = left.dims2()?;
                let (_, out, out_rows, out_columns) = y.dims4()?;
                let (channels, inner) = (right.dim(1)?, out / outer);
                let x = x.reshape((samples * parts, channels, rows, columns))?;
                let low = ops::conv2d(&x, right, None, stride, padding)?;
                let low = low.reshape((samples, parts, inner * out_rows, out_columns))?;
                let left = (left * self.scale)?.reshape((outer, parts, 1, 1))?;
                ops::add(y, &ops::conv2d(&low, &left, None, 1, 0)?.reshape(y.shape())?)
            }
            Factors::Whole(weight) => {
                ops::add(y, &(ops::conv2d(x, weight, None, stride, padding)? * self.scale)?)
            }
        }
    }
}

impl Factors {
    /// The weight that they are, in f32.
    ///
    /// # Errors
    /// What candle says.
    pub fn whole(&self) -> Result<Tensor> {
        let wide = |x: &Tensor| x.to_dtype(DType::F32);
        match self {
            Self::Pair { down, up } => {
                let (rank, out) = (down.dim(0)?, up.dim(0)?);
                let shape = [&[out], &down.dims()[1..]].concat();
                wide(up)?.reshape((out, rank))?.matmul(&wide(down)?.reshape((rank, ()))?)?.reshape(shape)
            }
            Self::Kronecker { left, right } => {
                let ((a, b), (c, d)) = (left.dims2()?, (right.dim(0)?, right.dim(1)?));
                let left = wide(left)?.reshape((a, 1, b, 1, 1))?;
                let whole = left.broadcast_mul(&wide(right)?.reshape((1, c, 1, d, ()))?)?;
                whole.reshape([&[a * c, b * d], &right.dims()[2..]].concat())
            }
            Self::Whole(weight) => wide(weight),
        }
    }

    /// Some of their rows, as a layer's own.
    ///
    /// # Errors
    /// What candle says.
    pub fn rows(&self, rows: &Rows) -> Result<Self> {
        match self {
            Self::Pair { down, up } => Ok(Self::Pair { down: down.clone(), up: rows.of_tensor(up)? }),
            Self::Kronecker { right, .. } => {
                Ok(Self::Whole(rows.of_tensor(&self.whole()?)?.to_dtype(right.dtype())?))
            }
            Self::Whole(weight) => Ok(Self::Whole(rows.of_tensor(weight)?)),
        }
    }

    /// Each row of the weight times a number of `outputs` `[out]`, or each column times one of `inputs` `[in]`.
    ///
    /// # Errors
    /// What candle says.
    pub fn times(&self, gain: &Gain) -> Result<Self> {
        let times = |x: &Tensor, gain: &Gain| gain.of_weight(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype());
        match (self, gain) {
            (Self::Pair { down, up }, Gain::Outputs(_)) => {
                Ok(Self::Pair { down: down.clone(), up: times(up, gain)? })
            }
            (Self::Pair { down, up }, Gain::Inputs(_)) => {
                Ok(Self::Pair { down: times(down, gain)?, up: up.clone() })
            }
            (Self::Kronecker { right, .. }, gain) => {
                Ok(Self::Whole(gain.of_weight(&self.whole()?)?.to_dtype(right.dtype())?))
            }
            (Self::Whole(weight), gain) => Ok(Self::Whole(times(weight, gain)?)),
        }
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        let bytes = |x: &Tensor| x.elem_count() * x.dtype().size_in_bytes();
        match self {
            Self::Pair { down: one, up: other } | Self::Kronecker { left: one, right: other } => {
                bytes(one) + bytes(other)
            }
            Self::Whole(weight) => bytes(weight),
        }
    }
}

/// Numbers in f32 that a weight is multiplied by.
#[derive(Debug, Clone)]
pub enum Gain {
    /// `[out]`: one for each row.
    Outputs(Tensor),
    /// `[in]`: one for each column.
    Inputs(Tensor),
}

impl Gain {
    fn of_weight(&self, weight: &Tensor) -> Result<Tensor> {
        let ones = vec![1; weight.rank() - 1];
        match self {
            Self::Outputs(gain) => {
                weight.broadcast_mul(&gain.reshape([&[gain.elem_count()], &ones[..]].concat())?)
            }
            Self::Inputs(gain) => {
                weight.broadcast_mul(&gain.reshape([&[1, gain.elem_count()], &ones[1..]].concat())?)
            }
        }
    }
}
