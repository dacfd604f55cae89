//! Heun's method over sigmas: a step of Euler's, looked at from its end and taken again with the mean slope
//! (diffusers' HeunDiscreteScheduler). All but the last step take two evaluations of the network.

use super::{
    Place, Scheduler, SchedulerConfig, SchedulerState, SigmaSpread, StateError, betas, config::Prediction,
    euler, sigmas::TrainSigmas, signal,
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// Sigmas, one for each evaluation and one for the end.
#[derive(Debug)]
pub struct Heun {
    timesteps: Vec<f32>,
    sigmas: Vec<f32>,
    initial_scale: f32,
    prediction: Prediction,
    clip: Option<f32>,
    half: Option<Half>,
}

/// A step whose first half is done.
#[derive(Debug)]
struct Half {
    /// Where it began.
    latents: Vec<f32>,
    /// The slope there.
    slope: Vec<f32>,
}

impl Heun {
    /// Reads what is Heun's own from the configuration; `rescale_betas_zero_snr` is unknown to it.
    pub fn new(config: &SchedulerConfig, steps: usize, spread: SigmaSpread) -> Result<Self, DiffusionError> {
        let train = TrainSigmas::new(config, betas::HEUN, false)?;
        let (once, sigmas_once) = euler::spread_out(config, &train, steps, spread)?;
        let twice = |values: &[f32]| -> Vec<f32> {
            let first = values.iter().take(1);
            first.chain(values.iter().skip(1).flat_map(|value| [value, value])).copied().collect()
        };
        let mut sigmas = twice(&sigmas_once);
        sigmas.push(0.0);
        Ok(Self {
            timesteps: twice(&once),
            initial_scale: euler::initial_scale(config, &sigmas),
            sigmas,
            prediction: config.prediction,
            clip: config.clip(false)?,
            half: None,
        })
    }
}

impl Scheduler for Heun {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        self.initial_scale
    }

    fn order(&self) -> usize {
        2
    }

    /// The last step alone has no second half.
    fn asked_step(&self, first: usize, done: usize) -> (usize, usize) {
        ((first + done) / 2, self.timesteps.len().div_ceil(2))
    }

    fn scale_input(&self, step: usize, latents: &[f32]) -> Vec<f32> {
        euler::scale_input(self.sigmas[step], latents)
    }

    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) -> Vec<f32> {
        let sigma = self.sigmas[step];
        let clean: Vec<f32> = latents
            .iter()
            .zip(output)
            .map(|(x, output)| signal::clip(euler::clean(self.prediction, sigma, *x, *output), self.clip))
            .collect();
        let slope: Vec<f32> = latents.iter().zip(&clean).map(|(x, x0)| (x - x0) / sigma).collect();
        match self.half.take() {
            None => {
                let stride = self.sigmas[step + 1] - sigma;
                self.half = Some(Half { latents: latents.to_vec(), slope: slope.clone() });
                latents.iter_mut().zip(&slope).for_each(|(x, slope)| *x += slope * stride);
                if step + 1 == self.timesteps.len() {
                    self.half = None;
                }
            }
            Some(half) => {
                let stride = sigma - self.sigmas[step - 1];
                for (i, x) in latents.iter_mut().enumerate() {
                    *x = half.latents[i] + (half.slope[i] + slope[i]) / 2.0 * stride;
                }
            }
        }
        clean
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        euler::add_noise(self.sigmas[step], clean, noise)
    }

    fn state(&self) -> SchedulerState {
        match &self.half {
            None => SchedulerState::default(),
            Some(half) => SchedulerState::default().with("latents", &half.latents).with("slope", &half.slope),
        }
    }

    fn restore(&mut self, mut state: SchedulerState, place: Place) -> Result<(), StateError> {
        // The last step has no second half.
        let halfway = place.done % 2 == 1 && place.first + place.done < self.timesteps.len();
        let half = match halfway {
            true => Some(Half {
                latents: state.take("latents", place.size)?,
                slope: state.take("slope", place.size)?,
            }),
            false => None,
        };
        state.finish()?;
        self.half = half;
        Ok(())
    }
}
