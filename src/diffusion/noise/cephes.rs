//! Logarithm, sine and cosine in f32 by the polynomials of Cephes (Moshier), as in `avx_mathfun.h`, which PyTorch
//! uses. Where a compiler with FMA fuses a product and a sum there, they are fused here: the results are the same bits.

/// Natural logarithm of a normal, positive number.
pub fn log(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let mut x = f32::from_bits(bits & !0x7f80_0000 | 0.5_f32.to_bits());
    let mut e = exponent as f32 + 1.0;
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        x = x - 1.0 + x;
    } else {
        x -= 1.0;
    }
    let z = x * x;
    let y = polynomial(
        x,
        &[
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_87e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_4e-1,
            -2.499_999_4e-1,
            3.333_333e-1,
        ],
    );
    let y = (y * x).mul_add(z, e * -2.121_944_4e-4);
    let y = z.mul_add(-0.5, y);
    e.mul_add(0.693_359_4, x + y)
}

/// Sine and cosine of an angle from 0 to 8192.
pub fn sin_cos(x: f32) -> (f32, f32) {
    const FOUR_OVER_PI: f32 = 1.273_239_5;
    /// A quarter of pi, negative, in three parts of falling size.
    const MINUS_QUARTER_PI: [f32; 3] = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8];
    let octant = ((x * FOUR_OVER_PI) as i32 + 1) & !1;
    let turns = octant as f32;
    let x = MINUS_QUARTER_PI.iter().fold(x, |x, part| turns.mul_add(*part, x));
    let z = x * x;
    let cosine = polynomial(z, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2]) * z;
    let cosine = cosine.mul_add(z, -(z * 0.5)) + 1.0;
    let sine = polynomial(z, &[-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]) * z;
    let sine = sine.mul_add(x, x);
    let (s, c) = if octant & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
    let s = if octant & 4 != 0 { -s } else { s };
    let c = if !(octant - 2) & 4 != 0 { -c } else { c };
    (s, c)
}

/// Horner's rule, the highest coefficient first, every step fused.
fn polynomial(x: f32, coefficients: &[f32]) -> f32 {
    coefficients.iter().copied().reduce(|sum, coefficient| sum.mul_add(x, coefficient)).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::{log, sin_cos};

    #[test]
    fn they_agree_with_the_exact_functions_to_a_few_units_in_the_last_place() {
        for i in 1..=10_000 {
            let x = i as f32 / 10_000.0;
            assert!((log(x) - f64::from(x).ln() as f32).abs() <= 2e-6 * log(x).abs().max(0.1), "{x}");
            let angle = x * std::f32::consts::TAU;
            let (s, c) = sin_cos(angle);
            let (exact_s, exact_c) = f64::from(angle).sin_cos();
            assert!((f64::from(s) - exact_s).abs() < 3e-7 && (f64::from(c) - exact_c).abs() < 3e-7, "{x}");
        }
    }
}
