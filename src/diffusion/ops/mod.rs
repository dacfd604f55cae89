//! The arithmetic of the networks, in one place: whatever is made faster is made faster here.
//!
//! Tensors are `[batch, channels, height, width]` or `[batch, tokens, width]`. Weights may be kept in another type than
//! the activations: they are widened or narrowed when they are used, and what comes out has the activations' type.
//!
//! In f32 on the CPU the kernels of `cpu/` compute; everything else goes through [`plain`]. Kernels cut their work
//! into pieces that depend on the shape of one sample only, so a sample's bits depend neither on what else is in the
//! batch nor on the number of threads.

mod arithmetic;
mod bands;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
mod levels_tests;
pub mod plain;

use self::cpu::{attention, conv, elementwise, linear, norm};
use candle_core::{D, DType, Device, Result, Tensor};

pub use self::arithmetic::arithmetic;
pub use self::bands::{BAND_PIXELS, Bands, Norm, Seen, View};
pub use self::cpu::scratch::{
    Holder as ScratchHolder, PER_THREAD as KEPT_PER_THREAD, SHARED as KEPT_FOR_ALL,
};
pub use self::plain::MAX_SCORES;

/// Activation functions of diffusers' and transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// With the error function, as torch's default.
    GeluErf,
    /// With tanh, as `gelu_new`.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`, CLIP's own.
    QuickGelu,
}

/// Whether the kernels of `cpu/` compute with `x`.
fn has_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && x.elem_count() > 0
}

/// Whether they read `weight`.
fn is_read_by_kernels(weight: &Tensor) -> bool {
    let dtype = matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16);
    weight.device().is_cpu() && dtype && weight.elem_count() > 0
}

/// The most bytes that a convolution on a GPU takes beside its input and output, where cuDNN computes it.
#[cfg(feature = "cudnn")]
pub const WORKSPACE: usize = cuda::conv::WORKSPACE;
/// The most bytes that a convolution on a GPU takes beside its input and output; without cuDNN that grows with them.
#[cfg(not(feature = "cudnn"))]
pub const WORKSPACE: usize = 0;

/// On a GPU through CUDA, keeps what is uploaded in small pieces as long as it lives; nothing elsewhere. To be used around
/// networks that are computed again and again with the same shapes, and upload no numbers.
#[cfg(feature = "cuda")]
pub fn keep_uploads(device: &Device) -> Option<impl Sized + use<>> {
    cuda::keep_uploads(device)
}

/// On a GPU through CUDA, keeps what is uploaded in small pieces as long as it lives; this build has none.
#[cfg(not(feature = "cuda"))]
pub fn keep_uploads(_: &Device) -> Option<()> {
    None
}

/// A weight in the type of the activations; no copy where it is that already.
fn as_type_of(weight: &Tensor, x: &Tensor) -> Result<Tensor> {
    weight.to_dtype(x.dtype())
}

/// A convolution with square strides and padding. `weight` is `[out, in, kernel, kernel]`, `bias` `[out]` or, with one
/// for each sample, `[batch, out]`.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    convolution(x, weight, bias, None, stride, padding)
}

/// [`conv2d`], plus `more` of the shape that comes out.
pub fn conv2d_plus(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    more: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    convolution(x, weight, bias, Some(&more.contiguous()?), stride, padding)
}

fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    more: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let bias = bias.map(|bias| as_type_of(bias, x)).transpose()?;
    let (samples, inputs, height, width) = x.dims4()?;
    let (outputs, weight_inputs, kernel_height, kernel_width) = weight.dims4()?;
    let fits = kernel_height <= height + 2 * padding && kernel_width <= width + 2 * padding;
    let side = |length: usize, kernel: usize| (length + 2 * padding).saturating_sub(kernel) / stride + 1;
    let out_dims = [samples, outputs, side(height, kernel_height), side(width, kernel_width)];
    if has_kernels(x) && is_read_by_kernels(weight) && inputs == weight_inputs && fits {
        match more {
            Some(more) if !has_kernels(more) || more.dims() != out_dims => {
                conv::conv2d(x, weight, bias.as_ref(), None, stride, padding)? + more
            }
            more => conv::conv2d(x, weight, bias.as_ref(), more, stride, padding),
        }
    } else {
        let y = plain::conv2d(x, &as_type_of(weight, x)?, bias.as_ref(), stride, padding)?;
        more.map_or(Ok(y.clone()), |more| y + more)
    }
}

/// Whether there are kernels for the linear layer `weight` of `x`.
fn has_linear_kernels(x: &Tensor, weight: &Tensor) -> Result<bool> {
    let fits = x.rank() > 1 && x.dim(D::Minus1)? == weight.dim(D::Minus1)?;
    Ok(has_kernels(x) && is_read_by_kernels(weight) && fits)
}

/// `x W^T + b` over the last dimension. `weight` is `[out, in]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let bias = bias.map(|bias| as_type_of(bias, x)).transpose()?;
    if has_linear_kernels(x, weight)? {
        linear::linear(x, weight, bias.as_ref())
    } else {
        plain::linear(x, &as_type_of(weight, x)?, bias.as_ref())
    }
}

/// [`linear`], plus `more` of the shape that comes out.
pub fn linear_plus(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, more: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = weight.dim(0)?;
    }
    if has_linear_kernels(x, weight)? && has_kernels(more) && more.dims() == dims {
        let bias = bias.map(|bias| as_type_of(bias, x)).transpose()?;
        linear::linear_plus(x, weight, bias.as_ref(), &more.contiguous()?)
    } else {
        linear(x, weight, bias)? + more
    }
}

