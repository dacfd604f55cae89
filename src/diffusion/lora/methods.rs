//! From the tensors of a file to what is added to a layer, for each method. The reference is LyCORIS
//! (arXiv 2309.14859), of which the names of parts are.

use candle_core::{DType, Result, Tensor};

use super::{
    delta::Factors,
    file::{LayerFile, Shape},
    parts::Part::{
        self, Down, HadaT1, HadaT2, HadaW1A, HadaW1B, HadaW2A, HadaW2B, LokrT2, LokrW1, LokrW1A, LokrW1B,
        LokrW2, LokrW2A, LokrW2B, Mid, Up,
    },
};
use crate::diffusion::DiffusionError;

/// What is added, and the rank that alpha is divided by; none where alpha does not count.
pub type Built = (Factors, Option<usize>);

/// Two matrices; with a third between them (a Tucker form of a convolution), down and it are made one.
///
/// # Errors
/// A part that is missing or does not fit the layer; so of the next two.
pub fn low_rank(layer: &LayerFile<'_>) -> std::result::Result<Built, DiffusionError> {
    let shape = layer.shape();
    let down = layer.need(Down, "a matrix down to the rank")?;
    layer.need(Up, "a matrix up from the rank")?;
    let rank = layer.rank_of(down, 0)?;
    let up = layer.take(Up, &shape.up(rank))?;
    if !layer.has(Mid) {
        return Ok((Factors::Pair { down: layer.take(Down, &shape.down(rank))?, up }, Some(rank)));
    }
    let down = layer.wide(Down, &[rank, shape.inputs])?;
    let mid = layer.wide(Mid, &[&[rank, rank], shape.kernel.as_slice()].concat())?;
    let down = through(&mid, &down)?.reshape(shape.down(rank))?.to_dtype(layer.dtype())?;
    Ok((Factors::Pair { down, up }, Some(rank)))
}

/// LoHa: the product, value by value, of two weights of low rank. It is of low rank itself, the ranks' product, and kept so
/// where that is less to compute.
pub fn hadamard(layer: &LayerFile<'_>) -> std::result::Result<Built, DiffusionError> {
    let shape = layer.shape();
    let half = |a: Part, b: Part, core: Part| {
        layer.need(a, "both factors of both weights")?;
        let key = layer.need(b, "both factors of both weights")?;
        let rank = layer.rank_of(key, 0)?;
        if !layer.has(core) {
            let up = layer.wide(a, &[shape.outputs, rank])?;
            return Ok((up, layer.wide(b, &[rank, shape.area()])?));
        }
        let up = layer.wide(a, &[rank, shape.outputs])?.t()?;
        let core = layer.wide(core, &[&[rank, rank], shape.kernel.as_slice()].concat())?;
        let down = through(&core, &layer.wide(b, &[rank, shape.inputs])?)?;
        Ok::<_, DiffusionError>((up, down.reshape((rank, shape.area()))?))
    };
    let ((up_1, down_1), (up_2, down_2)) = (half(HadaW1A, HadaW1B, HadaT1)?, half(HadaW2A, HadaW2B, HadaT2)?);
    let (rank, rank_2) = (down_1.dim(0)?, down_2.dim(0)?);
    let (all, area, out) = (rank * rank_2, shape.area(), shape.outputs);
    let dtype = layer.dtype();
    let factors = if all * (area + out) < area * out {
        let down = down_1.unsqueeze(1)?.broadcast_mul(&down_2.unsqueeze(0)?)?;
        let up = up_1.unsqueeze(2)?.broadcast_mul(&up_2.unsqueeze(1)?)?;
        Factors::Pair {
            down: down.reshape(shape.down(all))?.to_dtype(dtype)?,
            up: up.reshape(shape.up(all))?.to_dtype(dtype)?,
        }
    } else {
        let whole = (up_1.contiguous()?.matmul(&down_1)? * up_2.contiguous()?.matmul(&down_2)?)?;
        Factors::Whole(whole.reshape(shape.whole())?.to_dtype(dtype)?)
    };
    Ok((factors, Some(rank)))
}

