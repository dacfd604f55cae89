//! Samplers: which timesteps are computed, and how a prediction of the network moves the latents.
//!
//! Latents are plain numbers in host memory here, and the arithmetic is f32 as in diffusers; it is small next to
//! the network's.

mod betas;
mod config;
mod ddim;
mod euler;
#[cfg(test)]
mod parity_tests;

pub use config::SchedulerConfig;

use self::{ddim::Ddim, euler::Euler};
use super::{DiffusionError, noise::TorchRng};

/// The schedulers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerKind {
    /// Denoising diffusion implicit models, eta 0 (Song et al. 2020).
    Ddim,
    /// Euler's method in the formulation of Karras et al. 2022.
    Euler,
    /// Euler's method with new noise at every step (Crowson's k-diffusion).
    EulerAncestral,
}

impl SchedulerKind {
    const ALL: [Self; 3] = [Self::Ddim, Self::Euler, Self::EulerAncestral];

    /// The contract's names, in one order with the classes.
    pub const NAMES: &'static [&'static str] = &["ddim", "euler", "euler_a"];

    /// diffusers' class names, in the same order.
    const CLASSES: [&'static str; 3] =
        ["DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"];

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler_a",
        }
    }

    /// The scheduler of a request, by the contract's name.
    pub fn from_name(name: &str) -> Result<Self, DiffusionError> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known = Self::NAMES.join(", ");
            DiffusionError::request("scheduler", format!("there is no `{name}`; there are: {known}"))
        })
    }

    /// The scheduler of a checkpoint, by diffusers' class name.
    fn from_class(class: &str) -> Option<Self> {
        let position = Self::CLASSES.iter().position(|known| *known == class)?;
        Self::ALL.get(position).copied()
    }
}

/// The state of one picture's sampling. Steps are counted from 0 over the whole schedule; a picture that starts
/// from another begins further on.
pub trait Scheduler: std::fmt::Debug + Send + Sync {
    /// The timestep of each step, falling.
    fn timesteps(&self) -> &[f32];

    /// What noise is multiplied by to begin from nothing but noise.
    fn initial_scale(&self) -> f32;

    /// The network's input for `latents` at `step`.
    fn scale_input(&self, step: usize, latents: &[f32]) -> Vec<f32>;

    /// Moves `latents` by the network's `output` at `step`; returns the clean latents that the output implies.
    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) -> Vec<f32>;

    /// Clean latents with as much `noise` as there is before `step`.
    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32>;
}

/// A scheduler for `steps` steps, built as diffusers' `X.from_config(checkpoint's scheduler config)`.
pub fn scheduler(
    kind: SchedulerKind,
    config: &SchedulerConfig,
    steps: u32,
) -> Result<Box<dyn Scheduler>, DiffusionError> {
    let steps = steps as usize;
    if steps == 0 || steps > config.train_timesteps {
        let reason = format!("{steps}; this model takes 1 to {}", config.train_timesteps);
        return Err(DiffusionError::request("steps", reason));
    }
    Ok(match kind {
        SchedulerKind::Ddim => Box::new(Ddim::new(config, steps)?),
        SchedulerKind::Euler => Box::new(Euler::new(config, steps, false)?),
        SchedulerKind::EulerAncestral => Box::new(Euler::new(config, steps, true)?),
    })
}

#[cfg(test)]
mod tests {
    use super::SchedulerKind;

    #[test]
    fn every_kind_is_found_by_its_name_and_its_class() {
        for (i, kind) in SchedulerKind::ALL.into_iter().enumerate() {
            assert_eq!(SchedulerKind::NAMES[i], kind.name());
            assert_eq!(SchedulerKind::from_name(kind.name()).unwrap(), kind);
            assert_eq!(SchedulerKind::from_class(SchedulerKind::CLASSES[i]), Some(kind));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let text = SchedulerKind::from_name("pndm").unwrap_err().to_string();
        assert!(text.contains("`scheduler`") && text.contains("ddim, euler, euler_a"), "{text}");
    }
}
