//! The beginning of a picture: from a request to the first latents, drawing noise in diffusers' order.

use std::sync::atomic::AtomicBool;

use candle_core::{DType, Tensor};
use image::{GrayImage, RgbImage};

use super::{
    Denoising, DiffusionError, ImageSpec, Source, StableDiffusion,
    denoising::{Inpaint, Restore},
    noise::TorchRng,
    picture,
    schedulers::{self, Scheduler, SchedulerKind},
};
use crate::contract::PromptSyntax;

/// What a source leads to.
struct Start {
    latents: Vec<f32>,
    shape: (usize, usize, usize),
    size: (u32, u32),
    inpaint: Inpaint,
    restore: Option<Restore>,
}

/// See [`StableDiffusion::begin`].
pub(super) fn begin(model: &StableDiffusion, spec: &ImageSpec) -> Result<Denoising, DiffusionError> {
    if spec.prompt_syntax != PromptSyntax::Plain {
        return Err(DiffusionError::request("prompt_syntax", "only `plain` is read here"));
    }
    if !spec.guidance_scale.is_finite() {
        return Err(DiffusionError::request("guidance_scale", "it must be a finite number"));
    }
    let kind = match &spec.scheduler {
        Some(name) => SchedulerKind::from_name(name)?,
        None => model.default_scheduler()?,
    };
    let scheduler = schedulers::scheduler(kind, &model.scheduler, spec.steps)?;
    let first = first_step(scheduler.timesteps().len(), &spec.source)?;
    let mut warnings = Vec::new();
    let text = encode_text(model, spec, &mut warnings)?;
    let mut rng = TorchRng::new(spec.seed);
    let start = match &spec.source {
        Source::Text { width, height } => from_noise(model, *width, *height, &*scheduler, &mut rng)?,
        Source::Image { image, .. } => from_image(model, image, &*scheduler, first, &mut rng)?,
        Source::Inpaint { image, mask, strength } => {
            let full = *strength >= 1.0;
            from_masked_image(model, (image, mask), full, &*scheduler, first, &mut rng)?
        }
    };
    Ok(Denoising {
        kind,
        scheduler,
        rng,
        clean: start.latents.clone(),
        finite: start.latents.iter().all(|x| x.is_finite()),
        latents: start.latents,
        shape: start.shape,
        text,
        guidance_scale: spec.guidance_scale as f32,
        first,
        done: 0,
        inpaint: start.inpaint,
        restore: start.restore,
        size: start.size,
        warnings,
        decoded_in_f32: AtomicBool::new(false),
    })
}

/// As diffusers' `get_timesteps`: a strength below 1 leaves out the first steps.
fn first_step(steps: usize, source: &Source) -> Result<usize, DiffusionError> {
    let strength = match source {
        Source::Text { .. } => return Ok(0),
        Source::Image { strength, .. } | Source::Inpaint { strength, .. } => *strength,
    };
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(DiffusionError::request("strength", format!("{strength}; it is above 0 and up to 1")));
    }
    let run = ((steps as f64 * strength) as usize).min(steps);
    if run == 0 {
        let reason = format!("{strength} of {steps} `steps` leaves no step; raise either");
        return Err(DiffusionError::request("strength", reason));
    }
    Ok(steps - run)
}

/// `[1, tokens, width]`, or with guidance `[2, ..]`, the negative prompt first. As in diffusers, `clip_skip` is for
/// the prompt only.
fn encode_text(
    model: &StableDiffusion,
    spec: &ImageSpec,
    warnings: &mut Vec<String>,
) -> Result<Tensor, DiffusionError> {
    let layers = model.text_encoder.layers();
    let clip_skip = spec.clip_skip as usize;
    if clip_skip > layers {
        let reason = format!("{clip_skip}; the text encoder has {layers} layers");
        return Err(DiffusionError::request("clip_skip", reason));
    }
    let mut tokens = |field: &str, text: &str| {
        let tokens = model.tokenizer.encode(text)?;
        if let Some(cut) = tokens.cut {
            let length = model.tokenizer.length();
            warnings.push(format!("`{field}` was cut at {length} tokens; left out: {cut}"));
        }
        Ok::<_, DiffusionError>(tokens.ids)
    };
    let positive = model.text_encoder.forward(&[tokens("prompt", &spec.prompt)?], clip_skip)?;
    if spec.guidance_scale <= 1.0 {
        return Ok(positive);
    }
    let negative = tokens("negative_prompt", spec.negative_prompt.as_deref().unwrap_or(""))?;
    let negative = model.text_encoder.forward(&[negative], 0)?;
    Ok(Tensor::cat(&[negative, positive], 0)?)
}

