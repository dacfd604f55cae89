//! Linear layers on the CPU: the bias is written first, and the product is added to it.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::floats::{Floats, Matrix, Output};

/// Rows and columns of the output in a tile. Fixed, and each sample has tiles of its own: bits depend on neither
/// threads nor batch.
const ROWS: usize = 512;
const COLUMNS: usize = 320;

/// As [`super::linear`]; all are f32 on the CPU and have values, `x` has two dimensions or more.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let (samples, inputs) = (dims[0], dims[dims.len() - 1]);
    let rows = x.elem_count() / samples / inputs;
    let outputs = weight.dim(0)?;
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let (x, weight, bias) = (Floats::of(&x), Floats::of(&weight), bias.as_ref().map(Floats::of));
    let (x, weight) = (x.values()?, weight.values()?);
    let bias = bias.as_ref().map(Floats::values).transpose()?;
    let mut out = vec![0.0; samples * rows * outputs];
    let output = Output::new(&mut out);
    let (down, across) = (rows.div_ceil(ROWS), outputs.div_ceil(COLUMNS));
    (0..samples * down * across).into_par_iter().for_each(|task| {
        let (sample, row, column) =
            (task / across / down, task / across % down * ROWS, task % across * COLUMNS);
        let (count, columns) = (ROWS.min(rows - row), COLUMNS.min(outputs - column));
        let first = sample * rows + row;
        // SAFETY: tasks have tiles that do not overlap.
        let mut out = unsafe { output.matrix(first * outputs + column, (count, columns), outputs) };
        if let Some(bias) = bias {
            (0..count).for_each(|row| out.row(row).copy_from_slice(&bias[column..column + columns]));
        }
        let x = Matrix::new(&x[first * inputs..], (count, inputs), (inputs, 1));
        let weight = Matrix::new(&weight[column * inputs..], (columns, inputs), (inputs, 1));
        out.product(x, weight.transposed(), 1.0, bias.is_some());
    });
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    Tensor::from_vec(out, dims, &Device::Cpu)
}
