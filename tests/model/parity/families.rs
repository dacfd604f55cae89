//! The other families: SD 2, Turbo, LCM, SDXL, its inpainting variant and its refiner, and TAESD.

use candle_core::Device;
use sd_worker_rbee::diffusion::{DType, ImageSpec, Precision, Source, inspect};

use super::{
    runs::{MODULE, check_runs, close},
    support::{Golden, data, model, model_of_class},
};

#[test]
fn sd_2_runs_end_in_diffusers_pictures() {
    check_runs("families", "sd2");
}

#[test]
fn turbo_runs_with_a_tiny_autoencoder_end_in_diffusers_pictures() {
    check_runs("families", "turbo");
}

#[test]
fn sdxl_runs_end_in_diffusers_pictures() {
    check_runs("families", "xl");
}

#[test]
fn sdxl_refiner_runs_end_in_diffusers_pictures() {
    check_runs("families", "refiner");
}

fn drawing() -> ImageSpec {
    ImageSpec {
        steps: 2,
        guidance_scale: 5.0,
        seed: 1,
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    }
}

#[test]
fn a_refiner_draws_nothing_from_noise() {
    let error = model("refiner").begin(&drawing()).err().unwrap();
    assert!(error.to_string().contains("image_transform"), "{error}");
}

#[test]
fn a_tiny_autoencoder_encodes_and_decodes_as_diffusers_does() {
    let golden = Golden::read("families.safetensors");
    let model = model("turbo");
    let counted = inspect(&data("turbo"), &Device::Cpu, Precision::all(DType::F32)).unwrap().weight_bytes;
    assert_eq!(counted, model.weight_bytes(), "it is counted before it is loaded");
    let taesd = model.preview_autoencoder().unwrap();
    let encoded = taesd.encode(golden.get("taesd.picture")).unwrap();
    assert!(encoded.std.is_none());
    close("taesd encoded", &encoded.mean, golden.get("taesd.encoded"), MODULE);
    let decoded = taesd.decode(golden.get("taesd.latents")).unwrap();
    close("taesd decoded", &decoded, golden.get("taesd.decoded"), MODULE);
}

#[test]
fn latent_consistency_runs_end_in_diffusers_pictures() {
    check_runs("families", "lcm");
}

#[test]
fn a_checkpoint_of_lcm_s_own_class_goes_all_steps_from_a_picture_as_diffusers_does() {
    check_runs("families", "consistency");
}

fn from_picture(steps: u32, strength: f64, scheduler: Option<&str>) -> ImageSpec {
    let image = Golden::read("families.safetensors").rgb("lcm_image.input");
    let source = Source::Image { image, strength };
    ImageSpec { steps, scheduler: scheduler.map(str::to_owned), ..ImageSpec::new("a red circle", source) }
}

#[test]
fn only_lcm_s_own_class_with_its_own_scheduler_goes_all_steps_from_a_picture() {
    for class in ["LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"] {
        let own = model_of_class("lcm", class);
        let steps = |scheduler| own.begin(&from_picture(4, 0.5, scheduler)).unwrap().total();
        assert_eq!([steps(None), steps(Some("lcm")), steps(Some("euler"))], [4, 4, 2], "{class}");
    }
    // As with a LoRA that makes a consistency model of Stable Diffusion.
    assert_eq!(model("text").begin(&from_picture(4, 0.5, Some("lcm"))).unwrap().total(), 2);
}

#[test]
fn more_steps_than_the_strength_leaves_timesteps_are_refused_by_name() {
    let model = model_of_class("lcm", "LatentConsistencyModelPipeline");
    let error = model.begin(&from_picture(4, 0.07, None)).err().unwrap().to_string();
    assert!(error.contains("`strength`") && error.contains("leaves 3 to 4 `steps`"), "{error}");
    assert_eq!(model.begin(&from_picture(3, 0.07, None)).unwrap().total(), 3);
}

#[test]
fn a_job_that_names_neither_gets_the_steps_and_guidance_of_its_family() {
    let families = [
        ("text", 20, 7.5),
        ("sd2", 20, 7.5),
        ("inpaint", 20, 7.5),
        ("xl", 20, 7.5),
        ("turbo", 4, 0.0),
        ("xl_turbo", 4, 0.0),
        ("lcm", 4, 8.5),
        ("flux/schnell", 4, 0.0),
        ("flux/dev", 28, 3.5),
    ];
    for (checkpoint, steps, guidance_scale) in families {
        let found = inspect(&data(checkpoint), &Device::Cpu, Precision::all(DType::F32)).unwrap().defaults;
        assert_eq!((found.steps, found.guidance_scale), (steps, guidance_scale), "{checkpoint}");
    }
}

#[test]
fn a_preview_is_decoded_by_the_tiny_autoencoder_where_there_is_one() {
    let model = model("turbo");
    let spec = ImageSpec { steps: 1, guidance_scale: 0.0, ..drawing() };
    let mut job = model.begin(&spec).unwrap();
    model.advance(&mut [&mut job]).unwrap();
    let preview = model.preview(&job).unwrap();
    let taesd = model.preview_autoencoder().unwrap();
    let (planes, _) = taesd.draw(job.latents(), (4, 8, 8), &Device::Cpu).unwrap();
    assert_eq!(preview.dimensions(), (64, 64));
    let first = |plane: usize| ((planes[plane * 64 * 64] * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8;
    assert_eq!(preview.get_pixel(0, 0).0, [first(0), first(1), first(2)]);
}
