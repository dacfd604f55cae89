//! Euler's method over sigmas, plain or ancestral (diffusers' EulerDiscreteScheduler and
//! EulerAncestralDiscreteScheduler).

use super::{
    Scheduler, SchedulerConfig, SigmaSpread, betas,
    config::{Prediction, Spacing},
    sigmas::{self, TrainSigmas},
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// Sigmas, one more than there are steps.
#[derive(Debug)]
pub struct Euler {
    timesteps: Vec<f32>,
    sigmas: Vec<f32>,
    initial_scale: f32,
    prediction: Prediction,
    ancestral: bool,
}

impl Euler {
    /// Reads what is the plain method's own from the configuration.
    pub fn new(config: &SchedulerConfig, steps: usize, spread: SigmaSpread) -> Result<Self, DiffusionError> {
        let file = config.file();
        file.only("interpolation_type", &["linear".into()])?;
        file.only("timestep_type", &["discrete".into()])?;
        let train = TrainSigmas::new(config, betas::USUAL, true)?;
        let (timesteps, mut sigmas) = spread_out(config, &train, steps, spread)?;
        sigmas.push(sigmas::last(config, train.least())?);
        let initial_scale = initial_scale(config, &sigmas);
        Ok(Self { timesteps, sigmas, initial_scale, prediction: config.prediction, ancestral: false })
    }

    /// Reads what is the ancestral method's own from the configuration.
    pub fn ancestral(config: &SchedulerConfig, steps: usize) -> Result<Self, DiffusionError> {
        if config.prediction == Prediction::Sample {
            let expected = "epsilon or v_prediction for euler_a";
            return Err(config.file().unusable("prediction_type", expected, "sample"));
        }
        let train = TrainSigmas::new(config, betas::USUAL, true)?;
        let (timesteps, sigmas) = at_timesteps(config, &train, steps);
        let mut sigmas: Vec<f32> = sigmas.iter().map(|sigma| *sigma as f32).collect();
        sigmas.push(0.0);
        let initial_scale = initial_scale(config, &sigmas);
        Ok(Self { timesteps, sigmas, initial_scale, prediction: config.prediction, ancestral: true })
    }
}

/// The timesteps in f32, and their sigmas.
fn at_timesteps(config: &SchedulerConfig, train: &TrainSigmas, steps: usize) -> (Vec<f32>, Vec<f64>) {
    let timesteps: Vec<f32> =
        config.timesteps(steps, Spacing::Linspace).iter().map(|timestep| *timestep as f32).collect();
    let sigmas = timesteps.iter().map(|timestep| train.interpolate(f64::from(*timestep))).collect();
    (timesteps, sigmas)
}

/// Timesteps and sigmas of the methods that take timesteps between those of training.
pub(super) fn spread_out(
    config: &SchedulerConfig,
    train: &TrainSigmas,
    steps: usize,
    spread: SigmaSpread,
) -> Result<(Vec<f32>, Vec<f32>), DiffusionError> {
    let (timesteps, sigmas) = at_timesteps(config, train, steps);
    let ends = (sigmas[0], sigmas[sigmas.len() - 1]);
    let narrow = |sigmas: &[f64]| sigmas.iter().map(|sigma| *sigma as f32).collect();
    Ok(match sigmas::spread(config, spread, ends, steps)? {
        None => (timesteps, narrow(&sigmas)),
        Some(sigmas) => (sigmas.iter().map(|sigma| train.timestep(*sigma) as f32).collect(), narrow(&sigmas)),
    })
}

/// What noise is multiplied by to begin.
pub(super) fn initial_scale(config: &SchedulerConfig, sigmas: &[f32]) -> f32 {
    let largest = sigmas.iter().copied().fold(0.0, f32::max);
    match config.spacing.unwrap_or(Spacing::Linspace) {
        Spacing::Leading => (largest * largest + 1.0).sqrt(),
        Spacing::Trailing | Spacing::Linspace => largest,
    }
}

/// The clean sample that an output implies for `x`, which has noise of `sigma` on a signal of 1.
pub(super) fn clean(prediction: Prediction, sigma: f32, x: f32, output: f32) -> f32 {
    match prediction {
        Prediction::Epsilon => x - sigma * output,
        Prediction::Velocity => output * (-sigma / (sigma * sigma + 1.0).sqrt()) + x / (sigma * sigma + 1.0),
        Prediction::Sample => output,
    }
}

/// The network's input: latents of variance about 1.
pub(super) fn scale_input(sigma: f32, latents: &[f32]) -> Vec<f32> {
    let scale = (sigma * sigma + 1.0).sqrt();
    latents.iter().map(|x| x / scale).collect()
}

/// Clean latents with noise of `sigma`.
pub(super) fn add_noise(sigma: f32, clean: &[f32], noise: &[f32]) -> Vec<f32> {
    clean.iter().zip(noise).map(|(clean, noise)| clean + noise * sigma).collect()
}

impl Scheduler for Euler {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        self.initial_scale
    }

    fn scale_input(&self, step: usize, latents: &[f32]) -> Vec<f32> {
        scale_input(self.sigmas[step], latents)
    }

    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) -> Vec<f32> {
        let (from, to) = (self.sigmas[step], self.sigmas[step + 1]);
        let (down, up) = match self.ancestral {
            true => {
                let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
                ((to * to - up * up).sqrt(), up)
            }
            false => (to, 0.0),
        };
        let noise = if self.ancestral { rng.normal(latents.len()) } else { Vec::new() };
        let mut clean_latents = Vec::with_capacity(latents.len());
        for (i, (x, &output)) in latents.iter_mut().zip(output).enumerate() {
            let x0 = clean(self.prediction, from, *x, output);
            *x += (*x - x0) / from * (down - from);
            if self.ancestral {
                *x += noise[i] * up;
            }
            clean_latents.push(x0);
        }
        clean_latents
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        add_noise(self.sigmas[step], clean, noise)
    }
}
