//! How Flux's transformer is asked, and what it is told of a picture.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{
    Networks,
    latents::{self, PATCH},
};
use crate::diffusion::{
    DiffusionError,
    autoencoders::LatentShape,
    lora::Loras,
    networks::flux::TransformerInput,
    picture::{Denoiser, ImageSpec, PassKey, Picture, Plan, Schedule, Steering},
    schedulers::FlowConfig,
    text::prompt::words_alone,
};

/// The networks of a Flux model, and what steers them.
pub struct FluxDenoiser {
    pub(super) networks: Networks,
    pub(super) loras: Loras<Networks>,
    pub(super) schedule: FlowConfig,
    pub(super) device: Device,
}

/// What the transformer is told at every step of a picture.
struct FluxSteering {
    /// `[1, words, width]` from T5.
    text: Tensor,
    /// `[1, width]` from CLIP.
    pooled: Tensor,
    guidance_scale: f32,
    /// The model with the LoRAs of this picture; none: as it was loaded.
    adapted: Option<Arc<Networks>>,
}

impl Steering for FluxSteering {
    fn pass_key(&self) -> PassKey {
        let weights = self.adapted.as_ref().map_or(0, |networks| Arc::as_ptr(networks).addr());
        PassKey { tokens: 0, weights }
    }
}

/// Timesteps of training for how much of a picture is noise, which the transformer is told.
const TIMESTEPS: f32 = 1000.0;

impl Denoiser for FluxDenoiser {
    fn patch(&self) -> usize {
        PATCH
    }

    /// Each picture is alone, so that its bits do not depend on its company.
    fn largest_pass_on_cpu(&self) -> usize {
        0
    }

    fn check(&self, spec: &ImageSpec, warnings: &mut Vec<String>) -> Result<(), DiffusionError> {
        if !spec.scheduler_options.is_empty() {
            let reason = "a model that was trained by flow matching takes none of these options";
            return Err(DiffusionError::request("scheduler_options", reason));
        }
        if let Some(word) = spec.embeddings.first() {
            warnings.push(format!(
                "`{}`: Flux models read no words of files, `{}` is drawn as it is written",
                word.field, word.name
            ));
        }
        let mut ignored = |field: &str, why: &str| warnings.push(format!("`{field}` was not used: {why}"));
        if spec.negative_prompt.as_deref().is_some_and(|text| !text.trim().is_empty()) {
            ignored("negative_prompt", "Flux models have no unconditional pass");
        }
        if spec.clip_skip > 0 {
            ignored("clip_skip", "Flux models take the last layer of CLIP");
        }
        if spec.guidance_interval.is_some() {
            ignored("guidance_interval", "Flux models have no unconditional pass that could be left out");
        }
        if spec.guidance_scale > 0.0 && !self.networks.transformer.config().guidance {
            ignored("guidance_scale", "this model was trained without one");
        }
        Ok(())
    }

    fn schedule(
        &self,
        spec: &ImageSpec,
        (_, height, width): LatentShape,
    ) -> Result<Schedule, DiffusionError> {
        Schedule::along_flow(&self.schedule, spec, height / PATCH * (width / PATCH))
    }

    fn steer(
        &self,
        plan: &Plan<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Box<dyn Steering>, DiffusionError> {
        let adapted = self.loras.adapt(&self.networks, &plan.spec.loras, &[])?;
        let networks = adapted.as_deref().unwrap_or(&self.networks);
        let text =
            networks.prompts.encode(&words_alone("prompt", &plan.spec.prompt, plan.spec.prompt_syntax)?)?;
        warnings.extend(text.warnings);
        let guidance_scale = plan.spec.guidance_scale as f32;
        Ok(Box::new(FluxSteering { text: text.words, pooled: text.pooled, guidance_scale, adapted }))
    }

    fn predict(&self, pictures: &[&Picture]) -> Result<Vec<Vec<f32>>, DiffusionError> {
        let Some(shape) = pictures.first().map(|picture| picture.shape()) else {
            return Ok(Vec::new());
        };
        let steering =
            pictures.iter().map(|picture| picture.steering()).collect::<Result<Vec<&FluxSteering>, _>>()?;
        let grid = (shape.1 / PATCH, shape.2 / PATCH);
        let tokens: Vec<f32> =
            pictures.iter().flat_map(|picture| latents::pack(&picture.network_input(), shape)).collect();
        let size = (pictures.len(), grid.0 * grid.1, shape.0 * PATCH * PATCH);
        let each = |tensor: fn(&FluxSteering) -> &Tensor| {
            Tensor::cat(&steering.iter().map(|picture| tensor(picture)).collect::<Vec<_>>(), 0)
        };
        // Pictures of one pass have the same LoRAs.
        let networks = steering[0].adapted.as_deref().unwrap_or(&self.networks);
        let velocity = networks.transformer.forward(&TransformerInput {
            latents: &Tensor::from_vec(tokens, size, &self.device)?,
            text: &each(|picture| &picture.text)?,
            pooled: &each(|picture| &picture.pooled)?,
            sigmas: &pictures.iter().map(|picture| picture.timestep() / TIMESTEPS).collect::<Vec<_>>(),
            guidance: &steering.iter().map(|picture| picture.guidance_scale).collect::<Vec<_>>(),
            grid,
        })?;
        let velocity = velocity.to_dtype(DType::F32)?.flatten_from(1)?.to_vec2::<f32>()?;
        Ok(velocity.iter().map(|velocity| latents::unpack(velocity, shape)).collect())
    }
}
