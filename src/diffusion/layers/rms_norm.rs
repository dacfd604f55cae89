//! A norm without mean and bias (Zhang and Sennrich 2019).

use candle_core::{DType, Result, Tensor};

use crate::diffusion::{DiffusionError, checkpoint::Scope};

/// `torch.nn.RMSNorm`, over the last dimension.
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Of `width` numbers, with its weight in the type that is computed in.
    pub fn load(
        at: &Scope<'_>,
        width: usize,
        eps: f64,
        dtype: DType,
    ) -> std::result::Result<Self, DiffusionError> {
        Ok(Self { weight: at.tensor("weight", &[width])?.to_dtype(dtype)?, eps })
    }

    /// The same shape; `x` is of the weight's type.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.eps as f32)
    }
}
