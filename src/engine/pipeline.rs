//! The one owner of the weights: every model of the worker, by name, on one device.

use image::RgbImage;

use crate::{
    contract::ErrorCode,
    diffusion::ImageSpec,
    models::{Denoising, Model, ModelError, ModelInfo, ModelSource},
};

/// Serves every model of the worker. A picture is a [`Denoising`] that is begun, advanced step by step, and finished;
/// it owns all that is the job's, the pipeline owns the weights and nothing of a job.
pub struct InferencePipeline {
    models: Vec<(ModelInfo, Model)>,
}

/// Why a picture could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// No model of that name; workers check this before a request is made.
    #[error("`model`: `{0}` is not loaded")]
    UnknownModel(String),
    /// The model refused or failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl PipelineError {
    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownModel(_) => ErrorCode::UnsupportedModel,
            Self::Model(error) => error.code(),
        }
    }
}

impl InferencePipeline {
    /// Loads every source on the device; the first is the default.
    ///
    /// # Errors
    /// The first source that cannot be loaded, with the file and the key that are wrong.
    pub fn load(sources: &[ModelSource], device: &candle_core::Device) -> Result<Self, ModelError> {
        let models = sources
            .iter()
            .map(|source| {
                let model = Model::load(source, device)?;
                Ok((model.info(source.name()), model))
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self { models })
    }

    /// What is loaded, in the order of the sources.
    pub fn catalog(&self) -> Vec<ModelInfo> {
        self.models.iter().map(|(info, _)| info.clone()).collect()
    }

    /// Reads the prompt and the inputs and makes the first latents.
    ///
    /// # Errors
    /// When the model does not take the request, or fails.
    pub fn begin(&self, model: &str, spec: &ImageSpec) -> Result<Denoising, PipelineError> {
        Ok(self.model(model)?.begin(spec)?)
    }

    /// One denoising step of each.
    ///
    /// # Errors
    /// When the model fails; none of `jobs` is of use after that.
    pub fn advance(&self, model: &str, jobs: &mut [&mut Denoising]) -> Result<(), PipelineError> {
        Ok(self.model(model)?.advance(jobs)?)
    }

    /// A small picture of how it looks now, at most 256 pixels a side.
    ///
    /// # Errors
    /// When the model fails.
    pub fn preview(&self, model: &str, job: &Denoising) -> Result<RgbImage, PipelineError> {
        Ok(self.model(model)?.preview(job)?)
    }

    /// The picture, after the last step.
    ///
    /// # Errors
    /// When the model fails; NaN and infinity are failures, never a picture.
    pub fn finish(&self, model: &str, job: &Denoising) -> Result<RgbImage, PipelineError> {
        Ok(self.model(model)?.finish(job)?)
    }

    fn model(&self, name: &str) -> Result<&Model, PipelineError> {
        self.models
            .iter()
            .find_map(|(info, model)| (info.name == name).then_some(model))
            .ok_or_else(|| PipelineError::UnknownModel(name.to_owned()))
    }
}
