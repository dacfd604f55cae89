//! Convolutions and linear layers: kernels, strides and paddings of every kind, more than one tile.

use candle_core::{DType, Tensor};
use proptest::prelude::*;
use sd_worker_rbee::diffusion::ops::{self, plain};

use super::{close, config, numbers, sample, samples_have_their_own_bits, scattered, threads_change_no_bit};

/// Sums of up to some thousand products of numbers in -1..1.
const TOLERANCE: f32 = 1e-4;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_convolution_is_that_of_candle(
        seed in 0u64..1 << 40, batch in 1usize..4, inputs in 1usize..9, outputs in 1usize..9,
        (height, width) in (1usize..40, 1usize..40), kernel in 1usize..5,
        stride in 1usize..4, padding in 0usize..4, biased: bool, spread: bool,
    ) {
        prop_assume!(kernel <= height + 2 * padding && kernel <= width + 2 * padding);
        let mut x = numbers(seed, &[batch, inputs, height, width]);
        if spread {
            x = scattered(&x);
        }
        let weight = numbers(seed + 1, &[outputs, inputs, kernel, kernel]);
        let bias = biased.then(|| numbers(seed + 2, &[outputs]));
        close(
            &ops::conv2d(&x, &weight, bias.as_ref(), stride, padding).unwrap(),
            &plain::conv2d(&x.contiguous().unwrap(), &weight, bias.as_ref(), stride, padding).unwrap(),
            TOLERANCE,
        );
    }

    #[test]
    fn a_linear_layer_is_that_of_candle(
        seed in 0u64..1 << 40, batch in 1usize..4, tokens in 1usize..70,
        inputs in 1usize..100, outputs in 1usize..100, biased: bool, spread: bool, flat: bool,
    ) {
        let dims = [batch, tokens, inputs];
        let mut x = numbers(seed, if flat { &dims[1..] } else { &dims });
        if spread {
            x = scattered(&x);
        }
        let weight = numbers(seed + 1, &[outputs, inputs]);
        let bias = biased.then(|| numbers(seed + 2, &[outputs]));
        close(
            &ops::linear(&x, &weight, bias.as_ref()).unwrap(),
            &plain::linear(&x.contiguous().unwrap(), &weight, bias.as_ref()).unwrap(),
            TOLERANCE,
        );
    }
}

/// Channels in and out, height, width, kernel, stride, padding: more pixels, channels or columns than a tile has.
const LARGE: [[usize; 7]; 7] = [
    [24, 40, 33, 70, 3, 1, 1],
    [130, 17, 20, 9, 3, 1, 1],
    [3, 5, 70, 50, 3, 1, 1],
    [40, 700, 9, 11, 3, 1, 1],
    [40, 8, 33, 65, 3, 2, 0],
    [30, 650, 40, 41, 1, 1, 0],
    [4, 3, 3, 1500, 3, 1, 1],
];

#[test]
fn a_convolution_of_several_tiles_is_that_of_candle_and_a_sample_has_its_own_bits() {
    for [inputs, outputs, height, width, kernel, stride, padding] in LARGE {
        let x = numbers(1, &[2, inputs, height, width]);
        let (weight, bias) = (numbers(2, &[outputs, inputs, kernel, kernel]), numbers(3, &[outputs]));
        let of = |x: &Tensor| ops::conv2d(x, &weight, Some(&bias), stride, padding).unwrap();
        close(&of(&x), &plain::conv2d(&x, &weight, Some(&bias), stride, padding).unwrap(), TOLERANCE);
        samples_have_their_own_bits(&of(&x), |i| of(&sample(&x, i)));
        threads_change_no_bit(|| of(&x));
    }
}

#[test]
fn a_linear_layer_of_several_tiles_is_that_of_candle_and_a_sample_has_its_own_bits() {
    for (tokens, inputs, outputs) in [(600, 40, 330), (77, 1030, 641), (1, 30, 330)] {
        let x = numbers(1, &[3, tokens, inputs]);
        let (weight, bias) = (numbers(2, &[outputs, inputs]), numbers(3, &[outputs]));
        let of = |x: &Tensor| ops::linear(x, &weight, Some(&bias)).unwrap();
        close(&of(&x), &plain::linear(&x, &weight, Some(&bias)).unwrap(), TOLERANCE);
        samples_have_their_own_bits(&of(&x), |i| of(&sample(&x, i)));
        threads_change_no_bit(|| of(&x));
    }
}

