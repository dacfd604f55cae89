//! How what a mask keeps reaches the latents.

use crate::diffusion::schedulers::Scheduler;

/// What of the input is kept while a picture is drawn.
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Its latents, which are put back after each step, noised as the step asks.
    Blend {
        /// `[height, width]`, 1 where drawn anew.
        mask: Vec<f32>,
        /// The input's latents.
        clean: Vec<f32>,
        /// The noise of the beginning.
        noise: Vec<f32>,
    },
    /// Mask and masked picture's latents as further input channels of the network.
    Channels(Vec<f32>),
}

impl Keep {
    /// As diffusers' inpainting pipelines: noised for the evaluation `next`, clean after the last.
    pub fn put_back(&self, scheduler: &dyn Scheduler, next: usize, latents: &mut [f32]) {
        let Self::Blend { mask, clean, noise } = self else {
            return;
        };
        let kept = if next < scheduler.timesteps().len() {
            scheduler.add_noise(next, clean, noise)
        } else {
            clean.clone()
        };
        for (i, (x, kept)) in latents.iter_mut().zip(&kept).enumerate() {
            let mask = mask[i % mask.len()];
            *x = (1.0 - mask) * kept + mask * *x;
        }
    }
}
