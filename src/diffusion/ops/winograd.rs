//! 3x3 convolutions with a quarter of the products: Winograd's F(4x4, 3x3) (Lavin and Gray 2015), at the points 0, ±3/4,
//! ±3/2 and infinity. With ±1 and ±2, as it is mostly written, sums lose twice as many digits.
//!
//! A tile of 4x4 pixels of the output sees 6x6 of the input. Both are transformed so that a convolution is a product for
//! each of 36 places.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators keep arrays of vectors in memory, indices in registers"
)]

use std::slice;

use rayon::prelude::*;

use super::{
    kept::Kept,
    lanes::{Lanes, Level, Work},
    linear::Mirror,
    parts::Parts,
    scratch::Scratch,
    tile::{Product, Start},
};

/// Pixels of a tile's side, and what it sees.
const TILE: usize = 4;
const SEEN: usize = TILE + 2;
const PLACES: usize = SEEN * SEEN;
/// The points, and their squares.
const A: f32 = 0.75;
const B: f32 = 1.5;
const AA: f32 = A * A;
const BB: f32 = B * B;
/// Values of the transformed input at once (12 MiB), and of transformed weights that are kept for all of it (48 MiB).
const INPUTS: usize = 3 << 20;
const WEIGHTS: usize = 12 << 20;
/// Tiles in a run, and tiles whose products are held at once: they stay in a core's cache.
const RUN: usize = 64;
const TOGETHER: usize = 128;
/// Values between rows of the transformed input, against rows of some lengths that fall on the same places of a cache.
const PAD: usize = 16;
/// Fewest channels that are worth it.
const FEWEST: usize = 16;

/// Sides of a picture, and channels.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Pictures.
    pub samples: usize,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Pixels down, of the input.
    pub height: usize,
    /// Pixels across, of the input.
    pub width: usize,
    /// Zeros around the input: 0 or 1.
    pub padding: usize,
}

/// Tiles side by side.
#[derive(Debug, Clone, Copy)]
struct Run {
    sample: usize,
    /// In tiles.
    top: usize,
    left: usize,
    count: usize,
}

impl Shape {
    /// Whether this way is the faster one; told by one sample, so that its bits do not depend on the others.
    pub fn pays(&self) -> bool {
        let (down, across) = self.tiles();
        let channels = self.inputs.min(self.outputs);
        channels >= FEWEST && 3 * down * across * PLACES <= 2 * 9 * self.pixels()
    }

    /// Pixels down, of the output.
    fn out_height(&self) -> usize {
        self.height + 2 * self.padding - 2
    }

    /// Pixels across, of the output.
    fn out_width(&self) -> usize {
        self.width + 2 * self.padding - 2
    }

    /// Pixels of an output channel.
    fn pixels(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Tiles down and across.
    fn tiles(&self) -> (usize, usize) {
        (self.out_height().div_ceil(TILE), self.out_width().div_ceil(TILE))
    }

    fn runs(&self) -> Vec<Run> {
        let (down, across) = self.tiles();
        let mut runs = vec![];
        for sample in 0..self.samples {
            for top in 0..down {
                for left in (0..across).step_by(RUN) {
                    runs.push(Run { sample, top, left, count: RUN.min(across - left) });
                }
            }
        }
        runs
    }
}

/// Consecutive runs of at most `most` tiles, or of one run.
fn gather(runs: &[Run], most: usize) -> Vec<&[Run]> {
    let mut gathered = vec![];
    let (mut start, mut tiles) = (0, 0);
    for (i, run) in runs.iter().enumerate() {
        if i > start && tiles + run.count > most {
            gathered.push(&runs[start..i]);
            (start, tiles) = (i, 0);
        }
        tiles += run.count;
    }
    gathered.push(&runs[start..]);
    gathered
}

fn tiles(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.count).sum()
}

