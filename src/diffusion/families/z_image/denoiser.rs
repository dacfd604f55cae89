//! How Z-Image's transformer is asked, and what it is told of a picture.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{Networks, latents, prompts::PromptEncoder};
use crate::diffusion::{
    DiffusionError,
    autoencoders::LatentShape,
    lora::Loras,
    networks::z_image::{Caption, PATCH},
    picture::{Denoiser, Form, Guidance, ImageSpec, Picture, Plan, Schedule, Steering},
    schedulers::FlowConfig,
};

/// The networks of a Z-Image model, and what steers them.
pub struct ZImageDenoiser {
    pub(super) prompts: PromptEncoder,
    pub(super) networks: Networks,
    pub(super) loras: Loras<Networks>,
    pub(super) schedule: FlowConfig,
    pub(super) device: Device,
}

/// What the transformer is told at every step of a picture.
struct ZImageSteering {
    /// Of each sample, the negative prompt's first.
    captions: Vec<Caption>,
    /// The model with the LoRAs of this picture; none: as it was loaded.
    adapted: Option<Arc<Networks>>,
}

impl Steering for ZImageSteering {
    fn samples(&self) -> usize {
        self.captions.len()
    }
}

/// Timesteps of training: the network is told how much of them is behind a picture.
const TIMESTEPS: f32 = 1000.0;

impl Denoiser for ZImageDenoiser {
    fn patch(&self) -> usize {
        PATCH
    }

    /// Captions differ in length: each sample goes through the network alone.
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
                "`{}`: Z-Image models read no words of files, `{}` is drawn as it is written",
                word.field, word.name
            ));
        }
        let mut ignored = |field: &str, why: &str| warnings.push(format!("`{field}` was not used: {why}"));
        let unguided = "a `guidance_scale` of 0 or below does not guide";
        if spec.negative_prompt.as_deref().is_some_and(|text| !text.trim().is_empty()) && !guides(spec) {
            ignored("negative_prompt", unguided);
        }
        if spec.guidance_interval.is_some() && !guides(spec) {
            ignored("guidance_interval", unguided);
        }
        if spec.clip_skip > 0 {
            ignored("clip_skip", "Z-Image models have no CLIP");
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

    /// As diffusers has it: the scale is one less than elsewhere, and a model guides from 0 on.
    fn guidance(&self, spec: &ImageSpec) -> Guidance {
        Guidance { form: Form::FromPositive, ..Guidance::of(spec) }
    }

    fn steer(
        &self,
        plan: &Plan<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Box<dyn Steering>, DiffusionError> {
        let spec = plan.spec;
        let adapted = self.loras.adapt(&self.networks, &spec.loras, &[])?;
        let transformer = &adapted.as_deref().unwrap_or(&self.networks).transformer;
        let mut read = |field, text| {
            let words = self.prompts.encode(field, (text, spec.prompt_syntax), warnings)?;
            Ok::<_, DiffusionError>(transformer.read_caption(&words)?)
        };
        let mut captions = vec![read("prompt", spec.prompt.as_str())?];
        if guides(spec) {
            let negative = spec.negative_prompt.as_deref().unwrap_or_default();
            captions.insert(0, read("negative_prompt", negative)?);
        }
        Ok(Box::new(ZImageSteering { captions, adapted }))
    }

    fn predict(&self, pictures: &[&Picture]) -> Result<Vec<Vec<f32>>, DiffusionError> {
        pictures.iter().map(|picture| self.predict_one(picture)).collect()
    }
}

impl ZImageDenoiser {
    fn predict_one(&self, picture: &Picture) -> Result<Vec<f32>, DiffusionError> {
        let ZImageSteering { captions, adapted } = picture.steering()?;
        let transformer = &adapted.as_deref().unwrap_or(&self.networks).transformer;
        let (channels, height, width) = picture.shape();
        let grid = (height / PATCH, width / PATCH);
        let tokens = latents::pack(&picture.network_input(), picture.shape());
        let shape = (1, grid.0 * grid.1, channels * PATCH * PATCH);
        let tokens = Tensor::from_vec(tokens, shape, &self.device)?;
        let time = (TIMESTEPS - picture.timestep()) / TIMESTEPS;
        let mut outputs = Vec::new();
        for caption in &captions[captions.len() - picture.samples()..] {
            let output = transformer.forward(&tokens, grid, caption, time)?;
            let output = output.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            outputs.extend(latents::unpack(&output, picture.shape()).iter().map(|value| -value));
        }
        Ok(outputs)
    }
}

fn guides(spec: &ImageSpec) -> bool {
    spec.guidance_scale > 0.0
}
