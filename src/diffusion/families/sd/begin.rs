//! The beginning of a picture: from a request to the first latents, drawing noise in diffusers' order.

use candle_core::Tensor;
use image::{GrayImage, RgbImage};

use super::{Denoising, Encoded, Family, Networks, Prompts, StableDiffusion, denoising::Inpaint};
use crate::diffusion::{
    DiffusionError,
    autoencoders::Autoencoder,
    networks::unet::{Added, Conditioning, guidance_embedding},
    noise::TorchRng,
    ops::ScratchHolder,
    picture::{ImageSpec, Source, Warnings, pixels},
    schedulers::{self, Scheduler, SchedulerKind},
};

/// What diffusers tells SDXL's refiner unless it is asked to tell it something else.
const AESTHETICS_SCORE: f32 = 6.0;
const NEGATIVE_AESTHETICS_SCORE: f32 = 2.5;

/// What a source leads to.
struct Start {
    latents: Vec<f32>,
    shape: (usize, usize, usize),
    size: (u32, u32),
    inpaint: Inpaint,
}

/// See [`StableDiffusion::begin`].
pub(super) fn begin(model: &StableDiffusion, spec: &ImageSpec) -> Result<Denoising, DiffusionError> {
    if !spec.guidance_scale.is_finite() {
        return Err(DiffusionError::request("guidance_scale", "it must be a finite number"));
    }
    let kind = match &spec.scheduler {
        Some(name) => SchedulerKind::from_name(name)?,
        None => model.default_scheduler()?,
    };
    let (scheduler, first) = schedule(model, kind, spec)?;
    let scratch = ScratchHolder::begin();
    let adapted = model.loras.adapt(&model.networks, &spec.loras)?;
    let networks = adapted.as_deref().unwrap_or(&model.networks);
    let mut rng = TorchRng::new(spec.seed);
    let start = match &spec.source {
        Source::Text { width, height } => from_noise(model, *width, *height, &*scheduler, &mut rng)?,
        Source::Image { image, .. } => from_image(model, image, &*scheduler, first, &mut rng)?,
        Source::Inpaint { image, mask, strength, .. } => {
            let full = *strength >= 1.0;
            from_masked_image(model, (image, mask), full, &*scheduler, first, &mut rng)?
        }
    };
    let mut warnings = Vec::new();
    let conditioning = condition(model, networks, spec, start.shape, &mut warnings)?;
    let prepared = networks.unet.prepare(&conditioning, &scheduler.timesteps()[first..], model.dtype)?;
    Ok(Denoising {
        kind,
        scheduler,
        rng,
        clean: start.latents.clone(),
        finite: start.latents.iter().all(|x| x.is_finite()),
        latents: start.latents,
        shape: start.shape,
        prepared,
        adapted,
        guidance_scale: spec.guidance_scale as f32,
        guidance_interval: spec.guidance_interval,
        first,
        done: 0,
        inpaint: start.inpaint,
        masked: spec.source.masked(),
        size: start.size,
        warnings: Warnings::new(warnings),
        _scratch: scratch,
    })
}

/// The scheduler, and the evaluation of it that the picture begins with: a strength below 1 leaves out the first steps,
/// but for LCM's own pipeline, which takes them all in a part of the schedule.
fn schedule(
    model: &StableDiffusion,
    kind: SchedulerKind,
    spec: &ImageSpec,
) -> Result<(Box<dyn Scheduler>, usize), DiffusionError> {
    let strength = spec.source.strength();
    if let Some(strength) = strength.filter(|strength| !(*strength > 0.0 && *strength <= 1.0)) {
        return Err(DiffusionError::request("strength", format!("{strength}; it is above 0 and up to 1")));
    }
    let scheduler = match (model.family, &spec.source, kind) {
        (
            Family::StableDiffusion { consistency: true },
            Source::Image { strength, .. },
            SchedulerKind::Lcm,
        ) => {
            let scheduler = schedulers::consistency_from_picture(&model.scheduler, spec.steps, *strength)?;
            return Ok((scheduler, 0));
        }
        (Family::StableDiffusion { .. }, Source::Inpaint { .. }, _) => {
            schedulers::scheduler(kind, &model.scheduler.for_inpainting(), spec.steps)?
        }
        _ => schedulers::scheduler(kind, &model.scheduler, spec.steps)?,
    };
    let first = strength.map_or(Ok(0), |strength| first_step(spec.steps as usize, strength))?;
    let first = first * scheduler.order();
    Ok((scheduler, first))
}

