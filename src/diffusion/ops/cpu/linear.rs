//! Products with a weight `[outputs, inputs]`: some of its rows are packed, and all rows of the input pass by.

use std::slice;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    floats::Floats,
    lanes::{CpuLevel, Lanes, Work},
    parts::Parts,
    scratch::Scratch,
    simd,
    tile::{Product, Start},
    wide_weights::{Weight, WideWeights},
};
use crate::allocator::leftover;

/// Values of packed weights that stay in a core's cache (512 KiB).
const PACKED: usize = 1 << 17;
/// Products that are summed in a go.
const DEPTH: usize = 2048;
/// Pieces of work for each thread, so that none waits long for another.
const PIECES: usize = 4;
/// Rows that packing weights pays for, and rows that pay for packing them once more for each piece.
const FEW_ROWS: usize = 96;
const MANY_ROWS: usize = 1024;
/// Values between copied rows: without them, rows of some lengths fall on the same places of the cache.
const PAD: usize = 16;

/// Rows of a sample below which each output is a dot product of its own; what is around does not matter, so that a
/// sample's bits do not depend on the others.
const FEWEST_ROWS: usize = 6;

/// What becomes of the sums.
#[derive(Clone, Copy)]
enum Then<'a> {
    /// They are the output.
    Nothing,
    /// These are added, in the output's shape.
    Plus(&'a [f32]),
    /// The first half of the outputs, each times the GELU of its fellow in the second half.
    Gate,
}

/// As [`ops::linear`](crate::diffusion::ops::linear); `x` is f32 on the CPU, and has values and two dimensions or more.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    compute(x, weight, bias, Then::Nothing)
}

/// As [`ops::linear_plus`](crate::diffusion::ops::linear_plus); as [`linear`], and `more` is contiguous.
pub fn linear_plus(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, more: &Tensor) -> Result<Tensor> {
    compute(x, weight, bias, Then::Plus(Floats::of(more).values()?))
}

/// As [`ops::linear_geglu`](crate::diffusion::ops::linear_geglu); as [`linear`].
pub fn linear_geglu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    compute(x, weight, bias, Then::Gate)
}

/// As [`ops::linear_added`](crate::diffusion::ops::linear_added); as [`linear_plus`], `low` is f32 on the CPU, and a sample has
/// [`FEWEST_ROWS`] or more. Bit for bit what [`linear_plus`] of `low` makes of the layer's output.
pub fn linear_added(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    more: Option<&Tensor>,
    (low, up): (&Tensor, &Tensor),
) -> Result<Tensor> {
    let (low, up) = (low.contiguous()?, up.contiguous()?);
    let rank = low.dim(candle_core::D::Minus1)?;
    let (low, up) = (Floats::of(&low), Weight::of(&up));
    let added = Added { low: low.values()?, rank, up: up.values()? };
    match more {
        Some(more) => compute_added(x, weight, bias, Then::Plus(Floats::of(more).values()?), Some(added)),
        None => compute_added(x, weight, bias, Then::Nothing, Some(added)),
    }
}

/// Whether rows of a sample are so many that they are computed together.
pub fn has_many_rows(x: &Tensor) -> bool {
    let dims = x.dims();
    x.elem_count() / dims[dims.len() - 1].max(1) / dims[0].max(1) >= FEWEST_ROWS
}

/// A product of low rank that is added to sums before they leave the cache.
#[derive(Clone, Copy)]
struct Added<'a> {
    /// `[rows, rank]`.
    low: &'a [f32],
    rank: usize,
    /// `[outputs, rank]`.
    up: WideWeights<'a>,
}

fn compute(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, then: Then<'_>) -> Result<Tensor> {
    compute_added(x, weight, bias, then, None)
}

fn compute_added(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    then: Then<'_>,
    added: Option<Added<'_>>,
) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let (samples, inputs) = (dims[0], dims[dims.len() - 1]);
    let rows = x.elem_count() / inputs;
    let outputs = match then {
        Then::Gate => weight.dim(0)? / 2,
        _ => weight.dim(0)?,
    };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let (x, weight, bias) = (Floats::of(&x), Weight::of(&weight), bias.as_ref().map(Floats::of));
    let bias = bias.as_ref().map(Floats::values).transpose()?;
    let mut out = leftover(rows * outputs);
    let (level, x, weight) = (CpuLevel::best(), x.values()?, weight.values()?);
    match rows / samples < FEWEST_ROWS && added.is_none() {
        true => dots(level, x, inputs, weight, bias, then, &mut out),
        false => products(level, x, inputs, weight, bias, (then, added), &mut out),
    }
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    Tensor::from_vec(out, dims, &Device::Cpu)
}

