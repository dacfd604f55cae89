//! A job's inputs as pixels: fetched from the store or read from base64, and decoded under limits.
//! Nothing is allocated for a picture before its header has been checked.

use std::{io::Cursor, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageReader, RgbImage, imageops, metadata::Orientation};

use crate::{
    contract::{
        ErrorCode, ImageInput, Job, JobSource, Limits, LoraRef,
        limits::{MAX_SIDE, MIN_SIDE},
    },
    diffusion::{ImageSpec, LoraSpec, Source},
    models::{LoraFolder, LoraNameError, ModelInfo},
    storage::{Key, StorageError, Store},
};

/// What a decoder may allocate for one pixel: 16 bits of RGBA, twice.
const DECODER_BYTES_PER_PIXEL: u64 = 16;

/// A job that the engine can draw.
#[derive(Debug)]
pub struct Resolved {
    /// The first picture.
    pub spec: ImageSpec,
    /// What the sender should know.
    pub warnings: Vec<String>,
}

/// An input that cannot be used. Every message names the field.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It is not base64.
    #[error("`{field}`: not base64: {source}")]
    Base64 {
        /// `init_image` or `mask_image`.
        field: &'static str,
        /// What is wrong with it.
        source: base64::DecodeError,
    },
    /// It is larger than the limit.
    #[error("`{field}`: {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// `init_image` or `mask_image`.
        field: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The most that is taken, in bytes.
        limit: u64,
    },
    /// It is no picture.
    #[error("`{field}`: cannot be decoded: {source}; PNG, JPEG and WebP are read")]
    Undecodable {
        /// `init_image` or `mask_image`.
        field: &'static str,
        /// What the decoder says.
        source: image::ImageError,
    },
    /// Its sides or its pixels are out of bounds.
    #[error(
        "`{field}`: {width}x{height} pixels; sides of {MIN_SIDE} to {MAX_SIDE} and at most {limit} pixels are taken"
    )]
    Size {
        /// `init_image`, `mask_image`, or `width` for a size that was asked for.
        field: &'static str,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// The most pixels that are taken.
        limit: u64,
    },
    /// The store did not give it.
    #[error("`{field}`: {source}")]
    Store {
        /// `init_image` or `mask_image`.
        field: &'static str,
        /// Which key, and why.
        source: Box<StorageError>,
    },
    /// There is no such LoRA.
    #[error("`loras[{index}].path`: {source}")]
    Lora {
        /// Which of the job's LoRAs.
        index: usize,
        /// What there is.
        source: LoraNameError,
    },
    /// Decoding panicked or the runtime is going down.
    #[error("`{field}`: decoding did not end: {source}")]
    Lost {
        /// `init_image` or `mask_image`.
        field: &'static str,
        /// How the task ended.
        source: tokio::task::JoinError,
    },
}

impl InputError {
    /// Whether a worker with other limits, or with other files, may take it.
    pub fn is_of_this_worker(&self) -> bool {
        match self {
            Self::TooLarge { bytes, .. } => *bytes <= Limits::default().max_input,
            Self::Size { width, height, .. } => {
                let sides = MIN_SIDE..=MAX_SIDE;
                sides.contains(width) && sides.contains(height)
            }
            Self::Lora { source, .. } => matches!(source, LoraNameError::Missing { .. }),
            Self::Base64 { .. } | Self::Undecodable { .. } | Self::Store { .. } | Self::Lost { .. } => false,
        }
    }

    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Base64 { .. } | Self::Undecodable { .. } => ErrorCode::ImageInvalid,
            Self::Size { field: "width", .. } | Self::Lora { .. } => ErrorCode::InvalidRequest,
            Self::Size { .. } => ErrorCode::ImageInvalid,
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
            // A key that is not there, or not allowed, is the sender's mistake and not the store's.
            Self::Store { source, .. } if matches!(**source, StorageError::NotFound { .. }) => {
                ErrorCode::InvalidRequest
            }
            Self::Store { source, .. } => source.code(),
            Self::Lost { .. } => ErrorCode::Internal,
        }
    }
}

