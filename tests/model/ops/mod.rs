//! The kernels beside candle's own form of each operation, over shapes that fit no tile.
//!
//! Kernels sum in another order than candle does. A sum of n products of numbers around 1 is off by about
//! sqrt(n) * 2^-24 in f32; the tolerances below are some ten times that for the largest n that is drawn.

mod attention;
mod convolution;
mod others;

use candle_core::{DType, Device, Tensor};
use proptest::test_runner::Config;

/// Cases of one property: each computes an operation a few times.
const CASES: u32 = 24;

fn config() -> Config {
    Config { cases: CASES, failure_persistence: None, ..Config::default() }
}

/// Numbers in -1..1 that `seed` tells.
fn numbers(seed: u64, dims: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let values: Vec<f32> = (0..dims.iter().product())
        .map(|_| {
            // Vigna's splitmix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// The same values, every second along the last dimension of a larger tensor that begins elsewhere.
fn scattered(x: &Tensor) -> Tensor {
    let last = x.rank() - 1;
    let wide = Tensor::cat(&[x, &x.ones_like().unwrap()], last).unwrap();
    let mut view = wide.narrow(last, 0, x.dim(last).unwrap()).unwrap();
    if x.rank() > 1 {
        // Neighbours in memory are now far from each other.
        view = view.transpose(last - 1, last).unwrap().contiguous().unwrap();
        view = view.transpose(last - 1, last).unwrap();
    }
    view
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// The largest difference is at most `tolerance`.
fn close(kernels: &Tensor, candle: &Tensor, tolerance: f32) {
    assert_eq!(kernels.dims(), candle.dims());
    for (index, (kernel, candle)) in values(kernels).iter().zip(values(candle)).enumerate() {
        assert!((kernel - candle).abs() <= tolerance, "value {index}: {kernel}, and candle has {candle}");
    }
}

/// Each sample of the batch `whole` has the bits that `alone` gives it by itself.
fn samples_have_their_own_bits(whole: &Tensor, alone: impl Fn(usize) -> Tensor) {
    let bits = |x: &Tensor| values(x).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for sample in 0..whole.dim(0).unwrap() {
        assert!(bits(&whole.narrow(0, sample, 1).unwrap()) == bits(&alone(sample)), "sample {sample}");
    }
}

/// `operation` gives the same bits on one thread as on five, and as on more than this machine has.
fn threads_change_no_bit(operation: impl Fn() -> Tensor + Sync) {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| values(&operation()).iter().map(|x| x.to_bits()).collect::<Vec<_>>())
    };
    let one = on(1);
    assert!(one == on(5) && one == on(48));
}

/// One sample of `x`.
fn sample(x: &Tensor, sample: usize) -> Tensor {
    x.narrow(0, sample, 1).unwrap()
}
