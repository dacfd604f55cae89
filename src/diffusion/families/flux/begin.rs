//! The beginning of a Flux picture: from a request to the first latents, drawing noise in diffusers' order.

use std::borrow::Cow;

use image::{GrayImage, RgbImage};

use super::{
    denoising::{FluxDenoising, Kept},
    latents::{self, Shape},
    model::Flux,
};
use crate::{
    contract::PromptSyntax,
    diffusion::{
        DiffusionError,
        noise::TorchRng,
        ops::ScratchHolder,
        picture::{ImageSpec, Source, Warnings, pixels},
        schedulers::FlowSchedule,
        text::prompt::{Piece, parse},
    },
};

/// The scheduler there is, by its own name and by that of the method.
const SCHEDULERS: [&str; 2] = [FluxDenoising::SCHEDULER, "euler"];

/// See [`Flux::begin`].
pub(super) fn begin(model: &Flux, spec: &ImageSpec) -> Result<FluxDenoising, DiffusionError> {
    let mut warnings = check(model, spec)?;
    let size = spec.source.drawn_size();
    let padded = padded_size(model, size)?;
    let shape = latent_shape(model, padded);
    let tokens = shape.1 / latents::PATCH * (shape.2 / latents::PATCH);
    let schedule = FlowSchedule::new(&model.schedule, spec.steps, tokens)?;
    let first = first_step(schedule.steps(), &spec.source)?;
    let scratch = ScratchHolder::begin();
    let text = model.encode_prompt(&words(spec)?)?;
    warnings.extend(text.warnings);
    let mut rng = TorchRng::new(spec.seed);
    let (latents, kept) = match &spec.source {
        Source::Text { .. } => (rng.normal(shape.0 * shape.1 * shape.2), None),
        Source::Image { image, .. } => {
            let (clean, noise) = encode_picture(model, image, &mut rng)?;
            (schedule.add_noise(first, &clean, &noise), None)
        }
        Source::Inpaint { image, mask, .. } => {
            let (clean, noise) = encode_picture(model, image, &mut rng)?;
            let latents = schedule.add_noise(first, &clean, &noise);
            let mask = latent_mask(model, image, mask)?;
            (latents, Some(Kept { mask, clean, noise }))
        }
    };
    Ok(FluxDenoising {
        finite: latents.iter().all(|x| x.is_finite()),
        clean: latents.clone(),
        latents,
        schedule,
        shape,
        text: text.words,
        pooled: text.pooled,
        guidance_scale: spec.guidance_scale as f32,
        first,
        done: 0,
        kept,
        masked: spec.source.masked(),
        size,
        warnings: Warnings::new(warnings),
        _scratch: scratch,
    })
}

/// The words of the prompt. What has no weights and no breaks says the same in either syntax.
fn words(spec: &ImageSpec) -> Result<Cow<'_, str>, DiffusionError> {
    if spec.prompt_syntax == PromptSyntax::Plain {
        return Ok(Cow::Borrowed(&spec.prompt));
    }
    let pieces = parse(&spec.prompt).map_err(|error| DiffusionError::request("prompt", error.to_string()))?;
    let words = pieces.into_iter().map(|piece| match piece {
        Piece::Text { text, weight: 1.0 } => Some(text),
        Piece::Text { .. } | Piece::Break => None,
    });
    words.collect::<Option<String>>().map(Cow::Owned).ok_or_else(|| {
        let reason = "Flux models read no weights and no BREAK; take them out of the prompt, or set `plain`";
        DiffusionError::request("prompt_syntax", reason)
    })
}

/// Refuses what this family cannot do; warns of what it does not look at.
fn check(model: &Flux, spec: &ImageSpec) -> Result<Vec<String>, DiffusionError> {
    if !spec.guidance_scale.is_finite() {
        return Err(DiffusionError::request("guidance_scale", "it must be a finite number"));
    }
    if let Some(name) = spec.scheduler.as_deref().filter(|name| !SCHEDULERS.contains(name)) {
        let reason = format!("there is no `{name}` for a Flux model; there is: {}", SCHEDULERS.join(" or "));
        return Err(DiffusionError::request("scheduler", reason));
    }
    let mut warnings = Vec::new();
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
    if spec.guidance_scale > 0.0 && !model.takes_guidance() {
        ignored("guidance_scale", "this model was trained without one");
    }
    Ok(warnings)
}

/// As diffusers' `get_timesteps` for flow models: the steps left out are rounded down, so that one is always run.
fn first_step(steps: usize, source: &Source) -> Result<usize, DiffusionError> {
    let Some(strength) = source.strength() else {
        return Ok(0);
    };
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(DiffusionError::request("strength", format!("{strength}; it is above 0 and up to 1")));
    }
    let run = (steps as f64 * strength).min(steps as f64);
    Ok(((steps as f64 - run) as usize).min(steps - 1))
}

/// Both sides grown to whole tokens; what was added to the right and below is cut off at the end.
fn padded_size(model: &Flux, (width, height): (u32, u32)) -> Result<(u32, u32), DiffusionError> {
    for (field, side) in [("width", width), ("height", height)] {
        if side == 0 {
            return Err(DiffusionError::request(field, "a picture has at least one pixel"));
        }
    }
    let factor = token_pixels(model);
    Ok((width.next_multiple_of(factor), height.next_multiple_of(factor)))
}

/// Pixels of a token along a side.
fn token_pixels(model: &Flux) -> u32 {
    (model.vae().factor() * latents::PATCH) as u32
}

fn latent_shape(model: &Flux, (width, height): (u32, u32)) -> Shape {
    let vae = model.vae();
    (vae.latent_channels(), height as usize / vae.factor(), width as usize / vae.factor())
}

/// The latents of a picture grown to whole tokens, and noise for them, drawn in this order.
fn encode_picture(
    model: &Flux,
    image: &RgbImage,
    rng: &mut TorchRng,
) -> Result<(Vec<f32>, Vec<f32>), DiffusionError> {
    let padded = pixels::pad_rgb(image, token_pixels(model));
    let planes = pixels::to_planes(&padded);
    let clean = model.vae().sample(&planes, padded.dimensions(), &model.device, rng)?;
    let noise = rng.normal(clean.len());
    Ok((clean, noise))
}

/// diffusers encodes the masked picture too, after the noise: it is not used, and nothing is drawn after it.
fn latent_mask(model: &Flux, image: &RgbImage, mask: &GrayImage) -> Result<Vec<f32>, DiffusionError> {
    if mask.dimensions() != image.dimensions() {
        let reason = format!("{:?} pixels; the picture has {:?}", mask.dimensions(), image.dimensions());
        return Err(DiffusionError::request("mask_image", reason));
    }
    let padded = pixels::pad_mask(mask, token_pixels(model));
    Ok(pixels::latent_mask(&padded, model.vae().factor() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(steps: usize, strength: f64) -> usize {
        first_step(steps, &Source::Image { image: RgbImage::new(1, 1), strength }).unwrap()
    }

    #[test]
    fn a_strength_leaves_out_whole_steps_only_and_at_least_one_is_run() {
        assert_eq!([first(4, 1.0), first(4, 0.6), first(4, 0.5), first(28, 0.7)], [0, 1, 2, 8]);
        assert_eq!([first(4, 0.01), first(1, 0.3)], [3, 0]);
    }
}
