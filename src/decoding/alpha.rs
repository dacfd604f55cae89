//! What an alpha channel says: of a picture to start from it is laid on white, of a mask it may be the mask.

use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

/// What shows through transparent parts, as A1111 and ComfyUI's web page have it.
const BEHIND: u8 = 255;
/// Pixels of at least this alpha show what colour a mask is painted in. Below it editors round colours away.
const SHOWN: u8 = 128;
/// Colours that differ by no more than this are one colour.
const ONE_COLOUR: u8 = 3;
/// A pixel whose channels differ by no more than this is grey.
const GREY: u8 = 32;

/// A picture without alpha: transparent parts are laid on white, which `warnings` says.
pub fn on_white(field: &str, picture: DynamicImage, warnings: &mut Vec<String>) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    if picture.pixels().any(|pixel| pixel.0[3] < u8::MAX) {
        warnings.push(format!("{field}: its transparent parts are laid on white"));
    }
    let (width, height) = picture.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let Rgba([r, g, b, alpha]) = *picture.get_pixel(x, y);
        Rgb([r, g, b].map(|value| mixed(value, BEHIND, alpha)))
    })
}

/// `above` with this alpha on `below`, rounded to the nearest.
pub(crate) fn mixed(above: u8, below: u8, alpha: u8) -> u8 {
    let (above, below, alpha) = (u32::from(above), u32::from(below), u32::from(alpha));
    ((above * alpha + below * (255 - alpha) + 127) / 255) as u8
}

/// Where a mask's file has its mask is not clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclear;

/// The mask of a file: white is repainted, black is kept. Without alpha, or with the same alpha all over, its colours are
/// the mask. Where it is painted in one colour, its alpha is: opaque is repainted, as A1111 reads it. Grey with alpha is
/// laid on black. `warnings` says what was made of an alpha channel.
///
/// # Errors
/// [`Unclear`] for a picture in colours with transparent parts: whether these are to be kept or repainted is not known.
pub fn mask_of(field: &str, picture: DynamicImage, warnings: &mut Vec<String>) -> Result<GrayImage, Unclear> {
    if !picture.color().has_alpha() {
        return Ok(picture.into_luma8());
    }
    let rgba = picture.to_rgba8();
    let alphas = || rgba.pixels().map(|pixel| pixel.0[3]);
    let (least, most) = (alphas().min().unwrap_or(u8::MAX), alphas().max().unwrap_or(u8::MAX));
    if most == 0 {
        warnings.push(format!("{field}: it is transparent all over, so nothing is painted in it"));
        return Ok(GrayImage::new(rgba.width(), rgba.height()));
    }
    if least == most {
        if most < u8::MAX {
            warnings.push(format!(
                "{field}: its alpha channel is the same all over and is left out; its colours are the mask"
            ));
        }
        return Ok(picture.into_luma8());
    }
    let shown = |pixel: &&Rgba<u8>| pixel.0[3] >= SHOWN.min(most);
    if is_one_colour(rgba.pixels().filter(shown)) {
        warnings
            .push(format!("{field}: read from its alpha channel: opaque is repainted, transparent is kept"));
        return Ok(mapped(&rgba, |pixel| pixel.0[3]));
    }
    if !rgba.pixels().filter(shown).all(is_grey) {
        return Err(Unclear);
    }
    warnings.push(format!("{field}: its transparent parts are laid on black, and are kept"));
    let luma = picture.into_luma8();
    Ok(GrayImage::from_fn(luma.width(), luma.height(), |x, y| {
        Luma([mixed(luma.get_pixel(x, y).0[0], 0, rgba.get_pixel(x, y).0[3])])
    }))
}

/// The mask of a picture that was painted: its alpha, where it has transparent parts, else its brightness.
pub fn painted_of(picture: DynamicImage) -> GrayImage {
    let rgba = picture.color().has_alpha().then(|| picture.to_rgba8());
    match rgba.filter(|rgba| rgba.pixels().any(|pixel| pixel.0[3] < u8::MAX)) {
        Some(rgba) => mapped(&rgba, |pixel| pixel.0[3]),
        None => picture.into_luma8(),
    }
}

/// The mask of a picture of which parts were made transparent: they are repainted. Without such parts its brightness is
/// the mask, which `warnings` says.
pub fn holes_of(field: &str, picture: DynamicImage, warnings: &mut Vec<String>) -> GrayImage {
    let opaque = !picture.color().has_alpha();
    let rgba = picture.to_rgba8();
    if opaque || rgba.pixels().all(|pixel| pixel.0[3] == u8::MAX) {
        warnings.push(format!(
            "{field}: nothing in it is transparent, so it is read in black and white: white is repainted"
        ));
        return picture.into_luma8();
    }
    mapped(&rgba, |pixel| u8::MAX - pixel.0[3])
}

fn mapped(picture: &RgbaImage, value: impl Fn(&Rgba<u8>) -> u8) -> GrayImage {
    GrayImage::from_fn(picture.width(), picture.height(), |x, y| Luma([value(picture.get_pixel(x, y))]))
}

fn is_one_colour<'a>(pixels: impl Iterator<Item = &'a Rgba<u8>>) -> bool {
    let (mut least, mut most) = ([u8::MAX; 3], [0; 3]);
    for pixel in pixels {
        for channel in 0..3 {
            least[channel] = least[channel].min(pixel.0[channel]);
            most[channel] = most[channel].max(pixel.0[channel]);
        }
    }
    least.iter().zip(most).all(|(least, most)| most.saturating_sub(*least) <= ONE_COLOUR)
}

