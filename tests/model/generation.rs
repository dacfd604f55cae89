//! One picture from request to pixels: what is refused, what is kept, and what a batch may not change.

use crate::support::{data, model, picture};
use candle_core::{DType, Device};
use image::{GrayImage, Luma, Rgb, RgbImage};
use sd_worker_rbee::{
    contract::ErrorCode,
    diffusion::{DiffusionError, ImageSpec, Source, StableDiffusion},
};

fn spec(source: Source) -> ImageSpec {
    ImageSpec { steps: 4, guidance_scale: 5.0, seed: 1, ..ImageSpec::new("a red circle", source) }
}

fn text(width: u32, height: u32) -> ImageSpec {
    spec(Source::Text { width, height })
}

fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(3 * x) as u8, (2 * y) as u8, 90]))
}

fn run(model: &StableDiffusion, spec: &ImageSpec) -> RgbImage {
    let mut job = model.begin(spec).unwrap();
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
    }
    model.finish(&job).unwrap()
}

fn refused(model: &StableDiffusion, spec: &ImageSpec, code: ErrorCode, parts: &[&str]) {
    let error = match model.begin(spec) {
        Ok(_) => panic!("it began; expected an error with {parts:?}"),
        Err(error) => error,
    };
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn the_same_request_gives_the_same_pixels_and_another_seed_others() {
    let model = model("text");
    let first = run(&model, &text(64, 64));
    assert_eq!(first.as_raw(), run(&model, &text(64, 64)).as_raw());
    let other = run(&model, &ImageSpec { seed: 2, ..text(64, 64) });
    assert!(picture::difference(&first, &other).0 > 5.0);
}

#[test]
fn company_does_not_change_a_picture() {
    let model = model("text");
    let specs = [text(64, 64), ImageSpec { seed: 9, steps: 3, ..text(64, 64) }, text(72, 64)];
    let alone: Vec<RgbImage> = specs.iter().map(|spec| run(&model, spec)).collect();
    let mut jobs: Vec<_> = specs.iter().map(|spec| model.begin(spec).unwrap()).collect();
    while jobs.iter().any(|job| !job.is_done()) {
        model.advance(&mut jobs.iter_mut().collect::<Vec<_>>()).unwrap();
    }
    for (job, alone) in jobs.iter().zip(&alone) {
        assert_eq!(job.step(), job.total());
        assert_eq!(model.finish(job).unwrap().as_raw(), alone.as_raw());
    }
}

#[test]
fn the_native_size_and_the_schedulers_are_the_checkpoint_s() {
    assert_eq!(model("text").native_size(), (64, 64));
    assert_eq!(model("text").default_scheduler().unwrap().name(), "ddim");
    assert_eq!(model("inpaint").default_scheduler().unwrap().name(), "euler");
    assert!(StableDiffusion::schedulers().starts_with(&["ddim", "ddpm", "pndm", "euler"]));
    let job = model("text").begin(&ImageSpec { scheduler: Some("euler_a".into()), ..text(64, 64) }).unwrap();
    assert_eq!((job.scheduler_name(), job.step(), job.total()), ("euler_a", 0, 4));
}

#[test]
fn a_scheduler_that_we_lack_is_refused_by_name_and_another_can_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler", ""] {
        std::fs::create_dir_all(folder.path().join(part)).unwrap();
        for entry in std::fs::read_dir(data("text").join(part)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), folder.path().join(part).join(entry.file_name())).unwrap();
            }
        }
    }
    let config = folder.path().join("scheduler/scheduler_config.json");
    let deis = std::fs::read_to_string(&config).unwrap().replace("DDIMScheduler", "DEISMultistepScheduler");
    std::fs::write(&config, deis).unwrap();
    let model = StableDiffusion::load(folder.path(), &Device::Cpu, DType::F32).unwrap();
    let known = "ddim, ddpm, pndm, euler, euler_karras";
    refused(
        &model,
        &text(64, 64),
        ErrorCode::InvalidRequest,
        &["`scheduler`", "DEISMultistepScheduler", known],
    );
    let unknown = ImageSpec { scheduler: Some("dpm_fast".into()), ..text(64, 64) };
    refused(&model, &unknown, ErrorCode::InvalidRequest, &["`scheduler`", "dpm_fast", known]);
    assert!(model.begin(&ImageSpec { scheduler: Some("ddim".into()), ..text(64, 64) }).is_ok());
}

