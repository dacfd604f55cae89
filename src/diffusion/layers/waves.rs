//! Numbers as sinusoids, as transformers are told of time.

use candle_core::{Device, Result, Tensor};

/// Waves of a number, half of them cosines.
pub const WAVES: usize = 256;
/// Period of the slowest wave, as in "Attention is all you need".
const MAX_PERIOD: f32 = 10_000.0;

/// `[values, 256]`: cosines, then sines, of each value, in f32 as diffusers computes them.
pub fn waves(values: impl ExactSizeIterator<Item = f32>, device: &Device) -> Result<Tensor> {
    let (half, count) = (WAVES / 2, values.len());
    let mut waves = Vec::with_capacity(count * WAVES);
    for value in values {
        let angle = |i: usize| value * (-MAX_PERIOD.ln() * i as f32 / half as f32).exp();
        waves.extend((0..half).map(|i| angle(i).cos()));
        waves.extend((0..half).map(|i| angle(i).sin()));
    }
    Tensor::from_vec(waves, (count, WAVES), device)
}