fn is_grey(pixel: &Rgba<u8>) -> bool {
    let Rgba([r, g, b, _]) = *pixel;
    r.max(g).max(b) - r.min(g).min(b) <= GREY
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAR: Rgba<u8> = Rgba([0, 0, 0, 0]);

    /// Left of the middle `left`, right of it `right`.
    fn halves(left: Rgba<u8>, right: Rgba<u8>) -> DynamicImage {
        RgbaImage::from_fn(8, 4, |x, _| if x < 4 { left } else { right }).into()
    }

    fn mask(picture: DynamicImage) -> (Result<[u8; 2], Unclear>, Vec<String>) {
        let mut warnings = vec![];
        let mask = mask_of("mask_image", picture, &mut warnings);
        (mask.map(|mask| [mask.get_pixel(0, 0).0[0], mask.get_pixel(7, 3).0[0]]), warnings)
    }

    #[test]
    fn what_is_painted_in_one_colour_is_the_mask_whatever_the_colour() {
        for colour in [[0, 0, 0], [255, 255, 255], [255, 0, 0], [12, 200, 77]] {
            let [r, g, b] = colour;
            for hidden in [CLEAR, Rgba([255, 255, 255, 0]), Rgba([r, g, b, 0])] {
                let (mask, warnings) = mask(halves(hidden, Rgba([r, g, b, 255])));
                assert_eq!(mask, Ok([0, 255]), "{colour:?} {hidden:?}");
                assert!(warnings[0].contains("opaque is repainted"), "{warnings:?}");
            }
        }
    }

    #[test]
    fn a_grey_picture_with_transparent_parts_is_laid_on_black() {
        let mut picture = halves(Rgba([255, 255, 255, 255]), Rgba([0, 0, 0, 255])).into_rgba8();
        picture.put_pixel(0, 0, Rgba([255, 255, 255, 100]));
        let (mask, warnings) = mask(picture.into());
        assert_eq!(mask, Ok([100, 0]));
        assert!(warnings[0].contains("laid on black"), "{warnings:?}");
    }

    #[test]
    fn a_photograph_with_a_hole_is_no_mask() {
        let mut picture = halves(Rgba([255, 40, 30, 255]), Rgba([20, 30, 255, 255])).into_rgba8();
        picture.put_pixel(0, 0, CLEAR);
        assert_eq!(mask(picture.into()).0, Err(Unclear));
    }

    #[test]
    fn alpha_that_is_the_same_all_over_says_nothing() {
        let (white, black) = (Rgba([255, 255, 255, 255]), Rgba([0, 0, 0, 255]));
        assert_eq!(mask(halves(white, black)), (Ok([255, 0]), vec![]));
        let (found, warnings) = mask(halves(Rgba([255, 255, 255, 90]), Rgba([0, 0, 0, 90])));
        assert_eq!(found, Ok([255, 0]));
        assert!(warnings[0].contains("left out"), "{warnings:?}");
        let (found, warnings) = mask(halves(Rgba([255, 255, 255, 0]), CLEAR));
        assert_eq!(found, Ok([0, 0]));
        assert!(warnings[0].contains("transparent all over"), "{warnings:?}");
    }

    #[test]
    fn what_shows_through_is_repainted_and_an_opaque_mask_is_read_by_its_brightness() {
        let holes = |picture| {
            let mut warnings = vec![];
            let mask = holes_of("mask", picture, &mut warnings);
            ([mask.get_pixel(0, 0).0[0], mask.get_pixel(7, 3).0[0]], warnings)
        };
        assert_eq!(holes(halves(CLEAR, Rgba([9, 90, 200, 255]))), ([255, 0], vec![]), "whatever the colours");
        assert_eq!(holes(halves(Rgba([1, 2, 3, 55]), CLEAR)).0, [200, 255], "and soft where alpha is");
        let (white, black) = (Rgba([255, 255, 255, 255]), Rgba([0, 0, 0, 255]));
        for picture in [halves(white, black), halves(white, black).into_rgb8().into()] {
            let (mask, warnings) = holes(picture);
            assert_eq!(mask, [255, 0]);
            assert!(warnings[0].starts_with("mask: nothing in it is transparent"), "{warnings:?}");
        }
    }

    #[test]
    fn a_faint_mask_is_one_colour_too() {
        assert_eq!(mask(halves(CLEAR, Rgba([255, 0, 0, 100]))).0, Ok([0, 100]));
    }

    #[test]
    fn transparent_parts_of_a_picture_are_white() {
        let mut warnings = vec![];
        let picture = halves(Rgba([200, 10, 0, 0]), Rgba([200, 10, 0, 102]));
        let laid = on_white("init_image", picture, &mut warnings);
        assert_eq!(laid.get_pixel(0, 0).0, [255, 255, 255], "and not what is hidden there");
        assert_eq!(laid.get_pixel(7, 3).0, [233, 157, 153]);
        assert_eq!(warnings, ["init_image: its transparent parts are laid on white"]);
        let laid = on_white("init_image", halves(Rgba([1, 2, 3, 255]), Rgba([4, 5, 6, 255])), &mut warnings);
        assert_eq!((laid.get_pixel(0, 0).0, laid.get_pixel(7, 3).0), ([1, 2, 3], [4, 5, 6]));
        assert_eq!(warnings.len(), 1, "an opaque one has nothing to say");
    }
}