/// Whether a linear layer computes a sample's rows together, so that each sum is added to in one order.
pub fn has_many_rows(x: &Tensor) -> bool {
    has_kernels(x) && x.rank() > 1 && linear::has_many_rows(x)
}

/// [`linear`], plus `more` of the shape that comes out if there is any, plus the product of `low` `[.., rank]` with `up`
/// `[out, rank]`.
pub fn linear_added(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    more: Option<&Tensor>,
    (low, up): (&Tensor, &Tensor),
) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = weight.dim(0)?;
    }
    let more_fits = more.is_none_or(|more| has_kernels(more) && more.dims() == dims);
    let fits =
        has_linear_kernels(x, weight)? && has_linear_kernels(low, up)? && up.dim(0)? == weight.dim(0)?;
    let rows_fit = x.rank() == low.rank() && x.dims()[..x.rank() - 1] == low.dims()[..low.rank() - 1];
    if fits && rows_fit && more_fits && linear::has_many_rows(x) {
        let bias = bias.map(|bias| as_type_of(bias, x)).transpose()?;
        let more = more.map(Tensor::contiguous).transpose()?;
        return linear::linear_added(x, weight, bias.as_ref(), more.as_ref(), (low, up));
    }
    let y = match more {
        Some(more) => linear_plus(x, weight, bias, more)?,
        None => linear(x, weight, bias)?,
    };
    linear_plus(low, up, None, &y)
}

/// [`geglu`] of [`linear`].
pub fn linear_geglu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if has_linear_kernels(x, weight)? && weight.dim(0)? % 2 == 0 {
        let bias = bias.map(|bias| as_type_of(bias, x)).transpose()?;
        linear::linear_geglu(x, weight, bias.as_ref())
    } else {
        geglu(&linear(x, weight, bias)?)
    }
}

/// Normalises each sample over groups of channels, with a weight and a bias per channel.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let (weight, bias) = (as_type_of(weight, x)?, as_type_of(bias, x)?);
    if has_kernels(x) {
        norm::group_norm(x, &weight, &bias, groups, eps, false)
    } else {
        plain::group_norm(x, &weight, &bias, groups, eps)
    }
}

/// [`group_norm`], and SiLU after it.
pub fn group_norm_silu(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    let (weight, bias) = (as_type_of(weight, x)?, as_type_of(bias, x)?);
    if has_kernels(x) {
        norm::group_norm(x, &weight, &bias, groups, eps, true)
    } else {
        plain::group_norm(x, &weight, &bias, groups, eps)?.silu()
    }
}

/// Normalises over the last dimension.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (weight, bias) = (as_type_of(weight, x)?, as_type_of(bias, x)?);
    if has_kernels(x) && weight.dims() == [x.dim(D::Minus1)?] {
        norm::layer_norm(x, &weight, &bias, eps)
    } else {
        plain::layer_norm(x, &weight, &bias, eps)
    }
}

/// Rows of `table` `[known, width]` by their numbers `ids` `[n]`, as `dtype`: `[n, width]`. Only those rows are widened.
pub fn embedding(table: &Tensor, ids: &Tensor, dtype: DType) -> Result<Tensor> {
    table.embedding(ids)?.to_dtype(dtype)
}

/// An activation function, element by element.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if has_kernels(x) { elementwise::activate(x, activation) } else { plain::activate(x, activation) }
}

/// What is below zero is zero.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if has_kernels(x) { elementwise::relu(x) } else { x.relu() }
}

/// Gated GELU: the first half of the last dimension times the GELU (with the error function) of the second.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    if has_kernels(x) && x.dim(D::Minus1)? % 2 == 0 { elementwise::geglu(x) } else { plain::geglu(x) }
}

/// The sum of two tensors of one shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if has_kernels(x) && has_kernels(y) && x.dims() == y.dims() { elementwise::add(x, y) } else { x + y }
}

/// How attention is done.
#[derive(Debug, Clone, Copy)]
pub struct AttentionOptions {
    /// Heads; the last dimension is divided among them.
    pub heads: usize,
    /// A token sees itself and those before it only.
    pub causal: bool,
    /// Scores in f32 whatever the compute type.
    pub upcast: bool,
}

/// Scaled dot product attention of `q` `[batch, n, width]` over `k` and `v` `[batch, m, width]`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) -> Result<Tensor> {
    let (batch, n, width) = q.dims3()?;
    let context = (batch, k.dim(1)?, width);
    let fits = k.dims3()? == context && v.dims3()? == context && (!options.causal || n == context.1);
    if [q, k, v].into_iter().all(has_kernels) && fits && width % options.heads == 0 {
        attention::attention(q, k, v, options)
    } else {
        plain::attention(q, k, v, options)
    }
}

/// Nearest neighbour up to a given height and width.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    if has_kernels(x) && height * width > 0 {
        elementwise::upsample_nearest(x, height, width)
    } else {
        plain::upsample_nearest(x, height, width)
    }
}

/// `[batch, a, b]` to `[batch, b, a]`, with neighbouring values next to each other in memory.
pub fn swap_tokens_and_channels(x: &Tensor) -> Result<Tensor> {
    if has_kernels(x) { elementwise::swap_tokens_and_channels(x) } else { x.transpose(1, 2)?.contiguous() }
}
