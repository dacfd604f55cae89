//! torch's CPU generator and its normal sampling, bit for bit: a seed gives the noise that diffusers gives.
//!
//! What `torch.randn` does on the CPU (PyTorch, `ATen/native/cpu/DistributionTemplates.h`): 16 numbers and more are
//! filled in blocks of 16 by Box and Muller in f32, fewer one by one in f64. The f32 kernel uses the polynomials of
//! Cephes with fused multiply-adds on processors with AVX2 or AVX-512; those are followed here, on every processor,
//! so that a seed gives the same picture everywhere.

mod cephes;
mod mt19937;
mod state;

use serde::{Deserialize, Serialize};

use self::{mt19937::Mt19937, state::RngState};

/// Numbers per block of the vectorised fill.
const BLOCK: usize = 16;

/// A generator with its state; a clone goes on from the same place, and so does one that was written down and read
/// back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RngState", into = "RngState")]
pub struct TorchRng {
    engine: Mt19937,
    cached: Option<f64>,
}

impl TorchRng {
    /// `torch.Generator().manual_seed(seed)`. torch keeps the low 32 bits only.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt19937::new((seed & 0xffff_ffff) as u32), cached: None }
    }

    /// `torch.randn(count, generator=...)` in f32.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.next_normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.next_uniform()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        if !count.is_multiple_of(BLOCK) {
            let tail = &mut values[count - BLOCK..];
            tail.iter_mut().for_each(|value| *value = self.next_uniform());
            box_muller(tail);
        }
        values
    }

    /// 24 bits, in `[0, 1)`.
    fn next_uniform(&mut self) -> f32 {
        const SCALE: f32 = 1.0 / (1 << 24) as f32;
        (self.engine.next_u32() & 0x00ff_ffff) as f32 * SCALE
    }

    /// 53 bits, in `[0, 1)`.
    fn next_uniform_f64(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1_u64 << 53) as f64;
        let high = u64::from(self.engine.next_u32());
        let low = u64::from(self.engine.next_u32());
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 * SCALE
    }

    /// The second number of a pair is kept for the next call.
    fn next_normal(&mut self) -> f64 {
        if let Some(value) = self.cached.take() {
            return value;
        }
        let u1 = self.next_uniform_f64();
        let u2 = self.next_uniform_f64();
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * u1;
        self.cached = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Sixteen uniform numbers to sixteen normal ones.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * cephes::log(1.0 - *a)).sqrt();
        let (sine, cosine) = cephes::sin_cos(std::f32::consts::TAU * *b);
        *a = radius * cosine;
        *b = radius * sine;
    }
}

#[cfg(test)]
mod tests {
    use super::TorchRng;

    #[test]
    fn sixteen_numbers_and_more_have_zero_mean_and_unit_variance() {
        let values = TorchRng::new(0).normal(100_000);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn a_clone_goes_on_from_the_same_place() {
        let mut rng = TorchRng::new(3);
        rng.normal(5);
        assert_eq!(rng.clone().normal(21), rng.normal(21));
    }

    #[test]
    fn only_the_low_half_of_a_seed_counts() {
        assert_eq!(TorchRng::new(5).normal(16), TorchRng::new((1 << 40) + 5).normal(16));
        assert_ne!(TorchRng::new(5).normal(16), TorchRng::new(6).normal(16));
    }
}
