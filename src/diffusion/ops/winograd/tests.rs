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
            for level in Level::all() {
                let mut out = vec![f32::NAN; exact.len()];
                convolution(level, shape, &x, Kept::F32(&weight), Some(&bias), None, &mut out);
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
        for level in Level::all() {
            let of = |weight: Kept<'_>| {
                let mut out = vec![f32::NAN; shape.samples * shape.outputs * shape.pixels()];
                convolution(level, shape, &x, weight, None, None, &mut out);
                out
            };
            assert_eq!(of(Kept::F16(&halves)), of(Kept::F32(&widened)));
        }
    }
}

#[test]
fn a_sample_has_the_bits_that_it_has_alone() {
    let shape = Shape { samples: 3, inputs: 20, outputs: 40, height: 11, width: 14, padding: 1 };
    let alone = Shape { samples: 1, ..shape };
    let size = shape.inputs * shape.height * shape.width;
    let (x, weight) = (numbers(3 * size, 1), numbers(shape.outputs * shape.inputs * 9, 2));
    for level in Level::all() {
        let of = |shape: Shape, x: &[f32]| {
            let mut out = vec![f32::NAN; shape.samples * shape.outputs * shape.pixels()];
            convolution(level, shape, x, Kept::F32(&weight), None, None, &mut out);
            out
        };
        let each: Vec<f32> = x.chunks_exact(size).flat_map(|x| of(alone, x)).collect();
        assert!(of(shape, &x).iter().zip(&each).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn what_is_to_be_added_is_added_last() {
    let shape = Shape { samples: 2, inputs: 18, outputs: 37, height: 9, width: 70, padding: 1 };
    let size = shape.samples * shape.height * shape.width;
    let (x, more) = (numbers(size * shape.inputs, 1), numbers(size * shape.outputs, 5));
    let (weight, bias) = (numbers(shape.outputs * shape.inputs * 9, 2), numbers(shape.outputs, 3));
    for level in Level::all() {
        let of = |more: Option<&[f32]>| {
            let mut out = vec![f32::NAN; size * shape.outputs];
            convolution(level, shape, &x, Kept::F32(&weight), Some(&bias), more, &mut out);
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
    for level in Level::all() {
        let mut out = vec![f32::NAN; exact.len()];
        convolution(level, shape, &x, Kept::F32(&weight), None, None, &mut out);
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
