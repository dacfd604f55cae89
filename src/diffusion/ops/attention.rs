//! Attention on the CPU: a tile of queries at a time, with a running softmax over blocks of keys, so that scores stay
//! in the cache and no matrix of all scores exists (Milakov and Gimelshein 2018, Dao et al. 2022).

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    AttentionOptions,
    floats::{Floats, Matrix, MatrixMut, Output},
    simd::{self, Level},
};

/// Queries in a tile. Fixed, as [`KEYS`] is: bits depend on neither threads nor batch.
const QUERIES: usize = 128;
/// Keys in a block: with a tile's queries 504 KiB of scores; not a power of two, whose rows fall on the same cache sets.
const KEYS: usize = 1008;

/// Where one of q, k, v has its values: strides of batch, token and number.
struct Input<'a> {
    values: &'a [f32],
    strides: [usize; 3],
}

impl<'a> Input<'a> {
    fn of(floats: &'a Floats<'_>) -> Result<Self> {
        let strides = floats.strides();
        Ok(Self { values: floats.values()?, strides: [strides[0], strides[1], strides[2]] })
    }

    /// `tokens` x `width` values of one sample, from a token and a number on.
    fn matrix(&self, sample: usize, token: usize, number: usize, tokens: usize, width: usize) -> Matrix<'_> {
        let [by_sample, by_token, by_number] = self.strides;
        let start = sample * by_sample + token * by_token + number * by_number;
        Matrix::new(&self.values[start..], (tokens, width), (by_token, by_number))
    }
}

/// As [`super::attention`]; all of `q`, `k`, `v` are f32 on the CPU and have values.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) -> Result<Tensor> {
    let (batch, n, width) = q.dims3()?;
    let m = k.dim(1)?;
    let AttentionOptions { heads, causal, .. } = options;
    let head_width = width / heads;
    let scale = (head_width as f64).powf(-0.5) as f32;
    let level = Level::best();
    let floats = [q, k, v].map(Floats::of);
    let [q, k, v] = [Input::of(&floats[0])?, Input::of(&floats[1])?, Input::of(&floats[2])?];
    let mut out = vec![0.0; batch * n * width];
    let output = Output::new(&mut out);
    let tiles = n.div_ceil(QUERIES);
    (0..batch * heads * tiles).into_par_iter().for_each_init(
        || vec![0.0; QUERIES.min(n) * KEYS.min(m)],
        |scores, task| {
            let (sample, head, tile) = (task / tiles / heads, task / tiles % heads, task % tiles);
            let (first, number) = (tile * QUERIES, head * head_width);
            let rows = QUERIES.min(n - first);
            // SAFETY: sample, tile and head tell the tokens and numbers of this part; no other task has all three.
            let mut out =
                unsafe { output.matrix((sample * n + first) * width + number, (rows, head_width), width) };
            let queries = q.matrix(sample, first, number, rows, head_width);
            let mut softmax = Softmax::new(level, rows);
            // Later keys are hidden from all of these queries.
            let seen = if causal { m.min(first + rows) } else { m };
            for start in (0..seen).step_by(KEYS) {
                let keys = KEYS.min(seen - start);
                let scores = &mut scores[..rows * keys];
                let block = k.matrix(sample, start, number, keys, head_width);
                MatrixMut::new(scores, (rows, keys), keys).product(queries, block.transposed(), scale, false);
                if causal {
                    hide_later(scores, keys, first, start);
                }
                softmax.block(scores, &mut out);
                let block = v.matrix(sample, start, number, keys, head_width);
                out.product(Matrix::new(scores, (rows, keys), (keys, 1)), block, 1.0, start > 0);
            }
            softmax.finish(&mut out);
        },
    );
    Tensor::from_vec(out, (batch, n, width), &Device::Cpu)
}

/// Minus infinity for each key that comes after its query.
fn hide_later(scores: &mut [f32], keys: usize, first_query: usize, first_key: usize) {
    for (row, scores) in scores.chunks_mut(keys).enumerate() {
        let seen = (first_query + row + 1).saturating_sub(first_key).min(keys);
        scores[seen..].fill(f32::NEG_INFINITY);
    }
}

/// The softmax of a tile's rows so far: the largest score, and the sum of e^(score - largest).
struct Softmax {
    level: Level,
    largest: Vec<f32>,
    sums: Vec<f32>,
}

impl Softmax {
    fn new(level: Level, rows: usize) -> Self {
        Self { level, largest: vec![f32::NEG_INFINITY; rows], sums: vec![0.0; rows] }
    }

    /// Makes weights of a block's scores, and brings sums and `out` to the largest score known now.
    fn block(&mut self, scores: &mut [f32], out: &mut MatrixMut<'_>) {
        let keys = scores.len() / self.sums.len();
        for (row, scores) in scores.chunks_mut(keys).enumerate() {
            let before = self.largest[row];
            let largest = before.max(simd::largest(self.level, scores));
            // Where nothing is seen, the weights are 0, not a difference of infinities.
            let less = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
            let sum = simd::exp_of_difference(self.level, scores, less);
            if before == f32::NEG_INFINITY {
                self.sums[row] = sum;
            } else {
                let kept = (before - largest).exp();
                self.sums[row] = self.sums[row] * kept + sum;
                out.row(row).iter_mut().for_each(|out| *out *= kept);
            }
            self.largest[row] = largest;
        }
    }

    fn finish(self, out: &mut MatrixMut<'_>) {
        for (row, sum) in self.sums.into_iter().enumerate() {
            let share = 1.0 / sum;
            out.row(row).iter_mut().for_each(|out| *out *= share);
        }
    }
}
