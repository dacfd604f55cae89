//! Every operation on candle's primitives: for devices and types that have no kernels here, and what kernels are
//! measured against. Weights have the type of the activations.

use candle_core::{D, DType, Result, Tensor};

use super::{Activation, AttentionOptions};

/// Attention scores kept at once, in elements (256 MiB in f32); more heads, or more queries of a head, are done one
/// part after the other.
pub const MAX_SCORES: usize = 1 << 26;

/// See [`super::conv2d`].
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let y = convolve(x, weight, stride, padding)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape(((), y.dim(1)?, 1, 1))?),
        None => Ok(y),
    }
}

#[cfg(feature = "cudnn")]
fn convolve(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    use super::cuda::conv;

    if x.device().is_cuda() && conv::computes(x.dtype()) {
        conv::conv2d(x, weight, stride, padding)
    } else {
        x.conv2d(weight, padding, stride, 1, 1)
    }
}

#[cfg(not(feature = "cudnn"))]
fn convolve(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    x.conv2d(weight, padding, stride, 1, 1)
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

/// Values of a group up to which a group norm on a GPU is one kernel over rows. One block of threads computes a row, so
/// that longer ones would leave most of a GPU without work.
const LONGEST_ROW: usize = 1 << 18;

/// See [`super::group_norm`].
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let row = x.elem_count() / (x.dim(0)? * groups).max(1);
    // The kernel takes the variance from sums of values and of squares, which costs f32 digits that halves do not have.
    let is_half = matches!(x.dtype(), DType::F16 | DType::BF16);
    match !x.device().is_cpu() && row <= LONGEST_ROW && is_half {
        true => group_norm_by_rows(x, weight, bias, groups, eps),
        false => group_norm_by_parts(x, weight, bias, groups, eps),
    }
}

/// A norm over rows, each a group of a sample, and then a factor and a shift per channel: 5 kernels where each step of the
/// formula is 13.
fn group_norm_by_rows(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let dims = x.dims().to_vec();
    let (batch, channels) = (dims[0], dims[1]);
    let rows = x.reshape((batch * groups, ()))?;
    let row = rows.dim(1)?;
    let (one, zero) = (Tensor::ones(row, x.dtype(), x.device())?, Tensor::zeros(row, x.dtype(), x.device())?);
    candle_nn::ops::layer_norm(&rows, &one, &zero, eps as f32)?
        .reshape((batch, channels, ()))?
        .broadcast_mul(&weight.reshape((1, channels, 1))?)?
        .broadcast_add(&bias.reshape((1, channels, 1))?)?
        .reshape(dims)
}

/// Each step of the formula by itself.
fn group_norm_by_parts(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
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
    if x.dtype() == DType::F64 {
        // The other has none of this type.
        return candle_nn::ops::layer_norm_slow(x, weight, bias, eps as f32);
    }
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

/// See [`super::attention`]. Scores have the compute type unless `upcast` asks for f32.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) -> Result<Tensor> {
    attention_in_parts(q, k, v, options, MAX_SCORES)
}

fn attention_in_parts(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    options: AttentionOptions,
    max_scores: usize,
) -> Result<Tensor> {
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
    let heads = batch * options.heads;
    let (heads_at_once, queries_at_once) = parts(heads, n, m, max_scores);
    let mut rows = Vec::with_capacity(heads.div_ceil(heads_at_once));
    for head in (0..heads).step_by(heads_at_once) {
        let count = heads_at_once.min(heads - head);
        let (k, v) = (k.narrow(0, head, count)?.transpose(1, 2)?, v.narrow(0, head, count)?);
        let mut columns = Vec::with_capacity(n.div_ceil(queries_at_once));
        for query in (0..n).step_by(queries_at_once) {
            let queries = queries_at_once.min(n - query);
            let scores = q.narrow(0, head, count)?.narrow(1, query, queries)?.contiguous()?.matmul(&k)?;
            let scores = match &mask {
                Some(mask) => scores.broadcast_add(&mask.narrow(1, query, queries)?)?,
                None => scores,
            };
            columns.push(candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?);
        }
        rows.push(joined(columns, 1)?);
    }
    joined(rows, 0)?
        .to_dtype(dtype)?
        .reshape((batch, options.heads, n, head_width))?
        .transpose(1, 2)?
        .reshape((batch, n, width))
}

