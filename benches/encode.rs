//! What it takes to make a file of a picture: the worker's PNG beside the other settings of its encoder, and beside the
//! other formats. Milliseconds on one thread (the median of some runs), and bytes.
//!
//! `cargo bench --bench encode`
//!
//! The pictures are 512x512: `noise` has nothing to compress, `photo` has what a drawn or photographed picture has (few
//! hard edges, smooth shades, grain of about one part in a hundred), `flat` is what `sim://` draws.

use std::{hint::black_box, time::Instant};

use image::{Rgb, RgbImage};
use sd_worker_rbee::{
    contract::{Capability, Job, Limits, Operation},
    diffusion::{ImageSpec, Source},
    engine::Generated,
    worker::pictures::encode,
};

const SIDE: u32 = 512;
const RUNS: usize = 30;

/// Numbers that look random, the same at every run (an LCG, its upper bits).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }
}

fn noise() -> RgbImage {
    let mut numbers = Numbers(1);
    RgbImage::from_fn(SIDE, SIDE, |_, _| Rgb([numbers.next(), numbers.next(), numbers.next()]))
}

/// A lit ball before a sky of slow waves, with grain.
fn photo() -> RgbImage {
    let mut numbers = Numbers(2);
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (u, v) = (f64::from(x) / f64::from(SIDE), f64::from(y) / f64::from(SIDE));
        let (dx, dy) = (u - 0.45, v - 0.55);
        let depth = 0.09 - dx * dx - dy * dy;
        let shade = if depth > 0.0 {
            let light = (depth.sqrt() - 0.5 * dx - 0.7 * dy).max(0.05) * 2.2;
            [0.9 * light, 0.35 * light, 0.25 * light]
        } else {
            let wave = 0.5 + 0.2 * (9.0 * u + 4.0 * (3.0 * v).sin()).sin() + 0.2 * (7.0 * v).cos();
            [0.5 * wave, 0.6 * wave, 0.4 + 0.5 * wave]
        };
        Rgb(shade.map(|value| {
            let grain = (f64::from(numbers.next()) + f64::from(numbers.next()) - 255.0) / 40.0;
            (value * 255.0 + grain).clamp(0.0, 255.0) as u8
        }))
    })
}

fn flat() -> RgbImage {
    RgbImage::from_pixel(SIDE, SIDE, Rgb([120, 40, 200]))
}

/// Prints the median time of `work`, and the size of what it makes.
fn measure(name: &str, work: impl Fn() -> usize) {
    let mut bytes = 0;
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let begun = Instant::now();
            bytes = black_box(work());
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("  {name:<34} {:>7.2} ms {:>9} bytes", times[RUNS / 2], bytes);
}

/// A PNG of the pixels alone.
fn png(image: &RgbImage, compression: png::DeflateCompression, filter: png::Filter) -> usize {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_deflate_compression(compression);
    encoder.set_filter(filter);
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(image.as_raw()).expect("pixels");
    writer.finish().expect("an end");
    bytes.len()
}

/// The worker's own file of a picture, with its texts and its hash.
fn worker_s(image: &RgbImage, format: &str) -> impl Fn() -> usize + use<> {
    let body = format!(r#"{{"prompt":"a lit ball","output":{{"format":"{format}"}}}}"#);
    let operation = Operation::parse(Some(Capability::Generate), body.as_bytes()).expect("a request");
    let job = Job::new(operation, &Limits::default()).expect("a job");
    let spec =
        ImageSpec { seed: 7, ..ImageSpec::new("a lit ball", Source::Text { width: SIDE, height: SIDE }) };
    let picture = Generated { index: 0, seed: 7, scheduler: "ddim", image: image.clone() };
    move || encode(&job, &spec, "model", &picture).expect("a file").bytes.len()
}

fn main() {
    use png::{DeflateCompression::*, Filter::*};
    for (name, image) in [("noise", noise()), ("photo", photo()), ("flat", flat())] {
        println!("{name}, {SIDE}x{SIDE}, {} bytes of pixels", image.as_raw().len());
        measure("the worker's PNG, texts and hash", worker_s(&image, "png"));
        for (name, compression, filter) in [
            ("PNG, fdeflate, adaptive filter", FdeflateUltraFast, Adaptive),
            ("PNG, fdeflate, filter Paeth", FdeflateUltraFast, Paeth),
            ("PNG, fdeflate, filter Up", FdeflateUltraFast, Up),
            ("PNG, stored", NoCompression, NoFilter),
            ("PNG, level 1, adaptive filter", Level(1), Adaptive),
            ("PNG, level 6, adaptive filter", Level(6), Adaptive),
            ("PNG, level 9, adaptive filter", Level(9), Adaptive),
        ] {
            measure(name, || png(&image, compression, filter));
        }
        measure("the worker's JPEG", worker_s(&image, "jpeg"));
        measure("the worker's WebP (lossless)", worker_s(&image, "webp"));
    }
}
