//! A mask before its picture is drawn: fitted to it, how much of it is painted, its soft edge, the part around it.

use image::{GrayImage, RgbImage, imageops};

use super::{InputError, drawn_at};
use crate::{
    contract::{Limits, MaskCrop, Masking},
    diffusion::{
        Source, is_drawn_anew,
        masking::{self, Crop, NothingToDraw},
    },
    models::ModelInfo,
};

/// The field of a mask that is sent.
pub const FIELD: &str = "mask_image";

/// What is drawn of a picture with this mask, which `field` gave. Blurring and resizing millions of pixels takes a while: it is done where
/// that holds up nobody.
///
/// # Errors
/// [`InputError::NothingWhite`] for a part around nothing, [`InputError::Size`] for one that is drawn too large.
pub async fn inpaint(
    (field, image, mask): (&'static str, RgbImage, GrayImage),
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
    say_how_much(field, &mask, warnings);
    tokio::task::spawn_blocking(move || masking::inpaint(image, mask, strength, masking.blur, crop))
        .await
        .map_err(|source| InputError::Lost { field, source })?
        .map_err(|NothingToDraw| InputError::NothingWhite { field })
}

/// The mask in the size of the picture.
pub fn fit_mask(mask: GrayImage, image: &RgbImage, warnings: &mut Vec<String>) -> GrayImage {
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

/// Says of a mask, as it is used, that it changes nothing or leaves nothing.
pub fn say_how_much(field: &str, mask: &GrayImage, warnings: &mut Vec<String>) {
    let repainted = mask.pixels().filter(|pixel| is_drawn_anew(pixel)).count();
    if repainted == 0 {
        warnings.push(format!(
            "{field}: nothing in it is white, so nothing is repainted: the picture stays as it is"
        ));
    } else if repainted == mask.pixels().len() {
        warnings.push(format!("{field}: all of it is white, so the whole picture is repainted"));
    }
}

#[cfg(test)]
mod tests {
    use image::Luma;

    use super::*;

    #[test]
    fn a_mask_that_changes_nothing_or_everything_is_said() {
        for (values, says) in
            [([0, 127], Some("nothing in it is white")), ([128, 255], Some("all of it")), ([0, 128], None)]
        {
            let mut warnings = vec![];
            let mask = GrayImage::from_fn(8, 4, |x, _| Luma([values[usize::from(x >= 4)]]));
            say_how_much("mask_image", &mask, &mut warnings);
            assert_eq!(warnings.len(), usize::from(says.is_some()));
            assert!(says.is_none_or(|says| warnings[0].contains(says)), "{warnings:?}");
        }
    }
}
