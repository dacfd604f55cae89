//! Each inner loop on each kind of processor that this one can be, against f64.

use super::*;

/// Every level that this processor has.
fn levels() -> impl Iterator<Item = CpuLevel> {
    CpuLevel::all()
}

/// Numbers from `from` to `to`, about as many as 16 bits count, and not a multiple of any vector.
fn numbers(from: f64, to: f64) -> Vec<f32> {
    (0..=65_536).map(|i| (from + (to - from) * f64::from(i) / 65_536.0) as f32).collect()
}

/// The error function in f64: its Taylor series where that loses nothing, else the continued fraction of its tail.
fn erfc(z: f64) -> f64 {
    if z < 2.5 {
        let (mut term, mut sum) = (z, z);
        for n in 1..80 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..=200).rev().fold(z, |rest, n| z + f64::from(n) / 2.0 / rest);
    (-z * z).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0
}

fn gelu_erf_f64(x: f64) -> f64 {
    let tail = 0.5 * erfc(x.abs() * std::f64::consts::FRAC_1_SQRT_2);
    if x < 0.0 { x * tail } else { x * (1.0 - tail) }
}

#[test]
fn the_exponential_is_off_by_less_than_two_parts_in_ten_million() {
    for level in levels() {
        let x = numbers(-87.0, 0.0);
        let mut y = x.clone();
        let sum = exp_of_difference(level, &mut y, 0.0);
        for (x, y) in x.iter().zip(&y) {
            let exact = f64::from(*x).exp();
            assert!(((f64::from(*y) - exact) / exact).abs() < 2e-7, "{level:?}: e^{x} is not {y}");
        }
        let exact: f64 = y.iter().map(|y| f64::from(*y)).sum();
        assert!((f64::from(sum) - exact).abs() / exact < 1e-5);
    }
}

#[test]
fn the_exponential_is_zero_of_minus_infinity_and_no_number_of_no_number() {
    for level in levels() {
        let mut x = vec![f32::NEG_INFINITY, -1e9, f32::NAN, 0.0];
        exp_of_difference(level, &mut x, 0.0);
        assert_eq!((x[0], x[1], x[3]), (0.0, 0.0, 1.0));
        assert!(x[2].is_nan());
    }
}

type Loop = fn(CpuLevel, &[f32], &mut [f32]);

#[test]
fn activations_are_off_by_less_than_a_millionth_of_their_input() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let tanh =
        |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
    let cases: [(Loop, &dyn Fn(f64) -> f64); 4] = [
        (silu, &|x| x * sigmoid(x)),
        (quick_gelu, &|x| x * sigmoid(1.702 * x)),
        (gelu_tanh, &tanh),
        (gelu_erf, &gelu_erf_f64),
    ];
    for level in levels() {
        for (index, (function, exact)) in cases.iter().enumerate() {
            let x = numbers(-30.0, 30.0);
            let mut y = vec![0.0; x.len()];
            function(level, &x, &mut y);
            for (x, y) in x.iter().zip(&y) {
                let off = (f64::from(*y) - exact(f64::from(*x))).abs();
                assert!(off <= 1e-6 * f64::from(x.abs()), "{level:?}, function {index}: {y} of {x}");
            }
        }
    }
}

#[test]
fn activations_go_to_their_limits() {
    for level in levels() {
        for function in [silu, quick_gelu, gelu_tanh, gelu_erf] as [Loop; 4] {
            let mut y = [1.0; 3];
            function(level, &[-1e4, 1e4, f32::NAN], &mut y);
            assert!(y[0].abs() < 1e-30 && y[1] == 1e4 && y[2].is_nan(), "{level:?}: {y:?}");
        }
    }
}

#[test]
fn a_gate_is_the_gelu_of_the_second_value() {
    for level in levels() {
        let (x, gate) = (numbers(-3.0, 3.0), numbers(-8.0, 5.0));
        let (mut gated_x, mut gelu) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        gated(level, &x, &gate, &mut gated_x);
        gelu_erf(level, &gate, &mut gelu);
        assert!(x.iter().zip(&gelu).zip(&gated_x).all(|((x, gelu), gated)| x * gelu == *gated));
    }
}

#[test]
fn a_large_mean_costs_the_variance_no_digits() {
    for level in levels() {
        let x: Vec<f32> = numbers(-1.0, 1.0).iter().map(|x| x + 1000.0).collect();
        let exact_mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        let exact = x.iter().map(|x| (f64::from(*x) - exact_mean).powi(2)).sum::<f64>() / x.len() as f64;
        let (mean, variance) = moments(level, &x);
        assert!((mean - exact_mean).abs() < 1e-3 && (variance - exact).abs() < 1e-5 * exact, "{level:?}");
    }
}

#[test]
fn the_largest_value_is_found_wherever_it_is() {
    for level in levels() {
        for length in [1, 15, 16, 17, 40] {
            for place in 0..length {
                let mut x = vec![-2.0; length];
                x[place] = -1.0;
                assert_eq!(largest(level, &x), -1.0);
            }
        }
        assert_eq!(largest(level, &[f32::NAN, 3.0]), 3.0);
    }
}

#[test]
fn a_value_that_is_normalised_does_not_depend_on_its_place() {
    for level in levels() {
        let x = vec![0.37; 39];
        let (mut plain, mut activated) = (vec![0.0; 39], vec![0.0; 39]);
        normalise(level, &x, &mut plain, 0.1, 1.7, 0.3);
        normalise_silu(level, &x, &mut activated, 0.1, 1.7, 0.3);
        assert!(plain.iter().all(|y| *y == plain[0] && (y - (0.27 * 1.7 + 0.3)).abs() < 1e-6));
        let mut silu_of_plain = vec![0.0; 39];
        silu(level, &plain, &mut silu_of_plain);
        assert_eq!(activated, silu_of_plain);
        let mut row = vec![0.0; 39];
        normalise_row(level, &x, &mut row, (0.1, 2.0), &[0.5; 39], &[0.25; 39]);
        assert!(row.iter().all(|y| *y == row[0] && (y - 0.52).abs() < 1e-6));
        let mut sum = vec![0.0; 39];
        add(level, &x, &row, &mut sum);
        assert!(sum.iter().all(|y| *y == 0.37 + row[0]));
    }
}

#[test]
fn a_dot_product_of_any_length_is_that_of_f64() {
    for level in levels() {
        for length in [0, 1, 15, 64, 65, 1000] {
            let (x, y) = (numbers(-1.0, 1.0), numbers(0.3, -2.0));
            let (x, y) = (&x[..length], &y[..length]);
            let exact: f64 = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(level, x, y)) - exact).abs() < 1e-5 * (1.0 + exact.abs()), "{level:?}");
        }
    }
}
