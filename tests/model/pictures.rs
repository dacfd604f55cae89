//! What the shipped checkpoint draws is what was asked for: colours, strength, masks, seeds.

use std::sync::LazyLock;

use candle_core::Device;
use image::{GrayImage, Luma, Rgb, RgbImage};
use sd_worker_rbee::{
    diffusion::{ImageSpec, Source},
    engine::InferencePipeline,
    models::ModelSource,
};

const MODEL: &str = "tiny-shapes";

static PIPELINE: LazyLock<InferencePipeline> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-shapes");
    let source: ModelSource = format!("{MODEL}={folder}").parse().unwrap();
    InferencePipeline::load(&[source], &Device::Cpu).unwrap()
});

fn spec(prompt: &str, seed: u64, source: Source) -> ImageSpec {
    ImageSpec { seed, ..ImageSpec::new(prompt, source) }
}

fn draw(spec: &ImageSpec) -> RgbImage {
    let mut job = PIPELINE.begin(MODEL, spec).unwrap();
    while !job.is_done() {
        PIPELINE.advance(MODEL, &mut [&mut job]).unwrap();
    }
    PIPELINE.finish(MODEL, &job).unwrap()
}

fn red_circle(seed: u64) -> RgbImage {
    let source = Source::Text { width: 128, height: 128 };
    draw(&spec("a large red circle on a blue background", seed, source))
}

/// Mean of each channel, 0 to 255.
fn mean<'a>(pixels: impl Iterator<Item = &'a Rgb<u8>>) -> [f64; 3] {
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for pixel in pixels {
        for (total, value) in sum.iter_mut().zip(pixel.0) {
            *total += f64::from(value);
        }
        count += 1.0;
    }
    sum.map(|total| total / count)
}

/// Mean absolute difference over all channels, 0 to 255.
fn distance(a: &RgbImage, b: &RgbImage) -> f64 {
    let sum: f64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
    sum / a.as_raw().len() as f64
}

#[test]
fn the_red_circle_is_red_and_its_background_is_blue() {
    let image = red_circle(7);
    let is_inside = |pixel: &Rgb<u8>| pixel.0[0] > pixel.0[2];
    let inside = mean(image.pixels().filter(|p| is_inside(p)));
    let outside = mean(image.pixels().filter(|p| !is_inside(p)));
    assert!(inside[0] > 160.0 && inside[1] < 110.0 && inside[2] < 110.0, "inside {inside:?}");
    assert!(outside[2] > 140.0 && outside[0] < 110.0, "outside {outside:?}");

    // Round: a circle fills 79 % of the square around it, a square 100 %, a triangle 50 %.
    let inside: Vec<_> = image.enumerate_pixels().filter(|(_, _, p)| is_inside(p)).collect();
    let extent = |side: fn(&(u32, u32, &Rgb<u8>)) -> u32| {
        let (least, most) = (inside.iter().map(side).min().unwrap(), inside.iter().map(side).max().unwrap());
        f64::from(most - least + 1)
    };
    let fill = inside.len() as f64 / (extent(|p| p.0) * extent(|p| p.1));
    assert!((0.68..0.90).contains(&fill), "it fills {fill:.2} of the square around it");
}

#[test]
fn a_low_strength_stays_closer_to_the_input_than_a_high_one() {
    let input = red_circle(7);
    let go = |strength| {
        let source = Source::Image { image: input.clone(), strength };
        distance(&draw(&spec("a large green star on a yellow background", 3, source)), &input)
    };
    let (near, far) = (go(0.3), go(0.9));
    assert!(near < far / 2.0, "strength 0.3: {near:.1}, strength 0.9: {far:.1}");
}

#[test]
fn inpaint_keeps_what_the_mask_keeps_and_repaints_the_rest() {
    let input = red_circle(7);
    let mask = GrayImage::from_fn(128, 128, |x, _| Luma([if x < 64 { 255 } else { 0 }]));
    let source = Source::Inpaint { image: input.clone(), mask: mask.clone(), strength: 1.0, overlay: None };
    let image = draw(&spec("a large green star on a yellow background", 3, source));
    let mut repainted = 0;
    for ((x, y, pixel), mask) in image.enumerate_pixels().zip(mask.pixels()) {
        if mask.0[0] == 0 {
            assert_eq!(pixel, input.get_pixel(x, y), "at {x},{y}");
        } else if pixel.0.iter().zip(input.get_pixel(x, y).0).any(|(a, b)| a.abs_diff(b) > 32) {
            repainted += 1;
        }
    }
    assert!(repainted > 64 * 128 / 2, "{repainted} of {} pixels were repainted", 64 * 128);
}

#[test]
fn a_size_that_is_no_multiple_of_eight_comes_back_as_it_was() {
    let input = RgbImage::from_pixel(100, 77, Rgb([200, 30, 30]));
    let source = Source::Image { image: input, strength: 0.5 };
    assert_eq!(draw(&spec("a large red circle on a red background", 3, source)).dimensions(), (100, 77));
}

#[test]
fn the_same_seed_gives_the_same_picture_and_another_seed_another() {
    let first = red_circle(11);
    assert!(first == red_circle(11));
    assert!(first != red_circle(12));
}

#[test]
fn a_picture_does_not_depend_on_what_is_drawn_beside_it() {
    let alone = red_circle(21);
    let source = Source::Text { width: 128, height: 128 };
    let mut first =
        PIPELINE.begin(MODEL, &spec("a large red circle on a blue background", 21, source.clone())).unwrap();
    let mut other =
        PIPELINE.begin(MODEL, &spec("a small white ring on a black background", 5, source)).unwrap();
    PIPELINE.advance(MODEL, &mut [&mut other]).unwrap();
    for _ in 0..19 {
        PIPELINE.advance(MODEL, &mut [&mut other, &mut first]).unwrap();
    }
    PIPELINE.advance(MODEL, &mut [&mut first]).unwrap();
    assert!(PIPELINE.finish(MODEL, &first).unwrap() == alone);
}
