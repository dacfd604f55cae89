//! Z-Image as computed here against what diffusers and transformers computed (`tools/parity/z_image.py` wrote it down).

use crate::{
    support::{Golden, data},
    whole_runs::{self, close, json},
};
use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::{
    contract::PromptSyntax,
    diffusion::{self, ZImage},
};
use serde::Deserialize;

/// Relative L2 error of one module.
const MODULE: f64 = 1e-4;

const CHECKPOINTS: [&str; 2] = ["turbo", "base"];
const PROMPT: &str = "a red circle on the blue";

#[derive(Deserialize)]
struct TokensCase {
    prompt: String,
    ids: Vec<u32>,
}

fn model(name: &str) -> ZImage {
    let opened = diffusion::open(&data(&format!("z_image/{name}"))).unwrap();
    ZImage::load(&opened, &Device::Cpu, DType::F32).unwrap()
}

fn golden(name: &str) -> Golden {
    Golden::read(&format!("z_image/{name}.modules.safetensors"))
}

#[test]
fn token_ids_are_those_of_the_chat_template_in_transformers() {
    for checkpoint in CHECKPOINTS {
        let model = model(checkpoint);
        let cases: Vec<TokensCase> = json("z_image", &format!("{checkpoint}.tokens"));
        assert!(cases.len() > 5);
        for case in cases {
            let tokens = model.prompts().tokenizer().encode(&case.prompt).unwrap();
            assert_eq!(tokens.ids, case.ids, "{checkpoint}: {:?}", case.prompt);
        }
    }
}

#[test]
fn a_prompt_that_is_too_long_is_cut_and_says_what_was_left_out() {
    let tokens = model("turbo").prompts().tokenizer().encode(&("x".repeat(600) + "end")).unwrap();
    assert_eq!(tokens.ids.len(), 512);
    let cut = tokens.cut.unwrap();
    assert!(cut.ends_with("xend") && !cut.contains("im_end"), "{cut}");
    assert_eq!(model("turbo").prompts().tokenizer().encode(&"x".repeat(400)).unwrap().cut, None);
}

#[test]
fn hidden_states_of_the_last_layer_but_one_are_those_of_transformers() {
    for checkpoint in CHECKPOINTS {
        let mut warnings = Vec::new();
        let prompt = (PROMPT, PromptSyntax::Plain);
        let ours = model(checkpoint).prompts().encode("prompt", prompt, &mut warnings).unwrap();
        let theirs = golden(checkpoint).get("text").unsqueeze(0).unwrap();
        close(&format!("{checkpoint} Qwen3"), &ours, &theirs, MODULE);
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn the_transformer_predicts_what_diffusers_predicts_of_captions_of_any_length() {
    for checkpoint in CHECKPOINTS {
        let (model, golden) = (model(checkpoint), golden(checkpoint));
        for (i, time) in [(0, 0.0), (1, 0.7625)] {
            let tensor = |name: &str| golden.get(&format!("transformer.{name}.{i}"));
            let caption = model.transformer().read_caption(&tensor("caption").unsqueeze(0).unwrap()).unwrap();
            let ours =
                model.transformer().forward(&packed(tensor("latents")), (2, 3), &caption, time).unwrap();
            close(&format!("{checkpoint} {i}"), &ours, &packed(tensor("output")), MODULE);
        }
    }
}

/// `[16, 4, 6]` as six tokens: rows, columns, then channels of each.
fn packed(latents: &Tensor) -> Tensor {
    let tokens = latents.reshape((16, 2, 2, 3, 2)).unwrap().permute((1, 3, 2, 4, 0)).unwrap();
    tokens.reshape((1, 6, 64)).unwrap()
}

#[test]
fn text_to_image_runs_end_in_diffusers_pictures() {
    whole_runs::check("z_image", "text");
}

#[test]
fn image_to_image_runs_end_in_diffusers_pictures() {
    whole_runs::check("z_image", "image");
}

#[test]
fn inpainting_runs_end_in_diffusers_pictures() {
    whole_runs::check("z_image", "inpaint");
}
