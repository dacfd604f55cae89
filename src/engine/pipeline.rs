//! What the engine computes with: every model of the worker, by name, on one device.

use std::{sync::Arc, time::Duration};

use image::RgbImage;

use super::{
    ByHand, EngineError, STEP_LIMIT,
    faults::{Faults, fails_test},
    running_job::guarded,
    view::{EngineView, Tally},
    watch::{Lookout, Shape, StepWatch, Work},
};
use crate::{
    contract::ErrorCode,
    diffusion::{ImageSpec, Source},
    models::{Held, ModelError, ModelInfo, ModelOptions, ModelSet, ModelSource, Picture, Reserved},
};

/// Serves every model of the worker. A picture is a [`Picture`] that is begun, advanced step by step, and finished;
/// it owns all that is the job's, the pipeline owns the weights and nothing of a job.
///
/// A model that is not in memory is loaded when it is used, and the least recently used one goes for it; see
/// [`hold`](Self::hold).
pub struct InferencePipeline {
    models: Arc<ModelSet>,
    watch: Arc<StepWatch>,
    faults: Faults,
    tally: Arc<Tally>,
}

/// Why a picture could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The model is unknown, has no room, refused or failed.
    #[error(transparent)]
    Model(ModelError),
}

/// What a job is told names no folder of this machine; the log does.
impl From<ModelError> for PipelineError {
    fn from(error: ModelError) -> Self {
        let whole = error.to_string();
        let told = error.without_folders();
        if told.to_string() != whole {
            tracing::warn!(error = whole, "a file of a model cannot be used");
        }
        Self::Model(told)
    }
}

impl PipelineError {
    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Model(error) => error.code(),
        }
    }

    /// Whether the device failed.
    pub fn is_of_device(&self) -> bool {
        match self {
            Self::Model(error) => error.is_of_device(),
        }
    }
}

