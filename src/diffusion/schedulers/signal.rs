//! Arithmetic of the schedulers that count in signal left (cumulative alpha), in diffusers' order of operations.

use super::config::Prediction;

/// Clean latents with the noise of cumulative `alpha`: diffusers' `add_noise`.
pub fn add_noise(alpha: f32, clean: &[f32], noise: &[f32]) -> Vec<f32> {
    let (signal, strength) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    clean.iter().zip(noise).map(|(clean, noise)| signal * clean + strength * noise).collect()
}

/// The clean sample that an output implies for `x` at cumulative `alpha`.
pub fn clean(prediction: Prediction, alpha: f32, x: f32, output: f32) -> f32 {
    let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
    match prediction {
        Prediction::Epsilon => (x - noise * output) / signal,
        Prediction::Velocity => signal * x - noise * output,
        Prediction::Sample => output,
    }
}

/// Clips to `-range..range`, where a range is given.
pub fn clip(x: f32, range: Option<f32>) -> f32 {
    range.map_or(x, |range| x.clamp(-range, range))
}
