//! A file as pixels: which kind it is, its header under limits, whether it is whole, and then the decoder. Nothing is
//! allocated for a picture before its header has been checked.
//!
//! | kind | damage that is noticed |
//! |---|---|
//! | PNG | any in the picture itself: its chunks have checksums. Of an animation the first picture is read |
//! | JPEG | data that ends too early or goes on too long, in any scan; codes that cannot be (`jpeg`) |
//! | WebP | data that ends too early: the file says how long it is; of lossless ones codes that cannot be |

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, metadata::Orientation};

use super::{PictureError, colour::Colours, jpeg};
use crate::contract::{
    inline::other_kind,
    limits::{MAX_SIDE, MIN_SIDE},
};

/// What a decoder may allocate for one pixel: 16 bits of RGBA, twice.
const DECODER_BYTES_PER_PIXEL: u64 = 16;
/// What some writers put before EXIF, where the file has no place for it.
const EXIF_MARK: &[u8] = b"Exif\0\0";

/// A picture as its file has it, upright.
pub struct Decoded {
    pub picture: DynamicImage,
    /// What its file says of its colours.
    pub colours: Colours,
}

/// Decodes a file of at most `limit` pixels.
pub fn decode(field: &'static str, bytes: &[u8], limit: u64) -> Result<Decoded, PictureError> {
    let undecodable = |source| PictureError::Undecodable { field, source };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| undecodable(image::ImageError::IoError(error)))?;
    let Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) = reader.format() else {
        let found = other_kind(bytes).unwrap_or(if bytes.is_empty() { "empty" } else { "none of these" });
        return Err(PictureError::Kind { field, found });
    };
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(limit * DECODER_BYTES_PER_PIXEL);
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    let sides = MIN_SIDE..=MAX_SIDE;
    let pixels = u64::from(width) * u64::from(height);
    if !sides.contains(&width) || !sides.contains(&height) || pixels > limit {
        return Err(PictureError::Size { field, width, height, limit });
    }
    match format {
        ImageFormat::Jpeg => jpeg::check(bytes).map_err(|source| PictureError::Jpeg { field, source })?,
        ImageFormat::WebP if is_cut_webp(bytes) => return Err(PictureError::CutWebp { field }),
        _ => {}
    }
    let orientation = orientation(&mut decoder);
    let colours = Colours::of(&mut decoder, bytes, format == ImageFormat::Png);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    picture.apply_orientation(orientation);
    Ok(Decoded { picture, colours })
}

fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten().unwrap_or_default();
    let exif = exif.strip_prefix(EXIF_MARK).unwrap_or(&exif);
    Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms)
}

/// A WebP says in its second four bytes how many follow them. A last byte that only makes the length even may be missing.
fn is_cut_webp(bytes: &[u8]) -> bool {
    let Some(said) = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes) else {
        return true;
    };
    (bytes.len() as u64) + 1 < u64::from(said) + 8
}
