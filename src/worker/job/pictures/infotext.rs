//! The parameters of a picture as A1111 writes it (its "infotext") and as the readers of such pictures know it: the
//! prompt, the negative prompt, then one line of `Key: value` pairs.

use std::{borrow::Cow, fmt::Write};

use crate::{
    contract::{JobSource, Masking},
    diffusion::ImageSpec,
    engine::Generated,
};

/// The text. The prompts stand as they were given, with their line breaks; LoRAs follow the
/// prompt in the form that A1111 reads there.
pub fn infotext(source: &JobSource, spec: &ImageSpec, model: &str, picture: &Generated) -> String {
    let mut text = spec.prompt.clone();
    for lora in &spec.loras {
        let _ = write!(text, " <lora:{}:{}>", lora.name, lora.strength);
    }
    if let Some(negative) = spec.negative_prompt.as_deref().filter(|text| !text.is_empty()) {
        let _ = write!(text, "\nNegative prompt: {negative}");
    }
    let (sampler, schedule) = sampler(picture.scheduler);
    let _ = write!(text, "\nSteps: {}, Sampler: {}", spec.steps, quoted(sampler));
    if let Some(schedule) = schedule {
        let _ = write!(text, ", Schedule type: {schedule}");
    }
    let _ = write!(
        text,
        ", CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}",
        spec.guidance_scale,
        picture.seed,
        picture.image.width(),
        picture.image.height(),
        quoted(model),
    );
    if let Some(strength) = spec.source.strength() {
        let _ = write!(text, ", Denoising strength: {strength}");
    }
    if spec.clip_skip > 0 {
        // A1111 counts the last layer as 1, diffusers as 0.
        let _ = write!(text, ", Clip skip: {}", spec.clip_skip + 1);
    }
    if let JobSource::Inpaint { masking, .. } = source {
        write_masking(&mut text, masking);
    }
    text
}

fn write_masking(text: &mut String, masking: &Masking) {
    if masking.blur > 0 {
        let _ = write!(text, ", Mask blur: {}", masking.blur);
    }
    if let Some(crop) = masking.crop {
        let _ = write!(text, ", Inpaint area: Only masked, Masked area padding: {}", crop.padding);
    }
}

/// A1111's names of a scheduler and of the spread of its sigmas; a scheduler that it lacks keeps our name.
fn sampler(scheduler: &str) -> (&str, Option<&'static str>) {
    let (name, schedule) = if let Some(name) = scheduler.strip_suffix("_karras") {
        (name, Some("Karras"))
    } else if let Some(name) = scheduler.strip_suffix("_exponential") {
        (name, Some("Exponential"))
    } else {
        (scheduler, None)
    };
    let name = match name {
        "ddim" => "DDIM",
        "dpmpp_2m" => "DPM++ 2M",
        "dpmpp_2m_sde" => "DPM++ 2M SDE",
        "euler" => "Euler",
        "euler_a" => "Euler a",
        "heun" => "Heun",
        "lcm" => "LCM",
        "pndm" => "PLMS",
        "unipc" => "UniPC",
        other => other,
    };
    (name, schedule)
}

/// A value that would be mistaken for several is written as a JSON string, as A1111 does it.
fn quoted(value: &str) -> Cow<'_, str> {
    match value.contains([',', ':', '\n']) {
        true => serde_json::Value::from(value).to_string().into(),
        false => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::{
        contract::{MaskCrop, MaskSource},
        diffusion::Source,
    };

    fn text(scheduler: &'static str, model: &str, negative: Option<&str>, source: Source) -> String {
        let (width, height) = source.size();
        let spec = ImageSpec {
            negative_prompt: negative.map(str::to_owned),
            guidance_scale: 7.0,
            seed: 7,
            ..ImageSpec::new("a, \"b\": c\nd", source)
        };
        let image = RgbImage::new(width, height);
        let asked = JobSource::Text { width: None, height: None };
        infotext(&asked, &spec, model, &Generated { index: 0, seed: 7, scheduler, image })
    }

    #[test]
    fn prompts_stand_as_given_and_an_empty_one_is_left_out() {
        let text = text("ddim", "shapes", Some(""), Source::Text { width: 64, height: 72 });
        let line = "Steps: 20, Sampler: DDIM, CFG scale: 7, Seed: 7, Size: 64x72, Model: shapes";
        assert_eq!(text, format!("a, \"b\": c\nd\n{line}"));
    }

    #[test]
    fn a_scheduler_is_written_by_a1111_s_names() {
        let source = Source::Image { image: RgbImage::new(8, 8), strength: 0.5 };
        let text = text("dpmpp_2m_sde_karras", "shapes", Some("x"), source);
        assert!(
            text.contains(
                "\nNegative prompt: x\nSteps: 20, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG"
            )
        );
        assert!(text.ends_with("Model: shapes, Denoising strength: 0.5"), "{text}");
    }

    #[test]
    fn a_model_s_name_with_separators_is_quoted() {
        let text = text("ddpm", "org: \"a\", b", None, Source::Text { width: 8, height: 8 });
        assert!(
            text.ends_with(r#"Sampler: ddpm, CFG scale: 7, Seed: 7, Size: 8x8, Model: "org: \"a\", b""#),
            "{text}"
        );
    }

    #[test]
    fn what_a_job_wishes_of_its_mask_is_written_as_a1111_does() {
        let image = crate::contract::ImageInput::Object("inputs/a".into());
        let crop = MaskCrop { padding: 32, width: None, height: None };
        let masking = Masking { blur: 4, crop: Some(crop) };
        let asked = JobSource::Inpaint {
            image: image.clone(),
            mask: MaskSource::Image(image),
            strength: 1.0,
            masking,
        };
        let spec = ImageSpec::new("a", Source::Text { width: 8, height: 8 });
        let picture = Generated { index: 0, seed: 7, scheduler: "ddim", image: RgbImage::new(8, 8) };
        let text = infotext(&asked, &spec, "m", &picture);
        assert!(
            text.ends_with("Model: m, Mask blur: 4, Inpaint area: Only masked, Masked area padding: 32"),
            "{text}"
        );
    }
}
