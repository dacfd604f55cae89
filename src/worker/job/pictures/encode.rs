//! A finished picture as a file, with its parameters as A1111 writes them: PNG, JPEG, lossless WebP.
//! The same request with the same seed gives the same bytes: no time, no job id, no worker id.

use bytes::Bytes;
use image::{
    ExtendedColorType, ImageEncoder, RgbImage, codecs::jpeg::JpegEncoder, codecs::webp::WebPEncoder,
};
use sha2::{Digest, Sha256};

use super::{
    exif::{user_comment, user_comment_of_jpeg},
    infotext::infotext,
};
use crate::{
    contract::{Job, JobSource, MaskSource, OutputFormat, hex},
    diffusion::ImageSpec,
    engine::Generated,
};

/// The text chunk that A1111 and its readers know.
const A1111_KEYWORD: &str = "parameters";
/// The text chunk with the request as JSON.
const REQUEST_KEYWORD: &str = "sd-worker-rbee";
/// JPEG quality of previews.
const PREVIEW_QUALITY: u8 = 75;

/// An encoded picture.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The file.
    pub bytes: Bytes,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
}

/// A picture that could not be encoded: a defect, or no memory.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The PNG encoder failed.
    #[error("encoding PNG: {0}")]
    Png(#[from] png::EncodingError),
    /// The JPEG or WebP encoder failed.
    #[error("encoding: {0}")]
    Image(#[from] image::ImageError),
}

/// Encodes a picture in the job's format. Takes milliseconds: for a blocking thread.
///
/// # Errors
/// [`EncodeError`] when the encoder fails.
pub fn encode(job: &Job, spec: &ImageSpec, model: &str, picture: &Generated) -> Result<Encoded, EncodeError> {
    let bytes = match job.format {
        OutputFormat::Png => png(&picture.image, &texts(job, spec, model, picture))?,
        OutputFormat::Jpeg => jpeg(
            &picture.image,
            job.quality,
            user_comment_of_jpeg(&infotext(&job.source, spec, model, picture)),
        )?,
        OutputFormat::Webp => {
            webp(&picture.image, user_comment(&infotext(&job.source, spec, model, picture)))?
        }
    };
    let sha256 = hex(&Sha256::digest(&bytes));
    Ok(Encoded { bytes: bytes.into(), sha256 })
}

/// A preview as JPEG.
///
/// # Errors
/// [`EncodeError`] when the encoder fails.
pub fn encode_preview(image: &RgbImage) -> Result<Vec<u8>, EncodeError> {
    Ok(jpeg(image, PREVIEW_QUALITY, None)?)
}

fn jpeg(image: &RgbImage, quality: u8, exif: Option<Vec<u8>>) -> Result<Vec<u8>, image::ImageError> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    if let Some(exif) = exif {
        encoder.set_exif_metadata(exif).map_err(image::ImageError::Unsupported)?;
    }
    encoder.encode_image(image)?;
    Ok(bytes)
}

