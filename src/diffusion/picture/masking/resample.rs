//! PIL's Image.resize for pictures of bytes, to the byte: a filter in each direction, with weights in fixed point.

use image::{ImageBuffer, Pixel};

/// Bits after the point of a weight.
const PRECISION_BITS: u32 = 22;

/// A filter that PIL has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A windowed sinc over six pixels.
    Lanczos,
    /// Keys' cubic with a = -0.5, over four.
    Bicubic,
}

impl Filter {
    /// How far it reaches on each side, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
            Self::Bicubic => bicubic(x.abs()),
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// A part of a side, in pixels; it may be empty, and is then the edge between two pixels.
pub type Range = (u32, u32);

/// The pixels of `from.0` by `from.1`, stretched to `size`. Neither picture is empty.
///
/// Bytes are rounded between the two directions. PIL (13) goes along columns first where that leaves out more than twice as
/// many rows as the other direction leaves out columns, and so is it done here.
pub fn resample<P: Pixel<Subpixel = u8>>(
    image: &ImageBuffer<P, Vec<u8>>,
    from: (Range, Range),
    size: (u32, u32),
    filter: Filter,
) -> ImageBuffer<P, Vec<u8>> {
    let channels = usize::from(P::CHANNEL_COUNT);
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (new_width, new_height) = (size.0 as usize, size.1 as usize);
    let is_wide = from.0 != (0, size.0) || width != new_width;
    let is_high = from.1 != (0, size.1) || height != new_height;
    let wide = |bytes: Vec<u8>| match is_wide {
        true => across(&bytes, width, channels, &taps(width, from.0, new_width, filter)),
        false => bytes,
    };
    let high = |bytes: Vec<u8>, line: usize| match is_high {
        true => down(&bytes, line, &taps(height, from.1, new_height, filter)),
        false => bytes,
    };
    let less = |old: u32, new: u32| i64::from(old) - i64::from(new);
    let (rows, columns) = (less(image.height(), size.1), less(image.width(), size.0));
    let bytes = image.as_raw().clone();
    let bytes = match rows > 0 && rows > 2 * columns {
        true => wide(high(bytes, width * channels)),
        false => high(wide(bytes), new_width * channels),
    };
    ImageBuffer::from_raw(size.0, size.1, bytes).expect("each direction was brought to its new length")
}

/// Every line of `width` pixels, by these taps.
fn across(bytes: &[u8], width: usize, channels: usize, taps: &[Tap]) -> Vec<u8> {
    let lines = bytes.chunks_exact(width * channels);
    let mut out = Vec::with_capacity(lines.len() * taps.len() * channels);
    for line in lines {
        for tap in taps {
            out.extend((0..channels).map(|channel| tap.sum(|x| line[x * channels + channel])));
        }
    }
    out
}

/// Every column of lines of so many bytes, by these taps.
fn down(bytes: &[u8], line: usize, taps: &[Tap]) -> Vec<u8> {
    let row = |tap: &Tap| (0..line).map(|x| tap.sum(|y| bytes[y * line + x])).collect::<Vec<_>>();
    taps.iter().flat_map(row).collect()
}

/// The pixels that one new pixel is made of.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

impl Tap {
    fn sum(&self, byte: impl Fn(usize) -> u8) -> u8 {
        let half = 1 << (PRECISION_BITS - 1);
        let weighed = |(i, weight): (usize, &i32)| i32::from(byte(self.first + i)) * weight;
        let sum: i32 = half + self.weights.iter().enumerate().map(weighed).sum::<i32>();
        (sum >> PRECISION_BITS).clamp(0, 255) as u8
    }
}

fn taps(side: usize, (from, to): Range, new: usize, filter: Filter) -> Vec<Tap> {
    let scale = f64::from(to - from) / new as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    (0..new)
        .map(|i| {
            let center = f64::from(from) + (i as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(side);
            let weights: Vec<f64> =
                (first..end).map(|x| filter.at((x as f64 - center + 0.5) * (1.0 / stretch))).collect();
            let sum: f64 = weights.iter().sum();
            Tap { first, weights: weights.iter().map(|weight| fixed(weight / sum)).collect() }
        })
        .collect()
}

/// Rounded half away from zero.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    if scaled < 0.0 { (scaled - 0.5) as i32 } else { (scaled + 0.5) as i32 }
}
