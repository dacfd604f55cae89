//! Soft edges of masks and inpainting of the part around a mask alone, beside diffusers: each step, and whole runs.

use candle_core::{Device, Tensor};
use image::{GrayImage, Luma};
use sd_worker_rbee::diffusion::{
    ImageSpec, Source,
    masking::{self, Crop, Region, cropped, filled},
};
use serde::Deserialize;

use super::{
    runs::{LATENTS, PICTURE_LARGEST, PICTURE_MEAN, Run, close, spec_of},
    support::{Golden, data, model, picture},
};

/// Of 255, where a soft edge mixes two pictures: diffusers rounds three times there (premultiplied, divided again, mixed),
/// we once.
const SOFT_MEAN: f64 = 0.2;

#[derive(Deserialize)]
struct Cases {
    regions: Vec<Around>,
    resized: Vec<(String, [u32; 4], (u32, u32))>,
    runs: Vec<Case>,
}

#[derive(Deserialize)]
struct Around {
    white: [u32; 4],
    padding: u32,
    size: (u32, u32),
    region: [u32; 4],
}

#[derive(Deserialize)]
struct Case {
    blur: u32,
    padding: Option<u32>,
    #[serde(flatten)]
    run: Run,
}

fn cases() -> Cases {
    serde_json::from_slice(&std::fs::read(data("masking.json")).unwrap()).unwrap()
}

fn golden() -> Golden {
    Golden::read("masking.safetensors")
}

/// What is drawn of the golden picture.
fn source(golden: &Golden, blur: u32, crop: Option<Crop>, strength: f64) -> Source {
    masking::inpaint(golden.rgb("image"), golden.grey("mask"), strength, blur, crop).unwrap()
}

fn white(size: (u32, u32), [left, top, right, bottom]: [u32; 4]) -> GrayImage {
    GrayImage::from_fn(size.0, size.1, |x, y| {
        Luma([if (left..right).contains(&x) && (top..bottom).contains(&y) { 255 } else { 0 }])
    })
}

#[test]
fn a_mask_is_blurred_as_pil_does_it_to_the_byte() {
    let golden = golden();
    for blur in [1, 2, 3, 4, 7, 13, 32, 64] {
        let Source::Inpaint { mask, .. } = source(&golden, blur, None, 1.0) else { unreachable!() };
        assert!(mask == golden.grey(&format!("blur.{blur}")), "blur {blur}");
    }
}

#[test]
fn the_part_around_a_mask_is_diffusers_part() {
    let (width, height) = golden().grey("mask").dimensions();
    for Around { white: box_of, padding, size, region } in cases().regions {
        let ours = Region::around(&white((width, height), box_of), padding, size).unwrap();
        assert_eq!(ours.bounds(), region, "{box_of:?} with {padding} for {size:?}");
    }
}

#[test]
fn a_part_is_resized_as_pil_does_it_to_the_byte() {
    let golden = golden();
    for (name, part, size) in cases().resized {
        // The proportions of the part itself: nothing is added to it.
        let own = (part[2] - part[0], part[3] - part[1]);
        let image = golden.rgb("image");
        let region = Region::around(&white(image.dimensions(), part), 0, own).unwrap();
        assert_eq!(region.bounds(), part);
        let there = filled(&region.of(&image), size);
        assert!(there == golden.rgb(&format!("filled.{name}")), "{name}: filled");
        assert!(cropped(&there, own) == golden.rgb(&format!("cropped.{name}")), "{name}: cropped");
    }
}

#[test]
fn runs_with_a_soft_edge_and_of_a_part_alone_end_in_diffusers_pictures() {
    let golden = golden();
    for Case { blur, padding, run } in cases().runs {
        let crop = padding.map(|padding| Crop { padding, size: run.size() });
        let source = source(&golden, blur, crop, run.strength());
        let spec: ImageSpec = spec_of(&run, source);
        let model = model(&run.checkpoint);
        let mut job = model.begin(&spec).unwrap();
        while !job.is_done() {
            model.advance(&mut [&mut job]).unwrap();
        }
        let theirs = golden.get(&format!("{}.latents", run.name)).squeeze(0).unwrap();
        let ours = Tensor::from_slice(job.latents(), theirs.shape(), &Device::Cpu).unwrap();
        close(&run.name, &ours, &theirs, LATENTS);
        let (ours, theirs) = (model.finish(&job).unwrap(), golden.rgb(&format!("{}.image", run.name)));
        let (mean, largest) = picture::difference(&ours, &theirs);
        println!("{}: picture differs by {mean:.5} in the mean, {largest} at most", run.name);
        let most = if blur > 0 { SOFT_MEAN } else { PICTURE_MEAN };
        assert!(mean <= most && largest <= PICTURE_LARGEST, "{}: {mean} {largest}", run.name);
    }
}
