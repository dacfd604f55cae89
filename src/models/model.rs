//! One loaded model, and a picture that is being drawn with it.

use image::RgbImage;

use super::{ModelSource, Origin, Sim, SimError, sim::SimDenoising};
use crate::{
    contract::ErrorCode,
    diffusion::{
        self, Checkpoint, DiffusionError, ImageSpec, StableDiffusion,
        flux::{Flux, FluxDenoising},
    },
};

/// Steps of a job that names none.
const DEFAULT_STEPS: u32 = 20;
/// Guidance of a job that names none.
const DEFAULT_GUIDANCE: f64 = 7.5;

/// A loaded model.
pub enum Model {
    /// A Stable Diffusion checkpoint.
    StableDiffusion(Box<StableDiffusion>),
    /// A Flux checkpoint.
    Flux(Box<Flux>),
    /// A simulation.
    Sim(Sim),
}

/// What a job has to know of a model to fill in what it does not name.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The name that jobs use.
    pub name: String,
    /// Width and height in pixels.
    pub native_size: (u32, u32),
    /// Denoising steps.
    pub steps: u32,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
}

/// A picture that is being drawn.
pub enum Denoising {
    /// With a Stable Diffusion checkpoint.
    StableDiffusion(Box<diffusion::Denoising>),
    /// With a Flux checkpoint.
    Flux(Box<FluxDenoising>),
    /// With a simulation.
    Sim(SimDenoising),
}

/// Why a model could not be loaded or could not draw.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A checkpoint.
    #[error(transparent)]
    Diffusion(#[from] DiffusionError),
    /// A simulation.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// A picture was given to a model that did not begin it: a defect of the caller.
    #[error("a picture was handed to a model that did not begin it")]
    Foreign,
}

impl ModelError {
    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Diffusion(error) => error.code(),
            Self::Sim(SimError::OutOfMemory) => ErrorCode::OutOfMemory,
            Self::Sim(SimError::NonFinite) => ErrorCode::NonFinite,
            Self::Sim(SimError::Option { .. }) | Self::Foreign => ErrorCode::Internal,
        }
    }
}

impl Model {
    /// Loads it on the device, in f32.
    ///
    /// # Errors
    /// The file and the key that are wrong.
    pub fn load(source: &ModelSource, device: &candle_core::Device) -> Result<Self, ModelError> {
        Ok(match source.origin() {
            Origin::Folder(path) => {
                let (checkpoint, dtype) = (Checkpoint::open(path)?, candle_core::DType::F32);
                match Flux::is(&checkpoint) {
                    true => Self::Flux(Box::new(Flux::load(&checkpoint, device, dtype)?)),
                    false => Self::StableDiffusion(Box::new(StableDiffusion::load(path, device, dtype)?)),
                }
            }
            Origin::Sim(sim) => Self::Sim(sim.clone()),
        })
    }

    /// What jobs have to know of it.
    pub fn info(&self, name: &str) -> ModelInfo {
        let (native_size, steps, guidance_scale) = match self {
            Self::StableDiffusion(model) => (model.native_size(), DEFAULT_STEPS, DEFAULT_GUIDANCE),
            Self::Flux(model) => (model.native_size(), model.default_steps(), model.default_guidance()),
            Self::Sim(sim) => (sim.native_size(), DEFAULT_STEPS, DEFAULT_GUIDANCE),
        };
        ModelInfo { name: name.to_owned(), native_size, steps, guidance_scale }
    }

    /// See [`InferencePipeline::begin`](crate::engine::InferencePipeline::begin).
    pub fn begin(&self, spec: &ImageSpec) -> Result<Denoising, ModelError> {
        Ok(match self {
            Self::StableDiffusion(model) => Denoising::StableDiffusion(Box::new(model.begin(spec)?)),
            Self::Flux(model) => Denoising::Flux(Box::new(model.begin(spec)?)),
            Self::Sim(sim) => Denoising::Sim(sim.begin(spec)),
        })
    }

    /// See [`InferencePipeline::advance`](crate::engine::InferencePipeline::advance).
    pub fn advance(&self, jobs: &mut [&mut Denoising]) -> Result<(), ModelError> {
        match self {
            Self::StableDiffusion(model) => Ok(model.advance(&mut all_own(jobs, |job| match job {
                Denoising::StableDiffusion(job) => Some(job.as_mut()),
                _ => None,
            })?)?),
            Self::Flux(model) => Ok(model.advance(&mut all_own(jobs, |job| match job {
                Denoising::Flux(job) => Some(job.as_mut()),
                _ => None,
            })?)?),
            Self::Sim(sim) => Ok(sim.advance(&mut all_own(jobs, |job| match job {
                Denoising::Sim(job) => Some(job),
                _ => None,
            })?)?),
        }
    }

    /// See [`InferencePipeline::preview`](crate::engine::InferencePipeline::preview).
    pub fn preview(&self, job: &Denoising) -> Result<RgbImage, ModelError> {
        match (self, job) {
            (Self::StableDiffusion(model), Denoising::StableDiffusion(job)) => Ok(model.preview(job)?),
            (Self::Flux(model), Denoising::Flux(job)) => Ok(model.preview(job)?),
            (Self::Sim(_), Denoising::Sim(job)) => Ok(job.preview()),
            _ => Err(ModelError::Foreign),
        }
    }

    /// See [`InferencePipeline::finish`](crate::engine::InferencePipeline::finish).
    pub fn finish(&self, job: &Denoising) -> Result<RgbImage, ModelError> {
        match (self, job) {
            (Self::StableDiffusion(model), Denoising::StableDiffusion(job)) => Ok(model.finish(job)?),
            (Self::Flux(model), Denoising::Flux(job)) => Ok(model.finish(job)?),
            (Self::Sim(_), Denoising::Sim(job)) => Ok(job.finish()),
            _ => Err(ModelError::Foreign),
        }
    }
}

impl Denoising {
    /// Steps done.
    pub fn step(&self) -> u32 {
        match self {
            Self::StableDiffusion(job) => job.step(),
            Self::Flux(job) => job.step(),
            Self::Sim(job) => job.step(),
        }
    }

    /// Steps in all; with a strength below 1 fewer than were asked for.
    pub fn total(&self) -> u32 {
        match self {
            Self::StableDiffusion(job) => job.total(),
            Self::Flux(job) => job.total(),
            Self::Sim(job) => job.total(),
        }
    }

    /// Whether the last step was done, or no other is of use because the latents are not finite.
    pub fn is_done(&self) -> bool {
        match self {
            Self::StableDiffusion(job) => job.is_done(),
            Self::Flux(job) => job.is_done(),
            Self::Sim(job) => job.step() >= job.total(),
        }
    }

    /// What the sender should know.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::StableDiffusion(job) => job.warnings(),
            Self::Flux(job) => job.warnings(),
            Self::Sim(_) => &[],
        }
    }

    /// The scheduler's contract name.
    pub fn scheduler_name(&self) -> &'static str {
        match self {
            Self::StableDiffusion(job) => job.scheduler_name(),
            Self::Flux(_) => FluxDenoising::SCHEDULER,
            Self::Sim(_) => "sim",
        }
    }
}

/// The pictures as those of one model, or that one of them is another's.
fn all_own<'a, T>(
    jobs: &'a mut [&mut Denoising],
    own: impl Fn(&'a mut Denoising) -> Option<&'a mut T>,
) -> Result<Vec<&'a mut T>, ModelError> {
    jobs.iter_mut().map(|job| own(job).ok_or(ModelError::Foreign)).collect()
}