/// [`products`] for few rows: the weights pass by once, unpacked.
fn dots(
    level: CpuLevel,
    x: &[f32],
    inputs: usize,
    weight: WideWeights<'_>,
    bias: Option<&[f32]>,
    then: Then<'_>,
    out: &mut [f32],
) {
    let rows = x.len() / inputs;
    let outputs = out.len() / rows;
    let parts = Parts::of(out);
    (0..outputs).into_par_iter().with_min_len(DOTS).for_each_init(
        || Scratch::of(2 * inputs),
        |widened, output| {
            let (widened, gate) = widened.split_at_mut(inputs);
            let bias_of = |output: usize| bias.map_or(0.0, |bias| bias[output]);
            weight.read(output * inputs, widened);
            if let Then::Gate = then {
                weight.read((outputs + output) * inputs, gate);
            }
            for (row, x) in x.chunks_exact(inputs).enumerate() {
                let mut sum = [simd::dot(level, x, widened) + bias_of(output)];
                match then {
                    Then::Nothing => {}
                    Then::Plus(more) => sum[0] += more[row * outputs + output],
                    Then::Gate => {
                        let gate = simd::dot(level, x, gate) + bias_of(outputs + output);
                        simd::gated(level, &sum.clone(), &[gate], &mut sum);
                    }
                }
                // SAFETY: the place is valid, and no other task has this output.
                unsafe { *parts.at(row * outputs + output, 1) = sum[0] };
            }
        },
    );
}

/// Outputs that a thread does in a row, of few rows.
const DOTS: usize = 64;

/// `out[r] = W x[r] + bias`, what is added and what `then` says, for rows of `inputs` values.
fn products(
    level: CpuLevel,
    x: &[f32],
    inputs: usize,
    weight: WideWeights<'_>,
    bias: Option<&[f32]>,
    (then, added): (Then<'_>, Option<Added<'_>>),
    out: &mut [f32],
) {
    let rows = x.len() / inputs;
    let outputs = out.len() / rows;
    let width = level.columns();
    let panels = outputs.div_ceil(width);
    // A gate needs whole sums at once.
    let most = if let Then::Gate = then { inputs } else { inputs.min(DEPTH) };
    let fit = panels.div_ceil((PACKED / (most * width)).clamp(1, panels));
    let wanted = PIECES * rayon::current_num_threads();
    // Few rows are not worth packing the same weights twice.
    let across = if rows < MANY_ROWS { fit.max(wanted.min(panels)) } else { fit };
    let down = wanted.div_ceil(across).clamp(1, rows.div_ceil(FEW_ROWS));
    let (at_once, lines) = (panels.div_ceil(across), rows.div_ceil(down));
    let parts = Parts::of(out);
    (0..across * down).into_par_iter().for_each(|task| {
        let (first, line) = (task % across * at_once * width, task / across * lines);
        if first >= outputs || line >= rows {
            return;
        }
        let columns = (at_once * width).min(outputs - first);
        let halves = if let Then::Gate = then { 2 } else { 1 };
        let mut packed = Scratch::of(halves * at_once * width * most);
        let mut copied = Scratch::of(level.rows() * (most + PAD));
        let mut gates = Scratch::of(if halves == 2 { 2 * level.rows() * columns } else { 0 });
        let mut packed_up = Scratch::of(added.map_or(0, |added| at_once * width * added.rank));
        if let Some(Added { rank, up, .. }) = added {
            pack(level, up, rank, first..first + columns, 0..rank, &mut packed_up);
        }
        for start in (0..inputs).step_by(most) {
            let depth = most.min(inputs - start);
            for (half, packed) in packed.chunks_exact_mut(at_once * width * most).enumerate() {
                let first = half * outputs + first;
                pack(level, weight, inputs, first..first + columns, start..start + depth, packed);
            }
            let end = rows.min(line + lines);
            for line in (line..end).step_by(level.rows()).map(|line| line..end.min(line + level.rows())) {
                for (line, copied) in line.clone().zip(copied.chunks_exact_mut(depth + PAD)) {
                    copied[..depth].copy_from_slice(&x[line * inputs + start..][..depth]);
                }
                let at = |line: usize| line * outputs + first;
                let there = |line: usize| {
                    // SAFETY: the place is valid, and no other task has these outputs of this line.
                    unsafe { slice::from_raw_parts_mut(parts.at(at(line), columns), columns) }
                };
                if let (Then::Plus(more), 0) = (then, start) {
                    for line in line.clone() {
                        let out = there(line);
                        out.copy_from_slice(&more[at(line)..][..columns]);
                        if let Some(bias) = bias {
                            out.iter_mut().zip(&bias[first..]).for_each(|(out, bias)| *out += bias);
                        }
                    }
                }
                let (c, c_row) = match then {
                    Then::Gate => (Parts::of(&mut gates), columns),
                    _ => (parts, outputs),
                };
                for (half, packed) in packed.chunks_exact(at_once * width * most).enumerate() {
                    let place = match then {
                        Then::Gate => half * level.rows() * columns,
                        _ => at(line.start),
                    };
                    for (column, packed) in
                        (0..columns).step_by(width).zip(packed.chunks_exact(width * depth))
                    {
                        let columns = width.min(columns - column);
                        let sums = Product {
                            depth,
                            a: packed.as_ptr(),
                            a_step: width,
                            b: copied.as_ptr(),
                            b_row: depth + PAD,
                            rows: line.len(),
                            c: c.at(place + column, (line.len() - 1) * c_row + columns),
                            c_row,
                            columns,
                            start: match (then, bias) {
                                (Then::Plus(_), _) => Start::Add,
                                _ if start > 0 => Start::Add,
                                (_, Some(bias)) => Start::Columns(
                                    bias[half * outputs + first + column..][..columns].as_ptr(),
                                ),
                                (_, None) => Start::Zero,
                            },
                        };
                        level.run(&sums);
                        if let Some(Added { low, rank, .. }) = added.filter(|_| start + depth == inputs) {
                            level.run(&Product {
                                depth: rank,
                                a: packed_up[column * rank..].as_ptr(),
                                b: low[line.start * rank..].as_ptr(),
                                b_row: rank,
                                start: Start::Add,
                                ..sums
                            });
                        }
                    }
                }
                if let Then::Gate = then {
                    let (values, gates) = gates.split_at(level.rows() * columns);
                    for (line, (x, gate)) in
                        line.zip(values.chunks_exact(columns).zip(gates.chunks_exact(columns)))
                    {
                        simd::gated(level, x, gate, there(line));
                    }
                }
            }
        }
    });
}

