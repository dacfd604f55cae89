//! What a tile's input, its weights and its products become, for as many channels at once as a vector holds.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators keep arrays of vectors in memory, indices in registers"
)]

use std::{ops::Range, slice};

use super::{PLACES, Run, SEEN, Shape, TILE};
use crate::diffusion::ops::cpu::{
    lanes::{CpuLevel, Lanes, Work},
    linear::Mirror,
    scratch::Scratch,
    wide_weights::WideWeights,
};

/// The points, and their squares.
const A: f32 = 0.75;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;
/// What six values in a row become; see [`Input`].
#[inline(always)]
unsafe fn seen<S: Lanes>(d: [S::Vector; SEEN]) -> [S::Vector; SEEN] {
    // SAFETY: compiled for `S`.
    unsafe {
        let k = |x: f32| S::splat(x);
        let even_a = S::mul_add(k(-BB), d[2], d[4]);
        let odd_a = S::mul(k(A), S::mul_add(k(-BB), d[1], d[3]));
        let even_b = S::mul_add(k(-AA), d[2], d[4]);
        let odd_b = S::mul(k(B), S::mul_add(k(-AA), d[1], d[3]));
        [
            S::mul_add(k(AA * BB), d[0], S::mul_add(k(-(AA + BB)), d[2], d[4])),
            S::add(even_a, odd_a),
            S::sub(even_a, odd_a),
            S::add(even_b, odd_b),
            S::sub(even_b, odd_b),
            S::mul_add(k(AA * BB), d[1], S::mul_add(k(-(AA + BB)), d[3], d[5])),
        ]
    }
}

/// What three weights in a row become.
#[inline(always)]
unsafe fn weighed<S: Lanes>(g: [S::Vector; 3]) -> [S::Vector; SEEN] {
    // SAFETY: compiled for `S`.
    unsafe {
        let k = |x: f32| S::splat(x);
        let at_a = 1.0 / (2.0 * AA * (AA - BB));
        let at_b = 1.0 / (2.0 * BB * (BB - AA));
        let even_a = S::mul(k(at_a), S::mul_add(k(AA), g[2], g[0]));
        let odd_a = S::mul(k(at_a * A), g[1]);
        let even_b = S::mul(k(at_b), S::mul_add(k(BB), g[2], g[0]));
        let odd_b = S::mul(k(at_b * B), g[1]);
        [
            S::mul(k(1.0 / (AA * BB)), g[0]),
            S::add(even_a, odd_a),
            S::sub(even_a, odd_a),
            S::add(even_b, odd_b),
            S::sub(even_b, odd_b),
            g[2],
        ]
    }
}

/// Four pixels in a row of six products.
#[inline(always)]
unsafe fn pixels<S: Lanes>(m: [S::Vector; SEEN]) -> [S::Vector; TILE] {
    // SAFETY: compiled for `S`.
    unsafe {
        let k = |x: f32| S::splat(x);
        let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(S::add(m[0], even_a), even_b),
            S::mul_add(k(B), odd_b, S::mul(k(A), odd_a)),
            S::mul_add(k(BB), even_b, S::mul(k(AA), even_a)),
            S::add(S::mul_add(k(B * BB), odd_b, S::mul(k(A * AA), odd_a)), m[5]),
        ]
    }
}

/// Transforms what a run of tiles sees of some channels, as many as a vector holds.
pub struct Input<'a> {
    pub shape: Shape,
    pub run: Run,
    /// Channels there are; the others are zero.
    pub channels: usize,
    /// From the first of the channels on.
    pub x: &'a [f32],
    /// Two strips of six rows, channels last.
    pub strip: &'a mut [f32],
    pub to: *mut f32,
    pub place_step: usize,
    pub tile_step: usize,
}

