//! Ancestral sampling of a diffusion model (Ho et al. 2020; diffusers' DDPMScheduler).

use super::{
    Scheduler, SchedulerConfig, betas,
    config::{Prediction, Spacing},
    signal,
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// The variance of a step is at least this.
const LEAST_VARIANCE: f32 = 1e-20;

/// Signal left before and after each step.
#[derive(Debug)]
pub struct Ddpm {
    timesteps: Vec<f32>,
    /// Cumulative alpha at each step's timestep, and 1 at the end.
    alphas: Vec<f32>,
    prediction: Prediction,
    clip: Option<f32>,
    variance: Variance,
}

/// What stands for the variance of a step, which the model does not learn.
#[derive(Debug, Clone, Copy)]
enum Variance {
    /// That of the posterior.
    Small,
    /// The same by way of its logarithm.
    SmallLog,
    /// That of the forward process.
    Large,
}

impl Ddpm {
    /// Reads what is DDPM's own from the configuration.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, DiffusionError> {
        let known = ["fixed_small", "fixed_small_log", "fixed_large"];
        let variance = match config.file().name_or("variance_type", &known, 0)? {
            0 => Variance::Small,
            1 => Variance::SmallLog,
            _ => Variance::Large,
        };
        let all = config.alphas_cumprod(betas::USUAL, true)?;
        let timesteps = config.whole_timesteps(steps, Spacing::Leading)?;
        let mut alphas: Vec<f32> = timesteps.iter().map(|timestep| all[*timestep]).collect();
        config.finds_signal(&alphas)?;
        alphas.push(1.0);
        Ok(Self {
            timesteps: timesteps.iter().map(|timestep| *timestep as f32).collect(),
            alphas,
            prediction: config.prediction,
            clip: config.clip(true)?,
            variance,
        })
    }
}

impl Scheduler for Ddpm {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        1.0
    }

    fn scale_input(&self, _step: usize, latents: &[f32]) -> Vec<f32> {
        latents.to_vec()
    }

    /// Formulas (6) and (7) of the paper.
    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) -> Vec<f32> {
        let (alpha, previous) = (self.alphas[step], self.alphas[step + 1]);
        let (noise, previous_noise) = (1.0 - alpha, 1.0 - previous);
        let step_alpha = alpha / previous;
        let step_beta = 1.0 - step_alpha;
        let of_clean = previous.sqrt() * step_beta / noise;
        let of_latents = step_alpha.sqrt() * previous_noise / noise;
        let posterior = (previous_noise / noise * step_beta).max(LEAST_VARIANCE);
        let deviation = match self.variance {
            Variance::Small => posterior.sqrt(),
            Variance::SmallLog => (0.5 * posterior.ln()).exp(),
            Variance::Large => step_beta.sqrt(),
        };
        let mut clean = Vec::with_capacity(latents.len());
        for (x, &output) in latents.iter_mut().zip(output) {
            let x0 = signal::clip(signal::clean(self.prediction, alpha, *x, output), self.clip);
            *x = of_clean * x0 + of_latents * *x;
            clean.push(x0);
        }
        if self.timesteps[step] > 0.0 {
            for (x, noise) in latents.iter_mut().zip(rng.normal(clean.len())) {
                *x += deviation * noise;
            }
        }
        clean
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        signal::add_noise(self.alphas[step], clean, noise)
    }
}
