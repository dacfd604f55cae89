//! 3x3 convolutions with a quarter of the products: Winograd's F(4x4, 3x3) (Lavin and Gray 2015), at the points 0, ±3/4,
//! ±3/2 and infinity. With ±1 and ±2, as it is mostly written, sums lose twice as many digits.
//!
//! A tile of 4x4 pixels of the output sees 6x6 of the input. Both are transformed so that a convolution is a product for
//! each of 36 places.

mod transforms;

use std::ops::Range;

use rayon::prelude::*;

use self::transforms::{Input, Output, transform_weights};
use super::{
    lanes::CpuLevel,
    parts::Parts,
    scratch::Scratch,
    tile::{Product, Start},
    wide_weights::WideWeights,
};

/// Pixels of a tile's side, and what it sees.
const TILE: usize = 4;
const SEEN: usize = TILE + 2;
const PLACES: usize = SEEN * SEEN;
/// Values of the transformed input at once (12 MiB), and of transformed weights that are kept for all of it (48 MiB).
const INPUTS: usize = 3 << 20;
const WEIGHTS: usize = 12 << 20;
/// Tiles in a run, and tiles whose products are held at once: they stay in a core's cache.
const RUN: usize = 64;
const TOGETHER: usize = 128;
/// Channels whose transformed weights a thread holds at once where they are not kept (2.8 MiB): more would be more
/// memory for each thread, and no core's cache holds them.
const DEPTH: usize = 640;
/// Fewest tiles of a piece of work, and what transforming the weights once more for it costs, in tiles.
const FEWEST_TILES: usize = 6;
const TRANSFORM: usize = 6;
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

/// The tiles of `range`, counted over `runs` one after the other, as runs.
fn cut(runs: &[Run], range: Range<usize>) -> Vec<Run> {
    let mut cut = vec![];
    let mut first = 0;
    for run in runs {
        let (from, to) = (range.start.max(first), range.end.min(first + run.count));
        if from < to {
            cut.push(Run { left: run.left + from - first, count: to - from, ..*run });
        }
        first += run.count;
    }
    cut
}

/// Into how many pieces tiles are divided, so that `threads` have done with all panels of all of them soonest. `again` is
/// what each piece of a panel costs beside its tiles.
fn pieces(panels: usize, tiles: usize, threads: usize, again: usize) -> usize {
    let most = (tiles / FEWEST_TILES).max(1);
    let time = |pieces: &usize| (panels * pieces).div_ceil(threads) * (again + tiles.div_ceil(*pieces));
    // The first of equals: each piece reads the weights once more.
    (1..=most).min_by_key(time).unwrap_or(1)
}

/// A 3x3 convolution of stride 1. `weight` is `[outputs, inputs, 3, 3]`, `bias` has a value
/// for each channel, or for each sample and channel; `more` is added, in the output's shape.
pub fn convolution(
    level: CpuLevel,
    shape: Shape,
    x: &[f32],
    weight: WideWeights<'_>,
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
            transform_weights(level, shape, weight, i * width, 0..inputs, panel);
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
        // Tiles are divided too where that keeps more cores busy. A product is the same wherever it is cut.
        let threads = rayon::current_num_threads();
        let pieces = match keep {
            true => pieces(panels, count, threads, 0).max(count.div_ceil(TOGETHER)),
            false => pieces(panels, count, threads, TRANSFORM),
        };
        (0..panels * pieces).into_par_iter().for_each(|task| {
            let (piece, number) = (task / panels, task % panels);
            let first = number * width;
            let columns = width.min(outputs - first);
            let depth = if keep { inputs } else { inputs.min(DEPTH) };
            let mut own = Scratch::of(if keep { 0 } else { PLACES * depth * width });
            let end = count * (piece + 1) / pieces;
            for start in (count * piece / pieces..end).step_by(TOGETHER) {
                let rows = TOGETHER.min(end - start);
                let mut products = Scratch::of(PLACES * rows * width);
                for input in (0..inputs).step_by(depth) {
                    let taken = depth.min(inputs - input);
                    let weights = match &kept {
                        Some(kept) => &kept[number * panel..][..panel],
                        None => {
                            // All inputs at once are there from the tiles before.
                            if taken < inputs || start == count * piece / pieces {
                                transform_weights(
                                    level,
                                    shape,
                                    weight,
                                    first,
                                    input..input + taken,
                                    &mut own,
                                );
                            }
                            &own[..PLACES * taken * width]
                        }
                    };
                    for place in 0..PLACES {
                        level.run(&Product {
                            depth: taken,
                            a: weights[place * taken * width..][..taken * width].as_ptr(),
                            a_step: width,
                            b: seen[(place * count + start) * row..][..rows * row][input..].as_ptr(),
                            b_row: row,
                            rows,
                            c: products[place * rows * width..][..rows * width].as_mut_ptr(),
                            c_row: width,
                            columns: width,
                            start: if input > 0 { Start::Add } else { Start::Zero },
                        });
                    }
                }
                let mut tile = 0;
                for run in &cut(batch, start..start + rows) {
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
            }
        });
    }
}

#[cfg(test)]
mod tests;
