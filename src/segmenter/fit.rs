//! A picture as the encoder takes it: its longer side has 1024 pixels, and what is left of the square is 0.

use candle_core::{Device, Result, Tensor};
use image::{RgbImage, imageops};

/// Pixels of a side of what the encoder takes.
pub const SIDE: u32 = 1024;
/// Mean of the training pictures' red, green and blue, of 255.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Their standard deviation.
const DEVIATION: [f32; 3] = [58.395, 57.12, 57.375];

/// A picture in the square.
pub struct Fitted {
    /// `[1, 3, 1024, 1024]`.
    pub pixels: Tensor,
    /// Pixels of the square that the picture takes, from its left.
    pub width: u32,
    /// Pixels of the square that the picture takes, from above.
    pub height: u32,
    original: (u32, u32),
}

impl Fitted {
    /// Fits it. Resized as PIL does it (a triangle filter as wide as the pixels that become one).
    pub fn of(image: &RgbImage) -> Result<Self> {
        let original = image.dimensions();
        let (width, height) = fitted(original);
        let resized = resized(image, (width, height));
        let side = SIDE as usize;
        let mut values = vec![0f32; 3 * side * side];
        for (x, y, pixel) in resized.enumerate_pixels() {
            let at = y as usize * side + x as usize;
            for (channel, ((value, mean), deviation)) in pixel.0.iter().zip(MEAN).zip(DEVIATION).enumerate() {
                values[channel * side * side + at] = (f32::from(*value) - mean) / deviation;
            }
        }
        let pixels = Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu)?;
        Ok(Self { pixels, width, height, original })
    }

    /// Pixels of the square for one of the picture, to the right and down.
    pub fn scale(&self) -> (f64, f64) {
        let (width, height) = self.original;
        (f64::from(self.width) / f64::from(width), f64::from(self.height) / f64::from(height))
    }
}

fn resized(image: &RgbImage, (width, height): (u32, u32)) -> RgbImage {
    match image.dimensions() == (width, height) {
        true => image.clone(),
        false => imageops::resize(image, width, height, imageops::FilterType::Triangle),
    }
}

/// The size with a longer side of [`SIDE`], rounded as the reference does it.
fn fitted((width, height): (u32, u32)) -> (u32, u32) {
    let scale = f64::from(SIDE) / f64::from(width.max(height));
    let side = |pixels: u32| ((f64::from(pixels) * scale + 0.5) as u32).clamp(1, SIDE);
    (side(width), side(height))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::{super::told_by_rule, *};

    #[test]
    fn the_longer_side_fills_the_square() {
        for (size, becomes) in [
            ((1024, 640), (1024, 640)),
            ((96, 72), (1024, 768)),
            ((1500, 2048), (750, 1024)),
            ((2048, 1), (1024, 1)),
            ((64, 64), (1024, 1024)),
        ] {
            assert_eq!(fitted(size), becomes, "{size:?}");
        }
    }

    #[test]
    fn a_picture_is_resized_as_pil_does_it() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/segmenter/resized.safetensors");
        let golden = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        for (name, size) in [("small", (96, 72)), ("large", (1500, 2000))] {
            let ours = resized(&told_by_rule::picture(size.0, size.1), fitted(size));
            let theirs = &golden[name];
            assert_eq!(theirs.dims()[1], ours.width() as usize);
            let theirs: Vec<u8> = theirs.flatten_all().unwrap().to_vec1().unwrap();
            let rows = ours.as_raw().chunks_exact(3 * ours.width() as usize).step_by(64);
            let ours: Vec<u8> = rows.flatten().copied().collect();
            assert_eq!(ours.len(), theirs.len());
            let worst = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(worst <= Some(1), "{name}: {worst:?} of 255");
        }
    }

    #[test]
    fn pixels_are_normalised_and_the_rest_of_the_square_is_0() {
        let fitted = Fitted::of(&RgbImage::from_pixel(1024, 512, Rgb([255, 0, 100]))).unwrap();
        let at = |channel: usize, y: usize| {
            fitted.pixels.get(0).unwrap().get(channel).unwrap().get(y).unwrap().to_vec1::<f32>().unwrap()[7]
        };
        for (channel, value) in [(0, 2.2489), (1, -2.0357), (2, -0.0615)] {
            assert!((at(channel, 511) - value).abs() < 1e-3, "{}", at(channel, 511));
            assert_eq!(at(channel, 512), 0.0);
        }
        assert_eq!(fitted.scale(), (1.0, 1.0));
    }
}
