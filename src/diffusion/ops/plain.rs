//! Every operation on candle's primitives: for devices and types that have no kernels here, and what kernels are
//! measured against. Weights have the type of the activations.

use candle_core::{D, DType, Result, Tensor};

use super::{Activation, AttentionOptions};

/// Attention scores kept at once, in elements (256 MiB in f32); more heads are done one after the other.
const MAX_SCORES: usize = 1 << 26;

/// See [`super::conv2d`].
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let y = x.conv2d(weight, padding, stride, 1, 1)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape(((), y.dim(1)?, 1, 1))?),
        None => Ok(y),
    }
}

/// See [`super::linear`].
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let inputs = dims.pop().unwrap_or(1);
    let y = x.reshape(((), inputs))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    dims.push(weight.dim(0)?);
    y.reshape(dims)
}

/// See [`super::group_norm`].
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let (batch, channels) = (dims[0], dims[1]);
    let values = x.reshape((batch, groups, ()))?.to_dtype(DType::F32)?;
    let values = values.broadcast_sub(&values.mean_keepdim(2)?)?;
    let scale = (values.sqr()?.mean_keepdim(2)? + eps)?.sqrt()?;
    let values = values.broadcast_div(&scale)?.to_dtype(x.dtype())?.reshape((batch, channels, ()))?;
    values
        .broadcast_mul(&weight.reshape((1, channels, 1))?)?
        .broadcast_add(&bias.reshape((1, channels, 1))?)?
        .reshape(dims)
}

/// See [`super::layer_norm`].
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    candle_nn::ops::layer_norm(&x.contiguous()?, weight, bias, eps as f32)
}

/// See [`super::activate`].
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::GeluErf => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
    }
}

/// See [`super::geglu`].
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, half, half)?.contiguous()?.gelu_erf()?;
    x.narrow(D::Minus1, 0, half)?.contiguous()? * gate
}

/// See [`super::attention`].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) -> Result<Tensor> {
    let (batch, n, width) = q.dims3()?;
    let m = k.dim(1)?;
    let head_width = width / options.heads;
    let dtype = q.dtype();
    let split = |x: &Tensor, tokens: usize| -> Result<Tensor> {
        let x = x.reshape((batch, tokens, options.heads, head_width))?.transpose(1, 2)?;
        let x = x.reshape((batch * options.heads, tokens, head_width))?;
        if options.upcast { x.to_dtype(DType::F32) } else { Ok(x) }
    };
    let q = (split(q, n)? * (head_width as f64).powf(-0.5))?;
    let (k, v) = (split(k, m)?, split(v, m)?);
    let mask = if options.causal { Some(causal_mask(n, &q)?) } else { None };
    let rows = batch * options.heads;
    let at_once = (MAX_SCORES / (n * m).max(1)).clamp(1, rows);
    let mut parts = Vec::with_capacity(rows.div_ceil(at_once));
    for start in (0..rows).step_by(at_once) {
        let count = at_once.min(rows - start);
        let part = |x: &Tensor| x.narrow(0, start, count);
        let scores = part(&q)?.matmul(&part(&k)?.transpose(1, 2)?)?;
        let scores = match &mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        parts.push(candle_nn::ops::softmax_last_dim(&scores)?.matmul(&part(&v)?)?);
    }
    let out = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0)? };
    out.to_dtype(dtype)?
        .reshape((batch, options.heads, n, head_width))?
        .transpose(1, 2)?
        .reshape((batch, n, width))
}

/// `[1, n, n]`: 0 where a token may look, minus infinity where not.
fn causal_mask(n: usize, like: &Tensor) -> Result<Tensor> {
    let values: Vec<f32> = (0..n)
        .flat_map(|row| (0..n).map(move |column| if column > row { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    Tensor::from_vec(values, (1, n, n), like.device())?.to_dtype(like.dtype())
}

/// See [`super::upsample_nearest`].
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    x.contiguous()?.upsample_nearest2d(height, width)
}
