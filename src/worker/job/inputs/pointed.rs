//! The mask of what a job points at: made once, kept in the store, and used again by later attempts.

use bytes::Bytes;
use image::{ExtendedColorType, GrayImage, ImageEncoder, RgbImage, codecs::png::PngEncoder};

use super::InputError;
use crate::{
    contract::{JobId, Limits, MaskResult, Pointing},
    decoding::read_mask,
    segmenter::SegmenterError,
    storage::{Key, StorageError},
    worker::shared::Context,
};

/// The picture, its mask, and what the complete event says of that. `attempt` after the first take the mask that an earlier one
/// has stored: a picture that goes on from a snapshot has the mask that it was begun with.
///
/// # Errors
/// [`InputError`] for what lies outside of the picture, and for a mask that is not made or not stored.
pub async fn pointed(
    context: &Context,
    job: &JobId,
    image: RgbImage,
    pointing: &Pointing,
    attempt: u32,
) -> Result<(RgbImage, GrayImage, MaskResult), InputError> {
    let field = pointing.field();
    pointing.check_inside(image.dimensions()).map_err(InputError::Outside)?;
    let key = Key::Mask { job: job.clone() };
    let stored = |source: StorageError| InputError::Store { field, source: Box::new(source) };
    let earlier = match attempt {
        0 | 1 => None,
        _ => context.store.find(&key, Limits::default().max_input).await.map_err(stored)?,
    };
    let (image, mask) = match earlier.and_then(|file| kept(field, &file, image.dimensions())) {
        Some(mask) => (image, mask),
        None => {
            let (image, mask, file) = made(context, image, pointing).await?;
            context.store.put(&key, file, "image/png").await.map_err(stored)?;
            (image, mask)
        }
    };
    let url = context.store.url(&key).await.map_err(stored)?;
    let (width, height) = mask.dimensions();
    Ok((image, mask, MaskResult { key: key.path(), url, width, height }))
}

/// The mask in a file of an earlier attempt; none where it is not one of this picture.
fn kept(field: &'static str, file: &[u8], (width, height): (u32, u32)) -> Option<GrayImage> {
    let pixels = u64::from(width) * u64::from(height);
    match read_mask(field, file, pixels, &mut vec![]) {
        Ok(mask) if mask.dimensions() == (width, height) => Some(mask),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%error, "the mask of an earlier attempt is not used");
            None
        }
    }
}

/// Makes a mask where that holds up nobody, one at a time: it takes as much memory as a model.
async fn made(
    context: &Context,
    image: RgbImage,
    pointing: &Pointing,
) -> Result<(RgbImage, GrayImage, Bytes), InputError> {
    let field = pointing.field();
    let segmenter = context.identity.segmenter.clone().ok_or(InputError::NoSegmenter { field })?;
    let turn = context.masks.clone().acquire_owned().await.map_err(|_| InputError::NoSegmenter { field })?;
    let pointing = pointing.clone();
    let making = tokio::task::spawn_blocking(move || {
        let mask = segmenter.mask(&image, &pointing)?;
        drop(turn);
        let file = png(&mask)?;
        Ok::<_, NotMade>((image, mask, file))
    });
    making
        .await
        .map_err(|source| InputError::Lost { field, source })?
        .map_err(|source| InputError::Mask { field, source })
}

/// Why a mask is not made.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    /// It is not computed.
    #[error(transparent)]
    Segmenter(#[from] SegmenterError),
    /// It is not encoded.
    #[error("encoding the mask: {0}")]
    Encode(#[from] image::ImageError),
}

fn png(mask: &GrayImage) -> Result<Bytes, image::ImageError> {
    let mut bytes = vec![];
    PngEncoder::new(&mut bytes).write_image(mask, mask.width(), mask.height(), ExtendedColorType::L8)?;
    Ok(bytes.into())
}