/// Fills in what the job does not name, finds its LoRAs, and fetches and decodes its pictures.
///
/// # Errors
/// [`InputError`] for the first input that cannot be used.
pub async fn resolve(
    job: &Job,
    store: &Store,
    limits: &Limits,
    model: &ModelInfo,
    folder: Option<&LoraFolder>,
) -> Result<Resolved, InputError> {
    let loras = loras(&job.loras, folder).await?;
    let mut warnings = vec![];
    let source = match &job.source {
        JobSource::Text { width, height } => {
            let width = width.unwrap_or(model.native_size.0);
            let height = height.unwrap_or(model.native_size.1);
            if u64::from(width) * u64::from(height) > limits.max_pixels {
                return Err(InputError::Size { field: "width", width, height, limit: limits.max_pixels });
            }
            Source::Text { width, height }
        }
        JobSource::Image { image, strength } => {
            let image = picture("init_image", image, store, limits).await?.to_rgb8();
            Source::Image { image, strength: *strength }
        }
        JobSource::Inpaint { image, mask, strength } => {
            let image = picture("init_image", image, store, limits).await?.to_rgb8();
            let mask = picture("mask_image", mask, store, limits).await?.to_luma8();
            let mask = fit_mask(mask, &image, &mut warnings);
            Source::Inpaint { image, mask, strength: *strength }
        }
    };
    let spec = ImageSpec {
        prompt: job.prompt.clone(),
        negative_prompt: job.negative_prompt.clone(),
        prompt_syntax: job.prompt_syntax,
        clip_skip: job.clip_skip,
        steps: job.steps.unwrap_or(model.steps),
        guidance_scale: job.guidance_scale.unwrap_or(model.guidance_scale),
        guidance_interval: job.guidance_interval,
        seed: job.seed,
        scheduler: job.scheduler.clone(),
        loras,
        source,
    };
    Ok(Resolved { spec, warnings })
}

/// Whether the LoRAs that a job asks for are here.
///
/// # Errors
/// [`InputError::Lora`] for the first that is not.
pub async fn check_loras(wanted: &[LoraRef], folder: Option<&LoraFolder>) -> Result<(), InputError> {
    loras(wanted, folder).await.map(drop)
}

/// The files of the LoRAs. A worker without a folder of them has refused the job before.
async fn loras(wanted: &[LoraRef], folder: Option<&LoraFolder>) -> Result<Vec<LoraSpec>, InputError> {
    let mut found = Vec::with_capacity(wanted.len());
    let Some(folder) = folder.filter(|_| !wanted.is_empty()) else {
        return Ok(found);
    };
    for (index, LoraRef { name, strength }) in wanted.iter().enumerate() {
        let (folder, wanted) = (folder.clone(), name.clone());
        let file: PathBuf = tokio::task::spawn_blocking(move || folder.find(&wanted))
            .await
            .map_err(|source| InputError::Lost { field: "loras", source })?
            .map_err(|source| InputError::Lora { index, source })?;
        found.push(LoraSpec { name: name.clone(), file, strength: *strength });
    }
    Ok(found)
}

fn fit_mask(mask: GrayImage, image: &RgbImage, warnings: &mut Vec<String>) -> GrayImage {
    let (width, height) = image.dimensions();
    if mask.dimensions() == (width, height) {
        return mask;
    }
    warnings.push(format!(
        "mask_image: resized from {}x{} to {width}x{height}, the size of init_image",
        mask.width(),
        mask.height()
    ));
    imageops::resize(&mask, width, height, imageops::FilterType::Nearest)
}

async fn picture(
    field: &'static str,
    input: &ImageInput,
    store: &Store,
    limits: &Limits,
) -> Result<DynamicImage, InputError> {
    let found = match input {
        ImageInput::Inline(text) => Found::Base64(text.clone()),
        ImageInput::Object(reference) => Found::Bytes(
            fetch(reference, store, limits.max_input)
                .await
                .map_err(|source| InputError::Store { field, source: Box::new(source) })?,
        ),
    };
    let (max_input, max_pixels) = (limits.max_input, limits.max_pixels);
    tokio::task::spawn_blocking(move || {
        let bytes = found.into_bytes(field)?;
        let size = bytes.len() as u64;
        if size > max_input {
            return Err(InputError::TooLarge { field, bytes: size, limit: max_input });
        }
        decode(field, &bytes, max_pixels)
    })
    .await
    .map_err(|source| InputError::Lost { field, source })?
}

