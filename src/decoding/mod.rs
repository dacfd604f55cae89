//! Input pictures: from the bytes of a file to pixels, under limits; of workers, which draw from them, and of queen, which
//! resizes what other APIs send. No store, no base64, no jobs.
//!
//! | file | what lives there |
//! |---|---|
//! | `decode` | a file as pixels, under limits |
//! | `jpeg/` | whether a JPEG is whole |
//! | `colour` | from a file's colours to sRGB |
//! | `alpha` | what an alpha channel means, in a picture and in a mask |

mod alpha;
mod colour;
mod decode;
mod jpeg;

use image::{GrayImage, RgbImage};

#[cfg(feature = "worker")]
pub(crate) use self::alpha::mixed;
use self::decode::{Decoded, decode};
pub use self::jpeg::JpegDamage;
use crate::contract::{
    ErrorCode,
    limits::{MAX_SIDE, MIN_SIDE},
};

/// A file that cannot be used. Every message names the field.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It is no picture, or one of another kind.
    #[error("`{field}`: it is {found}; PNG, JPEG and WebP are read")]
    Kind {
        /// The field.
        field: &'static str,
        /// What it seems to be.
        found: &'static str,
    },
    /// It is a JPEG that is not whole.
    #[error("`{field}`: {source}")]
    Jpeg {
        /// The field.
        field: &'static str,
        /// What is missing.
        source: JpegDamage,
    },
    /// It is a WebP that is not whole.
    #[error("`{field}`: the WebP is cut off: it has fewer bytes than it says")]
    CutWebp {
        /// The field.
        field: &'static str,
    },
    /// It has colours and transparent parts, so that it is not clear where it has its mask.
    #[error(
        "`{field}`: it is a picture in colours with transparent parts, and not a mask; \
         send one in black and white (white is repainted), or one that is painted in one colour on a transparent ground"
    )]
    NoMask {
        /// `mask_image`.
        field: &'static str,
    },
    /// The decoder refuses it.
    #[error("`{field}`: cannot be decoded: {source}")]
    Undecodable {
        /// The field.
        field: &'static str,
        /// What the decoder says.
        source: image::ImageError,
    },
    /// Its sides or its pixels are out of bounds.
    #[error(
        "`{field}`: {width}x{height} pixels; sides of {MIN_SIDE} to {MAX_SIDE} and at most {limit} pixels are taken"
    )]
    Size {
        /// The field.
        field: &'static str,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// The most pixels that are taken.
        limit: u64,
    },
}

impl PictureError {
    /// Whether a reader with a higher limit of pixels may take it.
    pub fn is_of_the_limit(&self) -> bool {
        let sides = MIN_SIDE..=MAX_SIDE;
        matches!(self, Self::Size { width, height, .. } if sides.contains(width) && sides.contains(height))
    }

    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::ImageInvalid
    }
}

/// The picture in a file: upright, in sRGB, its transparent parts on white. `warnings` says what was done to it.
///
/// # Errors
/// [`PictureError`], naming `field`, for what is no whole picture within the limits: sides of [`MIN_SIDE`] to [`MAX_SIDE`]
/// and at most `max_pixels`.
pub fn read_picture(
    field: &'static str,
    bytes: &[u8],
    max_pixels: u64,
    warnings: &mut Vec<String>,
) -> Result<RgbImage, PictureError> {
    let Decoded { picture, colours } = decode(field, bytes, max_pixels)?;
    let picture = colour::to_srgb(field, picture, &colours, warnings);
    Ok(alpha::on_white(field, picture, warnings))
}

/// The mask in a picture of which parts were made transparent: 255 is repainted, which is what shows through. A picture
/// that is opaque all over is a mask in black and white: white is repainted.
///
/// # Errors
/// As [`read_picture`].
pub fn read_holes(
    field: &'static str,
    bytes: &[u8],
    max_pixels: u64,
    warnings: &mut Vec<String>,
) -> Result<GrayImage, PictureError> {
    let Decoded { picture, .. } = decode(field, bytes, max_pixels)?;
    Ok(alpha::holes_of(field, picture, warnings))
}

/// The mask in a picture that was painted: what is opaque in one with transparent parts, else what is white, is repainted.
///
/// # Errors
/// As [`read_picture`].
pub fn read_painted(field: &'static str, bytes: &[u8], max_pixels: u64) -> Result<GrayImage, PictureError> {
    let Decoded { picture, .. } = decode(field, bytes, max_pixels)?;
    Ok(alpha::painted_of(picture))
}

/// The mask in a file, upright: 255 is repainted, 0 is kept. Its colours are numbers, whatever its profile says.
///
/// # Errors
/// As [`read_picture`], and for a picture in colours with transparent parts.
pub fn read_mask(
    field: &'static str,
    bytes: &[u8],
    max_pixels: u64,
    warnings: &mut Vec<String>,
) -> Result<GrayImage, PictureError> {
    let Decoded { picture, .. } = decode(field, bytes, max_pixels)?;
    alpha::mask_of(field, picture, warnings).map_err(|alpha::Unclear| PictureError::NoMask { field })
}

#[cfg(test)]
mod tests;
