//! Attention on the CPU: a tile of queries at a time, with a running softmax over blocks of keys, so that scores stay
//! in the cache and no matrix of all scores exists (Milakov and Gimelshein 2018, Dao et al. 2022).

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    floats::Floats,
    lanes::CpuLevel,
    linear::Mirror,
    parts::Parts,
    scratch::Scratch,
    simd,
    tile::{Product, Start},
};
use crate::allocator::leftover;
use crate::diffusion::ops::AttentionOptions;

/// Queries in a tile, and keys in a block.
const QUERIES: usize = 96;
const KEYS: usize = 512;
/// Values between rows of a tile.
const PAD: usize = 16;

/// How many there are of what.
#[derive(Debug, Clone, Copy)]
struct Shape {
    samples: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    head_width: usize,
    causal: bool,
}

/// As [`ops::attention`](crate::diffusion::ops::attention); all of `q`, `k`, `v` are f32 on the CPU and have values.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) -> Result<Tensor> {
    let (samples, queries, width) = q.dims3()?;
    let AttentionOptions { heads, causal, .. } = options;
    let shape = Shape { samples, queries, keys: k.dim(1)?, heads, head_width: width / heads, causal };
    let [q, k, v] = [q.contiguous()?, k.contiguous()?, v.contiguous()?];
    let [q, k, v] = [Floats::of(&q), Floats::of(&k), Floats::of(&v)];
    let mut out = leftover(samples * queries * width);
    attend(CpuLevel::best(), shape, q.values()?, k.values()?, v.values()?, &mut out);
    Tensor::from_vec(out, (samples, queries, width), &Device::Cpu)
}

/// `q` `[samples, queries, heads * head_width]`, `k` and `v` `[samples, keys, ..]`.
fn attend(level: CpuLevel, shape: Shape, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let Shape { samples, queries, keys, heads, head_width, causal } = shape;
    let width = heads * head_width;
    let (columns, vectors) = (level.columns(), head_width.next_multiple_of(level.count()));
    let (keys_of_head, values_of_head) = (keys.next_multiple_of(columns) * head_width, keys * vectors);
    let mut turned = Scratch::of(samples * heads * keys_of_head);
    let mut copied = Scratch::of(samples * heads * values_of_head);
    turned
        .par_chunks_exact_mut(keys_of_head)
        .zip(copied.par_chunks_exact_mut(values_of_head))
        .enumerate()
        .for_each(|(i, (turned, copied))| {
            let first = (i / heads) * keys * width + i % heads * head_width;
            for (key, to) in (0..keys).step_by(columns).zip(turned.chunks_exact_mut(columns * head_width)) {
                let (from, rows) = (&k[first + key * width..], columns.min(keys - key));
                level.run(Mirror { from, step: width, rows, columns: head_width, to, width: columns });
            }
            for (key, to) in copied.chunks_exact_mut(vectors).enumerate() {
                let (values, rest) = to.split_at_mut(head_width);
                values.copy_from_slice(&v[first + key * width..][..head_width]);
                rest.fill(0.0);
            }
        });
    let (turned, copied) = (&*turned, &*copied);
    let parts = Parts::of(out);
    let scale = (head_width as f64).powf(-0.5) as f32;
    let tiles = queries.div_ceil(QUERIES);
    (0..samples * heads * tiles).into_par_iter().for_each(|task| {
        let (head, tile) = (task / tiles, task % tiles);
        let first = tile * QUERIES;
        let rows = QUERIES.min(queries - first);
        let start = (head / heads * queries + first) * width + head % heads * head_width;
        let (query_row, score_row) = (head_width + PAD, KEYS.min(keys).next_multiple_of(columns) + PAD);
        let mut scaled = Scratch::of(rows * query_row);
        for (row, scaled) in scaled.chunks_exact_mut(query_row).enumerate() {
            let q = &q[start + row * width..][..head_width];
            scaled.iter_mut().zip(q).for_each(|(scaled, q)| *scaled = q * scale);
        }
        let mut scores = Scratch::of(rows * score_row);
        let mut sums = Scratch::of(rows * vectors);
        let mut softmax = Softmax::new(level, rows);
        // Later keys are hidden from all of these queries.
        let seen = if causal { keys.min(first + rows) } else { keys };
        for block in (0..seen).step_by(KEYS) {
            let count = KEYS.min(seen - block);
            for key in (0..count).step_by(columns) {
                level.run(&Product {
                    depth: head_width,
                    a: turned[head * keys_of_head + (block + key) * head_width..][..columns * head_width]
                        .as_ptr(),
                    a_step: columns,
                    b: scaled.as_ptr(),
                    b_row: query_row,
                    rows,
                    c: scores[key..].as_mut_ptr(),
                    c_row: score_row,
                    columns,
                    start: Start::Zero,
                });
            }
            if causal {
                hide_later(&mut scores, score_row, count, first, block);
            }
            softmax.block(&mut scores, score_row, count, &mut sums, vectors);
            for column in (0..vectors).step_by(columns) {
                level.run(&Product {
                    depth: count,
                    a: copied[head * values_of_head + block * vectors + column..].as_ptr(),
                    a_step: vectors,
                    b: scores.as_ptr(),
                    b_row: score_row,
                    rows,
                    c: sums[column..].as_mut_ptr(),
                    c_row: vectors,
                    columns: columns.min(vectors - column),
                    start: if block > 0 { Start::Add } else { Start::Zero },
                });
            }
        }
        for (row, (sums, total)) in sums.chunks_exact(vectors).zip(&softmax.sums).enumerate() {
            let share = 1.0 / total;
            let out = parts.at(start + row * width, head_width);
            // SAFETY: sample, tile and head tell the tokens and numbers of this part; no other task has all three.
            let out = unsafe { std::slice::from_raw_parts_mut(out, head_width) };
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * share);
        }
    });
}

/// Minus infinity for each key that comes after its query.
fn hide_later(scores: &mut [f32], row_length: usize, keys: usize, first_query: usize, first_key: usize) {
    for (row, scores) in scores.chunks_exact_mut(row_length).enumerate() {
        let seen = (first_query + row + 1).saturating_sub(first_key).min(keys);
        scores[seen..keys].fill(f32::NEG_INFINITY);
    }
}

/// The softmax of a tile's rows so far: the largest score, and the sum of e^(score - largest).
struct Softmax {
    level: CpuLevel,
    largest: Vec<f32>,
    sums: Vec<f32>,
}

impl Softmax {
    fn new(level: CpuLevel, rows: usize) -> Self {
        Self { level, largest: vec![f32::NEG_INFINITY; rows], sums: vec![0.0; rows] }
    }

    /// Makes weights of a block's scores, and brings sums and `out` to the largest score known now.
    fn block(&mut self, scores: &mut [f32], row_length: usize, keys: usize, out: &mut [f32], out_row: usize) {
        let rows = scores.chunks_exact_mut(row_length).zip(out.chunks_exact_mut(out_row));
        for (row, (scores, out)) in rows.enumerate() {
            let scores = &mut scores[..keys];
            let before = self.largest[row];
            let largest = before.max(simd::largest(self.level, scores));
            // Where nothing is seen, the weights are 0, not a difference of infinities.
            let less = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
            let sum = simd::exp_of_difference(self.level, scores, less);
            if before == f32::NEG_INFINITY {
                self.sums[row] = sum;
            } else if before == largest {
                self.sums[row] += sum;
            } else {
                let kept = (before - largest).exp();
                self.sums[row] = self.sums[row] * kept + sum;
                out.iter_mut().for_each(|out| *out *= kept);
            }
            self.largest[row] = largest;
        }
    }
}
