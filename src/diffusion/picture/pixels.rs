//! Pictures to numbers and back, as diffusers' VaeImageProcessor does it.

use image::{GrayImage, Luma, Rgb, RgbImage};

/// From this value on a mask says "draw anew": 0.5 of 255, as diffusers binarises.
const MASK_THRESHOLD: u8 = 128;

/// Grows a picture to sides that are multiples of `factor` by repeating its last row and column.
pub fn pad_rgb(image: &RgbImage, factor: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width.next_multiple_of(factor), height.next_multiple_of(factor), |x, y| {
        *image.get_pixel(x.min(width - 1), y.min(height - 1))
    })
}

/// The same for a mask.
pub fn pad_mask(mask: &GrayImage, factor: u32) -> GrayImage {
    let (width, height) = mask.dimensions();
    GrayImage::from_fn(width.next_multiple_of(factor), height.next_multiple_of(factor), |x, y| {
        *mask.get_pixel(x.min(width - 1), y.min(height - 1))
    })
}

/// Whether a mask's pixel is to be drawn anew.
pub fn is_drawn_anew(pixel: &Luma<u8>) -> bool {
    pixel.0[0] >= MASK_THRESHOLD
}

/// `[3, height, width]`, -1..1.
pub fn to_planes(image: &RgbImage) -> Vec<f32> {
    let pixels = (image.width() * image.height()) as usize;
    let mut planes = vec![0.0; 3 * pixels];
    for (i, Rgb(channels)) in image.pixels().enumerate() {
        for (channel, value) in channels.iter().enumerate() {
            planes[channel * pixels + i] = 2.0 * (f32::from(*value) / 255.0) - 1.0;
        }
    }
    planes
}

/// Planes of a picture with what the mask draws anew set to 0 (grey), as inpainting UNets were trained.
pub fn to_masked_planes(image: &RgbImage, mask: &GrayImage) -> Vec<f32> {
    let mut planes = to_planes(image);
    let pixels = (image.width() * image.height()) as usize;
    for (i, pixel) in mask.pixels().enumerate() {
        if is_drawn_anew(pixel) {
            (0..3).for_each(|channel| planes[channel * pixels + i] = 0.0);
        }
    }
    planes
}

/// `[height / factor, width / factor]`: 1 where the upper left pixel of a latent is drawn anew, else 0.
pub fn latent_mask(mask: &GrayImage, factor: u32) -> Vec<f32> {
    let (width, height) = (mask.width() / factor, mask.height() / factor);
    (0..height)
        .flat_map(|y| (0..width).map(move |x| (x * factor, y * factor)))
        .map(|(x, y)| if is_drawn_anew(mask.get_pixel(x, y)) { 1.0 } else { 0.0 })
        .collect()
}

/// The upper left `width` x `height` pixels of `[3, padded_height, padded_width]` planes in -1..1, rounded half to
/// even as numpy does.
pub fn from_planes(planes: &[f32], padded: (u32, u32), width: u32, height: u32) -> RgbImage {
    let pixels = (padded.0 * padded.1) as usize;
    RgbImage::from_fn(width, height, |x, y| {
        let i = (y * padded.0 + x) as usize;
        Rgb([0, 1, 2].map(|channel| to_byte(planes[channel * pixels + i])))
    })
}

fn to_byte(value: f32) -> u8 {
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_way_to_planes_and_back() {
        let image = RgbImage::from_fn(16, 16, |x, y| Rgb([(x + 16 * y) as u8, 255 - (x + 16 * y) as u8, 7]));
        assert_eq!(from_planes(&to_planes(&image), (16, 16), 16, 16), image);
    }

    #[test]
    fn padding_repeats_the_edge_and_keeps_the_picture() {
        let image = RgbImage::from_fn(5, 9, |x, y| Rgb([x as u8, y as u8, 0]));
        let padded = pad_rgb(&image, 8);
        assert_eq!(padded.dimensions(), (8, 16));
        assert_eq!(padded.get_pixel(7, 15), image.get_pixel(4, 8));
        assert_eq!(padded.get_pixel(3, 4), image.get_pixel(3, 4));
    }

    #[test]
    fn a_mask_is_cut_at_half_and_read_at_the_upper_left_of_each_latent() {
        let mut mask = GrayImage::new(16, 8);
        mask.put_pixel(0, 0, Luma([127]));
        mask.put_pixel(8, 0, Luma([128]));
        mask.put_pixel(9, 0, Luma([0]));
        assert_eq!(latent_mask(&mask, 8), [0.0, 1.0]);
    }
}