#[test]
fn what_cannot_be_served_is_refused_by_its_field() {
    let model = model("text");
    let image = || gradient(64, 64);
    let invalid = |spec: ImageSpec, parts: &[&str]| refused(&model, &spec, ErrorCode::InvalidRequest, parts);
    invalid(ImageSpec { clip_skip: 4, ..text(64, 64) }, &["`clip_skip`", "3 layers"]);
    invalid(ImageSpec { steps: 0, ..text(64, 64) }, &["`steps`"]);
    invalid(ImageSpec { steps: 1001, ..text(64, 64) }, &["`steps`", "1000"]);
    invalid(ImageSpec { guidance_scale: f64::NAN, ..text(64, 64) }, &["`guidance_scale`"]);
    invalid(text(65, 64), &["`width`", "multiple of 8"]);
    invalid(text(64, 0), &["`height`"]);
    for strength in [0.0, -1.0, 1.5, f64::NAN] {
        invalid(spec(Source::Image { image: image(), strength }), &["`strength`"]);
    }
    invalid(spec(Source::Image { image: image(), strength: 0.2 }), &["`strength`", "`steps`"]);
    let mask = GrayImage::new(64, 72);
    invalid(spec(Source::Inpaint { image: image(), mask, strength: 1.0, overlay: None }), &["`mask_image`"]);
    invalid(spec(Source::Image { image: RgbImage::new(0, 0), strength: 1.0 }), &["`init_image`"]);
}

#[test]
fn a_unet_for_inpainting_refuses_the_other_operations() {
    let model = model("inpaint");
    refused(&model, &text(64, 64), ErrorCode::UnsupportedOperation, &["9 channels", "image_generation"]);
    let image = spec(Source::Image { image: gradient(64, 64), strength: 0.5 });
    refused(&model, &image, ErrorCode::UnsupportedOperation, &["9 channels", "image_transform"]);
}

#[test]
fn a_low_strength_stays_nearer_to_the_input_than_a_high_one() {
    let model = model("text");
    let input = gradient(64, 64);
    let distance = |strength| {
        let source = Source::Image { image: input.clone(), strength };
        let spec = ImageSpec { steps: 20, guidance_scale: 1.0, ..spec(source) };
        let mut job = model.begin(&spec).unwrap();
        let begun = job.latents().to_vec();
        while !job.is_done() {
            model.advance(&mut [&mut job]).unwrap();
        }
        let moved: f32 = job.latents().iter().zip(&begun).map(|(a, b)| (a - b).powi(2)).sum();
        (job.total(), moved)
    };
    let (few, near) = distance(0.2);
    let (many, far) = distance(0.9);
    assert_eq!((few, many), (4, 18));
    assert!(near < far, "{near} {far}");
}

#[test]
fn sides_that_are_no_multiple_of_eight_are_padded_by_their_edge_and_cropped_back() {
    let model = model("text");
    let image = gradient(61, 70);
    let padded = RgbImage::from_fn(64, 72, |x, y| *image.get_pixel(x.min(60), y.min(69)));
    let odd = run(&model, &spec(Source::Image { image, strength: 0.8 }));
    let even = run(&model, &spec(Source::Image { image: padded, strength: 0.8 }));
    assert_eq!((odd.dimensions(), even.dimensions()), ((61, 70), (64, 72)));
    assert!(odd.enumerate_pixels().all(|(x, y, pixel)| pixel == even.get_pixel(x, y)));
}

