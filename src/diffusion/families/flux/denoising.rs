//! One Flux picture between two steps.

use candle_core::Tensor;

use super::latents::Shape;
use crate::diffusion::{
    DiffusionError,
    ops::ScratchHolder,
    picture::{ProgressError, Source, Trajectory, Warnings},
    schedulers::FlowSchedule,
};

/// The state of one picture. It holds all of the picture and nothing of the model, so that several can be advanced
/// together and each goes on from where it is.
pub struct FluxDenoising {
    pub(super) schedule: FlowSchedule,
    /// `[channels, height, width]`.
    pub(super) latents: Vec<f32>,
    /// The clean latents that the last velocity implies, for previews.
    pub(super) clean: Vec<f32>,
    pub(super) shape: Shape,
    /// `[1, words, width]` from T5.
    pub(super) text: Tensor,
    /// `[1, width]` from CLIP.
    pub(super) pooled: Tensor,
    pub(super) guidance_scale: f32,
    /// The first step of the schedule that is run.
    pub(super) first: usize,
    /// Steps run.
    pub(super) done: usize,
    pub(super) kept: Option<Kept>,
    /// The input of which a mask keeps a part.
    pub(super) masked: Option<Source>,
    /// Width and height of the picture wanted; the latents may be of a padded one.
    pub(super) size: (u32, u32),
    pub(super) warnings: Warnings,
    pub(super) finite: bool,
    /// With the last picture goes what operations keep to work in.
    pub(super) _scratch: ScratchHolder,
}

/// Latents that are put back after each step, noised as the step asks.
pub(super) struct Kept {
    /// `[height, width]`, 1 where drawn anew.
    pub mask: Vec<f32>,
    /// The input's latents.
    pub clean: Vec<f32>,
    /// The noise of the beginning.
    pub noise: Vec<f32>,
}

impl FluxDenoising {
    /// The name of the one scheduler of this family.
    pub const SCHEDULER: &str = "flow_euler";

    /// Steps done.
    pub fn step(&self) -> u32 {
        self.done as u32
    }

    /// Steps in all: fewer than asked for when a strength below 1 skips the first.
    pub fn total(&self) -> u32 {
        (self.schedule.steps() - self.first) as u32
    }

    /// No step is left, or the latents are no longer finite (which `finish` reports).
    pub fn is_done(&self) -> bool {
        !self.finite || self.step() >= self.total()
    }

    /// Width and height of the picture, in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// What the requester should know, for example that a prompt was cut.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.list()
    }

    /// The current latents, `[channels, height, width]`, for tests and tools.
    pub fn latents(&self) -> &[f32] {
        &self.latents
    }

    /// What the steps so far have changed: this family's sampler keeps nothing else, and draws no noise.
    pub fn progress(&self) -> Trajectory {
        Trajectory::new((self.done, self.total()), &self.latents, &self.clean)
    }

    /// Goes on from the progress of a picture that was begun from the same request.
    ///
    /// # Errors
    /// Progress that cannot be of this picture; nothing was changed.
    pub fn resume(&mut self, progress: Trajectory) -> Result<(), ProgressError> {
        let at = progress.check(self.total(), self.latents.len())?;
        (self.done, self.latents, self.clean) = (at.done, at.latents, at.clean);
        self.finite = true;
        Ok(())
    }

    /// How much of the picture is noise before the next step, by way of its timestep, as diffusers hands it on.
    pub(super) fn sigma(&self) -> f32 {
        self.schedule.timestep(self.first + self.done) / 1000.0
    }

    /// Goes one step along the network's velocity, `[channels, height, width]`.
    pub(super) fn take_velocity(&mut self, velocity: &[f32]) {
        let step = self.first + self.done;
        self.clean = self.schedule.step(step, velocity, &mut self.latents);
        self.done += 1;
        self.put_back_what_is_kept(step + 1);
        self.finite = self.latents.iter().all(|x| x.is_finite());
    }

    /// As FluxInpaintPipeline: noised for the next step, clean after the last.
    fn put_back_what_is_kept(&mut self, next: usize) {
        let Some(Kept { mask, clean, noise }) = &self.kept else {
            return;
        };
        let kept = match next < self.schedule.steps() {
            true => self.schedule.add_noise(next, clean, noise),
            false => clean.clone(),
        };
        for (i, (x, kept)) in self.latents.iter_mut().zip(&kept).enumerate() {
            let mask = mask[i % mask.len()];
            *x = (1.0 - mask) * kept + mask * *x;
        }
    }

    /// The error of latents or pixels that are NaN or infinite.
    pub(super) fn not_finite(&self, what: &'static str) -> DiffusionError {
        DiffusionError::NonFinite { what, step: self.step(), total: self.total() }
    }
}
