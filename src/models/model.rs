//! One loaded model, and a picture that is being drawn with it.

use image::RgbImage;

use super::{HubRepo, ModelSource, Origin, Sim, SimError, memory::human, sim::SimDenoising};
use crate::{
    contract::ErrorCode,
    diffusion::{self, DiffusionError, ImageSpec, Precision, StableDiffusion},
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
    /// A repository of the hub that is not in a folder yet: a defect of the caller.
    #[error("`{0}` was not fetched from the hub before it was to be loaded")]
    NotFetched(HubRepo),
    /// No model of that name; workers check this before a request is made.
    #[error("`model`: this worker has no `{0}`")]
    Unknown(String),
    /// A model that can never be loaded here.
    #[error(
        "`{model}`: its weights take {} and at most {} may be used ({limit}): choose a smaller --dtype or model, or \
         give it more memory",
        human(*needed),
        human(*available)
    )]
    TooLarge {
        /// The model.
        model: String,
        /// Bytes of its weights as they would be kept.
        needed: u64,
        /// Bytes that there are.
        available: u64,
        /// What limits them.
        limit: Limit,
    },
    /// A model that cannot be loaded now.
    #[error(
        "`{model}`: its weights take {} and {} are free now{}: try again, or give it more memory",
        human(*needed),
        human(*available),
        busy_models(busy)
    )]
    NoRoom {
        /// The model.
        model: String,
        /// Bytes of its weights as they would be kept.
        needed: u64,
        /// Bytes that are free after every idle model was put out.
        available: u64,
        /// Models that stay because jobs run with them.
        busy: Vec<String>,
    },
    /// A picture was given to a model that did not begin it: a defect of the caller.
    #[error("a picture was handed to a model that did not begin it")]
    Foreign,
}

/// What limits the memory for weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The flag.
    Flag,
    /// What the machine, or its control group, has free.
    Machine,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Flag => "--model-memory",
            Self::Machine => "free memory of this machine",
        })
    }
}

fn busy_models(busy: &[String]) -> String {
    if busy.is_empty() { String::new() } else { format!(" (jobs run with {})", busy.join(", ")) }
}

impl ModelError {
    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Diffusion(error) => error.code(),
            Self::Sim(SimError::OutOfMemory) | Self::TooLarge { .. } | Self::NoRoom { .. } => {
                ErrorCode::OutOfMemory
            }
            Self::Sim(SimError::NonFinite) => ErrorCode::NonFinite,
            Self::Unknown(_) => ErrorCode::UnsupportedModel,
            Self::Sim(SimError::Option { .. }) | Self::NotFetched(_) | Self::Foreign => ErrorCode::Internal,
        }
    }
}

impl Model {
    /// Loads it on the device; `precision` is the types that its weights are kept in.
    ///
    /// # Errors
    /// The file and the key that are wrong.
    pub fn load(
        source: &ModelSource,
        device: &candle_core::Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        Ok(match source.origin() {
            Origin::Folder(path) | Origin::File(path) => {
                Self::StableDiffusion(Box::new(StableDiffusion::load(path, device, precision)?))
            }
            Origin::Hub(repo) => return Err(ModelError::NotFetched(repo.clone())),
            Origin::Sim(sim) => {
                sim.load();
                Self::Sim(sim.clone())
            }
        })
    }

    /// What jobs have to know of it, and the bytes of its weights as they will be kept. Nothing is loaded.
    ///
    /// # Errors
    /// What loading would refuse, as far as the configuration files and the headers of the weights show it.
    pub fn inspect(source: &ModelSource, precision: Precision) -> Result<(ModelInfo, u64), ModelError> {
        let (native_size, weight_bytes) = match source.origin() {
            Origin::Folder(path) | Origin::File(path) => {
                let found = diffusion::inspect(path, precision)?;
                (found.native_size, found.weight_bytes)
            }
            Origin::Hub(repo) => return Err(ModelError::NotFetched(repo.clone())),
            Origin::Sim(sim) => (sim.native_size(), sim.weight_bytes()),
        };
        let info = ModelInfo {
            name: source.name().to_owned(),
            native_size,
            steps: DEFAULT_STEPS,
            guidance_scale: DEFAULT_GUIDANCE,
        };
        Ok((info, weight_bytes))
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
