//! One picture between two steps.

use std::any::Any;

use image::RgbImage;

use super::{
    Source,
    denoiser::{PassKey, Steering},
    guidance::Guidance,
    keep::Keep,
    progress::{Progress, ProgressError, Trajectory},
    warnings::Warnings,
};
use crate::diffusion::{
    DiffusionError,
    autoencoders::LatentShape,
    noise::TorchRng,
    ops::ScratchHolder,
    schedulers::{Place, Scheduler, SchedulerKind},
};

/// The state of one picture. It holds all of the picture and, but for its LoRAs, nothing of the model, so that several
/// can be advanced together and each goes on from where it is.
pub struct Picture {
    pub(super) kind: SchedulerKind,
    pub(super) scheduler: Box<dyn Scheduler>,
    pub(super) rng: TorchRng,
    /// `[channels, height, width]` in the scheduler's scale.
    pub(super) latents: Vec<f32>,
    /// The clean latents that the last answer implies, for previews.
    pub(super) clean: Vec<f32>,
    pub(super) shape: LatentShape,
    /// What the family's network is told at every step.
    pub(super) steering: Box<dyn Steering>,
    pub(super) guidance: Guidance,
    /// The first evaluation of the schedule that is run.
    pub(super) first: usize,
    /// Evaluations run.
    pub(super) done: usize,
    pub(super) keep: Keep,
    /// The input of which a mask keeps a part.
    pub(super) masked: Option<Source>,
    /// Width and height of the picture wanted; the latents may be of a larger one.
    pub(super) size: (u32, u32),
    pub(super) warnings: Warnings,
    pub(super) finite: bool,
    /// With the last picture what operations keep to work in is freed.
    pub(super) _scratch: ScratchHolder,
}

impl Picture {
    /// Steps done.
    pub fn step(&self) -> u32 {
        self.done as u32
    }

    /// Steps in all: fewer than asked for when a strength below 1 skips the first.
    pub fn total(&self) -> u32 {
        (self.scheduler.timesteps().len() - self.first) as u32
    }

    /// No step is left, or the latents are no longer finite (which `finish` reports).
    pub fn is_done(&self) -> bool {
        !self.finite || self.step() >= self.total()
    }

    /// Width and height of the picture, in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// What the requester should know, for example that a prompt was cut; `finish` may add to it.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.list()
    }

    /// The contract's name of the scheduler in use.
    pub fn scheduler_name(&self) -> &'static str {
        self.kind.name()
    }

    /// The current latents, `[channels, height, width]`.
    pub fn latents(&self) -> &[f32] {
        &self.latents
    }

    /// Channels, height and width of the latents.
    pub fn shape(&self) -> LatentShape {
        self.shape
    }

    /// What the steps so far have changed.
    pub fn progress(&self) -> Progress {
        Progress {
            trajectory: Trajectory::new((self.done, self.total()), &self.latents, &self.clean),
            scheduler: self.kind.name().to_owned(),
            state: self.scheduler.state(),
            rng: self.rng.clone(),
        }
    }

    /// Goes on from the progress of a picture that was begun from the same request.
    ///
    /// # Errors
    /// Progress that cannot be of this picture; nothing was changed.
    pub fn resume(&mut self, progress: Progress) -> Result<(), ProgressError> {
        let Progress { trajectory, scheduler, state, rng } = progress;
        if scheduler != self.kind.name() {
            return Err(ProgressError::Scheduler { found: scheduler, expected: self.kind.name() });
        }
        let size = self.latents.len();
        let at = trajectory.check(self.total(), size)?;
        self.scheduler.restore(state, Place { first: self.first, done: at.done, size })?;
        (self.done, self.latents, self.clean, self.rng) = (at.done, at.latents, at.clean, rng);
        self.finite = true;
        Ok(())
    }

    /// What its family's network is told, for that family.
    ///
    /// # Errors
    /// When the picture was begun with a model of another.
    pub fn steering<S: Steering>(&self) -> Result<&S, DiffusionError> {
        let steering: &dyn Any = &*self.steering;
        steering.downcast_ref().ok_or(DiffusionError::OtherModel)
    }

    /// What it has to have in common with others, beside the size, to share a pass.
    pub(super) fn pass_key(&self) -> PassKey {
        self.steering.pass_key()
    }

    /// Evaluations of the network done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// The timestep of the next evaluation.
    pub fn timestep(&self) -> f32 {
        self.scheduler.timesteps()[self.first + self.done]
    }

    /// Samples that the next step puts through the network: 2 where it is guided, the positive one alone elsewhere.
    pub fn samples(&self) -> usize {
        match self.guidance.guides(self.scheduler.asked_step(self.first, self.done)) {
            true => self.steering.samples(),
            false => 1,
        }
    }

    /// The network's input for the next step, one sample: `[channels, height, width]`, with the channels of mask and
    /// masked picture where the network takes them.
    pub fn network_input(&self) -> Vec<f32> {
        let mut input = self.scheduler.scale_input(self.first + self.done, &self.latents);
        if let Keep::Channels(more) = &self.keep {
            input.extend_from_slice(more);
        }
        input
    }

    /// Goes one step by the network's outputs for this picture's samples, one after the other.
    pub(super) fn take_output(&mut self, outputs: &[f32]) {
        let step = self.first + self.done;
        let output = self.guidance.apply(outputs, self.latents.len());
        self.clean = self.scheduler.step(step, &output, &mut self.latents, &mut self.rng);
        self.done += 1;
        self.keep.put_back(&*self.scheduler, step + 1, &mut self.latents);
        self.finite = self.latents.iter().all(|x| x.is_finite());
    }

    /// The error of latents or pixels that are NaN or infinite.
    pub(super) fn not_finite(&self, what: &'static str) -> DiffusionError {
        DiffusionError::NonFinite { what, step: self.step(), total: self.total() }
    }

    /// The picture with what the mask keeps.
    pub(super) fn restored(&self, drawn: RgbImage) -> RgbImage {
        match &self.masked {
            Some(source) => source.finished(drawn),
            None => drawn,
        }
    }
}
