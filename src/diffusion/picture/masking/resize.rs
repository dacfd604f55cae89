//! A picture into other sides: stretched, or with its own proportions and its edges drawn out or cut off.

use image::{ImageBuffer, Pixel, imageops};

use super::resample::{Filter, resample};

type Picture<P> = ImageBuffer<P, Vec<u8>>;

/// With every side stretched to the new one.
pub fn stretched<P: Pixel<Subpixel = u8>>(image: &Picture<P>, size: (u32, u32)) -> Picture<P> {
    resample(image, ((0, image.width()), (0, image.height())), size, Filter::Lanczos)
}

/// All of it in the middle, with its own proportions; what stays free is filled from the nearest edge. As diffusers'
/// `resize_mode="fill"`.
pub fn filled<P: Pixel<Subpixel = u8> + 'static>(image: &Picture<P>, size: (u32, u32)) -> Picture<P> {
    let (width, height) = size;
    let is_wider = is_wider(image.dimensions(), size);
    let inner = stretched(image, inner(image.dimensions(), size, !is_wider));
    let (inner_width, inner_height) = inner.dimensions();
    let mut out = Picture::new(width, height);
    // PIL takes the edge for an empty box, and a bicubic filter then weighs the two lines next to it.
    let mut edge = |from: (u32, u32), to: (u32, u32), at: (u32, u32)| {
        let from = if is_wider { ((0, width), from) } else { (from, (0, height)) };
        imageops::replace(&mut out, &resample(&inner, from, to, Filter::Bicubic), at.0.into(), at.1.into());
    };
    let (left, top) = (width / 2 - inner_width / 2, height / 2 - inner_height / 2);
    if is_wider && top > 0 {
        edge((0, 0), (width, top), (0, 0));
        edge((inner_height, inner_height), (width, top), (0, top + inner_height));
    } else if !is_wider && left > 0 {
        edge((0, 0), (left, height), (0, 0));
        edge((inner_width, inner_width), (left, height), (left + inner_width, 0));
    }
    imageops::replace(&mut out, &inner, left.into(), top.into());
    out
}

/// Its middle, with its own proportions; what is outside is cut off. As diffusers' `resize_mode="crop"`.
pub fn cropped<P: Pixel<Subpixel = u8> + 'static>(image: &Picture<P>, size: (u32, u32)) -> Picture<P> {
    let inner = stretched(image, inner(image.dimensions(), size, is_wider(image.dimensions(), size)));
    let middle = |new: u32, inner: u32| i64::from(new / 2) - i64::from(inner / 2);
    let mut out = Picture::new(size.0, size.1);
    imageops::replace(&mut out, &inner, middle(size.0, inner.width()), middle(size.1, inner.height()));
    out
}

/// Whether a picture is wider, by its proportions, than what it shall become.
fn is_wider((width, height): (u32, u32), size: (u32, u32)) -> bool {
    f64::from(size.0) / f64::from(size.1) < f64::from(width) / f64::from(height)
}

/// The sides with which a picture has the height of `size`, or the width, and its own proportions; at least one pixel.
fn inner((width, height): (u32, u32), size: (u32, u32), by_height: bool) -> (u32, u32) {
    // Sides are at most some thousands of pixels: their product has room in 64 bits.
    let scaled =
        |side: u32, by: u32, of: u32| (u64::from(side) * u64::from(by) / u64::from(of)).max(1) as u32;
    match by_height {
        true => (scaled(width, size.1, height), size.1),
        false => (size.0, scaled(height, size.0, width)),
    }
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma};

    use super::*;

    fn slope(width: u32, height: u32) -> GrayImage {
        GrayImage::from_fn(width, height, |x, y| Luma([(x * 4 + y * 3) as u8]))
    }

    #[test]
    fn one_size_is_a_copy() {
        let image = slope(30, 20);
        assert_eq!(stretched(&image, (30, 20)), image);
        assert_eq!(filled(&image, (30, 20)), image);
        assert_eq!(cropped(&image, (30, 20)), image);
    }

    #[test]
    fn what_was_filled_is_cut_off_again() {
        for (width, height) in [(40, 20), (20, 40), (41, 23), (7, 50)] {
            let flat = GrayImage::from_pixel(width, height, Luma([99]));
            let there = filled(&flat, (64, 64));
            assert!(there.pixels().all(|pixel| pixel.0 == [99]), "{width}x{height}: its edges are filled");
            let back = cropped(&there, (width, height));
            assert!(back.pixels().all(|pixel| pixel.0 == [99]), "{width}x{height}");
        }
    }

    #[test]
    fn a_thread_of_a_picture_keeps_a_pixel() {
        assert_eq!(filled(&slope(1, 64), (64, 8)).dimensions(), (64, 8));
        assert_eq!(cropped(&slope(64, 1), (8, 64)).dimensions(), (8, 64));
    }
}
