//! One loaded model, and a picture that is being drawn with it.

use image::{GrayImage, Luma, RgbImage};

use super::{LoadedIdentity, ModelError, ModelSource, Origin, Sim, sim::SimDenoising};
use crate::{
    contract::{ErrorCode, limits::MIN_SIDE},
    diffusion::{
        self, Activations, Checkpoint, Defaults, DiffusionError, ImageSpec, Precision, Source,
        StableDiffusion,
        flux::{Flux, FluxDenoising},
    },
};

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
    /// The licence that the checkpoint names.
    pub license: Option<String>,
    /// What its pictures are bound to.
    pub identity: LoadedIdentity,
}

/// Memory that a model takes.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Bytes of its weights as they are kept.
    pub weights: u64,
    /// Bytes of a picture beside them.
    pub activations: Activations,
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
        let model = Self::read(source, device, precision)?;
        // What failed on the device while it was loaded is an error of loading.
        device.synchronize().map_err(DiffusionError::from)?;
        Ok(model)
    }

    fn read(
        source: &ModelSource,
        device: &candle_core::Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        Ok(match source.origin() {
            Origin::Folder(path) | Origin::File(path) => {
                let checkpoint = Checkpoint::open(path)?;
                match Flux::is(&checkpoint) {
                    true => Self::Flux(Box::new(Flux::load(&checkpoint, device, precision)?)),
                    false => Self::StableDiffusion(Box::new(StableDiffusion::open(
                        &checkpoint,
                        device,
                        precision,
                    )?)),
                }
            }
            Origin::Hub(repo) => return Err(ModelError::NotFetched(repo.clone())),
            Origin::Sim(sim) => {
                sim.load();
                Self::Sim(sim.clone())
            }
        })
    }

    /// What jobs have to know of it, and the memory that it will take. Nothing is loaded.
    ///
    /// # Errors
    /// What loading would refuse, as far as the configuration files and the headers of the weights show it.
    pub fn inspect(
        source: &ModelSource,
        device: &candle_core::Device,
        precision: Precision,
    ) -> Result<(ModelInfo, Needs), ModelError> {
        let name = source.name().to_owned();
        let identify = || LoadedIdentity::new(source, device, precision);
        Ok(match source.origin() {
            Origin::Folder(path) | Origin::File(path) => {
                let found = diffusion::inspect(path, device, precision)?;
                let info = ModelInfo {
                    name,
                    license: Checkpoint::open(path)?.licence(),
                    identity: identify()?,
                    native_size: found.native_size,
                    steps: found.defaults.steps,
                    guidance_scale: found.defaults.guidance_scale,
                };
                (info, Needs { weights: found.weight_bytes, activations: found.activations })
            }
            Origin::Hub(repo) => return Err(ModelError::NotFetched(repo.clone())),
            Origin::Sim(sim) => {
                let Defaults { steps, guidance_scale } = Defaults::default();
                let (native_size, identity) = (sim.native_size(), identify()?);
                let info = ModelInfo { name, native_size, steps, guidance_scale, license: None, identity };
                (info, Needs { weights: sim.weight_bytes(), activations: Activations::default() })
            }
        })
    }

    /// See [`InferencePipeline::begin`](crate::engine::InferencePipeline::begin).
    pub fn begin(&self, spec: &ImageSpec) -> Result<Denoising, ModelError> {
        if !spec.loras.is_empty() && !matches!(self, Self::StableDiffusion(_)) {
            let reason = "LoRAs are applied to Stable Diffusion models, and this is none";
            return Err(DiffusionError::request("loras", reason).into());
        }
        Ok(match self {
            Self::StableDiffusion(model) => Denoising::StableDiffusion(Box::new(model.begin(spec)?)),
            Self::Flux(model) => Denoising::Flux(Box::new(model.begin(spec)?)),
            Self::Sim(sim) => Denoising::Sim(sim.begin(spec)),
        })
    }

    /// A picture as small as there is, of one step, to see whether the device computes.
    ///
    /// # Errors
    /// When the model fails.
    pub fn begin_test(&self) -> Result<Denoising, ModelError> {
        let (width, height) = (MIN_SIDE, MIN_SIDE);
        let text = ImageSpec { steps: 1, ..ImageSpec::new("a test", Source::Text { width, height }) };
        if let Self::Sim(sim) = self {
            return Ok(Denoising::Sim(sim.begin_test(&text)));
        }
        match self.begin(&text) {
            // A model that fills in what a mask leaves open does nothing else.
            Err(error) if error.code() == ErrorCode::UnsupportedOperation => {
                let (image, mask) =
                    (RgbImage::new(width, height), GrayImage::from_pixel(width, height, Luma([255])));
                let source = Source::Inpaint { image, mask, strength: 1.0, overlay: None };
                self.begin(&ImageSpec { source, ..text })
            }
            other => other,
        }
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

    /// See [`InferencePipeline::passes`](crate::engine::InferencePipeline::passes).
    pub fn passes(&self, jobs: &[&Denoising]) -> Result<Vec<Vec<usize>>, ModelError> {
        Ok(match self {
            Self::StableDiffusion(model) => model.passes(&all_of(jobs, |job| match job {
                Denoising::StableDiffusion(job) => Some(job.as_ref()),
                _ => None,
            })?),
            Self::Flux(model) => model.passes(&all_of(jobs, |job| match job {
                Denoising::Flux(job) => Some(job.as_ref()),
                _ => None,
            })?),
            Self::Sim(sim) => sim.passes(&all_of(jobs, |job| match job {
                Denoising::Sim(job) => Some(job),
                _ => None,
            })?),
        })
    }

    /// See [`InferencePipeline::pictures_together`](crate::engine::InferencePipeline::pictures_together).
    pub fn pictures_together(&self) -> usize {
        match self {
            Self::StableDiffusion(model) => model.pictures_together(),
            Self::Flux(model) => model.pictures_together(),
            Self::Sim(sim) => sim.pictures_together(),
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
            (Self::Sim(sim), Denoising::Sim(job)) => Ok(sim.finish(job)?),
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

    /// Width and height of the picture, in pixels.
    pub fn size(&self) -> (u32, u32) {
        match self {
            Self::StableDiffusion(job) => job.size(),
            Self::Flux(job) => job.size(),
            Self::Sim(job) => job.size(),
        }
    }

    /// What the sender should know.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::StableDiffusion(job) => job.warnings(),
            Self::Flux(job) => job.warnings(),
            Self::Sim(_) => Vec::new(),
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

/// As [`all_own`], to look at.
fn all_of<'a, T>(
    jobs: &[&'a Denoising],
    own: impl Fn(&'a Denoising) -> Option<&'a T>,
) -> Result<Vec<&'a T>, ModelError> {
    jobs.iter().map(|job| own(job).ok_or(ModelError::Foreign)).collect()
}
