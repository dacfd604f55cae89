//! Winograd's way beside sums in f64, at every level that this processor has.

use half::f16;

use super::*;

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 10_007) as f32 / 5003.5 - 1.0).collect()
}

/// The convolution in f64.
fn exact(shape: Shape, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let Shape { samples, inputs, outputs, height, width, padding } = shape;
    let (across, plane) = (shape.out_width(), shape.pixels());
    let mut out = vec![];
    for place in 0..samples * outputs * plane {
        let (sample, output) = (place / (outputs * plane), place / plane % outputs);
        let (y, x_at) = (place % plane / across, place % across);
        let mut sum = f64::from(bias[if bias.len() > outputs { sample * outputs + output } else { output }]);
        for input in 0..inputs {
            for tap in 0..9 {
                let (line, column) = (y + tap / 3, x_at + tap % 3);
                let (lines, columns) = (padding..height + padding, padding..width + padding);
                if lines.contains(&line) && columns.contains(&column) {
                    let at = ((sample * inputs + input) * height + line - padding) * width + column - padding;
                    sum += f64::from(x[at]) * f64::from(weight[(output * inputs + input) * 9 + tap]);
                }
            }
        }
        out.push(sum);
    }
    out
}

/// Sums of 9 * 40 products of numbers in -1..1 are around 10, and off by some 10 * 2e-6.
const TOLERANCE: f64 = 5e-5;

const SHAPES: [(usize, usize, usize, usize, usize); 6] = [
    (1, 17, 35, 5, 7),
    (3, 16, 16, 9, 33),
    (1, 3, 4, 1, 1),
    (2, 40, 33, 12, 4),
    (1, 8, 70, 6, 300),
    (5, 1, 1, 2, 3),
];

/// All with zeros around them, and those that are large enough without.
fn shapes() -> impl Iterator<Item = Shape> {
    let shape = |padding, (samples, inputs, outputs, height, width)| Shape {
        samples,
        inputs,
        outputs,
        height,
        width,
        padding,
    };
    let large = |(_, _, _, height, width): &(usize, usize, usize, usize, usize)| *height.min(width) > 2;
    let padded = SHAPES.into_iter().map(move |sides| shape(1, sides));
    padded.chain(SHAPES.into_iter().filter(large).map(move |sides| shape(0, sides)))
}

#[test]
fn sums_are_those_of_f64_over_shapes_that_fit_no_tile() {
    for shape in shapes() {
        let x = numbers(shape.samples * shape.inputs * shape.height * shape.width, 1);
        let weight = numbers(shape.outputs * shape.inputs * 9, 2);
        for bias in [numbers(shape.outputs, 3), numbers(shape.samples * shape.outputs, 4)] {
            let exact = exact(shape, &x, &weight, &bias);
            for level in CpuLevel::all() {
                let mut out = vec![f32::NAN; exact.len()];
                convolution(level, shape, &x, WideWeights::F32(&weight), Some(&bias), None, &mut out);
                for (out, exact) in out.iter().zip(&exact) {
                    assert!(
                        (f64::from(*out) - exact).abs() < TOLERANCE,
                        "{level:?} {shape:?}: {out} for {exact}"
                    );
                }
            }
        }
    }
}

#[test]
fn weights_of_half_precision_are_widened() {
    for shape in shapes() {
        let x = numbers(shape.samples * shape.inputs * shape.height * shape.width, 1);
        let halves: Vec<f16> =
            numbers(shape.outputs * shape.inputs * 9, 2).into_iter().map(f16::from_f32).collect();
        let widened: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
        for level in CpuLevel::all() {
            let of = |weight: WideWeights<'_>| {
                let mut out = vec![f32::NAN; shape.samples * shape.outputs * shape.pixels()];
                convolution(level, shape, &x, weight, None, None, &mut out);
                out
            };
            assert_eq!(of(WideWeights::F16(&halves)), of(WideWeights::F32(&widened)));
        }
    }
}

