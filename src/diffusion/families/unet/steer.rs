//! What the UNet of a Stable Diffusion model is told of a picture: prompts, and sizes and guidance where it takes them.

use std::sync::Arc;

use candle_core::Tensor;

use super::{Encoded, Networks, Prompts, Sizes, UNetDenoiser};
use crate::diffusion::{
    DiffusionError,
    networks::unet::{Added, Conditioning, Prepared, guidance_embedding},
    picture::{ImageSpec, PassKey, Plan, Steering},
};

/// What diffusers tells SDXL's refiner unless it is asked to tell it something else.
const AESTHETICS_SCORE: f32 = 6.0;
const NEGATIVE_AESTHETICS_SCORE: f32 = 2.5;

/// What was computed of a picture's conditioning, and the networks that it goes through.
pub struct UNetSteering {
    /// Of this picture's samples: one, or two with the negative prompt first.
    pub prepared: Prepared,
    /// The model with the LoRAs of this picture; none: as it was loaded.
    adapted: Option<Arc<Networks>>,
}

impl UNetSteering {
    /// The networks of the picture.
    pub fn networks<'a>(&'a self, model: &'a UNetDenoiser) -> &'a Networks {
        self.adapted.as_deref().unwrap_or(&model.networks)
    }
}

impl Steering for UNetSteering {
    fn samples(&self) -> usize {
        self.prepared.samples()
    }

    fn pass_key(&self) -> PassKey {
        let weights = self.adapted.as_ref().map_or(0, |networks| Arc::as_ptr(networks).addr());
        PassKey { tokens: self.prepared.tokens(), weights }
    }
}

/// See [`Denoiser::steer`](crate::diffusion::picture::Denoiser::steer).
pub fn steer(
    model: &UNetDenoiser,
    plan: &Plan<'_>,
    warnings: &mut Vec<String>,
) -> Result<UNetSteering, DiffusionError> {
    let adapted = model.loras.adapt(&model.networks, &plan.spec.loras, &plan.spec.embeddings)?;
    let networks = adapted.as_deref().unwrap_or(&model.networks);
    let conditioning = condition(model, networks, plan, warnings)?;
    let prepared = networks.unet.prepare(&conditioning, plan.timesteps, model.dtype)?;
    Ok(UNetSteering { prepared, adapted })
}

fn condition(
    model: &UNetDenoiser,
    networks: &Networks,
    plan: &Plan<'_>,
    warnings: &mut Vec<String>,
) -> Result<Conditioning, DiffusionError> {
    let spec: &ImageSpec = plan.spec;
    let distilled = networks.unet.config().time_cond_proj_dim;
    let prompts = Prompts {
        syntax: spec.prompt_syntax,
        positive: &spec.prompt,
        negative: spec.negative_prompt.as_deref(),
        clip_skip: spec.clip_skip,
        guided: spec.guidance_scale > 1.0 && distilled.is_none(),
    };
    let fields = [
        ("guidance_interval", spec.guidance_interval.is_some()),
        ("guidance_rescale", spec.guidance_rescale > 0.0),
    ];
    for (field, _) in fields.into_iter().filter(|(_, is_asked)| *is_asked && !prompts.guided) {
        let why = match distilled {
            Some(_) => "this model has learned its guidance and is guided at every step",
            None => "a `guidance_scale` of 1 or below does not guide",
        };
        warnings.push(format!("`{field}` was not used: {why}"));
    }
    let Encoded { text, pooled, texts } = networks.prompts.encode(&prompts, warnings)?;
    let samples = text.dim(0)?;
    let guidance = match distilled {
        Some(channels) => {
            let embedding = guidance_embedding(spec.guidance_scale, channels);
            Some(Tensor::from_vec(embedding, (1, channels), &model.device)?.repeat((samples, 1))?)
        }
        None => None,
    };
    let added = match (model.variant.sizes, pooled) {
        (Some(sizes), Some(pooled)) => {
            let ids = time_ids(plan.size, sizes, samples);
            let time_ids = Tensor::from_vec(ids.concat(), (samples, ids[0].len()), &model.device)?;
            Some(Added { pooled, time_ids })
        }
        _ => None,
    };
    Ok(Conditioning { text, texts, added, guidance })
}

/// SDXL's micro-conditioning for a picture that is neither scaled nor cropped: original size, corner of the crop, and
/// target size; of the refiner a score in place of the target size. The negative sample comes first.
fn time_ids((width, height): (u32, u32), sizes: Sizes, samples: usize) -> Vec<Vec<f32>> {
    let (height, width) = (height as f32, width as f32);
    if sizes == Sizes::Score {
        let scores = [NEGATIVE_AESTHETICS_SCORE, AESTHETICS_SCORE];
        return scores[2 - samples..].iter().map(|score| vec![height, width, 0.0, 0.0, *score]).collect();
    }
    vec![vec![height, width, 0.0, 0.0, height, width]; samples]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device};

    use super::*;
    use crate::diffusion::{
        families::unet::StableDiffusion,
        picture::{Picture, Source},
    };

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
            let context =
                |picture: &Picture| picture.steering::<UNetSteering>().unwrap().prepared.context().clone();
            let first = begin("a red circle", 1, 5.0);
            assert!(Arc::ptr_eq(&context(&first), &context(&begin("a red circle", 2, 5.0))), "{checkpoint}");
            assert!(
                !Arc::ptr_eq(&context(&first), &context(&begin("a blue circle", 1, 5.0))),
                "{checkpoint}"
            );
            let guided = first.samples() == 2;
            let other = begin("a red circle", 1, 1.0);
            assert_eq!(Arc::ptr_eq(&context(&first), &context(&other)), !guided, "{checkpoint}");
        }
    }
}
