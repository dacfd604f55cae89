//! A mask, fitted to its picture and made ready for the model.

use image::{GrayImage, RgbImage, imageops};

use super::{InputError, alpha, drawn_at};
use crate::{
    contract::{Limits, MaskCrop, Masking},
    diffusion::{
        Source,
        masking::{self, Crop, NothingToDraw},
    },
    models::ModelInfo,
};

const FIELD: &str = "mask_image";

/// What is drawn of a picture with this mask. Blurring and resizing millions of pixels takes a while: it is done where
/// that holds up nobody.
///
/// # Errors
/// [`InputError::NothingWhite`] for a part around nothing, [`InputError::Size`] for one that is drawn too large.
pub async fn inpaint(
    image: RgbImage,
    mask: GrayImage,
    strength: f64,
    masking: Masking,
    (model, limits): (&ModelInfo, &Limits),
    warnings: &mut Vec<String>,
) -> Result<Source, InputError> {
    let crop = match masking.crop {
        Some(MaskCrop { padding, width, height }) => {
            Some(Crop { padding, size: drawn_at((width, height), model, limits)? })
        }
        None => None,
    };
    let mask = fit_mask(mask, &image, warnings);
    alpha::say_how_much(FIELD, &mask, warnings);
    tokio::task::spawn_blocking(move || masking::inpaint(image, mask, strength, masking.blur, crop))
        .await
        .map_err(|source| InputError::Lost { field: FIELD, source })?
        .map_err(|NothingToDraw| InputError::NothingWhite { field: FIELD })
}

/// A mask in the size of its picture.
pub(super) fn fit_mask(mask: GrayImage, image: &RgbImage, warnings: &mut Vec<String>) -> GrayImage {
    let (width, height) = image.dimensions();
    if mask.dimensions() == (width, height) {
        return mask;
    }
    warnings.push(format!(
        "{FIELD}: resized from {}x{} to {width}x{height}, the size of init_image",
        mask.width(),
        mask.height()
    ));
    imageops::resize(&mask, width, height, imageops::FilterType::Nearest)
}
