//! Consistency models in latent space (Luo et al. 2023; diffusers' LCMScheduler).

use super::{
    Scheduler, SchedulerConfig, betas,
    config::{Prediction, linspace},
    signal,
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// Deviation of the data that the boundary condition assumes.
const SIGMA_DATA: f32 = 0.5;

/// Signal left before each step.
#[derive(Debug)]
pub struct Lcm {
    timesteps: Vec<f32>,
    alphas: Vec<f32>,
    prediction: Prediction,
    clip: Option<f32>,
    timestep_scaling: f32,
}

impl Lcm {
    /// Reads what is LCM's own from the configuration. The spacing of timesteps is LCM's own whatever it says. With a
    /// `strength` below 1 all steps lie in that part of the schedule, its end; it is above 0.
    pub fn new(config: &SchedulerConfig, steps: usize, strength: f64) -> Result<Self, DiffusionError> {
        let file = config.file();
        let original = config.original_steps()?;
        if steps > original {
            let reason = format!("{steps}; lcm takes 1 to {original} with this model");
            return Err(DiffusionError::request("steps", reason));
        }
        let last = (original as f64 * strength) as usize;
        if steps > last {
            let reason = format!(
                "{strength} of the {original} timesteps that this model was distilled for leaves {last} to {steps} \
                 `steps`; raise it or take fewer"
            );
            return Err(DiffusionError::request("strength", reason));
        }
        let all = config.alphas_cumprod(betas::LCM, true)?;
        let stride = config.train_timesteps / original;
        let mut places = linspace(0.0, last as f64, steps + 1);
        places.truncate(steps);
        let timesteps: Vec<usize> =
            places.iter().map(|place| (last - place.floor() as usize) * stride - 1).collect();
        let alphas: Vec<f32> = timesteps.iter().map(|timestep| all[*timestep]).collect();
        config.finds_signal(&alphas)?;
        Ok(Self {
            timesteps: timesteps.iter().map(|timestep| *timestep as f32).collect(),
            alphas,
            prediction: config.prediction,
            clip: config.clip(false)?,
            timestep_scaling: file.number_or("timestep_scaling", 10.0)? as f32,
        })
    }
}

impl Scheduler for Lcm {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        1.0
    }

    fn scale_input(&self, _step: usize, latents: &[f32]) -> Vec<f32> {
        latents.to_vec()
    }

    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) -> Vec<f32> {
        let alpha = self.alphas[step];
        let scaled = self.timesteps[step] * self.timestep_scaling;
        let data = SIGMA_DATA * SIGMA_DATA;
        let of_latents = data / (scaled * scaled + data);
        let of_clean = scaled / (scaled * scaled + data).sqrt();
        let denoise = |(x, output): (&f32, &f32)| {
            let x0 = signal::clip(signal::clean(self.prediction, alpha, *x, *output), self.clip);
            of_clean * x0 + of_latents * x
        };
        let denoised: Vec<f32> = latents.iter().zip(output).map(denoise).collect();
        match self.alphas.get(step + 1) {
            Some(next) => {
                let noise = rng.normal(latents.len());
                latents.copy_from_slice(&signal::add_noise(*next, &denoised, &noise));
            }
            None => latents.copy_from_slice(&denoised),
        }
        denoised
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        signal::add_noise(self.alphas[step], clean, noise)
    }
}
