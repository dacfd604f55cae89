//! The configurations that were published with each family, as diffusers takes them for a file that carries none.
//! Sizes that the file's tensors tell are put over them (`shapes.rs`).

use serde_json::{Value, json};

use super::{Kind, Prediction};
use crate::diffusion::families::originals::put;

/// `model_index.json`.
pub fn index(kind: Kind, inpainting: bool) -> Value {
    let text = json!(["transformers", "CLIPTextModel"]);
    let text_2 = json!(["transformers", "CLIPTextModelWithProjection"]);
    let tokenizer = json!(["transformers", "CLIPTokenizer"]);
    let none = json!([null, null]);
    let mut index = json!({
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": text,
        "tokenizer": tokenizer,
    });
    index["scheduler"] = json!(["diffusers", scheduler_class(kind, inpainting)]);
    index["_class_name"] = json!(match (kind, inpainting) {
        (Kind::V1 | Kind::V2, false) => "StableDiffusionPipeline",
        (Kind::V1 | Kind::V2, true) => "StableDiffusionInpaintPipeline",
        (Kind::XlBase, false) => "StableDiffusionXLPipeline",
        (Kind::XlRefiner, false) => "StableDiffusionXLImg2ImgPipeline",
        (Kind::XlBase | Kind::XlRefiner, true) => "StableDiffusionXLInpaintPipeline",
    });
    match kind {
        Kind::V1 | Kind::V2 => {}
        Kind::XlBase => {
            index["text_encoder_2"] = text_2;
            index["tokenizer_2"] = tokenizer;
            index["force_zeros_for_empty_prompt"] = json!(true);
        }
        Kind::XlRefiner => {
            index["text_encoder"] = none.clone();
            index["tokenizer"] = none;
            index["text_encoder_2"] = text_2;
            index["tokenizer_2"] = tokenizer;
            index["force_zeros_for_empty_prompt"] = json!(false);
            index["requires_aesthetics_score"] = json!(true);
        }
    }
    index
}

/// `unet/config.json`, without what the tensors tell.
pub fn unet(kind: Kind, inpainting: bool, prediction: Prediction) -> Value {
    let mut unet = json!({
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "center_input_sample": false,
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "sample_size": match (kind, prediction) {
            (Kind::V1, _) | (Kind::V2, Prediction::Epsilon) => 64,
            (Kind::V2, Prediction::Velocity) if inpainting => 64,
            (Kind::V2, Prediction::Velocity) => 96,
            (Kind::XlBase | Kind::XlRefiner, _) => 128,
        },
    });
    match kind {
        Kind::V1 => {}
        // Published with 2.1, whose scores overflow half precision.
        Kind::V2 => unet["upcast_attention"] = json!(!inpainting),
        Kind::XlBase | Kind::XlRefiner => unet["addition_embed_type"] = json!("text_time"),
    }
    unet
}

/// `vae/config.json`, without what the tensors tell.
pub fn vae(kind: Kind) -> Value {
    let (scale, upcast) = match kind {
        Kind::V1 | Kind::V2 => (0.18215, false),
        Kind::XlBase | Kind::XlRefiner => (0.13025, true),
    };
    json!({ "scaling_factor": scale, "force_upcast": upcast })
}

/// `scheduler/scheduler_config.json`.
pub fn scheduler(kind: Kind, inpainting: bool, prediction: Prediction, zero_terminal_snr: bool) -> Value {
    let mut scheduler = json!({
        "_class_name": scheduler_class(kind, inpainting),
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": false,
        "num_train_timesteps": 1000,
        "prediction_type": match prediction {
            Prediction::Epsilon => "epsilon",
            Prediction::Velocity => "v_prediction",
        },
        "set_alpha_to_one": false,
        "skip_prk_steps": true,
        "steps_offset": 1,
        "trained_betas": null,
    });
    if matches!(kind, Kind::XlBase | Kind::XlRefiner) {
        scheduler["interpolation_type"] = json!("linear");
        scheduler["sample_max_value"] = json!(1.0);
        scheduler["timestep_spacing"] = json!("leading");
        scheduler["use_karras_sigmas"] = json!(false);
    }
    if zero_terminal_snr {
        put(&mut scheduler, zero_snr().into_iter().collect());
        // PNDM knows no other betas.
        if matches!(kind, Kind::V1 | Kind::V2) {
            scheduler["_class_name"] = json!("DDIMScheduler");
        }
    }
    scheduler
}

/// What a scheduler says of a model that was trained from noise alone on (Lin et al. 2024, "Common Diffusion Noise Schedules
/// and Sample Steps Are Flawed"): its steps begin with the last timestep.
pub fn zero_snr() -> Vec<(&'static str, Value)> {
    vec![("rescale_betas_zero_snr", json!(true)), ("timestep_spacing", json!("trailing"))]
}

fn scheduler_class(kind: Kind, inpainting: bool) -> &'static str {
    match (kind, inpainting) {
        (Kind::V1, _) | (Kind::V2, true) => "PNDMScheduler",
        (Kind::V2, false) => "DDIMScheduler",
        (Kind::XlBase | Kind::XlRefiner, _) => "EulerDiscreteScheduler",
    }
}
