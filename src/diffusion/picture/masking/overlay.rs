//! What was drawn, laid into the picture that it is a part of.

use image::{GrayImage, Luma, Rgb, RgbImage};

use super::{Region, cropped};
use crate::decoding::mixed;

/// The picture that something is drawn into. As diffusers' `apply_overlay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The whole picture.
    pub(super) image: RgbImage,
    /// As large as the picture: 0 is kept, 255 is what was drawn, and between them both are mixed.
    pub(super) alpha: GrayImage,
    /// The part that was drawn; none: all of it.
    pub(super) region: Option<Region>,
}

impl Overlay {
    /// Width and height of the picture, in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.image.dimensions()
    }

    /// The part that is drawn; none: all of it.
    pub fn region(&self) -> Option<Region> {
        self.region
    }

    /// The picture with what was drawn. What was drawn of a part has any size; of all of it, the picture's.
    pub fn apply(&self, drawn: RgbImage) -> RgbImage {
        let part = match &self.region {
            Some(region) => cropped(&drawn, region.size()),
            None => drawn,
        };
        let mut out = self.image.clone();
        for ((x, y, out), Luma([alpha])) in out.enumerate_pixels_mut().zip(self.alpha.pixels()) {
            // The mask is black outside of the part.
            let drawn = match &self.region {
                Some(region) if !region.contains(x, y) => continue,
                Some(region) => region.pixel_of(&part, x, y),
                None => *part.get_pixel(x, y),
            };
            let mixed = |channel: usize| mixed(drawn.0[channel], out.0[channel], *alpha);
            *out = Rgb([mixed(0), mixed(1), mixed(2)]);
        }
        out
    }
}
