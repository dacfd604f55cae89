//! How the UNet of a Stable Diffusion model is asked.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{
    Networks, Sizes, Variant,
    steer::{self, UNetSteering},
};
use crate::diffusion::{
    DiffusionError,
    autoencoders::LatentShape,
    lora::{LoraSpec, Loras},
    networks::unet::StepInput,
    picture::{Denoiser, ImageSpec, Picture, Plan, Schedule, Source, Steering},
    schedulers::{self, SchedulerConfig, SchedulerKind},
};

/// The networks of a Stable Diffusion model, and what steers them.
pub struct UNetDenoiser {
    pub(super) variant: Variant,
    pub(super) networks: Networks,
    pub(super) loras: Loras<Networks>,
    pub(super) scheduler: SchedulerConfig,
    /// Pixels of a latent along a side.
    pub(super) factor: usize,
    pub(super) device: Device,
    /// What the UNet computes in.
    pub(super) dtype: DType,
}

impl UNetDenoiser {
    /// Text encoders and UNet, as they were loaded.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

    /// The networks with these LoRAs in them, for tools and tests that look at their parts.
    ///
    /// # Errors
    /// A file that cannot be read or is no LoRA of this model.
    pub fn with_loras(&self, loras: &[LoraSpec]) -> Result<Option<Arc<Networks>>, DiffusionError> {
        self.loras.adapt(&self.networks, loras, &[])
    }

    fn refuse_all_but_masks(&self, operation: &str) -> Result<(), DiffusionError> {
        if !self.sees_masks() {
            return Ok(());
        }
        let channels = self.networks.unet.config().in_channels;
        Err(DiffusionError::Operation(format!(
            "this model's UNet takes {channels} channels and does image_inpaint only, not {operation}"
        )))
    }

    fn check_text(&self, width: u32, height: u32) -> Result<(), DiffusionError> {
        self.refuse_all_but_masks("image_generation")?;
        if self.variant.sizes == Some(Sizes::Score) {
            let reason =
                "this model is a refiner and does image_transform and image_inpaint, not image_generation";
            return Err(DiffusionError::Operation(reason.into()));
        }
        let factor = self.factor as u32;
        for (field, side) in [("width", width), ("height", height)] {
            if side == 0 || side % factor != 0 {
                let reason = format!("{side}; it must be a multiple of {factor}");
                return Err(DiffusionError::request(field, reason));
            }
        }
        Ok(())
    }

    /// The method that a request names, or else the checkpoint's own.
    fn kind(&self, spec: &ImageSpec) -> Result<SchedulerKind, DiffusionError> {
        match &spec.scheduler {
            Some(name) => SchedulerKind::from_name(name),
            None => self.scheduler.kind(),
        }
    }
}

impl Denoiser for UNetDenoiser {
    fn sees_masks(&self) -> bool {
        let config = self.networks.unet.config();
        config.in_channels != config.out_channels
    }

    fn check(&self, spec: &ImageSpec, warnings: &mut Vec<String>) -> Result<(), DiffusionError> {
        let (options, kind) = (spec.scheduler_options, self.kind(spec)?);
        let mut ignored = |field: &str, why: &str| {
            warnings.push(format!("`scheduler_options.{field}` was not used: {why}"));
        };
        if kind == SchedulerKind::Lcm && options.timestep_spacing.is_some() {
            ignored("timestep_spacing", "lcm spreads timesteps in its own way");
        }
        if kind != SchedulerKind::Lcm && options.original_inference_steps.is_some() {
            ignored("original_inference_steps", "it is an option of lcm alone");
        }
        match &spec.source {
            Source::Text { width, height } => self.check_text(*width, *height),
            Source::Image { .. } => self.refuse_all_but_masks("image_transform"),
            Source::Inpaint { .. } => Ok(()),
        }
    }

    /// A strength below 1 leaves out the first steps, but for LCM's own pipeline, which takes them all in a part of the
    /// schedule.
    fn schedule(&self, spec: &ImageSpec, _shape: LatentShape) -> Result<Schedule, DiffusionError> {
        let kind = self.kind(spec)?;
        let own = &self.scheduler.with(spec.scheduler_options);
        let scheduler = match (&spec.source, kind) {
            (Source::Image { strength, .. }, SchedulerKind::Lcm) if self.variant.is_consistency_model => {
                let scheduler = schedulers::consistency_from_picture(own, spec.steps, *strength)?;
                return Ok(Schedule { kind, scheduler, first: 0 });
            }
            (Source::Inpaint { .. }, _) if self.variant.changes_scheduler => {
                schedulers::scheduler(kind, &own.for_inpainting(), spec.steps)?
            }
            _ => schedulers::scheduler(kind, own, spec.steps)?,
        };
        let first = match spec.source.strength() {
            Some(strength) => scheduler.first_step(spec.steps as usize, strength)?,
            None => 0,
        };
        Ok(Schedule { kind, scheduler, first })
    }

    fn steer(
        &self,
        plan: &Plan<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Box<dyn Steering>, DiffusionError> {
        Ok(Box::new(steer::steer(self, plan, warnings)?))
    }

    fn predict(&self, pictures: &[&Picture]) -> Result<Vec<Vec<f32>>, DiffusionError> {
        let Some(first) = pictures.first() else {
            return Ok(Vec::new());
        };
        let (_, height, width) = first.shape();
        let unet = &first.steering::<UNetSteering>()?.networks(self).unet;
        let mut input = Vec::new();
        for picture in pictures {
            let sample = picture.network_input();
            (0..picture.samples()).for_each(|_| input.extend_from_slice(&sample));
        }
        let samples = pictures.iter().map(|picture| picture.samples()).sum::<usize>();
        let shape = (samples, unet.config().in_channels, height, width);
        let input = Tensor::from_vec(input, shape, &self.device)?.to_dtype(self.dtype)?;
        let steps = pictures.iter().map(|picture| {
            let steering = picture.steering::<UNetSteering>()?;
            Ok::<_, DiffusionError>(steering.prepared.at(picture.done(), picture.samples())?)
        });
        let output = unet.predict(&input, &StepInput::join(steps.collect::<Result<_, _>>()?)?)?;
        let output = output.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut rest = output.as_slice();
        let each = pictures.iter().map(|picture| {
            let (own, after) = rest.split_at(picture.samples() * picture.latents().len());
            rest = after;
            own.to_vec()
        });
        Ok(each.collect())
    }
}
