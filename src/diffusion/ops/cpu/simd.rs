//! Inner loops, written so that the compiler makes vectors of them, compiled once for each kind of processor.
//!
//! A product and a sum are fused where the processor does that, and never elsewhere. The last bits of a result depend on
//! that alone.

use super::lanes::{CpuLevel, Kind};

/// Values that are summed side by side: a sum's order is the same whatever the processor's vectors hold.
const LANES: usize = 16;
/// Values that are summed in f32 before the sum goes into an f64.
const BLOCK: usize = 4096;

/// A function that runs the named generic body compiled for a [`CpuLevel`].
macro_rules! for_each_level {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$doc])*
        pub fn $name(level: CpuLevel, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512($($arg: $type),*) $(-> $result)? {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) $(-> $result)? {
                $body::<true>($($arg),*)
            }
            match level.kind() {
                Kind::Portable => $body::<false>($($arg),*),
                // SAFETY: there is no such level but on a processor that has these features.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Below this, e^x is taken as 0: it has no normal f32.
const LOWEST: f32 = -87.3;
/// Above this, e^x is taken as e^88.
const HIGHEST: f32 = 88.0;
/// 1.5 * 2^23: what is added to it is rounded to a whole number, which the last bits of the sum hold.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts: the first has few bits, so that its product with a whole number is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e^x, with a relative error of at most 2e-7: 2^n e^r, with Cephes' polynomial (`expf`) for e^r.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    // Written so that a NaN passes through.
    let bounded = if x < LOWEST { LOWEST } else { x };
    let bounded = if bounded > HIGHEST { HIGHEST } else { bounded };
    let shifted = fused::<FMA>(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fused::<FMA>(n, -LN_2_HIGH, bounded);
    let r = fused::<FMA>(n, -LN_2_LOW, r);
    let p = fused::<FMA>(1.987_569_1e-4, r, 1.398_199_9e-3);
    let p = fused::<FMA>(p, r, 8.333_452e-3);
    let p = fused::<FMA>(p, r, 4.166_579_6e-2);
    let p = fused::<FMA>(p, r, 0.166_666_65);
    let p = fused::<FMA>(p, r, 0.5);
    let p = fused::<FMA>(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x < LOWEST { 0.0 } else { p * power }
}

/// The share of a normal distribution below `x`, with an absolute error of at most 5e-7: Abramowitz and Stegun 7.1.26,
/// in the tail that is small, so that little is lost there.
#[inline(always)]
fn normal_below<const FMA: bool>(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / fused::<FMA>(0.327_591_1, z, 1.0);
    let p = fused::<FMA>(1.061_405_4, t, -1.453_152_1);
    let p = fused::<FMA>(p, t, 1.421_413_8);
    let p = fused::<FMA>(p, t, -0.284_496_72);
    let p = fused::<FMA>(p, t, 0.254_829_6) * t;
    let tail = 0.5 * p * exp::<FMA>(-(z * z));
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[inline(always)]
fn silu_of<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn quick_gelu_of<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-1.702 * x))
}

/// sqrt(2 / pi), of the GELU with a hyperbolic tangent (Hendrycks and Gimpel 2016).
const GELU_SCALE: f32 = 0.797_884_6;

#[inline(always)]
fn gelu_tanh_of<const FMA: bool>(x: f32) -> f32 {
    // x (1 + tanh u) / 2 = x / (1 + e^(-2 u))
    let u = GELU_SCALE * x * fused::<FMA>(0.044_715 * x, x, 1.0);
    x / (1.0 + exp::<FMA>(-2.0 * u))
}

#[inline(always)]
fn gelu_erf_of<const FMA: bool>(x: f32) -> f32 {
    x * normal_below::<FMA>(x)
}

#[inline(always)]
fn map(x: &[f32], out: &mut [f32], of: impl Fn(f32) -> f32) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = of(*x);
    }
}

#[inline(always)]
fn silu_body<const FMA: bool>(x: &[f32], out: &mut [f32]) {
    map(x, out, silu_of::<FMA>);
}

#[inline(always)]
fn quick_gelu_body<const FMA: bool>(x: &[f32], out: &mut [f32]) {
    map(x, out, quick_gelu_of::<FMA>);
}

#[inline(always)]
fn gelu_tanh_body<const FMA: bool>(x: &[f32], out: &mut [f32]) {
    map(x, out, gelu_tanh_of::<FMA>);
}

#[inline(always)]
fn gelu_erf_body<const FMA: bool>(x: &[f32], out: &mut [f32]) {
    map(x, out, gelu_erf_of::<FMA>);
}

#[inline(always)]
fn gated_body<const FMA: bool>(x: &[f32], gate: &[f32], out: &mut [f32]) {
    for ((out, x), gate) in out.iter_mut().zip(x).zip(gate) {
        *out = x * gelu_erf_of::<FMA>(*gate);
    }
}

#[inline(always)]
fn sum_body<const FMA: bool>(x: &[f32], of: impl Fn(f32) -> f32) -> f64 {
    x.chunks(BLOCK).map(|block| f64::from(lanes(block, 0.0, |sum, x| sum + of(x), |a, b| a + b))).sum()
}

