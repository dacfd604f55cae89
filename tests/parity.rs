//! What is computed here against what diffusers computed (`tools/parity` wrote it down): modules, noise, whole runs.
#![cfg(feature = "worker")]

#[path = "support/parity.rs"]
mod support;

use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::{
    contract::PromptSyntax,
    diffusion::{Denoising, ImageSpec, Source, StableDiffusion, TorchRng},
};
use serde::Deserialize;
use support::{Golden, data, model, picture, relative_l2};

/// Relative L2 error of one module, and of latents after several steps with guidance.
const MODULE: f64 = 1e-4;
const LATENTS: f64 = 1e-4;
/// Of 255: mean and largest difference of a picture.
const PICTURE_MEAN: f64 = 0.02;
const PICTURE_LARGEST: i32 = 2;

#[derive(Deserialize)]
struct TokensCase {
    prompt: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Run {
    name: String,
    checkpoint: String,
    source: String,
    scheduler: Option<String>,
    prompt: String,
    negative_prompt: Option<String>,
    guidance_scale: f64,
    seed: u64,
    steps: u32,
    clip_skip: u32,
    strength: f64,
    width: u32,
    height: u32,
}

fn ids(model: &StableDiffusion, prompt: &str) -> Vec<u32> {
    model.tokenizer().encode(prompt).unwrap().ids
}

fn close(what: &str, ours: &Tensor, theirs: &Tensor, limit: f64) {
    let error = relative_l2(ours, theirs);
    println!("{what}: relative L2 {error:.2e}");
    assert!(error <= limit, "{what}: relative L2 {error:e}, at most {limit:e}");
}

#[test]
fn token_ids_are_those_of_transformers() {
    for checkpoint in ["text", "inpaint"] {
        let model = model(checkpoint);
        let cases = std::fs::read(data(&format!("{checkpoint}.tokens.json"))).unwrap();
        let cases: Vec<TokensCase> = serde_json::from_slice(&cases).unwrap();
        assert!(cases.len() > 5);
        for case in cases {
            let tokens = model.tokenizer().encode(&case.prompt).unwrap();
            assert_eq!(tokens.ids, case.ids, "{checkpoint}: {:?}", case.prompt);
        }
    }
}

#[test]
fn a_prompt_that_is_too_long_keeps_its_end_token_and_says_what_was_left_out() {
    let model = model("text");
    let fits = model.tokenizer().encode(&("red ".repeat(74) + "red")).unwrap();
    assert_eq!(fits.cut, None);
    let tokens = model.tokenizer().encode(&("red ".repeat(75) + "blue the end")).unwrap();
    assert_eq!(tokens.ids.len(), 77);
    assert_eq!(tokens.ids.last(), fits.ids.last());
    assert_eq!(tokens.cut.as_deref(), Some("blue the end"));
}

#[test]
fn text_embeddings_are_those_of_transformers() {
    for checkpoint in ["text", "inpaint"] {
        let (model, golden) = (model(checkpoint), Golden::read(&format!("{checkpoint}.modules.safetensors")));
        let prompt = ids(&model, "a large red circle on a blue background");
        for skip in [0, 1] {
            let ours = model.text_encoder().forward(std::slice::from_ref(&prompt), skip).unwrap();
            close(&format!("{checkpoint} skip {skip}"), &ours, golden.get(&format!("text.{skip}")), MODULE);
        }
        let both = model.text_encoder().forward(&[ids(&model, "the blue"), prompt], 0).unwrap();
        let theirs = Tensor::cat(&[golden.get("text.negative"), golden.get("text.0")], 0).unwrap();
        close(&format!("{checkpoint} batch of two"), &both, &theirs, MODULE);
    }
}

#[test]
fn the_unet_predicts_what_diffusers_predicts_with_a_timestep_per_sample() {
    for checkpoint in ["text", "inpaint"] {
        let (model, golden) = (model(checkpoint), Golden::read(&format!("{checkpoint}.modules.safetensors")));
        let text = Tensor::cat(&[golden.get("text.negative"), golden.get("text.0")], 0).unwrap();
        for size in ["even", "odd"] {
            let input = golden.get(&format!("unet.{size}.input"));
            let theirs = golden.get(&format!("unet.{size}.output"));
            let ours = model.unet().forward(input, &[981.0, 21.0], &text).unwrap();
            close(&format!("{checkpoint} {size}"), &ours, theirs, MODULE);
            let (one, words) = (input.narrow(0, 1, 1).unwrap(), text.narrow(0, 1, 1).unwrap());
            let alone = model.unet().forward(&one, &[21.0], &words).unwrap();
            close(&format!("{checkpoint} {size} alone"), &alone, &theirs.narrow(0, 1, 1).unwrap(), MODULE);
        }
    }
}

#[test]
fn the_autoencoder_encodes_and_decodes_as_diffusers_does() {
    for checkpoint in ["text", "inpaint"] {
        let (model, golden) = (model(checkpoint), Golden::read(&format!("{checkpoint}.modules.safetensors")));
        let moments = model.vae().encode(golden.get("vae.picture")).unwrap();
        close(&format!("{checkpoint} mean"), &moments.mean, golden.get("vae.mean"), MODULE);
        close(&format!("{checkpoint} std"), &moments.std, golden.get("vae.std"), MODULE);
        let decoded = model.vae().decode(golden.get("vae.latents")).unwrap();
        close(&format!("{checkpoint} decoded"), &decoded, golden.get("vae.decoded"), MODULE);
    }
}

#[test]
fn noise_is_torch_s_bit_for_bit() {
    let golden = Golden::read("noise.safetensors");
    let mut checked = 0;
    for (name, theirs) in golden.all() {
        if let Some((seed, size)) = name.split_once('.').filter(|(seed, _)| *seed != "mixed") {
            let ours = TorchRng::new(seed.parse().unwrap()).normal(size.parse().unwrap());
            assert_eq!(ours, theirs.to_vec1::<f32>().unwrap(), "{name}");
            checked += ours.len();
        }
    }
    assert!(checked > 20_000);
}

#[test]
fn draws_of_all_sizes_go_on_where_the_last_one_ended() {
    let golden = Golden::read("noise.safetensors");
    let mut rng = TorchRng::new(9);
    for (i, size) in [3, 20, 4, 1, 16, 700, 2].into_iter().enumerate() {
        let theirs = golden.get(&format!("mixed.{i}.{size}")).to_vec1::<f32>().unwrap();
        assert_eq!(rng.normal(size), theirs, "draw {i}");
    }
}

fn spec(run: &Run, golden: &Golden) -> ImageSpec {
    let input = || golden.rgb(&format!("{}.input", run.name));
    let source = match run.source.as_str() {
        "text" => Source::Text { width: run.width, height: run.height },
        "image" => Source::Image { image: input(), strength: run.strength },
        _ => Source::Inpaint {
            image: input(),
            mask: golden.grey(&format!("{}.mask", run.name)),
            strength: run.strength,
        },
    };
    ImageSpec {
        prompt: run.prompt.clone(),
        negative_prompt: run.negative_prompt.clone(),
        prompt_syntax: PromptSyntax::Plain,
        clip_skip: run.clip_skip,
        steps: run.steps,
        guidance_scale: run.guidance_scale,
        seed: run.seed,
        scheduler: run.scheduler.clone(),
        source,
    }
}

fn check_runs(kind: &str) {
    let golden = Golden::read("runs.safetensors");
    let runs: Vec<Run> = serde_json::from_slice(&std::fs::read(data("runs.json")).unwrap()).unwrap();
    let runs: Vec<Run> = runs.into_iter().filter(|run| run.name.starts_with(kind)).collect();
    assert!(runs.len() >= 3, "{kind}");
    for run in &runs {
        let model = model(&run.checkpoint);
        let mut job = model.begin(&spec(run, &golden)).unwrap();
        let theirs = golden.get(&format!("{}.latents", run.name));
        assert_eq!(job.total() as usize, theirs.dim(0).unwrap(), "{}: steps", run.name);
        while !job.is_done() {
            model.advance(&mut [&mut job]).unwrap();
            let theirs = theirs.get(job.step() as usize - 1).unwrap();
            let ours = Tensor::from_slice(job.latents(), theirs.shape(), &Device::Cpu).unwrap();
            close(&format!("{} step {}", run.name, job.step()), &ours, &theirs, LATENTS);
        }
        compare_pictures(run, &model, &job, &golden);
    }
}

fn compare_pictures(run: &Run, model: &StableDiffusion, job: &Denoising, golden: &Golden) {
    let ours = model.finish(job).unwrap();
    let (mean, largest) = picture::difference(&ours, &golden.rgb(&format!("{}.image", run.name)));
    println!("{}: picture differs by {mean:.5} in the mean, {largest} at most", run.name);
    assert!(mean <= PICTURE_MEAN && largest <= PICTURE_LARGEST, "{}: {mean} {largest}", run.name);
}

#[test]
fn text_to_image_runs_end_in_diffusers_pictures() {
    check_runs("text");
}

#[test]
fn image_to_image_runs_end_in_diffusers_pictures() {
    check_runs("image");
}

#[test]
fn inpainting_with_four_channels_ends_in_diffusers_pictures() {
    check_runs("blend");
}

#[test]
fn inpainting_with_nine_channels_ends_in_diffusers_pictures() {
    check_runs("channels");
}

#[test]
fn weights_are_counted_in_the_type_that_is_computed_in() {
    let f32_bytes = model("text").weight_bytes();
    let f64_model = StableDiffusion::load(&data("text"), &Device::Cpu, DType::F64).unwrap();
    assert_eq!(f64_model.weight_bytes(), 2 * f32_bytes);
    assert!(f32_bytes > 1_000_000);
}
