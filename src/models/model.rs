//! One loaded model, and a picture that is being drawn with it.

use image::{GrayImage, Luma, RgbImage};

use super::{LoadedIdentity, ModelError, ModelSource, Origin, Sim, sim::SimPicture};
use crate::{
    contract::{ErrorCode, limits::MIN_SIDE},
    diffusion::{self, Activations, Defaults, DiffusionError, ImageSpec, Precision, Source},
};

/// A loaded model.
pub enum Model {
    /// A checkpoint of any family.
    Checkpoint(Box<diffusion::Model>),
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
    /// The title that it gives itself.
    pub title: Option<String>,
    /// The resolution that it says it was trained for, in its words.
    pub resolution: Option<String>,
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
pub enum Picture {
    /// With a checkpoint.
    Checkpoint(Box<diffusion::Picture>),
    /// With a simulation.
    Sim(SimPicture),
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
                Self::Checkpoint(diffusion::open_with(path, source.named())?.load(device, precision)?)
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
                let opened = diffusion::open_with(path, source.named())?;
                let found = opened.inspect(device, precision)?;
                let info = ModelInfo {
                    name,
                    license: opened.checkpoint().licence(),
                    title: opened.checkpoint().title(),
                    resolution: opened.checkpoint().resolution(),
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
                let (license, title, resolution) = (None, None, None);
                let info = ModelInfo {
                    name,
                    native_size,
                    steps,
                    guidance_scale,
                    license,
                    title,
                    resolution,
                    identity,
                };
                (info, Needs { weights: sim.weight_bytes(), activations: Activations::default() })
            }
        })
    }

    /// See [`InferencePipeline::begin`](crate::engine::InferencePipeline::begin).
    pub fn begin(&self, spec: &ImageSpec) -> Result<Picture, ModelError> {
        Ok(match self {
            Self::Checkpoint(model) => Picture::Checkpoint(Box::new(model.begin(spec)?)),
            Self::Sim(_) if !spec.loras.is_empty() => {
                let reason = "LoRAs are applied to the networks of a checkpoint, and a simulation has none";
                return Err(DiffusionError::request("loras", reason).into());
            }
            Self::Sim(sim) => Picture::Sim(sim.begin(spec)),
        })
    }

    /// A picture as small as there is, of one step, to see whether the device computes.
    ///
    /// # Errors
    /// When the model fails.
    pub fn begin_test(&self) -> Result<Picture, ModelError> {
        let (width, height) = (MIN_SIDE, MIN_SIDE);
        let text = ImageSpec { steps: 1, ..ImageSpec::new("a test", Source::Text { width, height }) };
        if let Self::Sim(sim) = self {
            return Ok(Picture::Sim(sim.begin_test(&text)));
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
    pub fn advance(&self, jobs: &mut [&mut Picture]) -> Result<(), ModelError> {
        match self {
            Self::Checkpoint(model) => Ok(model.advance(&mut all_own(jobs, |job| match job {
                Picture::Checkpoint(job) => Some(job.as_mut()),
                Picture::Sim(_) => None,
            })?)?),
            Self::Sim(sim) => Ok(sim.advance(&mut all_own(jobs, |job| match job {
                Picture::Sim(job) => Some(job),
                Picture::Checkpoint(_) => None,
            })?)?),
        }
    }

    /// See [`InferencePipeline::passes`](crate::engine::InferencePipeline::passes).
    pub fn passes(&self, jobs: &[&Picture]) -> Result<Vec<Vec<usize>>, ModelError> {
        Ok(match self {
            Self::Checkpoint(model) => model.passes(&all_of(jobs, |job| match job {
                Picture::Checkpoint(job) => Some(job.as_ref()),
                Picture::Sim(_) => None,
            })?),
            Self::Sim(sim) => sim.passes(&all_of(jobs, |job| match job {
                Picture::Sim(job) => Some(job),
                Picture::Checkpoint(_) => None,
            })?),
        })
    }

    /// See [`InferencePipeline::pictures_together`](crate::engine::InferencePipeline::pictures_together).
    pub fn pictures_together(&self) -> usize {
        match self {
            Self::Checkpoint(model) => model.pictures_together(),
            Self::Sim(sim) => sim.pictures_together(),
        }
    }

    /// See [`InferencePipeline::preview`](crate::engine::InferencePipeline::preview).
    pub fn preview(&self, job: &Picture) -> Result<RgbImage, ModelError> {
        match (self, job) {
            (Self::Checkpoint(model), Picture::Checkpoint(job)) => Ok(model.preview(job)?),
            (Self::Sim(_), Picture::Sim(job)) => Ok(job.preview()),
            _ => Err(ModelError::Foreign),
        }
    }

    /// See [`InferencePipeline::finish`](crate::engine::InferencePipeline::finish).
    pub fn finish(&self, job: &Picture) -> Result<RgbImage, ModelError> {
        match (self, job) {
            (Self::Checkpoint(model), Picture::Checkpoint(job)) => Ok(model.finish(job)?),
            (Self::Sim(sim), Picture::Sim(job)) => Ok(sim.finish(job)?),
            _ => Err(ModelError::Foreign),
        }
    }
}

impl Picture {
    /// Steps done.
    pub fn step(&self) -> u32 {
        match self {
            Self::Checkpoint(job) => job.step(),
            Self::Sim(job) => job.step(),
        }
    }

    /// Steps in all; with a strength below 1 fewer than were asked for.
    pub fn total(&self) -> u32 {
        match self {
            Self::Checkpoint(job) => job.total(),
            Self::Sim(job) => job.total(),
        }
    }

    /// Whether the last step was done, or no other is of use because the latents are not finite.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Checkpoint(job) => job.is_done(),
            Self::Sim(job) => job.step() >= job.total(),
        }
    }

    /// Width and height of the picture, in pixels.
    pub fn size(&self) -> (u32, u32) {
        match self {
            Self::Checkpoint(job) => job.size(),
            Self::Sim(job) => job.size(),
        }
    }

    /// What the sender should know.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::Checkpoint(job) => job.warnings(),
            Self::Sim(_) => Vec::new(),
        }
    }

    /// The scheduler's contract name.
    pub fn scheduler_name(&self) -> &'static str {
        match self {
            Self::Checkpoint(job) => job.scheduler_name(),
            Self::Sim(_) => "sim",
        }
    }
}

/// The pictures as those of one model, or that one of them is another's.
fn all_own<'a, T>(
    jobs: &'a mut [&mut Picture],
    own: impl Fn(&'a mut Picture) -> Option<&'a mut T>,
) -> Result<Vec<&'a mut T>, ModelError> {
    jobs.iter_mut().map(|job| own(job).ok_or(ModelError::Foreign)).collect()
}

/// As [`all_own`], to look at.
fn all_of<'a, T>(
    jobs: &[&'a Picture],
    own: impl Fn(&'a Picture) -> Option<&'a T>,
) -> Result<Vec<&'a T>, ModelError> {
    jobs.iter().map(|job| own(job).ok_or(ModelError::Foreign)).collect()
}
