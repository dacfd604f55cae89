//! DPM-Solver++, multistep, for the ordinary and the stochastic equation (Lu et al. 2022; diffusers'
//! DPMSolverMultistepScheduler with `dpmsolver++` and `sde-dpmsolver++`).

use super::{
    Place, Scheduler, SchedulerConfig, SchedulerState, SigmaSpread, StateError, betas,
    config::Prediction,
    multistep::{self, History, Level, Schedule, Whole},
    sigmas::TrainSigmas,
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// Below this many steps the last ones are of a lower order.
const FEW_STEPS: usize = 15;

/// The schedule, the switches and the last clean samples.
#[derive(Debug)]
pub struct Dpm {
    schedule: Schedule,
    prediction: Prediction,
    stochastic: bool,
    /// The second order's correction: by the midpoint or by Heun's rule.
    midpoint: bool,
    lower_order_final: bool,
    euler_at_final: bool,
    history: History,
}

/// Factors of `latents`, the clean sample, its two differences, and noise.
struct Weights {
    latents: f32,
    clean: f32,
    first: f32,
    second: f32,
    noise: f32,
}

impl Dpm {
    /// Reads what is DPM-Solver's own from the configuration.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
        spread: SigmaSpread,
        stochastic: bool,
    ) -> Result<Self, DiffusionError> {
        let file = config.file();
        let fixed = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"];
        file.only("variance_type", &fixed.map(Into::into))?;
        // Names of other solvers mean midpoint, as in diffusers.
        let types = ["midpoint", "logrho", "bh1", "bh2", "heun"];
        let midpoint = file.name_or("solver_type", &types, 0)? < 4;
        let train = TrainSigmas::new(config, betas::USUAL, true)?;
        let last = match file.value("lambda_min_clipped") {
            None => config.train_timesteps,
            Some(value) if value == "-Infinity" => config.train_timesteps,
            Some(_) => train.with_lambda_from(file.number_or("lambda_min_clipped", 0.0)? as f32),
        };
        if last == 0 {
            let found = file.number_or("lambda_min_clipped", 0.0)?;
            return Err(file.unusable("lambda_min_clipped", "a number that leaves a timestep", found));
        }
        let cosine = file.text_or("beta_schedule", "linear")? == "squaredcos_cap_v2";
        let whole = match spread {
            SigmaSpread::Karras if !cosine => Whole::Rounded,
            _ => Whole::Cut,
        };
        Ok(Self {
            schedule: Schedule::new(config, &train, (steps, last), (spread, whole), false)?,
            prediction: config.prediction,
            stochastic,
            midpoint,
            lower_order_final: file.flag_or("lower_order_final", true)?,
            euler_at_final: file.flag_or("euler_at_final", false)?,
            history: History::new(multistep::order(file)?),
        })
    }

    /// The order of a step, once its clean sample is in the history.
    fn order(&self, step: usize) -> usize {
        let steps = self.schedule.timesteps.len();
        let few = self.lower_order_final && steps < FEW_STEPS;
        let at_end = step + 1 == steps && (self.euler_at_final || few || self.schedule.ends_clean());
        let before_end = step + 2 == steps && few;
        match () {
            () if at_end => 1,
            () if before_end => self.history.len().min(2),
            () => self.history.len(),
        }
    }

    /// Factors of a step of an order that goes `h` in lambda.
    fn weights(&self, order: usize, from: Level, to: Level, h: f32) -> Weights {
        let (span, latents) = match self.stochastic {
            true => ((-2.0 * h).exp() - 1.0, to.sigma / from.sigma * (-h).exp()),
            false => ((-h).exp() - 1.0, to.sigma / from.sigma),
        };
        let reach = if self.stochastic { 2.0 * h } else { h };
        let linear = to.alpha * (span / reach + 1.0);
        let (first, second) = match (order, self.midpoint) {
            (1, _) => (0.0, 0.0),
            (2, true) => (-0.5 * (to.alpha * span), 0.0),
            (2, false) => (linear, 0.0),
            _ => {
                // The sign of the half differs between the two in diffusers, which is followed here.
                let half = if self.stochastic { -0.5 } else { 0.5 };
                (linear, -(to.alpha * ((span + reach) / (reach * reach) - half)))
            }
        };
        let noise = if self.stochastic { to.sigma * (-span).sqrt() } else { 0.0 };
        Weights { latents, clean: -(to.alpha * span), first, second, noise }
    }
}

impl Scheduler for Dpm {
    fn timesteps(&self) -> &[f32] {
        &self.schedule.timesteps
    }

    fn initial_scale(&self) -> f32 {
        1.0
    }

    fn scale_input(&self, _step: usize, latents: &[f32]) -> Vec<f32> {
        latents.to_vec()
    }

    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) -> Vec<f32> {
        let levels = &self.schedule.levels;
        let (from, to) = (levels[step], levels[step + 1]);
        let clean: Vec<f32> =
            latents.iter().zip(output).map(|(x, output)| from.clean(self.prediction, *x, *output)).collect();
        self.history.push(clean.clone());
        let noise = if self.stochastic { rng.normal(latents.len()) } else { Vec::new() };
        let order = self.order(step);
        let h = to.lambda - from.lambda;
        let weights = self.weights(order, from, to, h);
        // Lambda between the steps before, relative to this one's.
        let ratio = |back: usize| (levels[step - back].lambda - levels[step - back - 1].lambda) / h;
        for (i, x) in latents.iter_mut().enumerate() {
            let sample = |back: usize| self.history.back(back)[i];
            let mut next = weights.latents * *x + weights.clean * sample(0);
            if order == 2 {
                next += weights.first * (1.0 / ratio(0) * (sample(0) - sample(1)));
            }
            if order == 3 {
                let (r0, r1) = (ratio(0), ratio(1));
                let near = 1.0 / r0 * (sample(0) - sample(1));
                let far = 1.0 / r1 * (sample(1) - sample(2));
                next += weights.first * (near + r0 / (r0 + r1) * (near - far));
                next += weights.second * (1.0 / (r0 + r1) * (near - far));
            }
            if self.stochastic {
                next += weights.noise * noise[i];
            }
            *x = next;
        }
        clean
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        self.schedule.levels[step].add_noise(clean, noise)
    }

    fn state(&self) -> SchedulerState {
        SchedulerState::default().with_list("clean", self.history.samples())
    }

    fn restore(&mut self, mut state: SchedulerState, place: Place) -> Result<(), StateError> {
        let samples = state.take_list("clean", self.history.len_after(place.done), place.size)?;
        state.finish()?;
        self.history.replace(samples);
        Ok(())
    }
}
