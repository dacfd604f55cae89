//! Flux.1 as computed here against what diffusers and transformers computed (`tools/parity/flux.py` wrote it down).

use crate::support::{Golden, data, picture, relative_l2};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::t5;
use sd_worker_rbee::diffusion::{self, Flux, ImageSpec, Picture, Source, TransformerInput};
use serde::Deserialize;

/// Relative L2 error of one module, and of latents after several steps.
const MODULE: f64 = 1e-4;
const LATENTS: f64 = 1e-4;
/// Of 255: mean and largest difference of a picture.
const PICTURE_MEAN: f64 = 0.02;
const PICTURE_LARGEST: i32 = 2;

const CHECKPOINTS: [&str; 2] = ["schnell", "dev"];
const PROMPT: &str = "a large red circle on a blue background";

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
    prompt: String,
    guidance_scale: f64,
    seed: u64,
    steps: u32,
    strength: f64,
    width: u32,
    height: u32,
}

fn model(name: &str) -> Flux {
    let opened = diffusion::open(&data(&format!("flux/{name}"))).unwrap();
    Flux::load(&opened, &Device::Cpu, DType::F32).unwrap()
}

fn golden(name: &str) -> Golden {
    Golden::read(&format!("flux/{name}.safetensors"))
}

fn json<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(data(&format!("flux/{name}.json"))).unwrap()).unwrap()
}

fn close(what: &str, ours: &Tensor, theirs: &Tensor, limit: f64) {
    let error = relative_l2(ours, theirs);
    println!("{what}: relative L2 {error:.2e}");
    assert!(error <= limit, "{what}: relative L2 {error:e}, at most {limit:e}");
}

#[test]
fn t5_token_ids_are_those_of_transformers() {
    for (checkpoint, length) in [("schnell", 256), ("dev", 48)] {
        let model = model(checkpoint);
        let cases: Vec<TokensCase> = json(&format!("{checkpoint}.tokens"));
        assert!(cases.len() > 5);
        for case in cases {
            let tokens = model.t5_tokenizer().encode(&case.prompt).unwrap();
            assert_eq!(tokens.ids, case.ids, "{checkpoint}: {:?}", case.prompt);
            assert_eq!(tokens.ids.len(), length);
        }
    }
}

#[test]
fn both_text_embeddings_are_those_of_transformers() {
    for checkpoint in CHECKPOINTS {
        let (model, golden) = (model(checkpoint), golden(&format!("{checkpoint}.modules")));
        let text = model.encode_prompt(PROMPT).unwrap();
        close(&format!("{checkpoint} T5"), &text.words, golden.get("t5"), MODULE);
        close(&format!("{checkpoint} pooled CLIP"), &text.pooled, golden.get("pooled"), MODULE);
    }
}

#[test]
fn the_transformer_predicts_what_diffusers_predicts_with_a_timestep_and_guidance_per_sample() {
    for checkpoint in CHECKPOINTS {
        let (model, golden) = (model(checkpoint), golden(&format!("{checkpoint}.modules")));
        let tensor = |name: &str| golden.get(&format!("transformer.{name}"));
        let (sigmas, guidance) = ([1.0, 0.2375], [3.5, 7.0]);
        let input = |from: usize, count: usize| {
            let [latents, text, pooled] =
                ["latents", "text", "pooled"].map(|name| tensor(name).narrow(0, from, count).unwrap());
            let (sigmas, guidance) = (&sigmas[from..from + count], &guidance[from..from + count]);
            let (latents, text, pooled) = (&latents, &text, &pooled);
            let input = TransformerInput { latents, text, pooled, sigmas, guidance, grid: (2, 3) };
            model.transformer().forward(&input).unwrap()
        };
        close(&format!("{checkpoint} both"), &input(0, 2), tensor("output"), MODULE);
        let second = tensor("output").narrow(0, 1, 1).unwrap();
        close(&format!("{checkpoint} one alone"), &input(1, 1), &second, MODULE);
    }
}

#[test]
fn the_autoencoder_of_sixteen_channels_encodes_and_decodes_as_diffusers_does() {
    for checkpoint in CHECKPOINTS {
        let (model, golden) = (model(checkpoint), golden(&format!("{checkpoint}.modules")));
        let moments = model.vae().encode(golden.get("vae.picture")).unwrap();
        close(&format!("{checkpoint} mean"), &moments.mean, golden.get("vae.mean"), MODULE);
        let decoded = model.vae().decode(golden.get("vae.latents")).unwrap();
        close(&format!("{checkpoint} decoded"), &decoded, golden.get("vae.decoded"), MODULE);
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
            overlay: None,
        },
    };
    ImageSpec {
        steps: run.steps,
        guidance_scale: run.guidance_scale,
        seed: run.seed,
        ..ImageSpec::new(run.prompt.clone(), source)
    }
}

fn check_runs(kind: &str) {
    let golden = golden("runs");
    let runs: Vec<Run> = json("runs");
    let runs: Vec<Run> = runs.into_iter().filter(|run| run.name.starts_with(kind)).collect();
    assert!(runs.len() >= 2, "{kind}");
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

fn compare_pictures(run: &Run, model: &Flux, job: &Picture, golden: &Golden) {
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
fn inpainting_runs_end_in_diffusers_pictures() {
    check_runs("inpaint");
}

#[test]
fn candle_s_own_t5_is_of_the_same_opinion() {
    for checkpoint in CHECKPOINTS {
        let folder = data(&format!("flux/{checkpoint}/text_encoder_2"));
        let config = std::fs::read(folder.join("config.json")).unwrap();
        let config: t5::Config = serde_json::from_slice(&config).unwrap();
        let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap();
        let mut theirs = t5::T5EncoderModel::load(weights, &config).unwrap();
        let model = model(checkpoint);
        let ids = model.t5_tokenizer().encode(PROMPT).unwrap().ids;
        let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let ours = model.encode_prompt(PROMPT).unwrap().words;
        close(&format!("{checkpoint} candle's T5"), &ours, &theirs.forward(&ids).unwrap(), MODULE);
    }
}