/// Heads and queries to compute at once, so that with `m` keys there are at most `max_scores` scores: all queries of
/// several heads, or where one head has too many, some queries of one. One query of one head is the least.
fn parts(heads: usize, n: usize, m: usize, max_scores: usize) -> (usize, usize) {
    let queries = (max_scores / m.max(1)).clamp(1, n.max(1));
    ((max_scores / (queries * m).max(1)).clamp(1, heads), queries)
}

/// Parts side by side; no copy of a single one.
fn joined(mut parts: Vec<Tensor>, dim: usize) -> Result<Tensor> {
    if parts.len() == 1 { Ok(parts.remove(0)) } else { Tensor::cat(&parts, dim) }
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

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_group_norm_by_rows_is_the_same_as_by_parts() {
        let random = |mean: f32, shape: &[usize]| Tensor::randn(mean, 1.5f32, shape, &Device::Cpu).unwrap();
        for shape in [[2, 8, 5, 7], [1, 32, 16, 16]] {
            let (x, weight, bias) =
                (random(3.0, &shape), random(1.0, &shape[1..2]), random(0.0, &shape[1..2]));
            let by_rows = group_norm_by_rows(&x, &weight, &bias, 4, 1e-5).unwrap();
            let by_parts = group_norm_by_parts(&x, &weight, &bias, 4, 1e-5).unwrap();
            let apart = (by_rows - by_parts).unwrap().abs().unwrap().max_all().unwrap();
            let apart = apart.to_scalar::<f32>().unwrap();
            assert!(apart < 5e-4, "{shape:?}: {apart}");
        }
    }

    /// The largest difference between attention in parts of `max_scores` and attention at once.
    fn difference(dtype: DType, options: AttentionOptions, max_scores: usize) -> f32 {
        let random = |tokens| {
            let values = Tensor::randn(0f32, 1.0, (2, tokens, 24), &Device::Cpu).expect("values");
            values.to_dtype(dtype).expect("a float type")
        };
        let tokens = if options.causal { 13 } else { 9 };
        let (q, k, v) = (random(13), random(tokens), random(tokens));
        let of = |max| {
            let out = attention_in_parts(&q, &k, &v, options, max).expect("attention");
            assert_eq!((out.dims(), out.dtype()), ([2, 13, 24].as_slice(), dtype));
            out.to_dtype(DType::F32).expect("a float type")
        };
        let apart = (of(max_scores) - of(usize::MAX)).expect("one shape").abs().expect("floats");
        apart.max_all().expect("values").to_scalar().expect("a number")
    }

    #[test]
    fn attention_in_parts_is_attention() {
        for causal in [false, true] {
            for max_scores in [1, 30, 40, 13 * 13, 300] {
                let options = AttentionOptions { heads: 3, causal, upcast: false };
                let apart = difference(DType::F32, options, max_scores);
                assert!(apart < 1e-6, "causal {causal}, {max_scores} scores at once: {apart}");
                // The last of f16's 11 bits, for values up to 4.
                let apart = difference(DType::F16, AttentionOptions { upcast: true, ..options }, max_scores);
                assert!(apart <= 4.0 / 2048.0, "causal {causal}, {max_scores} scores at once, f16: {apart}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_part_has_more_scores_than_are_allowed(
            heads in 1usize..64, n in 1usize..20_000, m in 1usize..20_000, max in 1usize..1 << 27,
        ) {
            let (heads_at_once, queries) = parts(heads, n, m, max);
            prop_assert!((1..=heads).contains(&heads_at_once) && (1..=n).contains(&queries));
            prop_assert!(heads_at_once * queries * m <= max || (heads_at_once, queries) == (1, 1));
            prop_assert!(queries == n || heads_at_once == 1);
        }
    }
}
