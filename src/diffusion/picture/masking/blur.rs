//! A mask with soft edges: PIL's ImageFilter.GaussianBlur, to the byte. Three box blurs in each direction stand for the
//! Gaussian (Gwosdek et al. 2011, "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering"); each rounds
//! to bytes, and beyond an edge its last pixel goes on.

use image::GrayImage;

/// Box blurs in a row.
const PASSES: u32 = 3;
/// One, in the fixed point of PIL's weights.
const ONE: u32 = 1 << 24;

/// Blurs by a standard deviation in pixels; 0 changes nothing.
pub fn gaussian(mask: &GrayImage, deviation: u32) -> GrayImage {
    if deviation == 0 {
        return mask.clone();
    }
    let filter = BoxFilter::new(deviation);
    let (width, height) = mask.dimensions();
    let across = filter.lines(mask.as_raw().clone(), width as usize);
    let down = filter.lines(transposed(&across, width as usize), height as usize);
    GrayImage::from_raw(width, height, transposed(&down, height as usize))
        .expect("transposing twice keeps the count of pixels")
}

/// A box whose two ends count in part.
struct BoxFilter {
    /// Whole pixels on each side of the middle.
    radius: usize,
    /// Weight of a whole pixel, and of the one beyond it on each side, in parts of [`ONE`].
    whole: u32,
    part: u32,
}

impl BoxFilter {
    /// In single precision, as PIL computes it: the last bit of a weight is a bit of the result.
    fn new(deviation: u32) -> Self {
        let deviation = deviation as f32;
        let variance = deviation * deviation / PASSES as f32;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
            / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
        let radius = whole + part;
        let pixels = radius as u32;
        let weight = (ONE as f32 / (radius * 2.0 + 1.0)) as u32;
        Self { radius: pixels as usize, whole: weight, part: (ONE - (pixels * 2 + 1) * weight) / 2 }
    }

    /// Blurs every line of `width` bytes, [`PASSES`] times.
    fn lines(&self, mut bytes: Vec<u8>, width: usize) -> Vec<u8> {
        let mut before = vec![0; width];
        for line in bytes.chunks_exact_mut(width) {
            for _ in 0..PASSES {
                before.copy_from_slice(line);
                self.line(&before, line);
            }
        }
        bytes
    }

    fn line(&self, from: &[u8], to: &mut [u8]) {
        let last = from.len() as isize - 1;
        let radius = self.radius as isize;
        let at = |x: isize| u32::from(from[x.clamp(0, last) as usize]);
        // At most 255 times 2 * radius + 1; with the weight, 255 times ONE.
        let mut sum: u32 = (-radius - 1..radius).map(at).sum();
        for (x, to) in to.iter_mut().enumerate() {
            let x = x as isize;
            sum = sum + at(x + radius) - at(x - radius - 1);
            let ends = at(x - radius - 1) + at(x + radius + 1);
            *to = ((sum * self.whole + ends * self.part + ONE / 2) >> 24) as u8;
        }
    }
}

fn transposed(bytes: &[u8], width: usize) -> Vec<u8> {
    let height = bytes.len() / width;
    (0..width).flat_map(|x| (0..height).map(move |y| bytes[y * width + x])).collect()
}

#[cfg(test)]
mod tests {
    use image::Luma;

    use super::*;

    #[test]
    fn a_flat_mask_stays_flat_and_an_edge_becomes_a_slope() {
        for value in [0, 127, 255] {
            let flat = GrayImage::from_pixel(9, 5, Luma([value]));
            assert_eq!(gaussian(&flat, 64), flat, "beyond an edge it goes on");
        }
        let edge = GrayImage::from_fn(64, 3, |x, _| Luma([if x < 32 { 255 } else { 0 }]));
        let soft = gaussian(&edge, 4);
        let line: Vec<u8> = (0..64).map(|x| soft.get_pixel(x, 1).0[0]).collect();
        assert!(line.windows(2).all(|pair| pair[0] >= pair[1]), "{line:?}");
        assert_eq!((line[0], line[63]), (255, 0));
        assert!(line[31].abs_diff(255 - line[32]) <= 1, "half of it is on each side: {line:?}");
    }
}
