//! The beginning of a picture: from a request to the first latents.

use super::{
    ImageSpec, Model, Picture, Source,
    denoiser::{Denoiser, Plan, Schedule},
    start::Starter,
    warnings::Warnings,
};
use crate::diffusion::{DiffusionError, noise::TorchRng, ops::ScratchHolder};

/// See [`Model::begin`].
pub(super) fn begin<D: Denoiser + ?Sized>(
    model: &Model<D>,
    spec: &ImageSpec,
) -> Result<Picture, DiffusionError> {
    if !spec.guidance_scale.is_finite() {
        return Err(DiffusionError::request("guidance_scale", "it must be a finite number"));
    }
    let (denoiser, vae) = (model.denoiser(), model.vae());
    let mut warnings = Vec::new();
    denoiser.check(spec, &mut warnings)?;
    check(&spec.source)?;
    let size = spec.source.drawn_size();
    let factor = vae.factor();
    let grain = (factor * denoiser.patch()) as u32;
    let padded = (size.0.next_multiple_of(grain), size.1.next_multiple_of(grain));
    let shape = (vae.latent_channels(), padded.1 as usize / factor, padded.0 as usize / factor);
    let Schedule { kind, scheduler, first } = denoiser.schedule(spec, shape)?;
    let scratch = ScratchHolder::begin();
    let plan = Plan { spec, size: padded, timesteps: &scheduler.timesteps()[first..] };
    let steering = denoiser.steer(&plan, &mut warnings)?;
    let mut starter = Starter {
        vae,
        device: model.device(),
        scheduler: &*scheduler,
        first,
        shape,
        grain,
        sees_masks: denoiser.sees_masks(),
        rng: TorchRng::new(spec.seed),
    };
    let (latents, keep) = starter.start(&spec.source)?;
    Ok(Picture {
        rng: starter.rng,
        kind,
        scheduler,
        clean: latents.clone(),
        finite: latents.iter().all(|x| x.is_finite()),
        latents,
        shape,
        steering,
        guidance: denoiser.guidance(spec),
        first,
        done: 0,
        keep,
        masked: spec.source.masked(),
        size,
        warnings: Warnings::new(warnings),
        _scratch: scratch,
    })
}

/// Refuses sizes and strengths of which there is no picture.
fn check(source: &Source) -> Result<(), DiffusionError> {
    let empty = |(width, height): (u32, u32)| width == 0 || height == 0;
    match source {
        Source::Text { width, height } => {
            let sides = [("width", width), ("height", height)];
            if let Some((field, _)) = sides.into_iter().find(|(_, side)| **side == 0) {
                return Err(DiffusionError::request(field, "a picture has at least one pixel"));
            }
        }
        Source::Image { image, .. } | Source::Inpaint { image, .. } if empty(image.dimensions()) => {
            return Err(DiffusionError::request("init_image", "it has no pixels"));
        }
        Source::Inpaint { image, mask, .. } if mask.dimensions() != image.dimensions() => {
            let reason = format!("{:?} pixels; the picture has {:?}", mask.dimensions(), image.dimensions());
            return Err(DiffusionError::request("mask_image", reason));
        }
        Source::Image { .. } | Source::Inpaint { .. } => {}
    }
    match source.strength() {
        Some(strength) if !(strength > 0.0 && strength <= 1.0) => {
            Err(DiffusionError::request("strength", format!("{strength}; it is above 0 and up to 1")))
        }
        _ => Ok(()),
    }
}