/// LoKr: a Kronecker product, whose two factors may be products of two matrices each, the second with a core between
/// them. Alpha counts where one of them is.
pub fn kronecker(layer: &LayerFile<'_>) -> std::result::Result<Built, DiffusionError> {
    let shape = layer.shape();
    let mut rank = None;
    let first = factor(layer, [LokrW1, LokrW1A, LokrW1B])?;
    let (a, b) = match first {
        Factor::Full(key) => layer.two_sides(key)?.into(),
        Factor::Product(a_key, b_key) => (layer.two_sides(a_key)?[0], layer.two_sides(b_key)?[1]),
    };
    if !shape.outputs.is_multiple_of(a) || !shape.inputs.is_multiple_of(b) {
        let expected = format!("sides that divide {} and {}", shape.outputs, shape.inputs);
        return Err(layer.wrong(layer.a_key(), &expected, &format!("{a} and {b}")));
    }
    let left = match first {
        Factor::Full(_) => layer.wide(LokrW1, &[a, b])?,
        Factor::Product(_, b_key) => {
            let ranks = layer.rank_of(b_key, 0)?;
            rank = Some(ranks);
            layer.wide(LokrW1A, &[a, ranks])?.matmul(&layer.wide(LokrW1B, &[ranks, b])?)?
        }
    };
    let inner = Shape { outputs: shape.outputs / a, inputs: shape.inputs / b, kernel: shape.kernel.clone() };
    let right = match factor(layer, [LokrW2, LokrW2A, LokrW2B])? {
        Factor::Full(_) => layer.wide(LokrW2, &inner.whole())?,
        Factor::Product(_, b_key) => {
            let ranks = layer.rank_of(b_key, 0)?;
            rank = Some(ranks);
            let (up, down) = if layer.has(LokrT2) {
                let core = layer.wide(LokrT2, &[&[ranks, ranks], inner.kernel.as_slice()].concat())?;
                let down = through(&core, &layer.wide(LokrW2B, &[ranks, inner.inputs])?)?;
                (layer.wide(LokrW2A, &[ranks, inner.outputs])?.t()?.contiguous()?, down)
            } else {
                let down = layer.wide(LokrW2B, &[ranks, inner.area()])?;
                (layer.wide(LokrW2A, &[inner.outputs, ranks])?, down)
            };
            up.matmul(&down.reshape((ranks, inner.area()))?)?.reshape(inner.whole())?
        }
    };
    let dtype = layer.dtype();
    Ok((Factors::Kronecker { left: left.to_dtype(dtype)?, right: right.to_dtype(dtype)? }, rank))
}

/// A factor of a Kronecker product as a file has it.
#[derive(Clone, Copy)]
enum Factor<'a> {
    /// By its key.
    Full(&'a str),
    /// A product of two matrices, by their keys.
    Product(&'a str, &'a str),
}

fn factor<'a>(
    layer: &'a LayerFile<'_>,
    [full, a, b]: [Part; 3],
) -> std::result::Result<Factor<'a>, DiffusionError> {
    match (layer.key(full), layer.key(a).or(layer.key(b))) {
        (Some(key), None) => Ok(Factor::Full(key)),
        (Some(_), Some(product)) => Err(layer.wrong(product, "a factor, or what it is a product of", "both")),
        (None, _) => Ok(Factor::Product(
            layer.need(a, "both factors of a Kronecker product")?,
            layer.need(b, "both factors of a Kronecker product")?,
        )),
    }
}

/// A core `[rank, rank, kernel..]` and a matrix `[rank, in]` behind it as one: `[rank, in, kernel]`.
fn through(core: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let rank = core.dim(0)?;
    let core = core.reshape((rank, matrix.dim(0)?, ()))?.transpose(1, 2)?.contiguous()?;
    let pixels = core.dim(1)?;
    let product = core.reshape((rank * pixels, ()))?.matmul(matrix)?;
    product.reshape((rank, pixels, ()))?.transpose(1, 2)?.contiguous()?.to_dtype(DType::F32)
}