#[test]
fn what_a_mask_keeps_comes_back_pixel_for_pixel_and_the_rest_is_drawn_anew() {
    for checkpoint in ["text", "inpaint"] {
        let model = model(checkpoint);
        let image = gradient(67, 75);
        let mask = GrayImage::from_fn(67, 75, |x, _| Luma([if x > 30 { 128 } else { 127 }]));
        let source = Source::Inpaint { image: image.clone(), mask, strength: 1.0, overlay: None };
        let drawn = run(&model, &spec(source));
        let (mut kept, mut anew) = (0, 0);
        for (x, y, pixel) in drawn.enumerate_pixels() {
            match x > 30 {
                false => kept += usize::from(pixel == image.get_pixel(x, y)),
                true => anew += usize::from(pixel != image.get_pixel(x, y)),
            }
        }
        assert_eq!(kept, 31 * 75, "{checkpoint}");
        assert!(anew > 36 * 75 * 9 / 10, "{checkpoint}: {anew}");
    }
}

#[test]
fn a_prompt_that_is_cut_leaves_a_warning_that_quotes_the_rest() {
    let long = ImageSpec { prompt: "red ".repeat(75) + "blue the end", ..text(64, 64) };
    let job = model("text").begin(&long).unwrap();
    assert_eq!(job.warnings(), ["`prompt` was cut at 77 tokens; left out: blue the end"]);
    assert!(model("text").begin(&text(64, 64)).unwrap().warnings().is_empty());
}

#[test]
fn without_guidance_the_negative_prompt_is_not_computed() {
    let model = model("text");
    let plain = ImageSpec { guidance_scale: 1.0, ..text(64, 64) };
    let negative = ImageSpec { negative_prompt: Some("blue".into()), ..plain.clone() };
    assert_eq!(run(&model, &plain).as_raw(), run(&model, &negative).as_raw());
    let guided = ImageSpec { negative_prompt: Some("blue".into()), ..text(64, 64) };
    assert_ne!(run(&model, &text(64, 64)).as_raw(), run(&model, &guided).as_raw());
}

#[test]
fn a_preview_is_small_and_keeps_the_proportions() {
    let model = model("text");
    let mut job = model.begin(&text(64, 72)).unwrap();
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
    }
    let preview = model.preview(&job).unwrap();
    assert!(
        preview.width().max(preview.height()) <= 256 && preview.width() >= 64,
        "{:?}",
        preview.dimensions()
    );
    assert_eq!(preview.width() * 72, preview.height() * 64);
}

#[test]
fn latents_that_are_not_finite_end_one_picture_with_an_error_and_not_its_company() {
    let model = model("text");
    let mut good = model.begin(&text(64, 64)).unwrap();
    let mut bad = model.begin(&ImageSpec { guidance_scale: 1e300, ..text(64, 64) }).unwrap();
    while !(good.is_done() && bad.is_done()) {
        model.advance(&mut [&mut bad, &mut good]).unwrap();
    }
    let error = model.finish(&bad).unwrap_err();
    assert!(matches!(error, DiffusionError::NonFinite { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::NonFinite);
    assert!(model.preview(&bad).is_err());
    assert!(model.finish(&good).is_ok());
}

#[test]
fn a_picture_put_down_between_two_steps_goes_on_bit_for_bit() {
    let model = model("text");
    for name in StableDiffusion::schedulers() {
        let spec = ImageSpec { scheduler: Some((*name).into()), ..text(64, 64) };
        let mut whole = model.begin(&spec).unwrap();
        for _ in 0..3 {
            model.advance(&mut [&mut whole]).unwrap();
        }
        let written = serde_json::to_string(&whole.progress()).unwrap();
        let mut other = model.begin(&spec).unwrap();
        other.resume(serde_json::from_str(&written).unwrap()).unwrap();
        assert_eq!(other.step(), 3);
        while !whole.is_done() {
            model.advance(&mut [&mut whole]).unwrap();
            model.advance(&mut [&mut other]).unwrap();
        }
        assert_eq!(other.progress(), whole.progress(), "{name}");
        assert_eq!(model.finish(&other).unwrap(), model.finish(&whole).unwrap(), "{name}");
    }
    let larger = model.begin(&text(128, 64)).unwrap().progress();
    let refused = model.begin(&text(64, 64)).unwrap().resume(larger).unwrap_err().to_string();
    assert!(refused.contains("latents") && refused.contains("the picture has"), "{refused}");
}