impl InferencePipeline {
    /// Every source on the device, in f32, in all the memory that is free; the first is the default.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn load(sources: &[ModelSource], device: &candle_core::Device) -> Result<Self, ModelError> {
        Self::open(sources, ModelOptions::new(device))
    }

    /// Checks every source and loads those that there is room for; the first is the default.
    ///
    /// # Errors
    /// The first source that cannot be used, with the file and the key that are wrong, or the memory it lacks.
    pub fn open(sources: &[ModelSource], options: ModelOptions) -> Result<Self, ModelError> {
        let watch = Arc::new(StepWatch::new(STEP_LIMIT, options.device.is_cpu()));
        let models = Arc::new(ModelSet::open(sources, options)?);
        let tally = Arc::<Tally>::default();
        tally.look_at_memory(|| models.free_memory());
        Ok(Self { models, watch, faults: Faults::default(), tally })
    }

    /// With another least limit for a step than [`STEP_LIMIT`].
    #[must_use]
    pub fn with_step_limit(mut self, limit: Duration) -> Self {
        self.watch = Arc::new(self.watch.with_floor(limit));
        self
    }

    /// Who waits for the device to be stuck.
    pub fn lookout(&self) -> Lookout {
        Lookout::new(self.watch.clone())
    }

    /// Tests the device with every model in memory: one step of a picture as small as there is, and its decoding.
    ///
    /// # Errors
    /// The first model that computes nothing, and why.
    pub fn test_all(&self) -> Result<(), (String, Box<EngineError>)> {
        for model in self.models.in_memory() {
            self.test(&model).map_err(|error| (model, Box::new(error)))?;
        }
        Ok(())
    }

    /// Tests the device with this model.
    pub(super) fn test(&self, model: &str) -> Result<(), EngineError> {
        let test = || {
            let held = self.models.hold(model)?;
            let shape = |work, picture: &Picture| shape_of(work, model, std::iter::once(picture));
            let begin = Shape { work: Work::Begin, model: model.to_owned(), pixels: 0 };
            let mut picture = self.watch.during(begin, || held.model.begin_test())?;
            let step = shape(Work::Step, &picture);
            self.watch.during(step, || held.model.advance(&mut [&mut picture]))?;
            self.watch.during(shape(Work::Decode, &picture), || held.model.finish(&picture))?;
            Ok(())
        };
        match guarded(test) {
            Err(error) if fails_test(&error) => Err(error),
            Err(error) => {
                tracing::warn!(model, %error, "the device could not be tested with this model");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A job was done.
    pub(super) fn succeeded(&self) {
        self.faults.succeeded();
    }

    /// What a job of this model that failed is told: that the device did, if so.
    pub(super) fn failed(&self, model: &str, error: EngineError) -> EngineError {
        self.faults.failed(error, || {
            // A model that cannot be loaded says nothing of the device; another in memory does.
            let in_memory = self.models.in_memory();
            let tested = in_memory.iter().find(|name| *name == model).or(in_memory.last());
            tested.map_or(Ok(()), |model| self.test(model))
        })
    }

    /// Why the device is of no use any more, if so.
    pub(super) fn lost(&self) -> Option<String> {
        self.faults.lost()
    }

    /// Every model, in memory or not, in the order of the sources.
    pub fn catalog(&self) -> Vec<ModelInfo> {
        self.models.catalog()
    }

    /// What tells how the engine is, also while the pipeline works elsewhere. To be asked for after
    /// [`with_step_limit`](Self::with_step_limit).
    pub fn view(&self) -> EngineView {
        EngineView { models: self.models.clone(), watch: self.watch.clone(), tally: self.tally.clone() }
    }

    /// Where the engine writes down what it does.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What brings models into memory and lets them go at somebody's word, also while the pipeline works elsewhere.
    pub fn by_hand(&self) -> ByHand {
        ByHand::new(self.models.clone())
    }

    /// Whether a model is being loaded, for a job or by hand.
    pub(super) fn is_loading(&self) -> bool {
        self.models.is_loading()
    }

    /// Puts those models out of memory that were to go and that no job holds any more.
    pub(super) fn let_go(&self) {
        self.models.let_go();
    }

    /// Brings a model into memory, and keeps it there as long as the answer lives.
    ///
    /// # Errors
    /// When there is no such model, no room for it beside those that are held, or when loading fails.
    pub fn hold(&self, model: &str) -> Result<Held, PipelineError> {
        Ok(self.models.hold(model)?)
    }

    /// Whether [`hold`](Self::hold) would not fail for lack of room.
    pub fn has_room_for(&self, model: &str) -> bool {
        self.during_memory(model, || self.models.has_room_for(model))
    }

    /// The model, if it is in memory.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn hold_loaded(&self, model: &str) -> Result<Option<Held>, PipelineError> {
        Ok(self.models.hold_loaded(model)?)
    }

    /// Takes room for a model that is to be loaded; none when it is in memory by now, or on its way.
    ///
    /// # Errors
    /// When there is no such model, or no room for it beside those that are held.
    pub fn reserve(&self, model: &str) -> Result<Option<Reserved>, PipelineError> {
        Ok(self.during_memory(model, || self.models.reserve(model))?)
    }

    /// Loads a model into the room that was taken for it. Pictures of other models can be drawn meanwhile.
    ///
    /// # Errors
    /// When loading fails.
    pub fn load_reserved(&self, reserved: Reserved) -> Result<Held, PipelineError> {
        Ok(self.models.load(reserved)?)
    }

    /// Puts every model out of memory that no job runs with, and gives back what the device keeps for later; whether that
    /// made room.
    pub fn make_room(&self) -> bool {
        self.during_memory("", || self.models.put_out_idle())
    }

    /// Pictures of one job that the model draws together, if there are so many: where they gain by sharing a pass.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn pictures_together(&self, model: &str) -> Result<usize, PipelineError> {
        Ok(self.hold(model)?.model.pictures_together())
    }

    /// Reads the prompt and the inputs and makes the first latents.
    ///
    /// # Errors
    /// When the model does not take the request, or fails.
    pub fn begin(&self, model: &str, spec: &ImageSpec) -> Result<Picture, PipelineError> {
        let work = match &spec.source {
            _ if !spec.loras.is_empty() || !spec.embeddings.is_empty() => Work::ReadFiles,
            Source::Text { .. } => Work::Begin,
            Source::Image { .. } | Source::Inpaint { .. } => Work::Encode,
        };
        let (width, height) = spec.source.drawn_size();
        let pixels = if work == Work::Begin { 0 } else { u64::from(width) * u64::from(height) };
        let held = self.hold(model)?;
        let shape = Shape { work, model: model.to_owned(), pixels };
        Ok(self.watch.during(shape, || held.model.begin(spec))?)
    }

    /// Which of these pictures, by index, a model advances in one pass at their next step. Each is in one pass, and
    /// passes are in the order of their first picture. What shares a pass may change from step to step.
    ///
    /// # Errors
    /// When there is no such model, or a picture is another model's.
    pub fn passes(&self, model: &str, jobs: &[&Picture]) -> Result<Vec<Vec<usize>>, PipelineError> {
        Ok(self.hold(model)?.model.passes(jobs)?)
    }

    /// One denoising step of each.
    ///
    /// # Errors
    /// When the model fails; some of `jobs` may have gone their step by then.
    pub fn advance(&self, model: &str, jobs: &mut [&mut Picture]) -> Result<(), PipelineError> {
        let held = self.hold(model)?;
        let shape = shape_of(Work::Step, model, jobs.iter().map(|job| &**job));
        Ok(self.watch.during(shape, || held.model.advance(jobs))?)
    }

    /// A small picture of how it looks now, at most 256 pixels a side.
    ///
    /// # Errors
    /// When the model fails.
    pub fn preview(&self, model: &str, job: &Picture) -> Result<RgbImage, PipelineError> {
        let held = self.hold(model)?;
        let shape = shape_of(Work::Preview, model, std::iter::once(job));
        Ok(self.watch.during(shape, || held.model.preview(job))?)
    }

    /// The picture, after the last step.
    ///
    /// # Errors
    /// When the model fails; NaN and infinity are failures, never a picture.
    pub fn finish(&self, model: &str, job: &Picture) -> Result<RgbImage, PipelineError> {
        let held = self.hold(model)?;
        let shape = shape_of(Work::Decode, model, std::iter::once(job));
        Ok(self.watch.during(shape, || {
            let image = held.model.finish(job);
            self.tally.look_at_memory(|| self.models.free_memory());
            image
        })?)
    }

    fn during_memory<T>(&self, model: &str, work: impl FnOnce() -> T) -> T {
        self.watch.during(Shape { work: Work::Memory, model: model.to_owned(), pixels: 0 }, work)
    }
}

fn shape_of<'a>(work: Work, model: &str, pictures: impl Iterator<Item = &'a Picture>) -> Shape {
    let pixels =
        pictures.map(Picture::size).map(|(width, height)| u64::from(width) * u64::from(height)).sum();
    Shape { work, model: model.to_owned(), pixels }
}
