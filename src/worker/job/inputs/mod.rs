//! A job's inputs: its pictures fetched from the store or read from base64, and its LoRAs and embeddings found.
//!
//! | file | what lives there |
//! |---|---|
//! | `crate::decoding` | a file as pixels, under limits, upright and in sRGB |
//! | `embeddings` | the words of files that prompts have |
//! | `mask` | a mask fitted to its picture, its soft edge, the part around it |
//! | `pointed` | a mask made of what is pointed at |

mod embeddings;
mod mask;
mod pointed;

use std::path::PathBuf;

use crate::{
    contract::{
        ContractError, ErrorCode, ImageInput, Job, JobSource, Limits, LoraRef, MaskResult, MaskSource,
        inline::{self, InlineError},
    },
    decoding::{PictureError, read_mask, read_picture},
    diffusion::{EmbeddingSpec, ImageSpec, LoraSpec, Source},
    models::{LoraFolder, LoraNameError, ModelInfo},
    segmenter::SegmenterError,
    storage::{Key, StorageError, Store},
    worker::shared::Context,
};
use bytes::Bytes;
use pointed::{NotMade, pointed};

/// A job that the engine can draw.
#[derive(Debug)]
pub struct Resolved {
    /// The first picture.
    pub spec: ImageSpec,
    /// The mask that was made of what the job points at, as it is stored.
    pub mask: Option<MaskResult>,
    /// What the sender should know.
    pub warnings: Vec<String>,
}

/// An input that cannot be used. Every message names the field.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It is not base64.
    #[error("`{field}`: {source}")]
    Base64 {
        /// `init_image` or `mask_image`.
        field: &'static str,
        /// What is wrong with it.
        source: InlineError,
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
    /// Its file cannot be used.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The part around what is white was asked for, and nothing is.
    #[error(
        "`{field}`: nothing in it is white, so that there is no part around it that `padding_mask_crop` could draw"
    )]
    NothingWhite {
        /// `mask_image`, `mask_points` or `mask_box`.
        field: &'static str,
    },
    /// What the job points at is not in its picture.
    #[error(transparent)]
    Outside(ContractError),
    /// There is nothing here that makes masks.
    #[error("`{field}`: this worker has no segmenter; start it with --segmenter")]
    NoSegmenter {
        /// `mask_points` or `mask_box`.
        field: &'static str,
    },
    /// The mask is not made.
    #[error("`{field}`: {source}")]
    Mask {
        /// `mask_points` or `mask_box`.
        field: &'static str,
        /// Why.
        source: NotMade,
    },
    /// The size that is asked for, or that the model has, is too large.
    #[error("`width`: {width}x{height} pixels; at most {limit} pixels are taken")]
    Size {
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
        /// `init_image`, `mask_image`, `mask_points` or `mask_box`.
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
    /// More words of files than are read.
    #[error("`{field}`: {reason}")]
    Embeddings {
        /// The prompt.
        field: &'static str,
        /// How many, and how many there may be.
        reason: String,
    },
    /// The decoder has a defect that this input shows: it would on every worker.
    #[error("`{field}`: the decoder failed at it")]
    Panicked {
        /// `init_image` or `mask_image`.
        field: &'static str,
    },
    /// The runtime is going down.
    #[error("`{field}`: reading it did not end: {source}")]
    Lost {
        /// `init_image`, `mask_image`, `mask_points`, `mask_box`, `loras` or `prompt`.
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
            Self::Size { .. } | Self::NoSegmenter { .. } => true,
            Self::Picture(error) => error.is_of_the_limit(),
            Self::Lora { source, .. } => matches!(source, LoraNameError::Missing { .. }),
            Self::Base64 { .. }
            | Self::NothingWhite { .. }
            | Self::Outside(_)
            | Self::Mask { .. }
            | Self::Embeddings { .. }
            | Self::Store { .. }
            | Self::Panicked { .. }
            | Self::Lost { .. } => false,
        }
    }

    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Base64 { .. } | Self::NothingWhite { .. } | Self::Panicked { .. } => {
                ErrorCode::ImageInvalid
            }
            Self::Picture(error) => error.code(),
            Self::Outside(error) => error.code(),
            Self::Size { .. } | Self::Lora { .. } | Self::Embeddings { .. } | Self::NoSegmenter { .. } => {
                ErrorCode::InvalidRequest
            }
            Self::Mask { source: NotMade::Segmenter(SegmenterError::NonFinite), .. } => ErrorCode::NonFinite,
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
            // A key that is not there, or not allowed, is the sender's mistake and not the store's.
            Self::Store { source, .. } if matches!(**source, StorageError::NotFound { .. }) => {
                ErrorCode::InvalidRequest
            }
            Self::Store { source, .. } => source.code(),
            Self::Mask { .. } | Self::Lost { .. } => ErrorCode::Internal,
        }
    }
}