/// An input as it was found.
enum Found {
    Base64(String),
    Bytes(Bytes),
}

impl Found {
    /// Takes a while for megabytes of base64.
    fn into_bytes(self, field: &'static str) -> Result<Bytes, InputError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Base64(text) => {
                let bytes = STANDARD.decode(text).map_err(|source| InputError::Base64 { field, source })?;
                Ok(bytes.into())
            }
        }
    }
}

async fn fetch(reference: &str, store: &Store, max_bytes: u64) -> Result<Bytes, StorageError> {
    store.get(&Key::parse_reference(reference)?, max_bytes).await
}

fn decode(field: &'static str, bytes: &[u8], limit: u64) -> Result<DynamicImage, InputError> {
    let undecodable = |source| InputError::Undecodable { field, source };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| undecodable(image::ImageError::IoError(error)))?;
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(limit * DECODER_BYTES_PER_PIXEL);
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    let sides = MIN_SIDE..=MAX_SIDE;
    let pixels = u64::from(width) * u64::from(height);
    if !sides.contains(&width) || !sides.contains(&height) || pixels > limit {
        return Err(InputError::Size { field, width, height, limit });
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Cursor::new(vec![]);
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]))
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    }

    /// A PNG whose header says `side` x `side`; checksums are right.
    fn bomb(side: u32) -> Vec<u8> {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, side, side);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9c, 0x63, 0, 0, 0, 1, 0, 1]).unwrap();
        drop(writer);
        bytes
    }

    #[test]
    fn a_picture_is_read() {
        let picture = decode("init_image", &png(72, 80), 1 << 22).unwrap();
        assert_eq!((picture.width(), picture.height()), (72, 80));
    }

    #[tokio::test]
    async fn megabytes_of_base64_are_decoded_where_they_hold_up_nobody() {
        let store = Store::open(&crate::storage::StoreOptions::new("memory://")).unwrap();
        let (input, limits) = (ImageInput::Inline("!".repeat(1 << 20)), Limits::default());
        let mut decoding = Box::pin(picture("init_image", &input, &store, &limits));
        let at_once = futures::FutureExt::now_or_never(&mut decoding);
        assert!(at_once.is_none(), "this thread goes on with other work");
        assert_eq!(decoding.await.unwrap_err().code(), ErrorCode::ImageInvalid);
    }

    #[test]
    fn a_picture_cut_in_half_is_refused() {
        let whole = png(128, 128);
        let error = decode("init_image", &whole[..whole.len() / 2], 1 << 22).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ImageInvalid);
        assert!(error.to_string().starts_with("`init_image`"), "{error}");
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let error = decode("mask_image", &bomb(65_535), 1 << 22).unwrap_err();
        assert!(matches!(error, InputError::Size { width: 65_535, .. }), "{error}");
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for bytes in [&b""[..], b"nonsense", b"GIF89a\x01\0\x01\0\0\0\0"] {
            assert_eq!(decode("init_image", bytes, 1 << 22).unwrap_err().code(), ErrorCode::ImageInvalid);
        }
        for (width, height) in [(63, 64), (64, 2056), (2048, 2049)] {
            assert!(matches!(
                decode("init_image", &png(width, height), 1 << 22),
                Err(InputError::Size { .. })
            ));
        }
    }

    #[test]
    fn a_mask_of_another_size_is_resized_and_said() {
        let mut warnings = vec![];
        let mask = GrayImage::from_fn(64, 64, |x, _| image::Luma([if x < 32 { 255 } else { 0 }]));
        let mask = fit_mask(mask, &RgbImage::new(128, 96), &mut warnings);
        assert_eq!(mask.dimensions(), (128, 96));
        assert!(mask.pixels().all(|p| matches!(p.0[0], 0 | 255)));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("64x64 to 128x96"), "{}", warnings[0]);
    }
}
