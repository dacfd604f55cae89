//! DDIM with eta 0 (diffusers' DDIMScheduler).

use super::{
    Scheduler, SchedulerConfig,
    config::{Prediction, Spacing},
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
        let file = config.file();
        file.only("thresholding", &[false.into()])?;
        let clip = match config.clip_sample {
            true => Some(file.number_or("clip_sample_range", 1.0)? as f32),
            false => None,
        };
        let last = match file.flag_or("set_alpha_to_one", true)? {
            true => 1.0,
            false => config.alphas_cumprod[0],
        };
        let rounded: Vec<usize> = config
            .timesteps(steps, Spacing::Leading)
            .iter()
            .map(|timestep| timestep.round_ties_even() as usize)
            .collect();
        if let Some(beyond) = rounded.iter().find(|timestep| **timestep >= config.train_timesteps) {
            let reason = format!("{steps} steps lead to timestep {beyond} of {}", config.train_timesteps);
            return Err(DiffusionError::request("steps", reason));
        }
        let stride = config.train_timesteps / steps;
        let before = |timestep: &usize| match timestep.checked_sub(stride) {
            Some(previous) => config.alphas_cumprod[previous],
            None => last,
        };
        Ok(Self {
            timesteps: rounded.iter().map(|timestep| *timestep as f32).collect(),
            alphas: rounded.iter().map(|timestep| config.alphas_cumprod[*timestep]).collect(),
            previous: rounded.iter().map(before).collect(),
            prediction: config.prediction,
            clip,
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
            let (mut x0, epsilon) = match self.prediction {
                Prediction::Epsilon => ((*x - noise * output) / signal, output),
                Prediction::Velocity => (signal * *x - noise * output, signal * output + noise * *x),
                Prediction::Sample => (output, (*x - signal * output) / noise),
            };
            if let Some(range) = self.clip {
                x0 = x0.clamp(-range, range);
            }
            *x = next_signal * x0 + next_noise * epsilon;
            clean.push(x0);
        }
        clean
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        let alpha = self.alphas[step];
        let (signal, strength) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        clean.iter().zip(noise).map(|(clean, noise)| signal * clean + strength * noise).collect()
    }
}