impl Work for Input<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self { shape, run, channels, x, strip, to, place_step, tile_step } = self;
        let (height, width) = (shape.height, shape.width);
        let columns = TILE * run.count + 2;
        let (strip, turned) = strip.split_at_mut(SEEN * columns * S::COUNT);
        // Column 0 of the strip is `padding` left of the first tile.
        let (left, padding) = (TILE * run.left, shape.padding);
        let (from, to_column) = (left.saturating_sub(padding), (left + columns - padding).min(width));
        let before = from + padding - left;
        for (row, strip) in strip.chunks_exact_mut(columns * S::COUNT).enumerate() {
            let y = TILE * run.top + row;
            if y < padding || y >= height + padding {
                strip.fill(0.0);
                continue;
            }
            strip[..before * S::COUNT].fill(0.0);
            strip[(before + to_column - from) * S::COUNT..].fill(0.0);
            let line = &x[(y - padding) * width..];
            mirror::<S>(
                &line[from..],
                height * width,
                channels,
                to_column - from,
                &mut strip[before * S::COUNT..],
            );
        }
        // SAFETY: indices are within the strips; `to` is valid for all places, tiles and channels of the run.
        unsafe {
            let (strip, turned) = (strip.as_ptr(), turned.as_mut_ptr());
            let at = |row: usize, column: usize| (row * columns + column) * S::COUNT;
            for column in 0..columns {
                let mut d = [S::splat(0.0); SEEN];
                for row in 0..SEEN {
                    d[row] = S::load(strip.add(at(row, column)));
                }
                let d = seen::<S>(d);
                for row in 0..SEEN {
                    S::store(turned.add(at(row, column)), d[row]);
                }
            }
            for tile in 0..run.count {
                let to = to.add(tile * tile_step);
                for row in 0..SEEN {
                    let mut d = [S::splat(0.0); SEEN];
                    for column in 0..SEEN {
                        d[column] = S::load(turned.add(at(row, TILE * tile + column)));
                    }
                    let d = seen::<S>(d);
                    for column in 0..SEEN {
                        S::store(to.add((row * SEEN + column) * place_step), d[column]);
                    }
                }
            }
        }
    }
}

/// `to[column][row] = from[row][column]`, zero beyond the last row.
#[inline(always)]
fn mirror<S: Lanes>(from: &[f32], step: usize, rows: usize, columns: usize, to: &mut [f32]) {
    let mirror = Mirror { from, step, rows, columns, to, width: S::COUNT };
    // SAFETY: the caller was compiled for `S`.
    unsafe { mirror.run::<S>() }
}

/// Transforms the weights of some outputs, `first` and as many as two vectors hold, and inputs:
/// `[place][inputs][columns]`.
pub fn transform_weights(
    level: CpuLevel,
    shape: Shape,
    weight: WideWeights<'_>,
    first: usize,
    inputs: Range<usize>,
    to: &mut [f32],
) {
    let taps = shape.inputs * 9;
    let columns = level.columns().min(shape.outputs - first);
    let (start, taken) = (first * taps + inputs.start * 9, inputs.len() * 9);
    let mut widened;
    let (from, step) = match weight {
        WideWeights::F32(values) => (&values[start..][..(columns - 1) * taps + taken], taps),
        _ => {
            widened = Scratch::of(columns * taken);
            for (column, widened) in widened.chunks_exact_mut(taken).enumerate() {
                weight.read(start + column * taps, widened);
            }
            (&*widened, taken)
        }
    };
    level.run(Weights { from, step, inputs: inputs.len(), columns, to });
}

struct Weights<'a> {
    /// `[columns][inputs][9]`.
    from: &'a [f32],
    /// Values from one column to the next.
    step: usize,
    inputs: usize,
    columns: usize,
    to: &'a mut [f32],
}

/// Inputs whose weights are turned at once.
const TURNED: usize = 16;