/// Folds `x` in [`LANES`] lanes, and those into one.
#[inline(always)]
fn lanes(x: &[f32], first: f32, fold: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut folded = [first; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in folded.iter_mut().zip(chunk) {
            *lane = fold(*lane, *x);
        }
    }
    for (lane, x) in folded.iter_mut().zip(rest) {
        *lane = fold(*lane, *x);
    }
    folded.iter().copied().reduce(join).unwrap_or(first)
}

/// Mean and variance: the mean first, then the squares of what is left, so that a large mean costs no digits.
#[inline(always)]
fn moments_body<const FMA: bool>(x: &[f32]) -> (f64, f64) {
    let count = x.len() as f64;
    let mean = sum_body::<FMA>(x, |x| x) / count;
    let centre = mean as f32;
    let variance = sum_body::<FMA>(x, |x| (x - centre) * (x - centre)) / count;
    (mean, variance)
}

#[inline(always)]
fn largest_body<const FMA: bool>(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    lanes(x, f32::NEG_INFINITY, larger, larger)
}

#[inline(always)]
fn exp_body<const FMA: bool>(x: &mut [f32], less: f32) -> f32 {
    for x in x.iter_mut() {
        *x = exp::<FMA>(*x - less);
    }
    lanes(x, 0.0, |sum, x| sum + x, |a, b| a + b)
}

/// Products that are summed side by side, in as many vectors as hide how long an addition takes.
const CHAINS: usize = 4 * LANES;

#[inline(always)]
fn dot_body<const FMA: bool>(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0; CHAINS];
    let (x_chunks, y_chunks) = (x.chunks_exact(CHAINS), y.chunks_exact(CHAINS));
    let rest = x_chunks.remainder().iter().zip(y_chunks.remainder());
    for (x, y) in x_chunks.zip(y_chunks) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum = fused::<FMA>(*x, *y, *sum);
        }
    }
    for (sum, (x, y)) in sums.iter_mut().zip(rest) {
        *sum = fused::<FMA>(*x, *y, *sum);
    }
    lanes(&sums, 0.0, |sum, x| sum + x, |a, b| a + b)
}

#[inline(always)]
fn normalise_body<const FMA: bool>(x: &[f32], out: &mut [f32], mean: f32, scale: f32, shift: f32) {
    map(x, out, |x| fused::<FMA>(x - mean, scale, shift));
}

#[inline(always)]
fn normalise_silu_body<const FMA: bool>(x: &[f32], out: &mut [f32], mean: f32, scale: f32, shift: f32) {
    map(x, out, |x| silu_of::<FMA>(fused::<FMA>(x - mean, scale, shift)));
}

#[inline(always)]
fn normalise_row_body<const FMA: bool>(
    x: &[f32],
    out: &mut [f32],
    (mean, scale): (f32, f32),
    weight: &[f32],
    bias: &[f32],
) {
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = fused::<FMA>((x - mean) * scale, *weight, *bias);
    }
}

#[inline(always)]
fn add_body<const FMA: bool>(x: &[f32], y: &[f32], out: &mut [f32]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = x + y;
    }
}

for_each_level! {
    /// x times the logistic function of x.
    silu = silu_body(x: &[f32], out: &mut [f32])
}
for_each_level! {
    /// x times the logistic function of 1.702 x.
    quick_gelu = quick_gelu_body(x: &[f32], out: &mut [f32])
}
for_each_level! {
    /// GELU with a hyperbolic tangent.
    gelu_tanh = gelu_tanh_body(x: &[f32], out: &mut [f32])
}
for_each_level! {
    /// GELU with the error function.
    gelu_erf = gelu_erf_body(x: &[f32], out: &mut [f32])
}
for_each_level! {
    /// `x` times the GELU (with the error function) of `gate`.
    gated = gated_body(x: &[f32], gate: &[f32], out: &mut [f32])
}
for_each_level! {
    /// Mean and variance.
    moments = moments_body(x: &[f32]) -> (f64, f64)
}
for_each_level! {
    /// The largest value that is a number; minus infinity where there is none.
    largest = largest_body(x: &[f32]) -> f32
}
for_each_level! {
    /// Puts e^(x - less) in the place of each x. Returns their sum.
    exp_of_difference = exp_body(x: &mut [f32], less: f32) -> f32
}
for_each_level! {
    /// The sum of the products of values with the same place.
    dot = dot_body(x: &[f32], y: &[f32]) -> f32
}
for_each_level! {
    /// `(x - mean) * scale + shift`.
    normalise = normalise_body(x: &[f32], out: &mut [f32], mean: f32, scale: f32, shift: f32)
}
for_each_level! {
    /// The SiLU of `(x - mean) * scale + shift`.
    normalise_silu = normalise_silu_body(x: &[f32], out: &mut [f32], mean: f32, scale: f32, shift: f32)
}
for_each_level! {
    /// `(x - mean) * scale`, times a weight and plus a bias of its own for each value.
    normalise_row = normalise_row_body(
        x: &[f32], out: &mut [f32], mean_and_scale: (f32, f32), weight: &[f32], bias: &[f32]
    )
}
for_each_level! {
    /// `x + y`.
    add = add_body(x: &[f32], y: &[f32], out: &mut [f32])
}

#[cfg(test)]
#[path = "simd_tests.rs"]
mod tests;
