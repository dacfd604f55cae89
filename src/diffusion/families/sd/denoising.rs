//! One picture between two steps.

use std::sync::Arc;

use image::RgbImage;

use super::Networks;
use crate::{
    contract::GuidanceInterval,
    diffusion::{
        DiffusionError,
        networks::unet::{Prepared, StepInput},
        noise::TorchRng,
        ops::ScratchHolder,
        picture::{Progress, ProgressError, Source, Trajectory, Warnings},
        schedulers::{Place, Scheduler, SchedulerKind},
    },
};

/// The state of one picture. It holds all of the picture and, but for its LoRAs, nothing of the model, so that several
/// can be advanced together and each goes on from where it is.
pub struct Denoising {
    pub(super) kind: SchedulerKind,
    pub(super) scheduler: Box<dyn Scheduler>,
    pub(super) rng: TorchRng,
    /// `[channels, height, width]` in the scheduler's scale.
    pub(super) latents: Vec<f32>,
    /// The clean latents that the last prediction implies, for previews.
    pub(super) clean: Vec<f32>,
    /// Latent channels, height, width.
    pub(super) shape: (usize, usize, usize),
    /// Of this picture's samples: one, or two with the negative prompt first.
    pub(super) prepared: Prepared,
    /// The model with the LoRAs of this picture; none: as it was loaded.
    pub(super) adapted: Option<Arc<Networks>>,
    pub(super) guidance_scale: f32,
    pub(super) guidance_interval: Option<GuidanceInterval>,
    /// The first step of the schedule that is run.
    pub(super) first: usize,
    /// Steps run.
    pub(super) done: usize,
    pub(super) inpaint: Inpaint,
    /// The input of which a mask keeps a part.
    pub(super) masked: Option<Source>,
    /// Width and height of the picture wanted; the latents may be of a padded one.
    pub(super) size: (u32, u32),
    pub(super) warnings: Warnings,
    pub(super) finite: bool,
    /// With the last picture goes what operations keep to work in.
    pub(super) _scratch: ScratchHolder,
}

/// How what is kept reaches the latents.
pub(super) enum Inpaint {
    /// Nothing is kept.
    None,
    /// Kept latents are put back after each step, noised as the step asks.
    Blend {
        /// `[height, width]`, 1 where drawn anew.
        mask: Vec<f32>,
        /// The input's latents.
        clean: Vec<f32>,
        /// The noise of the beginning.
        noise: Vec<f32>,
    },
    /// Mask and masked picture's latents as further input channels.
    Channels(Vec<f32>),
}

impl Denoising {
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

    /// The current latents, `[channels, height, width]`, for tests and tools.
    pub fn latents(&self) -> &[f32] {
        &self.latents
    }

    /// What the steps so far have changed.
    pub fn progress(&self) -> Progress {
        Progress {
            trajectory: Trajectory::new((self.done, self.total()), &self.latents, &self.clean),
            scheduler: self.kind.name().to_owned(),
            memory: self.scheduler.memory(),
            rng: self.rng.clone(),
        }
    }

    /// Goes on from the progress of a picture that was begun from the same request.
    ///
    /// # Errors
    /// Progress that cannot be of this picture; nothing was changed.
    pub fn resume(&mut self, progress: Progress) -> Result<(), ProgressError> {
        let Progress { trajectory, scheduler, memory, rng } = progress;
        if scheduler != self.kind.name() {
            return Err(ProgressError::Scheduler { found: scheduler, expected: self.kind.name() });
        }
        let size = self.latents.len();
        let at = trajectory.check(self.total(), size)?;
        self.scheduler.recall(memory, Place { first: self.first, done: at.done, size })?;
        (self.done, self.latents, self.clean, self.rng) = (at.done, at.latents, at.clean, rng);
        self.finite = true;
        Ok(())
    }

    /// Samples that the next step puts through the network: 2 where it is guided, the positive one alone elsewhere.
    pub(super) fn samples(&self) -> usize {
        let (step, steps) = self.scheduler.asked_step(self.first, self.done);
        match self.guidance_interval {
            Some(interval) if !interval.contains(step, steps) => 1,
            _ => self.prepared.samples(),
        }
    }

    /// What steers the next step.
    pub(super) fn step_input(&self) -> candle_core::Result<StepInput> {
        self.prepared.at(self.done, self.samples())
    }

    /// The network's input for the next step, one sample: `[in_channels, height, width]`.
    pub(super) fn network_input(&self) -> Vec<f32> {
        let mut input = self.scheduler.scale_input(self.first + self.done, &self.latents);
        if let Inpaint::Channels(more) = &self.inpaint {
            input.extend_from_slice(more);
        }
        input
    }

    /// Goes one step by the network's outputs for this picture's samples, one after the other.
    pub(super) fn take_output(&mut self, outputs: &[f32]) {
        let step = self.first + self.done;
        let output = match self.samples() {
            2 => {
                let (negative, positive) = outputs.split_at(self.latents.len());
                let guide = |(n, p): (&f32, &f32)| n + self.guidance_scale * (p - n);
                negative.iter().zip(positive).map(guide).collect()
            }
            _ => outputs.to_vec(),
        };
        self.clean = self.scheduler.step(step, &output, &mut self.latents, &mut self.rng);
        self.done += 1;
        self.put_back_what_is_kept(step + 1);
        self.finite = self.latents.iter().all(|x| x.is_finite());
    }

    /// As StableDiffusionInpaintPipeline: noised for the next step, clean after the last.
    fn put_back_what_is_kept(&mut self, next: usize) {
        let Inpaint::Blend { mask, clean, noise } = &self.inpaint else {
            return;
        };
        let kept = if next < self.scheduler.timesteps().len() {
            self.scheduler.add_noise(next, clean, noise)
        } else {
            clean.clone()
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

    /// The picture with what the mask keeps.
    pub(super) fn restored(&self, drawn: RgbImage) -> RgbImage {
        match &self.masked {
            Some(source) => source.finished(drawn),
            None => drawn,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device};

    use super::*;
    use crate::diffusion::{families::sd::StableDiffusion, picture::ImageSpec};

    #[test]
    fn pictures_of_one_prompt_share_what_was_computed_of_it() {
        for checkpoint in ["text", "xl", "lcm"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(checkpoint);
            let model = StableDiffusion::load(&folder, &Device::Cpu, DType::F32).unwrap();
            let begin = |prompt: &str, seed, guidance_scale| {
                let spec = ImageSpec {
                    steps: 2,
                    guidance_scale,
                    seed,
                    ..ImageSpec::new(prompt, Source::Text { width: 64, height: 64 })
                };
                model.begin(&spec).unwrap()
            };
            let context = |job: &Denoising| job.prepared.context().clone();
            let first = begin("a red circle", 1, 5.0);
            assert!(Arc::ptr_eq(&context(&first), &context(&begin("a red circle", 2, 5.0))), "{checkpoint}");
            assert!(
                !Arc::ptr_eq(&context(&first), &context(&begin("a blue circle", 1, 5.0))),
                "{checkpoint}"
            );
            let guided = first.prepared.samples() == 2;
            let other = begin("a red circle", 1, 1.0);
            assert_eq!(Arc::ptr_eq(&context(&first), &context(&other)), !guided, "{checkpoint}");
        }
    }
}
