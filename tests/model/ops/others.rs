//! Norms, activations, sums and what only moves values.

use candle_core::{DType, Tensor};
use proptest::prelude::*;
use sd_worker_rbee::diffusion::ops::{self, Activation, plain};

use super::{
    close, config, numbers, sample, samples_have_their_own_bits, scattered, threads_change_no_bit, values,
};

/// A norm's values are around 1, and candle's mean and variance are sums in f32.
const NORM: f32 = 5e-5;
/// An activation is off by a millionth of its input, which is below 8 here.
const ACTIVATION: f32 = 1e-5;

const ACTIVATIONS: [Activation; 4] =
    [Activation::Silu, Activation::GeluErf, Activation::GeluTanh, Activation::QuickGelu];

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_group_norm_is_that_of_candle(
        seed in 0u64..1 << 40, batch in 1usize..4, groups in 1usize..5, channels in 1usize..5,
        (height, width) in (1usize..20, 2usize..20), spread: bool,
    ) {
        let channels = groups * channels;
        let mut x = numbers(seed, &[batch, channels, height, width]);
        if spread {
            x = scattered(&x);
        }
        let (weight, bias) = (numbers(seed + 1, &[channels]), numbers(seed + 2, &[channels]));
        let candle = plain::group_norm(&x, &weight, &bias, groups, 1e-3).unwrap();
        close(&ops::group_norm(&x, &weight, &bias, groups, 1e-3).unwrap(), &candle, NORM);
        let silu = ops::group_norm_silu(&x, &weight, &bias, groups, 1e-3).unwrap();
        close(&silu, &candle.silu().unwrap(), NORM);
    }

    #[test]
    fn a_layer_norm_is_that_of_candle(
        seed in 0u64..1 << 40, batch in 1usize..4, tokens in 1usize..150, width in 2usize..100, spread: bool,
    ) {
        let mut x = numbers(seed, &[batch, tokens, width]);
        if spread {
            x = scattered(&x);
        }
        let (weight, bias) = (numbers(seed + 1, &[width]), numbers(seed + 2, &[width]));
        close(
            &ops::layer_norm(&x, &weight, &bias, 1e-3).unwrap(),
            &plain::layer_norm(&x, &weight, &bias, 1e-3).unwrap(),
            NORM,
        );
    }

    #[test]
    fn activations_are_those_of_candle(seed in 0u64..1 << 40, rows in 1usize..300, width in 1usize..200, spread: bool) {
        let mut x = (numbers(seed, &[rows, 2 * width]) * 8.0).unwrap();
        if spread {
            x = scattered(&x);
        }
        for activation in ACTIVATIONS {
            let candle = plain::activate(&x, activation).unwrap();
            close(&ops::activate(&x, activation).unwrap(), &candle, ACTIVATION);
        }
        close(&ops::relu(&x).unwrap(), &x.relu().unwrap(), 0.0);
        close(&ops::geglu(&x).unwrap(), &plain::geglu(&x).unwrap(), 8.0 * ACTIVATION);
    }

    #[test]
    fn values_are_moved_as_candle_moves_them(
        seed in 0u64..1 << 40, batch in 1usize..4, channels in 1usize..40,
        (height, width) in (1usize..30, 1usize..30), (to_height, to_width) in (1usize..70, 1usize..70), spread: bool,
    ) {
        let mut x = numbers(seed, &[batch, channels, height, width]);
        if spread {
            x = scattered(&x);
        }
        let grown = ops::upsample_nearest(&x, to_height, to_width).unwrap();
        close(&grown, &plain::upsample_nearest(&x, to_height, to_width).unwrap(), 0.0);
        let flat = x.flatten_from(2).unwrap();
        let swapped = ops::swap_tokens_and_channels(&flat).unwrap();
        close(&swapped, &flat.transpose(1, 2).unwrap(), 0.0);
        prop_assert!(swapped.is_contiguous());
        close(&ops::add(&x, &x).unwrap(), &(&x * 2.0).unwrap(), 0.0);
    }
}