#[test]
fn a_sample_has_the_bits_that_it_has_alone() {
    let shape = Shape { samples: 3, inputs: 20, outputs: 40, height: 11, width: 14, padding: 1 };
    let alone = Shape { samples: 1, ..shape };
    let size = shape.inputs * shape.height * shape.width;
    let (x, weight) = (numbers(3 * size, 1), numbers(shape.outputs * shape.inputs * 9, 2));
    for level in CpuLevel::all() {
        let of = |shape: Shape, x: &[f32]| {
            let mut out = vec![f32::NAN; shape.samples * shape.outputs * shape.pixels()];
            convolution(level, shape, x, WideWeights::F32(&weight), None, None, &mut out);
            out
        };
        let each: Vec<f32> = x.chunks_exact(size).flat_map(|x| of(alone, x)).collect();
        assert!(of(shape, &x).iter().zip(&each).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

/// Deep enough that a thread transforms its weights in parts, where they are not kept.
const DEEP: Shape = Shape { samples: 1, inputs: 1300, outputs: 40, height: 8, width: 9, padding: 1 };

/// Sums of 9 * 1300 products are around 36. Added up one by one in the transformed domain, whose values are larger, they are
/// off by up to 1.6e-3.
const DEEP_TOLERANCE: f64 = 4e-3;

#[test]
fn weights_that_are_transformed_in_parts_give_the_bits_of_weights_that_are_kept() {
    // Two batches: their weights are kept, whole.
    let many = Shape { samples: 14, ..DEEP };
    let tiles = DEEP.tiles().0 * DEEP.tiles().1;
    assert!(14 * tiles * PLACES * DEEP.inputs > INPUTS && DEEP.inputs > DEPTH);
    let size = DEEP.inputs * DEEP.height * DEEP.width;
    let (x, weight) = (numbers(size, 1), numbers(DEEP.outputs * DEEP.inputs * 9, 2));
    let halves: Vec<f16> = weight.iter().copied().map(f16::from_f32).collect();
    let widened: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
    for level in CpuLevel::all() {
        let of = |shape: Shape, weight: WideWeights<'_>| {
            let mut out = vec![f32::NAN; shape.samples * shape.outputs * shape.pixels()];
            convolution(level, shape, &x.repeat(shape.samples), weight, None, None, &mut out);
            out
        };
        let (parts, kept) = (of(DEEP, WideWeights::F32(&widened)), of(many, WideWeights::F32(&widened)));
        assert!(kept.chunks_exact(parts.len()).all(|kept| bits(kept) == bits(&parts)));
        assert_eq!(bits(&of(DEEP, WideWeights::F16(&halves))), bits(&parts));
        let exact = exact(DEEP, &x, &widened, &[0.0; 40]);
        let off =
            parts.iter().zip(&exact).map(|(x, exact)| (f64::from(*x) - exact).abs()).fold(0.0, f64::max);
        assert!(off < DEEP_TOLERANCE, "{level:?}: off by {off}");
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn however_many_threads_divide_the_tiles_a_sum_has_the_same_bits() {
    let wide = Shape { samples: 2, inputs: 24, outputs: 50, height: 37, width: 290, padding: 1 };
    for shape in [DEEP, wide] {
        let x = numbers(shape.samples * shape.inputs * shape.height * shape.width, 1);
        let weight = numbers(shape.outputs * shape.inputs * 9, 2);
        for level in CpuLevel::all() {
            let of = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut out = vec![f32::NAN; shape.samples * shape.outputs * shape.pixels()];
                pool.install(|| {
                    convolution(level, shape, &x, WideWeights::F32(&weight), None, None, &mut out);
                });
                bits(&out)
            };
            let one = of(1);
            for threads in [2, 7, 48] {
                assert!(of(threads) == one, "{level:?} {shape:?} {threads} threads");
            }
        }
    }
}

#[test]
fn tiles_are_divided_where_cores_would_be_idle_and_not_elsewhere() {
    // Stable Diffusion 1.5 with guidance at 512x512, in panels of 32: 640 channels at 32x32, 1280 at 16x16 and at 8x8.
    for (panels, tiles) in [(20, 128), (40, 32), (40, 8)] {
        for threads in [1, 2, 4] {
            assert_eq!(pieces(panels, tiles, threads, TRANSFORM), 1, "{panels} {tiles} {threads}");
        }
    }
    for threads in [32, 48, 64, 96] {
        assert!(20 * pieces(20, 128, threads, TRANSFORM) > threads * 3 / 4, "{threads}");
    }
    assert!(40 * pieces(40, 32, 64, TRANSFORM) > 64);
    // Here the weights are most of the work: each is transformed once.
    assert_eq!(pieces(40, 8, 64, TRANSFORM), 1);
    // Kept weights cost nothing again, and no piece is smaller than is worth it.
    assert!(10 * pieces(10, 260, 64, 0) >= 60);
    assert_eq!(pieces(1, 5, 64, 0), 1);
}

#[test]
fn a_part_of_the_tiles_is_cut_out_of_the_runs_they_are_in() {
    let shape = Shape { samples: 2, inputs: 1, outputs: 1, height: 8, width: 280, padding: 1 };
    let runs = shape.runs();
    let tiles_of = |runs: &[Run]| -> Vec<(usize, usize, usize)> {
        let of = |run: &Run| {
            let (sample, top, left) = (run.sample, run.top, run.left);
            (left..left + run.count).map(move |left| (sample, top, left)).collect::<Vec<_>>()
        };
        runs.iter().flat_map(of).collect()
    };
    let all = tiles_of(&runs);
    assert_eq!(all.len(), 2 * 2 * 70);
    for range in [0..all.len(), 0..1, 63..65, 60..215, 279..280] {
        assert_eq!(tiles_of(&cut(&runs, range.clone())), all[range]);
    }
}

#[test]
fn what_is_to_be_added_is_added_last() {
    let shape = Shape { samples: 2, inputs: 18, outputs: 37, height: 9, width: 70, padding: 1 };
    let size = shape.samples * shape.height * shape.width;
    let (x, more) = (numbers(size * shape.inputs, 1), numbers(size * shape.outputs, 5));
    let (weight, bias) = (numbers(shape.outputs * shape.inputs * 9, 2), numbers(shape.outputs, 3));
    for level in CpuLevel::all() {
        let of = |more: Option<&[f32]>| {
            let mut out = vec![f32::NAN; size * shape.outputs];
            convolution(level, shape, &x, WideWeights::F32(&weight), Some(&bias), more, &mut out);
            out
        };
        let sums: Vec<f32> = of(None).iter().zip(&more).map(|(x, more)| x + more).collect();
        assert_eq!(of(Some(&more)), sums);
    }
}

/// What the choice of the points is about: see the head of the module.
#[test]
fn the_error_is_little_more_than_that_of_plain_sums() {
    let shape = Shape { samples: 1, inputs: 320, outputs: 8, height: 16, width: 16, padding: 1 };
    let x = numbers(shape.inputs * shape.height * shape.width, 1);
    let weight = numbers(shape.outputs * shape.inputs * 9, 2);
    let exact = exact(shape, &x, &weight, &[0.0; 8]);
    let size = (exact.iter().map(|value| value * value).sum::<f64>() / exact.len() as f64).sqrt();
    let error = |out: &[f32]| {
        let squares = out.iter().zip(&exact).map(|(out, exact)| (f64::from(*out) - exact).powi(2));
        (squares.sum::<f64>() / exact.len() as f64).sqrt() / size
    };
    let plain = error(&plain_sums(shape, &x, &weight));
    for level in CpuLevel::all() {
        let mut out = vec![f32::NAN; exact.len()];
        convolution(level, shape, &x, WideWeights::F32(&weight), None, None, &mut out);
        let ours = error(&out);
        println!("{level:?}: {ours:.2e}, plain sums in f32 {plain:.2e}");
        assert!(ours < 2.0 * plain, "{level:?}: {ours:e} {plain:e}");
    }
}

/// The convolution in f32, one product after the other.
fn plain_sums(shape: Shape, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let Shape { inputs, outputs, height, width, .. } = shape;
    let mut out = vec![0.0f32; outputs * height * width];
    for (place, sum) in out.iter_mut().enumerate() {
        let (output, y, x_at) = (place / (height * width), place / width % height, place % width);
        for (input, tap) in (0..inputs).flat_map(|input| (0..9).map(move |tap| (input, tap))) {
            let (line, column) = (y + tap / 3, x_at + tap % 3);
            if (1..=height).contains(&line) && (1..=width).contains(&column) {
                let at = (input * height + line - 1) * width + column - 1;
                *sum += x[at] * weight[(output * inputs + input) * 9 + tap];
            }
        }
    }
    out
}
