//! Which part of a picture is drawn: the box around a mask, with padding, widened to the proportions of what is drawn.

use image::{GrayImage, ImageBuffer, Pixel, Rgb, RgbImage, imageops};

/// A part of a picture, in pixels of it. It is not empty and inside the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    left: u32,
    top: u32,
    right: u32,
    bottom: u32,
}

impl Region {
    /// The part around everything in a mask that is not black; none, where all of it is. As diffusers' `get_crop_region`:
    /// padded, then widened or heightened to the proportions of `size`, as far as the picture goes.
    pub fn around(mask: &GrayImage, padding: u32, size: (u32, u32)) -> Option<Self> {
        let (width, height) = mask.dimensions();
        let (mut left, mut top, mut right, mut bottom) = (width, height, 0, 0);
        for (x, y, _) in mask.enumerate_pixels().filter(|(.., pixel)| pixel.0[0] > 0) {
            (left, top) = (left.min(x), top.min(y));
            (right, bottom) = (right.max(x + 1), bottom.max(y + 1));
        }
        if right == 0 {
            return None;
        }
        let across = Span::padded((left, right), padding, width);
        let down = Span::padded((top, bottom), padding, height);
        let proportion = f64::from(size.0) / f64::from(size.1);
        let (across, down) = if across.length() as f64 / down.length() as f64 > proportion {
            (
                across,
                down.stretched((across.length() as f64 / proportion - down.length() as f64) as i64, height),
            )
        } else {
            (
                across.stretched((down.length() as f64 * proportion - across.length() as f64) as i64, width),
                down,
            )
        };
        Some(Self {
            left: across.from as u32,
            top: down.from as u32,
            right: across.to as u32,
            bottom: down.to as u32,
        })
    }

    /// Left, top, right, bottom; the last two are no part of it.
    pub fn bounds(&self) -> [u32; 4] {
        [self.left, self.top, self.right, self.bottom]
    }

    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        (self.right - self.left, self.bottom - self.top)
    }

    /// This part of a picture.
    pub fn of<P: Pixel<Subpixel = u8> + 'static>(
        &self,
        image: &ImageBuffer<P, Vec<u8>>,
    ) -> ImageBuffer<P, Vec<u8>> {
        let (width, height) = self.size();
        imageops::crop_imm(image, self.left, self.top, width, height).to_image()
    }

    /// Whether a pixel of the picture is in it.
    pub fn contains(&self, x: u32, y: u32) -> bool {
        (self.left..self.right).contains(&x) && (self.top..self.bottom).contains(&y)
    }

    /// Where a pixel of the picture that is in it is in `part`.
    pub fn pixel_of(&self, part: &RgbImage, x: u32, y: u32) -> Rgb<u8> {
        *part.get_pixel(x - self.left, y - self.top)
    }
}

/// A part of a side: from 0 or above, to the side's length at most.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: i64,
    to: i64,
}

impl Span {
    fn padded((from, to): (u32, u32), padding: u32, side: u32) -> Self {
        let (from, to, padding) = (i64::from(from), i64::from(to), i64::from(padding));
        Self { from: (from - padding).max(0), to: (to + padding).min(side.into()) }
    }

    fn length(self) -> i64 {
        self.to - self.from
    }

    /// Longer by so much, half on each side; what would be outside goes to the other side, and what has no room is left out.
    fn stretched(self, by: i64, side: u32) -> Self {
        let side = i64::from(side);
        let Self { mut from, mut to } = self;
        from -= by / 2;
        to += by - by / 2;
        if to >= side {
            from -= to - side;
            to = side;
        }
        if from < 0 {
            to -= from;
            from = 0;
        }
        Self { from, to: to.min(side) }
    }
}

#[cfg(test)]
mod tests {
    use image::Luma;

    use super::*;

    fn around(picture: (u32, u32), white: [u32; 4], padding: u32, size: (u32, u32)) -> [u32; 4] {
        let [left, top, right, bottom] = white;
        let mask = GrayImage::from_fn(picture.0, picture.1, |x, y| {
            Luma([u8::from((left..right).contains(&x) && (top..bottom).contains(&y))])
        });
        Region::around(&mask, padding, size).unwrap().bounds()
    }

    #[test]
    fn the_box_is_padded_and_gets_the_proportions_of_what_is_drawn() {
        assert_eq!(around((100, 100), [40, 40, 50, 60], 0, (64, 64)), [35, 40, 55, 60]);
        assert_eq!(around((100, 100), [40, 40, 50, 60], 5, (64, 64)), [30, 35, 60, 65]);
        assert_eq!(around((100, 100), [40, 40, 60, 50], 0, (64, 128)), [40, 25, 60, 65]);
    }

    #[test]
    fn at_an_edge_it_goes_to_the_other_side_and_no_further_than_the_picture() {
        assert_eq!(around((100, 100), [0, 40, 10, 60], 0, (64, 64)), [0, 40, 20, 60]);
        assert_eq!(around((100, 100), [95, 40, 100, 60], 8, (64, 64)), [64, 32, 100, 68]);
        assert_eq!(around((100, 30), [10, 0, 90, 30], 50, (64, 64)), [0, 0, 100, 30]);
        assert_eq!(around((20, 200), [0, 0, 20, 200], 2048, (2048, 64)), [0, 0, 20, 200]);
    }

    #[test]
    fn a_black_mask_has_none() {
        assert_eq!(Region::around(&GrayImage::new(9, 9), 3, (64, 64)), None);
    }
}
