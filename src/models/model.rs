//! One loaded model, and a picture that is being drawn with it.

use image::RgbImage;

use super::{ModelSource, Origin, Sim, SimError, sim::SimDenoising};
use crate::{
    contract::ErrorCode,
    diffusion::{self, DiffusionError, ImageSpec, StableDiffusion},
};

/// Steps of a job that names none.
const DEFAULT_STEPS: u32 = 20;
/// Guidance of a job that names none.
const DEFAULT_GUIDANCE: f64 = 7.5;

/// A loaded model.
pub enum Model {
    /// A Stable Diffusion checkpoint.
    StableDiffusion(Box<StableDiffusion>),
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
    /// With a simulation.
    Sim(SimDenoising),
}

/// Why a model could not be loaded or could not draw.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A Stable Diffusion checkpoint.
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
                let model = StableDiffusion::load(path, device, candle_core::DType::F32)?;
                Self::StableDiffusion(Box::new(model))
            }
            Origin::Sim(sim) => Self::Sim(sim.clone()),
        })
    }

    /// What jobs have to know of it.
    pub fn info(&self, name: &str) -> ModelInfo {
        let native_size = match self {
            Self::StableDiffusion(model) => model.native_size(),
            Self::Sim(sim) => sim.native_size(),
        };
        ModelInfo {
            name: name.to_owned(),
            native_size,
            steps: DEFAULT_STEPS,
            guidance_scale: DEFAULT_GUIDANCE,
        }
    }

    /// See [`InferencePipeline::begin`](crate::engine::InferencePipeline::begin).
    pub fn begin(&self, spec: &ImageSpec) -> Result<Denoising, ModelError> {
        Ok(match self {
            Self::StableDiffusion(model) => Denoising::StableDiffusion(Box::new(model.begin(spec)?)),
            Self::Sim(sim) => Denoising::Sim(sim.begin(spec)),
        })
    }

    /// See [`InferencePipeline::advance`](crate::engine::InferencePipeline::advance).
    pub fn advance(&self, jobs: &mut [&mut Denoising]) -> Result<(), ModelError> {
        match self {
            Self::StableDiffusion(model) => {
                let mut own = jobs
                    .iter_mut()
                    .map(|job| match job {
                        Denoising::StableDiffusion(job) => Ok(job.as_mut()),
                        Denoising::Sim(_) => Err(ModelError::Foreign),
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(model.advance(&mut own)?)
            }
            Self::Sim(sim) => {
                let mut own = jobs
                    .iter_mut()
                    .map(|job| match job {
                        Denoising::Sim(job) => Ok(job),
                        Denoising::StableDiffusion(_) => Err(ModelError::Foreign),
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(sim.advance(&mut own)?)
            }
        }
    }

    /// See [`InferencePipeline::preview`](crate::engine::InferencePipeline::preview).
    pub fn preview(&self, job: &Denoising) -> Result<RgbImage, ModelError> {
        match (self, job) {
            (Self::StableDiffusion(model), Denoising::StableDiffusion(job)) => Ok(model.preview(job)?),
            (Self::Sim(_), Denoising::Sim(job)) => Ok(job.preview()),
            _ => Err(ModelError::Foreign),
        }
    }

    /// See [`InferencePipeline::finish`](crate::engine::InferencePipeline::finish).
    pub fn finish(&self, job: &Denoising) -> Result<RgbImage, ModelError> {
        match (self, job) {
            (Self::StableDiffusion(model), Denoising::StableDiffusion(job)) => Ok(model.finish(job)?),
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
            Self::Sim(job) => job.step(),
        }
    }

    /// Steps in all; with a strength below 1 fewer than were asked for.
    pub fn total(&self) -> u32 {
        match self {
            Self::StableDiffusion(job) => job.total(),
            Self::Sim(job) => job.total(),
        }
    }

    /// Whether the last step was done.
    pub fn is_done(&self) -> bool {
        self.step() >= self.total()
    }

    /// What the sender should know.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::StableDiffusion(job) => job.warnings(),
            Self::Sim(_) => Vec::new(),
        }
    }

    /// The scheduler's contract name.
    pub fn scheduler_name(&self) -> &'static str {
        match self {
            Self::StableDiffusion(job) => job.scheduler_name(),
            Self::Sim(_) => "sim",
        }
    }
}