#[test]
fn a_sample_has_its_own_bits_in_every_operation() {
    let x = numbers(1, &[3, 12, 71, 50]);
    let (weight, bias) = (numbers(2, &[12]), numbers(3, &[12]));
    let of_pictures: [&(dyn Fn(&Tensor) -> Tensor + Sync); 4] = [
        &|x| ops::group_norm(x, &weight, &bias, 4, 1e-5).unwrap(),
        &|x| ops::group_norm_silu(x, &weight, &bias, 4, 1e-5).unwrap(),
        &|x| ops::upsample_nearest(x, 142, 100).unwrap(),
        &|x| ops::add(x, &x.neg().unwrap().exp().unwrap()).unwrap(),
    ];
    let tokens = numbers(4, &[3, 901, 38]);
    let (weight, bias) = (numbers(5, &[38]), numbers(6, &[38]));
    let of_tokens: [&(dyn Fn(&Tensor) -> Tensor + Sync); 3] =
        [&|x| ops::layer_norm(x, &weight, &bias, 1e-5).unwrap(), &|x| ops::geglu(x).unwrap(), &|x| {
            ops::swap_tokens_and_channels(x).unwrap()
        }];
    let activations = ACTIVATIONS.map(|activation| move |x: &Tensor| ops::activate(x, activation).unwrap());
    let of_pictures = of_pictures.iter().map(|of| (&x, *of));
    let of_tokens = of_tokens.iter().map(|of| (&tokens, *of));
    let of_any = activations.iter().map(|of| (&tokens, of as &(dyn Fn(&Tensor) -> Tensor + Sync)));
    for (x, of) in of_pictures.chain(of_tokens).chain(of_any) {
        samples_have_their_own_bits(&of(x), |i| of(&sample(x, i)));
        threads_change_no_bit(|| of(x));
    }
}

#[test]
fn a_large_mean_leaves_a_norm_its_digits() {
    let x = (numbers(1, &[1, 4, 100, 100]) + 300.0).unwrap();
    let (one, zero) =
        (Tensor::ones(4, DType::F32, x.device()).unwrap(), numbers(0, &[4]).zeros_like().unwrap());
    let y = values(&ops::group_norm(&x, &one, &zero, 1, 1e-6).unwrap());
    let mean = y.iter().map(|y| f64::from(*y)).sum::<f64>() / y.len() as f64;
    let square = y.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>() / y.len() as f64;
    assert!(mean.abs() < 1e-4 && (square - 1.0).abs() < 1e-3, "mean {mean}, mean square {square}");
}

#[test]
fn what_is_no_number_stays_none_through_a_relu() {
    let x = Tensor::new(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, 2.0], &candle_core::Device::Cpu);
    let y = values(&ops::relu(&x.unwrap()).unwrap());
    assert!(y[0].is_nan());
    assert_eq!(y[1..], [f32::INFINITY, 0.0, 0.0, 2.0]);
}

#[test]
fn tensors_without_values_pass() {
    let none = Tensor::zeros((2, 0, 8), DType::F32, &candle_core::Device::Cpu).unwrap();
    assert_eq!(ops::activate(&none, Activation::Silu).unwrap().dims(), [2, 0, 8]);
    assert_eq!(ops::relu(&none).unwrap().dims(), [2, 0, 8]);
    assert_eq!(ops::add(&none, &none).unwrap().dims(), [2, 0, 8]);
}

#[test]
fn other_types_go_through_candle() {
    let x = numbers(1, &[2, 4, 6, 6]).to_dtype(DType::F64).unwrap();
    let (weight, bias) = (numbers(2, &[3, 4, 3, 3]), numbers(3, &[3]));
    let y = ops::conv2d(&x, &weight, Some(&bias), 1, 1).unwrap();
    assert_eq!((y.dtype(), y.dims()), (DType::F64, &[2, 3, 6, 6][..]));
    let narrow = ops::conv2d(&x.to_dtype(DType::F32).unwrap(), &weight, Some(&bias), 1, 1).unwrap();
    close(&narrow, &y, 1e-5);
}