fn from_noise(
    model: &StableDiffusion,
    width: u32,
    height: u32,
    scheduler: &dyn Scheduler,
    rng: &mut TorchRng,
) -> Result<Start, DiffusionError> {
    only_latents_in(model, "image_generation")?;
    let factor = model.vae.config().factor() as u32;
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
        restore: None,
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
    let padded = picture::pad_rgb(image, model.vae.config().factor() as u32);
    let clean = encode_picture(model, &picture::to_planes(&padded), padded.dimensions(), rng)?;
    let noise = rng.normal(clean.len());
    Ok(Start {
        latents: scheduler.add_noise(first, &clean, &noise),
        shape: latent_shape(model, padded.width(), padded.height()),
        size: image.dimensions(),
        inpaint: Inpaint::None,
        restore: None,
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
    let factor = model.vae.config().factor() as u32;
    let padded = picture::pad_rgb(image, factor);
    let padded_mask = picture::pad_mask(mask, factor);
    let latent_mask = picture::latent_mask(&padded_mask, factor);
    let shape = latent_shape(model, padded.width(), padded.height());
    let blends = takes_latents_only(model);
    let clean = match blends || !full_strength {
        true => Some(encode_picture(model, &picture::to_planes(&padded), padded.dimensions(), rng)?),
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
            rng.normal(noise.len());
            Inpaint::Blend { mask: latent_mask, clean, noise }
        }
        None => {
            let planes = picture::to_masked_planes(&padded, &padded_mask);
            let masked = encode_picture(model, &planes, padded.dimensions(), rng)?;
            Inpaint::Channels([latent_mask, masked].concat())
        }
    };
    let restore = Some(Restore { image: image.clone(), mask: mask.clone() });
    Ok(Start { latents, shape, size: image.dimensions(), inpaint, restore })
}

/// A sample of a picture's latents, scaled: `[channels, height, width]`.
fn encode_picture(
    model: &StableDiffusion,
    planes: &[f32],
    (width, height): (u32, u32),
    rng: &mut TorchRng,
) -> Result<Vec<f32>, DiffusionError> {
    let shape = (1, 3, height as usize, width as usize);
    let picture = Tensor::from_slice(planes, shape, &model.device)?.to_dtype(model.vae.dtype())?;
    let moments = model.vae.encode(&picture)?;
    let flat = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (mean, std) = (flat(moments.mean)?, flat(moments.std)?);
    let noise = rng.normal(mean.len());
    let config = model.vae.config();
    let (scale, shift) = (config.scaling_factor as f32, config.shift_factor as f32);
    let sample = mean.iter().zip(&std).zip(&noise).map(|((mean, std), noise)| mean + std * noise);
    Ok(sample.map(|x| scale * (x - shift)).collect())
}

fn takes_latents_only(model: &StableDiffusion) -> bool {
    model.unet.config().in_channels == model.unet.config().out_channels
}

fn only_latents_in(model: &StableDiffusion, operation: &str) -> Result<(), DiffusionError> {
    if takes_latents_only(model) {
        return Ok(());
    }
    let channels = model.unet.config().in_channels;
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
    let factor = model.vae.config().factor();
    (model.vae.config().latent_channels, height as usize / factor, width as usize / factor)
}

fn scaled(values: &[f32], scale: f32) -> Vec<f32> {
    values.iter().map(|value| value * scale).collect()
}
