//! Samplers: which timesteps are computed, and how a prediction of the network moves the latents.
//!
//! Latents are plain numbers in host memory here, and the arithmetic is f32 as in diffusers; it is small next to
//! the network's.

mod betas;
mod config;
mod ddim;
mod ddpm;
mod dpm;
mod euler;
mod flow;
#[cfg(test)]
mod flow_parity_tests;
mod heun;
mod kind;
mod lcm;
mod multistep;
#[cfg(test)]
mod parity_tests;
mod pndm;
#[cfg(test)]
mod property_tests;
mod sigmas;
mod signal;
mod state;
mod unipc;

pub use config::SchedulerConfig;
pub use flow::{FlowConfig, FlowEuler};
pub use kind::SchedulerKind;
use kind::SigmaSpread;
pub use state::{SchedulerState, StateError};

use self::{ddim::Ddim, ddpm::Ddpm, dpm::Dpm, euler::Euler, heun::Heun, lcm::Lcm, pndm::Pndm, unipc::UniPc};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// Where a picture is between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The step of the schedule that it began with.
    pub first: usize,
    /// Steps taken since.
    pub done: usize,
    /// Numbers in its latents.
    pub size: usize,
}

/// The state of one picture's sampling. Steps are counted from 0 over the whole schedule; a picture that starts
/// from another begins further on. Steps are taken in order, each once.
pub trait Scheduler: std::fmt::Debug + Send + Sync {
    /// The timestep of each step, falling where a step is one evaluation of the network.
    fn timesteps(&self) -> &[f32];

    /// What noise is multiplied by to begin from nothing but noise.
    fn initial_scale(&self) -> f32;

    /// Evaluations of the network for each step that a picture made from another leaves out: diffusers' `order`.
    fn order(&self) -> usize {
        1
    }

    /// The evaluation that a picture begins with which is made from another with this strength, above 0 and up to 1, out
    /// of `steps` steps: diffusers' `get_timesteps`.
    fn first_step(&self, steps: usize, strength: f64) -> Result<usize, DiffusionError> {
        let run = ((steps as f64 * strength) as usize).min(steps);
        if run == 0 {
            let reason = format!("{strength} of {steps} `steps` leaves no step; raise either");
            return Err(DiffusionError::request("strength", reason));
        }
        Ok((steps - run) * self.order())
    }

    /// Whether a picture with a mask begins with nothing but noise at the full strength, as diffusers' pipelines do with
    /// this method; else noise is added to its input, as at any other.
    fn forgets_at_full_strength(&self) -> bool {
        true
    }

    /// Evaluation `done` of a picture that began with `first`, told in the steps that a job asks for: which of them it is
    /// a part of, from 0 over the whole schedule, and how many those are. Others than evaluations where a step takes
    /// several.
    fn asked_step(&self, first: usize, done: usize) -> (usize, usize) {
        (first + done, self.timesteps().len())
    }

    /// The network's input for `latents` at `step`.
    fn scale_input(&self, step: usize, latents: &[f32]) -> Vec<f32>;

    /// Moves `latents` by the network's `output` at `step`, in the network's own scale; returns the clean latents that the output implies.
    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) -> Vec<f32>;

    /// Clean latents with as much `noise` as there is before `step`.
    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32>;

    /// What earlier steps left for later ones. Without it, step and latents are all that a picture goes on from.
    fn state(&self) -> SchedulerState {
        SchedulerState::default()
    }

    /// Goes on from what [`Scheduler::state`] gave at this place, in a scheduler built from the same configuration.
    /// A state that no steps up to this place can have left is an error, which leaves the scheduler as it was.
    fn restore(&mut self, state: SchedulerState, _place: Place) -> Result<(), StateError> {
        state.finish()
    }
}

/// A scheduler for `steps` steps, built as diffusers' `X.from_config(checkpoint's scheduler config)` with the
/// switches that the kind names.
pub fn scheduler(
    kind: SchedulerKind,
    config: &SchedulerConfig,
    steps: u32,
) -> Result<Box<dyn Scheduler>, DiffusionError> {
    tried(kind, config, steps, |steps| build(kind, config, steps))
}

/// The scheduler of diffusers' LatentConsistencyModelImg2ImgPipeline, which begins from a picture and takes all steps:
/// they are spread over the last part of the schedule, as much as `strength` says, above 0 and up to 1.
pub fn consistency_from_picture(
    config: &SchedulerConfig,
    steps: u32,
    strength: f64,
) -> Result<Box<dyn Scheduler>, DiffusionError> {
    tried(SchedulerKind::Lcm, config, steps, |steps| Ok(Box::new(Lcm::new(config, steps, strength)?)))
}

/// What `build` makes, if a whole schedule of it stays finite.
fn tried(
    kind: SchedulerKind,
    config: &SchedulerConfig,
    steps: u32,
    build: impl Fn(usize) -> Result<Box<dyn Scheduler>, DiffusionError>,
) -> Result<Box<dyn Scheduler>, DiffusionError> {
    let steps = steps as usize;
    if steps == 0 || steps > config.train_timesteps {
        let reason = format!("{steps}; this model takes 1 to {}", config.train_timesteps);
        return Err(DiffusionError::request("steps", reason));
    }
    config.file().only("thresholding", &[false.into()])?;
    let mut trial = build(steps)?;
    if !stays_finite(&mut *trial) {
        let reason =
            format!("{} over {steps} steps divides by zero with this model's configuration", kind.name());
        return Err(DiffusionError::request("scheduler", reason));
    }
    build(steps)
}

fn build(
    kind: SchedulerKind,
    config: &SchedulerConfig,
    steps: usize,
) -> Result<Box<dyn Scheduler>, DiffusionError> {
    Ok(match kind {
        SchedulerKind::Ddim => Box::new(Ddim::new(config, steps)?),
        SchedulerKind::Ddpm => Box::new(Ddpm::new(config, steps)?),
        SchedulerKind::Pndm => Box::new(Pndm::new(config, steps)?),
        SchedulerKind::Euler(spread) => Box::new(Euler::new(config, steps, spread)?),
        SchedulerKind::EulerAncestral => Box::new(Euler::ancestral(config, steps)?),
        SchedulerKind::Heun(spread) => Box::new(Heun::new(config, steps, spread)?),
        SchedulerKind::Dpm(spread) => Box::new(Dpm::new(config, steps, spread, false)?),
        SchedulerKind::DpmSde(spread) => Box::new(Dpm::new(config, steps, spread, true)?),
        SchedulerKind::UniPc(spread) => Box::new(UniPc::new(config, steps, spread)?),
        SchedulerKind::Lcm => Box::new(Lcm::new(config, steps, 1.0)?),
        SchedulerKind::FlowEuler => return Err(SchedulerKind::unknown(kind.name())),
    })
}

/// Tries the whole schedule on one number: some solvers divide by zero where two sigmas are the same, as in
/// diffusers, and a picture should not find that out at its last step.
fn stays_finite(scheduler: &mut dyn Scheduler) -> bool {
    let mut rng = TorchRng::new(0);
    let mut x = [1.0];
    for step in 0..scheduler.timesteps().len() {
        // Changing outputs, so that differences between them do not vanish.
        let output = [(step as f32).sin()];
        scheduler.step(step, &output, &mut x, &mut rng);
    }
    x[0].is_finite()
}
