//! What the multistep solvers DPM-Solver++ and UniPC share: a schedule of whole timesteps with their sigmas, and the
//! clean samples of the last steps.

use super::{
    SchedulerConfig, SigmaSpread,
    config::Prediction,
    sigmas::{self, TrainSigmas},
};
use crate::diffusion::{DiffusionError, checkpoint::ConfigFile};

/// A noise level in the variance-preserving form: `x = alpha * clean + sigma * noise`.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    /// Signal left.
    pub alpha: f32,
    /// Noise.
    pub sigma: f32,
    /// Half the logarithm of signal to noise.
    pub lambda: f32,
}

impl Level {
    /// Of a sigma that is relative to the signal.
    pub fn of(relative: f32) -> Self {
        let alpha = 1.0 / (relative * relative + 1.0).sqrt();
        let sigma = relative * alpha;
        Self { alpha, sigma, lambda: alpha.ln() - sigma.ln() }
    }

    /// The clean sample that an output implies for `x`.
    pub fn clean(&self, prediction: Prediction, x: f32, output: f32) -> f32 {
        match prediction {
            Prediction::Epsilon => (x - self.sigma * output) / self.alpha,
            Prediction::Velocity => self.alpha * x - self.sigma * output,
            Prediction::Sample => output,
        }
    }

    /// Clean latents with this noise.
    pub fn add_noise(&self, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        clean.iter().zip(noise).map(|(clean, noise)| self.alpha * clean + self.sigma * noise).collect()
    }
}

/// Timesteps, the noise level of each and that of the end.
#[derive(Debug)]
pub struct Schedule {
    /// One for each step.
    pub timesteps: Vec<f32>,
    /// One more than there are steps.
    pub levels: Vec<Level>,
}

/// How a class makes whole timesteps of those that it finds for its sigmas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// To the nearest.
    Rounded,
    /// Down.
    Cut,
}

impl Schedule {
    /// `last`: one beyond the first timestep. `ends_on_own`: with `final_sigmas_type: sigma_min` a Karras or
    /// exponential schedule ends on its own least sigma and not on that of training.
    pub fn new(
        config: &SchedulerConfig,
        train: &TrainSigmas,
        (steps, last): (usize, usize),
        (spread, whole): (SigmaSpread, Whole),
        ends_on_own: bool,
    ) -> Result<Self, DiffusionError> {
        let timesteps = config.multistep_timesteps(steps, last);
        let ends = (f64::from(train.largest()), f64::from(train.least()));
        let spread = sigmas::spread(config, spread, ends, steps)?;
        let own_least = spread.as_ref().and_then(|sigmas| sigmas.last()).filter(|_| ends_on_own);
        let end = sigmas::last(config, own_least.map_or(train.least(), |least| *least as f32))?;
        let (timesteps, sigmas) = match spread {
            None => {
                let sigmas = timesteps.iter().map(|timestep| train.interpolate(*timestep)).collect();
                (timesteps, sigmas)
            }
            Some(sigmas) => {
                let whole = |timestep: f64| match whole {
                    Whole::Rounded => timestep.round_ties_even(),
                    Whole::Cut => timestep.trunc(),
                };
                (sigmas.iter().map(|sigma| whole(train.timestep(*sigma))).collect(), sigmas)
            }
        };
        let relative = sigmas.iter().map(|sigma: &f64| *sigma as f32).chain([end]);
        Ok(Self {
            timesteps: timesteps.iter().map(|timestep: &f64| *timestep as f32).collect(),
            levels: relative.map(Level::of).collect(),
        })
    }

    /// The last level has no noise at all.
    pub fn ends_clean(&self) -> bool {
        self.levels.last().is_some_and(|level| level.sigma == 0.0)
    }
}

/// `solver_order`, up to 3.
pub fn order(file: &ConfigFile) -> Result<usize, DiffusionError> {
    match file.integer_or("solver_order", 2)? {
        order @ 1..=3 => Ok(order),
        order => Err(file.unusable("solver_order", "1, 2 or 3", order)),
    }
}

/// The clean samples of the last steps, the latest last.
#[derive(Debug)]
pub struct History {
    samples: Vec<Vec<f32>>,
    most: usize,
}

impl History {
    /// Of at most `most` samples.
    pub fn new(most: usize) -> Self {
        Self { samples: Vec::new(), most }
    }

    /// Adds the latest and forgets what is beyond the most.
    pub fn push(&mut self, sample: Vec<f32>) {
        if self.samples.len() == self.most {
            self.samples.remove(0);
        }
        self.samples.push(sample);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// The sample of `back` steps before the latest.
    pub fn back(&self, back: usize) -> &[f32] {
        &self.samples[self.samples.len() - 1 - back]
    }

    /// All of them.
    pub fn samples(&self) -> &[Vec<f32>] {
        &self.samples
    }

    /// How many there are after `steps` steps.
    pub fn len_after(&self, steps: usize) -> usize {
        steps.min(self.most)
    }

    /// Goes on from these.
    pub fn replace(&mut self, samples: Vec<Vec<f32>>) {
        self.samples = samples;
    }
}
