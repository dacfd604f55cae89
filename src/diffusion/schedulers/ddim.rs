//! DDIM with eta 0 (diffusers' DDIMScheduler).

use super::{
    Scheduler, SchedulerConfig, betas,
    config::{Prediction, Spacing},
    signal,
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// Signal left before and after each step.
#[derive(Debug)]
pub struct Ddim {
    timesteps: Vec<f32>,
    /// Cumulative alpha at each step's timestep.
    alphas: Vec<f32>,
    /// Cumulative alpha at the timestep that the step leads to.
    previous: Vec<f32>,
    prediction: Prediction,
    clip: Option<f32>,
}

impl Ddim {
    /// Reads what is DDIM's own from the configuration.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, DiffusionError> {
        let all = config.alphas_cumprod(betas::USUAL, true)?;
        let last = match config.file().flag_or("set_alpha_to_one", true)? {
            true => 1.0,
            false => all[0],
        };
        let timesteps = config.whole_timesteps(steps, Spacing::Leading)?;
        let stride = config.train_timesteps / steps;
        let before = |timestep: &usize| match timestep.checked_sub(stride) {
            Some(previous) => all[previous],
            None => last,
        };
        let alphas: Vec<f32> = timesteps.iter().map(|timestep| all[*timestep]).collect();
        config.finds_signal(&alphas)?;
        Ok(Self {
            timesteps: timesteps.iter().map(|timestep| *timestep as f32).collect(),
            alphas,
            previous: timesteps.iter().map(before).collect(),
            prediction: config.prediction,
            clip: config.clip(true)?,
        })
    }
}

impl Scheduler for Ddim {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        1.0
    }

    fn scale_input(&self, _step: usize, latents: &[f32]) -> Vec<f32> {
        latents.to_vec()
    }

    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) -> Vec<f32> {
        let (alpha, previous) = (self.alphas[step], self.previous[step]);
        let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        let (next_signal, next_noise) = (previous.sqrt(), (1.0 - previous).sqrt());
        let mut clean = Vec::with_capacity(latents.len());
        for (x, &output) in latents.iter_mut().zip(output) {
            let x0 = signal::clean(self.prediction, alpha, *x, output);
            let epsilon = match self.prediction {
                Prediction::Epsilon => output,
                Prediction::Velocity => signal * output + noise * *x,
                Prediction::Sample => (*x - signal * output) / noise,
            };
            let x0 = signal::clip(x0, self.clip);
            *x = next_signal * x0 + next_noise * epsilon;
            clean.push(x0);
        }
        clean
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        signal::add_noise(self.alphas[step], clean, noise)
    }
}