/// A 3x3 convolution of stride 1. `weight` is `[outputs, inputs, 3, 3]`, `bias` has a value
/// for each channel, or for each sample and channel; `more` is added, in the output's shape.
pub fn convolution(
    level: Level,
    shape: Shape,
    x: &[f32],
    weight: Kept<'_>,
    bias: Option<&[f32]>,
    more: Option<&[f32]>,
    out: &mut [f32],
) {
    let Shape { inputs, outputs, .. } = shape;
    let width = level.columns();
    let panels = outputs.div_ceil(width);
    let panel = PLACES * inputs * width;
    let runs = shape.runs();
    let row = inputs.next_multiple_of(level.count()) + PAD;
    let parts = Parts::of(out);
    let batches = gather(&runs, INPUTS / (PLACES * row));
    let keep = batches.len() > 1 && panels * panel <= WEIGHTS;
    let kept = keep.then(|| {
        let mut kept = Scratch::of(panels * panel);
        kept.par_chunks_exact_mut(panel).enumerate().for_each(|(i, panel)| {
            transform_weights(level, shape, weight, i * width, panel);
        });
        kept
    });
    let groups = inputs.div_ceil(level.count());
    for batch in batches {
        let count = tiles(batch);
        let mut seen = Scratch::of(PLACES * count * row);
        let seen_parts = Parts::of(&mut seen);
        let firsts: Vec<usize> = batch
            .iter()
            .scan(0, |sum, run| {
                let first = *sum;
                *sum += run.count;
                Some(first)
            })
            .collect();
        (0..batch.len() * groups).into_par_iter().for_each(|task| {
            let (i, group) = (task / groups, task % groups);
            let run = batch[i];
            let channel = group * level.count();
            let mut strip = Scratch::of(2 * SEEN * (TILE * run.count + 2) * level.count());
            let channels = &x[(run.sample * inputs + channel) * shape.height * shape.width..];
            level.run(Input {
                shape,
                run,
                channels: level.count().min(inputs - channel),
                x: channels,
                strip: &mut strip,
                to: seen_parts.at(
                    firsts[i] * row + channel,
                    (PLACES - 1) * count * row + (run.count - 1) * row + level.count(),
                ),
                place_step: count * row,
                tile_step: row,
            });
        });
        let seen = &*seen;
        // Where weights are few or cores are many, tiles are divided too.
        let sets = gather(batch, TOGETHER);
        let pieces = if keep { sets.len() } else { 1 };
        (0..panels * pieces).into_par_iter().for_each(|task| {
            let (piece, number) = (task / panels, task % panels);
            let first = number * width;
            let columns = width.min(outputs - first);
            let own;
            let weights = match &kept {
                Some(kept) => &kept[number * panel..][..panel],
                None => {
                    let mut buffer = Scratch::of(panel);
                    transform_weights(level, shape, weight, first, &mut buffer);
                    own = buffer;
                    &*own
                }
            };
            let mut start = tiles(&batch[..sets[..piece].iter().map(|set| set.len()).sum()]);
            let sets = if keep { &sets[piece..=piece] } else { &sets[..] };
            for set in sets {
                let rows = tiles(set);
                let mut products = Scratch::of(PLACES * rows * width);
                for place in 0..PLACES {
                    level.run(&Product {
                        depth: inputs,
                        a: weights[place * inputs * width..][..inputs * width].as_ptr(),
                        a_step: width,
                        b: seen[(place * count + start) * row..][..rows * row].as_ptr(),
                        b_row: row,
                        rows,
                        c: products[place * rows * width..][..rows * width].as_mut_ptr(),
                        c_row: width,
                        columns: width,
                        start: Start::Zero,
                    });
                }
                let mut tile = 0;
                for run in *set {
                    let mut strip = Scratch::of(TILE * TILE * run.count * width);
                    let planes = (run.sample * outputs + first) * shape.pixels();
                    let bias = bias.map(|bias| {
                        let from = if bias.len() > outputs { run.sample * outputs } else { 0 };
                        &bias[from + first..][..columns]
                    });
                    level.run(Output {
                        shape,
                        run: *run,
                        columns,
                        products: &products[tile * width..],
                        place_step: rows * width,
                        bias,
                        more: more.map(|more| &more[planes..]),
                        strip: &mut strip,
                        out: parts.at(planes, columns * shape.pixels()),
                    });
                    tile += run.count;
                }
                start += rows;
            }
        });
    }
}

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
struct Input<'a> {
    shape: Shape,
    run: Run,
    /// Channels there are; the others are zero.
    channels: usize,
    /// From the first of the channels on.
    x: &'a [f32],
    /// Two strips of six rows, channels last.
    strip: &'a mut [f32],
    to: *mut f32,
    place_step: usize,
    tile_step: usize,
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

/// Transforms the weights of some outputs: `[place][inputs][columns]`.
fn transform_weights(level: Level, shape: Shape, weight: Kept<'_>, first: usize, to: &mut [f32]) {
    let taps = shape.inputs * 9;
    let columns = level.columns().min(shape.outputs - first);
    let mut widened;
    let from = match weight {
        Kept::F32(values) => &values[first * taps..][..columns * taps],
        _ => {
            widened = Scratch::of(columns * taps);
            weight.read(first * taps, &mut widened);
            &*widened
        }
    };
    level.run(Weights { from, inputs: shape.inputs, columns, to });
}

struct Weights<'a> {
    /// `[columns][inputs][9]`.
    from: &'a [f32],
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
        let Self { from, inputs, columns, to } = self;
        let width = 2 * S::COUNT;
        assert!(to.len() >= PLACES * inputs * width);
        let mut turned = [0.0; 9 * TURNED * 32];
        for first in (0..inputs).step_by(TURNED) {
            let count = TURNED.min(inputs - first);
            let mirror = Mirror {
                from: &from[first * 9..],
                step: inputs * 9,
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
struct Output<'a> {
    shape: Shape,
    run: Run,
    /// Outputs there are.
    columns: usize,
    /// `[place][tile][columns]` from the run's first tile on.
    products: &'a [f32],
    place_step: usize,
    bias: Option<&'a [f32]>,
    /// What is added, from the planes of these outputs on.
    more: Option<&'a [f32]>,
    /// Four rows of pixels, outputs last.
    strip: &'a mut [f32],
    /// The planes of these outputs.
    out: *mut f32,
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
                // SAFETY: the planes of `columns` outputs are valid and nobody else writes these rows of them.
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

#[cfg(test)]
#[path = "winograd_tests.rs"]
mod tests;