fn webp(image: &RgbImage, exif: Vec<u8>) -> Result<Vec<u8>, image::ImageError> {
    let mut bytes = Vec::new();
    let mut encoder = WebPEncoder::new_lossless(&mut bytes);
    encoder.set_exif_metadata(exif).map_err(image::ImageError::Unsupported)?;
    encoder.write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

fn png(image: &RgbImage, texts: &[(&str, String)]) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    for (keyword, text) in texts {
        // tEXt is Latin-1; what is beyond it goes into iTXt, as Pillow does it for A1111.
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk((*keyword).to_owned(), text.clone())?;
        } else {
            encoder.add_itxt_chunk((*keyword).to_owned(), text.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()?;
    Ok(bytes)
}

fn texts(job: &Job, spec: &ImageSpec, model: &str, picture: &Generated) -> [(&'static str, String); 2] {
    let request = request_json(job, spec, model, picture);
    [(A1111_KEYWORD, infotext(&job.source, spec, model, picture)), (REQUEST_KEYWORD, request.to_string())]
}

/// The request that draws this one picture again. Inputs are left out: they are pictures themselves.
fn request_json(job: &Job, spec: &ImageSpec, model: &str, picture: &Generated) -> serde_json::Value {
    let mut request = serde_json::json!({
        "operation": job.capability().operation(),
        "model": model,
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "prompt_syntax": spec.prompt_syntax,
        "clip_skip": spec.clip_skip,
        "steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "seed": picture.seed,
        "scheduler": picture.scheduler,
    });
    if let Some(interval) = spec.guidance_interval {
        request["guidance_interval"] = interval.bounds().into_iter().collect();
    }
    if spec.guidance_rescale > 0.0 {
        request["guidance_rescale"] = spec.guidance_rescale.into();
    }
    if !spec.scheduler_options.is_empty() {
        request["scheduler_options"] = serde_json::json!(spec.scheduler_options);
    }
    if !spec.loras.is_empty() {
        let loras =
            spec.loras.iter().map(|lora| serde_json::json!({"path": lora.name, "strength": lora.strength}));
        request["loras"] = loras.collect();
    }
    if let JobSource::Inpaint { masking, mask, .. } = &job.source {
        if let MaskSource::Pointing(pointing) = mask {
            pointing.write_into(&mut request);
        }
        if masking.blur > 0 {
            request["mask_blur"] = masking.blur.into();
        }
        if let Some(crop) = masking.crop {
            let (width, height) = spec.source.drawn_size();
            request["padding_mask_crop"] = crop.padding.into();
            (request["width"], request["height"]) = (width.into(), height.into());
        }
    }
    match spec.source.strength() {
        Some(strength) => request["strength"] = strength.into(),
        None => {
            request["width"] = picture.image.width().into();
            request["height"] = picture.image.height().into();
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageDecoder, ImageReader, Rgb};

    use super::*;
    use crate::{
        contract::{Capability, Limits, Operation},
        diffusion::{LoraSpec, Source},
    };

    fn encoded(body: &str) -> (Encoded, RgbImage) {
        let operation = Operation::parse(Some(Capability::Generate), body.as_bytes()).unwrap();
        let job = Job::new(operation, &Limits::default()).unwrap();
        let spec = ImageSpec {
            negative_prompt: job.negative_prompt.clone(),
            prompt_syntax: job.prompt_syntax,
            clip_skip: 1,
            guidance_interval: job.guidance_interval,
            guidance_rescale: job.guidance_rescale,
            seed: job.seed,
            loras: vec![LoraSpec { name: "ink".into(), file: "ink.safetensors".into(), strength: 0.5 }],
            ..ImageSpec::new(job.prompt.clone(), Source::Text { width: 64, height: 72 })
        };
        let image = RgbImage::from_fn(64, 72, |x, y| Rgb([x as u8, y as u8, 9]));
        let picture = Generated { index: 0, seed: 7, scheduler: "euler_a", image: image.clone() };
        (encode(&job, &spec, "shapes", &picture).unwrap(), image)
    }

    fn text_of(bytes: &[u8], keyword: &str) -> String {
        let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let info = reader.info();
        let latin = info.uncompressed_latin1_text.iter().find(|t| t.keyword == keyword);
        latin.map(|t| t.text.clone()).unwrap_or_else(|| {
            let utf8 = info.utf8_text.iter().find(|t| t.keyword == keyword).unwrap();
            utf8.get_text().unwrap()
        })
    }

    #[test]
    fn a_png_carries_its_parameters_as_a1111_writes_them() {
        let body = r#"{"prompt":"a red circle","negative_prompt":"blur","seed":7,"guidance_interval":[0.1,0.8],"guidance_rescale":0.7}"#;
        let (file, image) = encoded(body);
        assert_eq!(image::load_from_memory(&file.bytes).unwrap().to_rgb8(), image);
        assert_eq!(
            text_of(&file.bytes, "parameters"),
            "a red circle <lora:ink:0.5>\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 7, \
             Size: 64x72, Model: shapes, Clip skip: 2"
        );
        let request: serde_json::Value =
            serde_json::from_str(&text_of(&file.bytes, REQUEST_KEYWORD)).unwrap();
        assert_eq!(request["seed"], 7);
        assert_eq!(request["guidance_interval"], serde_json::json!([0.1, 0.8]));
        assert_eq!(request["guidance_rescale"], 0.7);
        assert_eq!(request["loras"], serde_json::json!([{"path": "ink", "strength": 0.5}]));
        assert!(request.get("job_id").is_none());
    }

    #[test]
    fn a_prompt_in_any_script_is_kept() {
        let (file, _) = encoded(r#"{"prompt":"円 🔴"}"#);
        assert!(text_of(&file.bytes, "parameters").starts_with("円 🔴 <lora:ink:0.5>\nSteps"));
    }

    #[test]
    fn two_jobs_with_one_request_have_the_same_bytes() {
        let body = r#"{"prompt":"a","seed":7}"#;
        assert_eq!(encoded(body).0.sha256, encoded(body).0.sha256);
        assert_ne!(encoded(body).0.sha256, encoded(r#"{"prompt":"b","seed":7}"#).0.sha256);
    }

    #[test]
    fn jpeg_and_webp_are_what_they_say() {
        for (format, lossless) in [("jpeg", false), ("webp", true)] {
            let (file, image) = encoded(&format!(r#"{{"prompt":"a","output":{{"format":"{format}"}}}}"#));
            let read = image::load_from_memory(&file.bytes).unwrap().to_rgb8();
            assert_eq!(read.dimensions(), image.dimensions());
            assert_eq!(read == image, lossless, "{format}");
        }
    }

    #[test]
    fn jpeg_and_webp_carry_their_parameters_too_and_the_same_bytes_each_time() {
        for format in ["jpeg", "webp"] {
            let body = format!(r#"{{"prompt":"円 🔴","seed":7,"output":{{"format":"{format}"}}}}"#);
            let (file, _) = encoded(&body);
            let mut decoder = ImageReader::new(Cursor::new(&file.bytes))
                .with_guessed_format()
                .unwrap()
                .into_decoder()
                .unwrap();
            let exif = decoder.exif_metadata().unwrap().unwrap();
            let units: Vec<u16> =
                exif[52..].chunks(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])).collect();
            let text = String::from_utf16(&units).unwrap();
            assert!(
                text.starts_with(
                    "円 🔴 <lora:ink:0.5>\nSteps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 7"
                )
            );
            assert_eq!(encoded(&body).0.sha256, file.sha256, "{format}");
            assert_ne!(encoded(&body.replace("円", "a")).0.sha256, file.sha256, "{format}");
        }
    }

    #[test]
    fn the_longest_prompts_fit_into_a_jpeg() {
        let long = "🔴".repeat(crate::contract::limits::MAX_PROMPT_CHARS);
        let body = serde_json::json!({"prompt": long, "negative_prompt": long, "output": {"format": "jpeg"}});
        let (file, _) = encoded(&body.to_string());
        let mut decoder = image::codecs::jpeg::JpegDecoder::new(Cursor::new(&file.bytes)).unwrap();
        let exif = decoder.exif_metadata().unwrap().unwrap();
        assert!(exif.len() > 2 * 2 * 2 * crate::contract::limits::MAX_PROMPT_CHARS);
        assert!(
            exif.ends_with(&"Clip skip: 2".encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>())
        );
    }
}
