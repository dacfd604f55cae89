//! Masks with soft edges, and inpainting of the part around a mask alone: what is drawn, and how it gets back into the
//! picture. As diffusers' VaeImageProcessor does it (`blur`, `get_crop_region`, `resize_mode="fill"`, `apply_overlay`).
//!
//! | file | what lives there |
//! |---|---|
//! | `blur` | PIL's GaussianBlur |
//! | `region` | which part of a picture is drawn |
//! | `resample` | PIL's Image.resize |
//! | `resize` | a picture into other sides, with its own proportions |
//! | `overlay` | what was drawn, laid into the picture |

mod blur;
mod overlay;
mod region;
mod resample;
mod resize;

use std::sync::Arc;

use image::{GrayImage, Luma, RgbImage};

pub use overlay::Overlay;
pub use region::Region;
pub use resize::{cropped, filled};

use super::{Source, is_drawn_anew};

/// Inpainting of the part around a mask alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Pixels of the picture around the mask that are drawn with it.
    pub padding: u32,
    /// Width and height that the part is drawn at, in pixels.
    pub size: (u32, u32),
}

/// Nothing in a mask is white, so that there is no part around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NothingToDraw;

/// What a picture, a mask of its size and the wishes of a request make a model draw. `blur` is the standard deviation in
/// pixels; 0 leaves the mask's edges as they are.
///
/// The mask is cut at half before anything is done with it, so that what it keeps is the same with a soft edge as without.
///
/// # Errors
/// [`NothingToDraw`] for a crop around a mask without white.
pub fn inpaint(
    image: RgbImage,
    mask: GrayImage,
    strength: f64,
    blur: u32,
    crop: Option<Crop>,
) -> Result<Source, NothingToDraw> {
    if blur == 0 && crop.is_none() {
        return Ok(Source::Inpaint { image, mask, strength, overlay: None });
    }
    let alpha = blur::gaussian(&cut_at_half(mask), blur);
    let Some(Crop { padding, size }) = crop else {
        let overlay = Overlay { image: image.clone(), alpha: alpha.clone(), region: None };
        return Ok(Source::Inpaint { image, mask: alpha, strength, overlay: Some(Arc::new(overlay)) });
    };
    let region = Region::around(&alpha, padding, size).ok_or(NothingToDraw)?;
    Ok(Source::Inpaint {
        image: filled(&region.of(&image), size),
        mask: filled(&region.of(&alpha), size),
        strength,
        overlay: Some(Arc::new(Overlay { image, alpha, region: Some(region) })),
    })
}

fn cut_at_half(mut mask: GrayImage) -> GrayImage {
    for pixel in mask.pixels_mut() {
        *pixel = Luma([if is_drawn_anew(pixel) { u8::MAX } else { 0 }]);
    }
    mask
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8]))
    }

    fn square(width: u32, height: u32, from: u32, to: u32) -> GrayImage {
        GrayImage::from_fn(width, height, |x, y| {
            Luma([if (from..to).contains(&x) && (from..to).contains(&y) { 200 } else { 90 }])
        })
    }

    #[test]
    fn without_either_wish_nothing_is_touched() {
        let (image, mask) = (picture(40, 24), square(40, 24, 5, 9));
        let source = inpaint(image.clone(), mask.clone(), 0.5, 0, None).unwrap();
        let Source::Inpaint { image: drawn, mask: with, strength, overlay: None } = source else {
            panic!("{source:?}")
        };
        assert_eq!((drawn, with, strength), (image, mask, 0.5));
    }

    #[test]
    fn a_soft_edge_goes_over_into_what_is_kept_and_ends() {
        let (image, mask) = (picture(96, 96), square(96, 96, 40, 56));
        let source = inpaint(image.clone(), mask, 1.0, 4, None).unwrap();
        assert_eq!(source.size(), (96, 96));
        let Source::Inpaint { overlay: Some(overlay), .. } = source else { panic!("no overlay") };
        let grey = RgbImage::from_pixel(96, 96, Rgb([128; 3]));
        let result = overlay.apply(grey);
        assert!(result.get_pixel(48, 48).0[0].abs_diff(128) < 10, "the middle is drawn");
        let mut between = 0;
        for (x, y, pixel) in result.enumerate_pixels() {
            let far = !(22..74).contains(&x) || !(22..74).contains(&y);
            if far {
                assert_eq!(pixel, image.get_pixel(x, y), "at {x},{y}");
            } else if pixel != image.get_pixel(x, y) && pixel.0 != [128; 3] {
                between += 1;
            }
        }
        assert!(between > 200, "{between} pixels of an edge");
    }

    #[test]
    fn a_part_is_drawn_at_its_size_and_comes_back_into_its_place() {
        let (image, mask) = (picture(200, 120), square(200, 120, 40, 60));
        let crop = Crop { padding: 6, size: (64, 64) };
        let source = inpaint(image.clone(), mask.clone(), 1.0, 0, Some(crop)).unwrap();
        assert_eq!((source.drawn_size(), source.size()), ((64, 64), (200, 120)));
        let Source::Inpaint { image: part, mask: white, overlay: Some(overlay), .. } = source else {
            panic!("no overlay")
        };
        assert_eq!(part.dimensions(), white.dimensions());
        assert_eq!(
            (white.get_pixel(32, 32).0, white.get_pixel(2, 2).0),
            ([255], [0]),
            "what is around it is kept"
        );
        let red = overlay.apply(RgbImage::from_pixel(64, 64, Rgb([255, 0, 0])));
        for ((x, y, pixel), mask) in red.enumerate_pixels().zip(mask.pixels()) {
            let expected = if is_drawn_anew(mask) { &Rgb([255, 0, 0]) } else { image.get_pixel(x, y) };
            assert_eq!(pixel, expected, "at {x},{y}");
        }
    }

    #[test]
    fn a_part_that_is_wider_than_what_is_drawn_comes_back_whole() {
        let image = picture(200, 40);
        let mask = GrayImage::from_fn(200, 40, |x, _| Luma([if (20..180).contains(&x) { 255 } else { 0 }]));
        let source = inpaint(image, mask, 1.0, 0, Some(Crop { padding: 0, size: (64, 64) })).unwrap();
        let Source::Inpaint { image: part, overlay: Some(overlay), .. } = source else {
            panic!("no overlay")
        };
        assert_eq!(overlay.region().unwrap().size(), (160, 40));
        let back = overlay.apply(part);
        assert_eq!(back.dimensions(), (200, 40));
        assert_ne!(back.get_pixel(100, 0).0, [0, 0, 0], "its upper edge was drawn, too");
    }

    #[test]
    fn around_nothing_there_is_no_part() {
        let crop = Some(Crop { padding: 8, size: (64, 64) });
        let black = square(64, 64, 0, 0);
        assert_eq!(inpaint(picture(64, 64), black, 1.0, 4, crop).err(), Some(NothingToDraw));
    }
}