#[test]
fn a_bias_may_differ_from_sample_to_sample() {
    let (x, weight) = (numbers(1, &[3, 4, 9, 9]), numbers(2, &[5, 4, 3, 3]));
    let bias = numbers(3, &[3, 5]);
    let whole = ops::conv2d(&x, &weight, Some(&bias), 1, 1).unwrap();
    close(&whole, &plain::conv2d(&x, &weight, Some(&bias), 1, 1).unwrap(), TOLERANCE);
    samples_have_their_own_bits(&whole, |i| {
        ops::conv2d(&sample(&x, i), &weight, Some(&sample(&bias, i)), 1, 1).unwrap()
    });
}

#[test]
fn weights_of_half_the_size_are_widened() {
    let x = numbers(1, &[2, 4, 9, 9]);
    for dtype in [DType::F16, DType::BF16] {
        let half = |seed, dims: &[usize]| numbers(seed, dims).to_dtype(dtype).unwrap();
        let wide = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
        let (weight, bias) = (half(2, &[5, 4, 3, 3]), half(3, &[5]));
        let kernels = ops::conv2d(&x, &weight, Some(&bias), 1, 1).unwrap();
        close(&kernels, &plain::conv2d(&x, &wide(&weight), Some(&wide(&bias)), 1, 1).unwrap(), TOLERANCE);
        let weight = half(4, &[7, 9]);
        let kernels = ops::linear(&x, &weight, None).unwrap();
        close(&kernels, &plain::linear(&x, &wide(&weight), None).unwrap(), TOLERANCE);
    }
}

#[test]
fn what_is_added_to_a_convolution_is_added_on_every_way_through_it() {
    for (inputs, outputs, kernel, stride, padding) in
        [(20, 24, 3, 1, 1), (20, 24, 3, 2, 1), (5, 3, 3, 1, 1), (20, 24, 1, 1, 0)]
    {
        let x = numbers(1, &[2, inputs, 13, 18]);
        let (weight, bias) = (numbers(2, &[outputs, inputs, kernel, kernel]), numbers(3, &[outputs]));
        let alone = ops::conv2d(&x, &weight, Some(&bias), stride, padding).unwrap();
        let more = numbers(4, alone.dims());
        for more in [more.clone(), scattered(&more)] {
            for bias in [Some(&bias), None] {
                let sum = ops::conv2d_plus(&x, &weight, bias, &more, stride, padding).unwrap();
                let plain = (plain::conv2d(&x, &weight, bias, stride, padding).unwrap() + &more).unwrap();
                close(&sum, &plain, TOLERANCE);
            }
        }
        assert!(
            ops::conv2d_plus(&x, &weight, None, &numbers(4, &[2, outputs, 2, 2]), stride, padding).is_err()
        );
    }
}

#[test]
fn what_is_added_to_a_linear_layer_and_what_gates_it_is_as_if_done_after_it() {
    for (tokens, inputs, outputs) in [(1, 30, 12), (9, 70, 66), (130, 2100, 98)] {
        let x = numbers(1, &[2, tokens, inputs]);
        let (weight, bias) = (numbers(2, &[outputs, inputs]), numbers(3, &[outputs]));
        let more = numbers(4, &[2, tokens, outputs]);
        for bias in [Some(&bias), None] {
            let plain = plain::linear(&x, &weight, bias).unwrap();
            for more in [more.clone(), scattered(&more)] {
                let sum = ops::linear_plus(&x, &weight, bias, &more).unwrap();
                // The deepest of them sum 2,100 products.
                close(&sum, &(&plain + &more).unwrap(), 3.0 * TOLERANCE);
            }
            // A gate multiplies two such sums, each of up to 40.
            let gated = |x: &Tensor| ops::linear_geglu(x, &weight, bias).unwrap();
            close(&gated(&x), &plain::geglu(&plain).unwrap(), 2.0 * 40.0 * 3.0 * TOLERANCE);
            samples_have_their_own_bits(&gated(&x), |i| gated(&sample(&x, i)));
            threads_change_no_bit(|| gated(&x));
        }
        assert!(ops::linear_plus(&x, &weight, None, &numbers(4, &[2, tokens, outputs + 1])).is_err());
    }
}

#[test]
fn a_kernel_that_does_not_fit_is_an_error() {
    let (x, weight) = (numbers(1, &[1, 4, 2, 2]), numbers(2, &[5, 3, 1, 1]));
    assert!(ops::conv2d(&x, &weight, None, 1, 0).is_err());
    assert!(ops::linear(&x, &numbers(2, &[5, 3]), None).is_err());
}