/// As diffusers' `get_timesteps`.
fn first_step(steps: usize, strength: f64) -> Result<usize, DiffusionError> {
    let run = ((steps as f64 * strength) as usize).min(steps);
    if run == 0 {
        let reason = format!("{strength} of {steps} `steps` leaves no step; raise either");
        return Err(DiffusionError::request("strength", reason));
    }
    Ok(steps - run)
}

/// What the network is told of the prompts, and of sizes and guidance where it takes them. `shape` is the latents'.
fn condition(
    model: &StableDiffusion,
    networks: &Networks,
    spec: &ImageSpec,
    shape: (usize, usize, usize),
    warnings: &mut Vec<String>,
) -> Result<Conditioning, DiffusionError> {
    let distilled = model.unet().config().time_cond_proj_dim;
    let prompts = Prompts {
        syntax: spec.prompt_syntax,
        positive: &spec.prompt,
        negative: spec.negative_prompt.as_deref(),
        clip_skip: spec.clip_skip,
        guided: spec.guidance_scale > 1.0 && distilled.is_none(),
    };
    if spec.guidance_interval.is_some() && !prompts.guided {
        let why = match distilled {
            Some(_) => "this model has learned its guidance and is guided at every step",
            None => "a `guidance_scale` of 1 or below does not guide",
        };
        warnings.push(format!("`guidance_interval` was not used: {why}"));
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
    let added = match (model.family, pooled) {
        (Family::Xl { aesthetics_score, .. }, Some(pooled)) => {
            let factor = model.vae.factor();
            let ids = time_ids(shape.1 * factor, shape.2 * factor, aesthetics_score, samples);
            let time_ids = Tensor::from_vec(ids.concat(), (samples, ids[0].len()), &model.device)?;
            Some(Added { pooled, time_ids })
        }
        _ => None,
    };
    Ok(Conditioning { text, texts, added, guidance })
}

/// SDXL's micro-conditioning for a picture that is neither scaled nor cropped: original size, corner of the crop, and
/// target size; of the refiner a score in place of the target size. The negative sample comes first.
fn time_ids(height: usize, width: usize, aesthetics_score: bool, samples: usize) -> Vec<Vec<f32>> {
    let (height, width) = (height as f32, width as f32);
    if aesthetics_score {
        let scores = [NEGATIVE_AESTHETICS_SCORE, AESTHETICS_SCORE];
        return scores[2 - samples..].iter().map(|score| vec![height, width, 0.0, 0.0, *score]).collect();
    }
    vec![vec![height, width, 0.0, 0.0, height, width]; samples]
}

fn from_noise(
    model: &StableDiffusion,
    width: u32,
    height: u32,
    scheduler: &dyn Scheduler,
    rng: &mut TorchRng,
) -> Result<Start, DiffusionError> {
    only_latents_in(model, "image_generation")?;
    if matches!(model.family, Family::Xl { aesthetics_score: true, .. }) {
        let reason =
            "this model is a refiner and does image_transform and image_inpaint, not image_generation";
        return Err(DiffusionError::Operation(reason.into()));
    }
    let factor = model.vae.factor() as u32;
    for (field, side) in [("width", width), ("height", height)] {
        if side == 0 || side % factor != 0 {
            return Err(DiffusionError::request(field, format!("{side}; it must be a multiple of {factor}")));
        }
    }
    let shape = latent_shape(model, width, height);
    let noise = rng.normal(shape.0 * shape.1 * shape.2);
    Ok(Start {
        latents: scaled(&noise, scheduler.initial_scale()),
        shape,
        size: (width, height),
        inpaint: Inpaint::None,
    })
}

/// As StableDiffusionImg2ImgPipeline: the latents are drawn first, then the noise.
fn from_image(
    model: &StableDiffusion,
    image: &RgbImage,
    scheduler: &dyn Scheduler,
    first: usize,
    rng: &mut TorchRng,
) -> Result<Start, DiffusionError> {
    only_latents_in(model, "image_transform")?;
    not_empty(image)?;
    let padded = pixels::pad_rgb(image, model.vae.factor() as u32);
    let clean = model.vae.sample(&pixels::to_planes(&padded), padded.dimensions(), &model.device, rng)?;
    let noise = rng.normal(clean.len());
    Ok(Start {
        latents: scheduler.add_noise(first, &clean, &noise),
        shape: latent_shape(model, padded.width(), padded.height()),
        size: image.dimensions(),
        inpaint: Inpaint::None,
    })
}

/// As StableDiffusionInpaintPipeline, for UNets of 4 input channels and of 9.
fn from_masked_image(
    model: &StableDiffusion,
    (image, mask): (&RgbImage, &GrayImage),
    full_strength: bool,
    scheduler: &dyn Scheduler,
    first: usize,
    rng: &mut TorchRng,
) -> Result<Start, DiffusionError> {
    not_empty(image)?;
    if mask.dimensions() != image.dimensions() {
        let reason = format!("{:?} pixels; the picture has {:?}", mask.dimensions(), image.dimensions());
        return Err(DiffusionError::request("mask_image", reason));
    }
    let factor = model.vae.factor() as u32;
    let padded = pixels::pad_rgb(image, factor);
    let padded_mask = pixels::pad_mask(mask, factor);
    let latent_mask = pixels::latent_mask(&padded_mask, factor);
    let shape = latent_shape(model, padded.width(), padded.height());
    let blends = takes_latents_only(model);
    let clean = match blends || !full_strength {
        true => {
            Some(model.vae.sample(&pixels::to_planes(&padded), padded.dimensions(), &model.device, rng)?)
        }
        false => None,
    };
    let noise = rng.normal(shape.0 * shape.1 * shape.2);
    let latents = match &clean {
        Some(clean) if !full_strength => scheduler.add_noise(first, clean, &noise),
        _ => scaled(&noise, scheduler.initial_scale()),
    };
    let inpaint = match clean.filter(|_| blends) {
        Some(clean) => {
            // diffusers encodes the masked picture for these UNets too: unused, but it draws from the generator.
            if matches!(model.vae, Autoencoder::Kl(_)) {
                rng.normal(noise.len());
            }
            Inpaint::Blend { mask: latent_mask, clean, noise }
        }
        None => {
            let planes = pixels::to_masked_planes(&padded, &padded_mask);
            let masked = model.vae.sample(&planes, padded.dimensions(), &model.device, rng)?;
            Inpaint::Channels([latent_mask, masked].concat())
        }
    };
    Ok(Start { latents, shape, size: image.dimensions(), inpaint })
}

fn takes_latents_only(model: &StableDiffusion) -> bool {
    model.unet().config().in_channels == model.unet().config().out_channels
}

fn only_latents_in(model: &StableDiffusion, operation: &str) -> Result<(), DiffusionError> {
    if takes_latents_only(model) {
        return Ok(());
    }
    let channels = model.unet().config().in_channels;
    Err(DiffusionError::Operation(format!(
        "this model's UNet takes {channels} channels and does image_inpaint only, not {operation}"
    )))
}

fn not_empty(image: &RgbImage) -> Result<(), DiffusionError> {
    match image.dimensions() {
        (0, _) | (_, 0) => Err(DiffusionError::request("init_image", "it has no pixels")),
        _ => Ok(()),
    }
}

fn latent_shape(model: &StableDiffusion, width: u32, height: u32) -> (usize, usize, usize) {
    let factor = model.vae.factor();
    (model.vae.latent_channels(), height as usize / factor, width as usize / factor)
}

fn scaled(values: &[f32], scale: f32) -> Vec<f32> {
    values.iter().map(|value| value * scale).collect()
}