/// Packs `depth` of the `rows` of a weight: a panel `[depth][columns]` for as many rows as two vectors hold.
pub fn pack(
    level: CpuLevel,
    weight: WideWeights<'_>,
    inputs: usize,
    rows: std::ops::Range<usize>,
    depth: std::ops::Range<usize>,
    packed: &mut [f32],
) {
    let (width, count) = (level.columns(), depth.len());
    let mut widened = Vec::new();
    for (first, packed) in rows.clone().step_by(width).zip(packed.chunks_exact_mut(width * count)) {
        let rows = first..rows.end.min(first + width);
        let (values, step) = match weight {
            WideWeights::F32(values) => (&values[rows.start * inputs + depth.start..], inputs),
            _ => {
                widened.resize(width * count, 0.0);
                for (row, widened) in rows.clone().zip(widened.chunks_exact_mut(count)) {
                    weight.read(row * inputs + depth.start, widened);
                }
                (widened.as_slice(), count)
            }
        };
        level.run(Mirror { from: values, step, rows: rows.len(), columns: count, to: packed, width });
    }
}

/// `to[column][row] = from[row][column]`; what is beyond the last row up to `width` is zero.
pub struct Mirror<'a> {
    /// `[rows][columns]`, `step` apart.
    pub from: &'a [f32],
    /// Values from one row to the next.
    pub step: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `[columns][width]`.
    pub to: &'a mut [f32],
    /// Values of a column, and zeros after them.
    pub width: usize,
}

impl Work for Mirror<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self { from, step, rows, columns, to, width } = self;
        assert!(rows <= width && rows > 0 && to.len() >= columns * width);
        assert!(from.len() >= (rows - 1) * step + columns);
        let (whole_rows, whole_columns) = (rows / S::COUNT * S::COUNT, columns / S::COUNT * S::COUNT);
        for row in (0..whole_rows).step_by(S::COUNT) {
            for column in (0..whole_columns).step_by(S::COUNT) {
                // SAFETY: whole squares lie within both.
                unsafe {
                    let from = from.as_ptr().add(row * step + column);
                    S::transpose(from, step, to.as_mut_ptr().add(column * width + row), width);
                }
            }
        }
        for row in 0..width {
            let first = if row < whole_rows { whole_columns } else { 0 };
            for column in first..columns {
                to[column * width + row] = if row < rows { from[row * step + column] } else { 0.0 };
            }
        }
    }
}
