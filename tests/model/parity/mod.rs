//! What is computed here against what diffusers computed (`tools/parity` wrote it down): modules, noise, whole runs.

mod both_paths;
mod families;
mod masking;
mod matrix;
mod real_size;
pub mod runs;

use crate::support;
use crate::support::{Golden, data, model, text_encoder};
use crate::tensor_file::{Tensor as Stored, TensorFile};
use candle_core::{DType, Device, Tensor};
use runs::{MODULE, Run, cases, check_run, check_runs, close};
use sd_worker_rbee::diffusion::{self, Conditioning, StableDiffusion, TorchRng};
use serde::Deserialize;

#[derive(Deserialize)]
struct TokensCase {
    prompt: String,
    ids: Vec<u32>,
}

fn ids(model: &StableDiffusion, prompt: &str) -> Vec<u32> {
    model.tokenizer().encode(prompt).unwrap().ids
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
            let ours = text_encoder(&model).forward(std::slice::from_ref(&prompt), skip).unwrap();
            close(&format!("{checkpoint} skip {skip}"), &ours, golden.get(&format!("text.{skip}")), MODULE);
        }
        let both = text_encoder(&model).forward(&[ids(&model, "the blue"), prompt], 0).unwrap();
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
            let ours =
                model.unet().forward(input, &[981.0, 21.0], &Conditioning::of_text(text.clone())).unwrap();
            close(&format!("{checkpoint} {size}"), &ours, theirs, MODULE);
            let (one, words) = (input.narrow(0, 1, 1).unwrap(), text.narrow(0, 1, 1).unwrap());
            let alone = model.unet().forward(&one, &[21.0], &Conditioning::of_text(words)).unwrap();
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
        close(&format!("{checkpoint} std"), moments.std.as_ref().unwrap(), golden.get("vae.std"), MODULE);
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

#[test]
fn text_to_image_runs_end_in_diffusers_pictures() {
    check_runs("runs", "text");
}

#[test]
fn image_to_image_runs_end_in_diffusers_pictures() {
    check_runs("runs", "image");
}

#[test]
fn inpainting_with_four_channels_ends_in_diffusers_pictures() {
    check_runs("runs", "blend");
}

#[test]
fn inpainting_with_nine_channels_ends_in_diffusers_pictures() {
    check_runs("runs", "channels");
}

#[test]
fn weights_are_counted_in_the_type_that_is_computed_in() {
    let f32_bytes = model("text").weight_bytes();
    let f64_model = StableDiffusion::load(&data("text"), &Device::Cpu, DType::F64).unwrap();
    assert_eq!(f64_model.weight_bytes(), 2 * f32_bytes);
    assert!(f32_bytes > 1_000_000);
}

#[test]
fn runs_with_rescaled_guidance_end_in_diffusers_pictures() {
    check_runs("rescale", "rescale");
}

#[test]
fn a_unet_that_predicts_velocity_from_noise_alone_on_draws_with_a_folder_s_rest_what_diffusers_draws() {
    let runs: Vec<Run> = cases("rescale");
    let run = runs.iter().find(|run| run.name.starts_with("velocity")).unwrap();
    let mut unet = TensorFile::read(&data("xl/unet/diffusion_pytorch_model.safetensors"));
    let mark = Stored { dtype: "F32".into(), shape: vec![0], bytes: vec![] };
    unet.tensors.extend(["v_pred", "ztsnr"].map(|name| (name.to_owned(), mark.clone())));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unet.safetensors");
    unet.write(&file);
    let opened = diffusion::open_with(&data("xl"), &[("unet".into(), file)]).unwrap();
    let model = StableDiffusion::open(&opened, &Device::Cpu, DType::F32).unwrap();
    check_run(run, &model, &Golden::read("rescale.safetensors"));
}
