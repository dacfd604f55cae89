//! Flux.1 as computed here against what diffusers and transformers computed (`tools/parity/flux.py` wrote it down).

use crate::{
    support::{Golden, data},
    whole_runs::{self, close, json},
};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::t5;
use sd_worker_rbee::diffusion::{self, Flux, TransformerInput};
use serde::Deserialize;

/// Relative L2 error of one module.
const MODULE: f64 = 1e-4;
const CHECKPOINTS: [&str; 2] = ["schnell", "dev"];
const PROMPT: &str = "a large red circle on a blue background";

#[derive(Deserialize)]
struct TokensCase {
    prompt: String,
    ids: Vec<u32>,
}

fn model(name: &str) -> Flux {
    let opened = diffusion::open(&data(&format!("flux/{name}"))).unwrap();
    Flux::load(&opened, &Device::Cpu, DType::F32).unwrap()
}

fn golden(name: &str) -> Golden {
    Golden::read(&format!("flux/{name}.safetensors"))
}

#[test]
fn t5_token_ids_are_those_of_transformers() {
    for (checkpoint, length) in [("schnell", 256), ("dev", 48)] {
        let model = model(checkpoint);
        let cases: Vec<TokensCase> = json("flux", &format!("{checkpoint}.tokens"));
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

#[test]
fn text_to_image_runs_end_in_diffusers_pictures() {
    whole_runs::check("flux", "text");
}

#[test]
fn image_to_image_runs_end_in_diffusers_pictures() {
    whole_runs::check("flux", "image");
}

#[test]
fn inpainting_runs_end_in_diffusers_pictures() {
    whole_runs::check("flux", "inpaint");
}

#[test]
fn runs_with_loras_of_every_format_end_in_diffusers_pictures() {
    whole_runs::check_of("flux", "lora_runs", "lora");
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