impl Work for Weights<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self { from, step, inputs, columns, to } = self;
        let width = 2 * S::COUNT;
        assert!(to.len() >= PLACES * inputs * width);
        let mut turned = [0.0; 9 * TURNED * 32];
        for first in (0..inputs).step_by(TURNED) {
            let count = TURNED.min(inputs - first);
            let mirror = Mirror {
                from: &from[first * 9..],
                step,
                rows: columns,
                columns: count * 9,
                to: &mut turned,
                width,
            };
            // SAFETY: compiled for `S`; `turned` has all weights of `count` inputs, and `to` was checked.
            unsafe {
                mirror.run::<S>();
                for input in 0..count {
                    for half in [0, S::COUNT] {
                        let from = turned.as_ptr().add(input * 9 * width + half);
                        let to = to.as_mut_ptr().add((first + input) * width + half);
                        let mut down = [[S::splat(0.0); 3]; SEEN];
                        for column in 0..3 {
                            let mut g = [S::splat(0.0); 3];
                            for row in 0..3 {
                                g[row] = S::load(from.add((row * 3 + column) * width));
                            }
                            let g = weighed::<S>(g);
                            for row in 0..SEEN {
                                down[row][column] = g[row];
                            }
                        }
                        for row in 0..SEEN {
                            let g = weighed::<S>(down[row]);
                            for column in 0..SEEN {
                                S::store(to.add((row * SEEN + column) * inputs * width), g[column]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Makes pixels of a run's products, for as many outputs as two vectors hold.
pub struct Output<'a> {
    pub shape: Shape,
    pub run: Run,
    /// Outputs there are.
    pub columns: usize,
    /// `[place][tile][columns]` from the run's first tile on.
    pub products: &'a [f32],
    pub place_step: usize,
    pub bias: Option<&'a [f32]>,
    /// What is added, from the planes of these outputs on.
    pub more: Option<&'a [f32]>,
    /// Four rows of pixels, outputs last.
    pub strip: &'a mut [f32],
    /// The planes of these outputs.
    pub out: *mut f32,
}

impl Work for Output<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        let Self { shape, run, columns, products, place_step, bias, more, strip, out } = self;
        let (width, across) = (2 * S::COUNT, TILE * run.count);
        assert!(products.len() >= (PLACES - 1) * place_step + run.count * width);
        assert!(strip.len() >= TILE * across * width);
        let mut shift = [0.0; 32];
        if let Some(bias) = bias {
            shift[..columns].copy_from_slice(bias);
        }
        let half_of_strip = TILE * across * S::COUNT;
        for half in 0..2 {
            // SAFETY: compiled for `S`; indices are within what was checked above.
            unsafe {
                let shift = S::load(shift.as_ptr().add(half * S::COUNT));
                for tile in 0..run.count {
                    let from = products.as_ptr().add(tile * width + half * S::COUNT);
                    let mut down = [[S::splat(0.0); SEEN]; TILE];
                    for column in 0..SEEN {
                        let mut m = [S::splat(0.0); SEEN];
                        for row in 0..SEEN {
                            m[row] = S::load(from.add((row * SEEN + column) * place_step));
                        }
                        let m = pixels::<S>(m);
                        for row in 0..TILE {
                            down[row][column] = m[row];
                        }
                    }
                    for row in 0..TILE {
                        let m = pixels::<S>(down[row]);
                        let to = half * half_of_strip + (row * across + tile * TILE) * S::COUNT;
                        for column in 0..TILE {
                            S::store(
                                strip.as_mut_ptr().add(to + column * S::COUNT),
                                S::add(m[column], shift),
                            );
                        }
                    }
                }
            }
            let outputs = S::COUNT.min(columns.saturating_sub(half * S::COUNT));
            let left = TILE * run.left;
            let pixels = across.min(shape.out_width() - left);
            let plane = shape.pixels();
            for row in 0..TILE.min(shape.out_height() - TILE * run.top) {
                let from = &strip[half * half_of_strip + row * across * S::COUNT..][..across * S::COUNT];
                let at = (half * S::COUNT) * plane + (TILE * run.top + row) * shape.out_width() + left;
                // SAFETY: the planes of `columns` outputs are valid and nobody else writes these pixels of them.
                unsafe { turn::<S>(from, pixels, outputs, out.add(at), plane) };
                for output in 0..if more.is_some() { outputs } else { 0 } {
                    // SAFETY: as above.
                    let out = unsafe { slice::from_raw_parts_mut(out.add(at + output * plane), pixels) };
                    let more = more.map_or(&[][..], |more| &more[at + output * plane..]);
                    out.iter_mut().zip(more).for_each(|(out, more)| *out += more);
                }
            }
        }
    }
}

/// `to[row][column] = from[column][row]` for some of the rows.
#[inline(always)]
unsafe fn turn<S: Lanes>(from: &[f32], columns: usize, rows: usize, to: *mut f32, to_step: usize) {
    // SAFETY: compiled for `S`; the caller's `to` has `columns` values in each row.
    unsafe {
        let whole = if rows == S::COUNT { columns / S::COUNT * S::COUNT } else { 0 };
        for column in (0..whole).step_by(S::COUNT) {
            S::transpose(from.as_ptr().add(column * S::COUNT), S::COUNT, to.add(column), to_step);
        }
        for row in 0..rows {
            for column in whole..columns {
                *to.add(row * to_step + column) = from[column * S::COUNT + row];
            }
        }
    }
}