/// Fills in what the job does not name, finds its LoRAs and embeddings, fetches and decodes its pictures, and makes its mask.
/// `attempt` counts from 1.
///
/// # Errors
/// [`InputError`] for the first input that cannot be used.
pub async fn resolve(
    context: &Context,
    job: &Job,
    model: &ModelInfo,
    attempt: u32,
) -> Result<Resolved, InputError> {
    let (store, limits, folders) = (&context.store, &context.identity.limits, context.identity.folders());
    let loras = loras(&job.loras, folders.loras).await?;
    let (embeddings, mut warnings) = find_embeddings(job, folders.embeddings).await?;
    let mut stored = None;
    let source = match &job.source {
        JobSource::Text { width, height } => {
            let (width, height) = drawn_at((*width, *height), model, limits)?;
            Source::Text { width, height }
        }
        JobSource::Image { image, strength } => {
            let image = read("init_image", image, store, limits, &mut warnings, read_picture).await?;
            Source::Image { image, strength: *strength }
        }
        JobSource::Inpaint { image, mask, strength, masking } => {
            let image = read("init_image", image, store, limits, &mut warnings, read_picture).await?;
            let (field, image, mask) = match mask {
                MaskSource::Image(mask) => {
                    let mask = read(mask::FIELD, mask, store, limits, &mut warnings, read_mask).await?;
                    (mask::FIELD, image, mask)
                }
                MaskSource::Pointing(pointing) => {
                    let (image, mask, result) = pointed(context, &job.id, image, pointing, attempt).await?;
                    stored = Some(result);
                    (pointing.field(), image, mask)
                }
            };
            let of = (field, image, mask);
            mask::inpaint(of, *strength, *masking, (model, limits), &mut warnings).await?
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
        guidance_rescale: job.guidance_rescale,
        seed: job.seed,
        scheduler: job.scheduler.clone(),
        scheduler_options: job.scheduler_options,
        loras,
        embeddings,
        source,
    };
    Ok(Resolved { spec, mask: stored, warnings })
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

/// The words of files that a job's prompts have, and what its sender should know.
async fn find_embeddings(
    job: &Job,
    folder: Option<&LoraFolder>,
) -> Result<(Vec<EmbeddingSpec>, Vec<String>), InputError> {
    let (job, folder) = (job.clone(), folder.cloned());
    tokio::task::spawn_blocking(move || embeddings::find(&job, folder.as_ref()))
        .await
        .map_err(|source| InputError::Lost { field: "prompt", source })?
        .map_err(|(field, reason)| InputError::Embeddings { field, reason })
}

/// The size that a request draws at: what it does not say is the model's own.
fn drawn_at(
    asked: (Option<u32>, Option<u32>),
    model: &ModelInfo,
    limits: &Limits,
) -> Result<(u32, u32), InputError> {
    let width = asked.0.unwrap_or(model.native_size.0);
    let height = asked.1.unwrap_or(model.native_size.1);
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(InputError::Size { width, height, limit: limits.max_pixels });
    }
    Ok((width, height))
}

/// How a file is read: [`read_picture`] or [`read_mask`].
type Reader<T> = fn(&'static str, &[u8], u64, &mut Vec<String>) -> Result<T, PictureError>;

async fn read<T: Send + 'static>(
    field: &'static str,
    input: &ImageInput,
    store: &Store,
    limits: &Limits,
    warnings: &mut Vec<String>,
    reader: Reader<T>,
) -> Result<T, InputError> {
    let found = match input {
        ImageInput::Inline(text) => Found::Base64(text.clone()),
        ImageInput::Object(reference) => Found::Bytes(
            fetch(reference, store, limits.max_input)
                .await
                .map_err(|source| InputError::Store { field, source: Box::new(source) })?,
        ),
    };
    let (max_input, max_pixels) = (limits.max_input, limits.max_pixels);
    let reading = tokio::task::spawn_blocking(move || {
        let bytes = found.into_bytes(field)?;
        let size = bytes.len() as u64;
        if size > max_input {
            return Err(InputError::TooLarge { field, bytes: size, limit: max_input });
        }
        let mut said = vec![];
        Ok::<_, InputError>((reader(field, &bytes, max_pixels, &mut said)?, said))
    });
    let (read, said) = reading.await.map_err(|source| match source.is_panic() {
        true => InputError::Panicked { field },
        false => InputError::Lost { field, source },
    })??;
    warnings.extend(said);
    Ok(read)
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
                let bytes = inline::decode(&text).map_err(|source| InputError::Base64 { field, source })?;
                Ok(bytes.into())
            }
        }
    }
}

async fn fetch(reference: &str, store: &Store, max_bytes: u64) -> Result<Bytes, StorageError> {
    store.get(&Key::parse_reference(reference)?, max_bytes).await
}

#[cfg(test)]
mod tests;
