//! Configurations of checkpoints that are hostile, or of models that are not computed here: each is refused by file and key
//! before a picture is asked for.

use std::fs;

use crate::checkpoint_copy::Copy;
use crate::support::{copy_folder, data};
use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::diffusion::{self, DiffusionError, Flux, ImageSpec, Source, StableDiffusion, inspect};
use serde_json::json;

#[test]
fn what_is_not_computed_here_is_refused_by_name() {
    let cases = [
        ("unet/config.json", "down_block_types", json!(["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"])),
        ("unet/config.json", "mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn")),
        ("unet/config.json", "act_fn", json!("mish")),
        ("unet/config.json", "addition_embed_type", json!("image")),
        ("unet/config.json", "class_embed_type", json!("timestep")),
        ("unet/config.json", "dual_cross_attention", json!(true)),
        ("vae/config.json", "up_block_types", json!(vec!["AttnUpDecoderBlock2D"; 4])),
        ("text_encoder/config.json", "hidden_act", json!("relu")),
        ("scheduler/scheduler_config.json", "prediction_type", json!("flow")),
        ("scheduler/scheduler_config.json", "beta_schedule", json!("sigmoid")),
        ("scheduler/scheduler_config.json", "timestep_spacing", json!("karras")),
    ];
    for (file, key, value) in cases {
        let copy = Copy::new();
        copy.set(file, key, value.clone());
        let name = value.as_array().map_or(&value, |list| &list[0]).to_string();
        copy.is_refused_naming(&[file, key, name.trim_matches('"')]);
    }
}

#[test]
fn numbers_that_fit_no_model_are_refused() {
    let cases = [
        ("unet/config.json", "norm_num_groups", json!(7)),
        ("unet/config.json", "norm_num_groups", json!(0)),
        ("unet/config.json", "attention_head_dim", json!([8, 8])),
        ("unet/config.json", "attention_head_dim", json!(5)),
        ("unet/config.json", "block_out_channels", json!([])),
        ("unet/config.json", "block_out_channels", json!([4_000_000_000_u64, 8, 8])),
        ("unet/config.json", "in_channels", json!(8)),
        ("unet/config.json", "cross_attention_dim", json!(768)),
        ("vae/config.json", "latent_channels", json!(16)),
        ("vae/config.json", "scaling_factor", json!(0)),
        ("text_encoder/config.json", "num_attention_heads", json!(5)),
        ("scheduler/scheduler_config.json", "num_train_timesteps", json!(0)),
        // What no weight shows, or would only show when a picture is drawn.
        ("unet/config.json", "downsample_padding", json!(1_048_576)),
        ("unet/config.json", "downsample_padding", json!(2)),
        ("unet/config.json", "conv_in_kernel", json!(4)),
        ("unet/config.json", "conv_out_kernel", json!(2)),
        ("unet/config.json", "conv_in_kernel", json!(1_048_575)),
        ("unet/config.json", "block_out_channels", json!([16, 24, 1_048_576])),
        ("unet/config.json", "block_out_channels", json!(vec![16; 33])),
        ("unet/config.json", "layers_per_block", json!(1_048_576)),
        ("unet/config.json", "transformer_layers_per_block", json!([1, 1, 1_048_576])),
        ("unet/config.json", "norm_eps", json!(0)),
        ("unet/config.json", "norm_eps", json!(-1e-5)),
        ("unet/config.json", "norm_eps", json!(1e300)),
        ("unet/config.json", "freq_shift", json!(8)),
        ("unet/config.json", "sample_size", json!(1_048_576)),
        ("unet/config.json", "sample_size", json!(512)),
        ("unet/config.json", "sample_size", json!(1)),
        ("unet/config.json", "time_embedding_dim", json!(1_048_576)),
        ("vae/config.json", "block_out_channels", json!(vec![8; 33])),
        ("vae/config.json", "block_out_channels", json!([8, 8, 16, 1_048_576])),
        ("vae/config.json", "latent_channels", json!(1_048_576)),
        ("vae/config.json", "layers_per_block", json!(1_048_576)),
        ("vae/config.json", "scaling_factor", json!(1e-300)),
        ("vae/config.json", "scaling_factor", json!(1e300)),
        ("vae/config.json", "shift_factor", json!(-1e300)),
        ("text_encoder/config.json", "max_position_embeddings", json!(1_048_576)),
        ("text_encoder/config.json", "num_hidden_layers", json!(1_048_576)),
        ("text_encoder/config.json", "layer_norm_eps", json!(0)),
    ];
    for (file, key, value) in cases {
        let copy = Copy::new();
        copy.set(file, key, value);
        copy.is_refused_naming(&[file, key]);
    }
}

#[test]
fn an_unpadded_network_of_more_blocks_than_the_smallest_picture_has_is_refused() {
    let copy = Copy::new();
    copy.set("unet/config.json", "downsample_padding", json!(0));
    // Three blocks have four latents to look at, of eight.
    assert!(StableDiffusion::load(copy.0.path(), &Device::Cpu, DType::F32).is_ok());
    copy.set("unet/config.json", "block_out_channels", json!(vec![8; 5]));
    for (key, first, last) in
        [("down_block_types", "DownBlock2D", "DownBlock2D"), ("up_block_types", "UpBlock2D", "UpBlock2D")]
    {
        copy.set("unet/config.json", key, json!([first, first, first, first, last]));
    }
    copy.set("unet/config.json", "attention_head_dim", json!(8));
    let error = inspect(copy.0.path(), &Device::Cpu, DType::F32.into()).unwrap_err().to_string();
    assert!(error.contains("`downsample_padding`: expected 1 for 5 blocks"), "{error}");
}

#[test]
fn a_preview_decoder_of_other_latents_is_refused() {
    let copy = Copy::new();
    copy_folder(&data("turbo/taesd"), &copy.path("taesd"));
    assert!(StableDiffusion::load(copy.0.path(), &Device::Cpu, DType::F32).is_ok());
    copy.set("taesd/config.json", "latent_channels", json!(16));
    copy.is_refused_naming(&["taesd/config.json", "latent_channels", "4 as the VAE's", "16"]);
}

#[test]
fn numbers_that_fit_no_flux_model_are_refused() {
    let cases = [
        ("transformer", "num_attention_heads", json!(1_048_576)),
        ("transformer", "num_layers", json!(1_048_576)),
        ("transformer", "num_single_layers", json!(1_048_576)),
        ("transformer", "in_channels", json!(1_048_576)),
        ("transformer", "joint_attention_dim", json!(1_048_576)),
        ("transformer", "axes_dims_rope", json!([1_048_576, 2, 2])),
        ("text_encoder_2", "num_heads", json!(1_048_576)),
        ("text_encoder_2", "num_layers", json!(1_048_576)),
        ("text_encoder_2", "relative_attention_num_buckets", json!(1_048_576)),
        ("text_encoder_2", "layer_norm_epsilon", json!(-1)),
        ("vae", "block_out_channels", json!(vec![8; 33])),
    ];
    for (component, key, value) in cases {
        let copy = Copy(tempfile::tempdir().unwrap());
        copy_folder(&data("flux/schnell"), copy.0.path());
        copy.set(&format!("{component}/config.json"), key, value.clone());
        let opened = diffusion::open(copy.0.path()).unwrap();
        let error = Flux::load(&opened, &Device::Cpu, DType::F32).err().expect(key).to_string();
        assert!(error.contains(component) && error.contains(key), "{key}: {error}");
    }
}

#[test]
fn a_file_longer_than_any_of_its_kind_is_not_read() {
    for (file, bytes) in [("unet/config.json", 16 << 20), ("tokenizer/tokenizer.json", 64 << 20)] {
        let copy = Copy::new();
        fs::File::options().write(true).open(copy.path(file)).unwrap().set_len(bytes + 1).unwrap();
        copy.is_refused_naming(&[file, &format!("longer than {bytes} bytes")]);
    }
}

#[test]
fn a_configuration_that_is_no_json_is_refused() {
    let copy = Copy::new();
    fs::write(copy.path("vae/config.json"), "{").unwrap();
    copy.is_refused_naming(&["vae/config.json", "not a JSON object"]);
}

#[test]
fn another_kind_of_pipeline_is_refused_by_its_name() {
    let copy = Copy::new();
    copy.set("model_index.json", "_class_name", json!("KandinskyPipeline"));
    copy.is_refused_naming(&[
        "model_index.json",
        "_class_name",
        "StableDiffusionPipeline",
        "KandinskyPipeline",
    ]);
}

/// The numbers that are read, by file.
const NUMBERS: [(&str, &[&str]); 4] = [
    (
        "unet",
        &[
            "attention_head_dim",
            "block_out_channels",
            "conv_in_kernel",
            "conv_out_kernel",
            "cross_attention_dim",
            "downsample_padding",
            "freq_shift",
            "in_channels",
            "layers_per_block",
            "norm_eps",
            "norm_num_groups",
            "out_channels",
            "sample_size",
            "time_cond_proj_dim",
            "time_embedding_dim",
            "transformer_layers_per_block",
        ],
    ),
    (
        "vae",
        &[
            "block_out_channels",
            "latent_channels",
            "layers_per_block",
            "norm_num_groups",
            "scaling_factor",
            "shift_factor",
        ],
    ),
    (
        "text_encoder",
        &[
            "eos_token_id",
            "hidden_size",
            "intermediate_size",
            "layer_norm_eps",
            "max_position_embeddings",
            "num_attention_heads",
            "num_hidden_layers",
            "vocab_size",
        ],
    ),
    ("scheduler", &["beta_end", "beta_start", "num_train_timesteps", "steps_offset"]),
];
/// Tensors that are made for one value, and numbers of one.
const MOST_TENSORS: usize = 40;
const LARGEST_TENSOR: usize = 1 << 18;

/// The checkpoint with the tensors that its configurations ask for, where they are few and small.
fn load_with_its_weights(copy: &Copy) -> Option<StableDiffusion> {
    for _ in 0..MOST_TENSORS {
        let (file, key, expected) = match StableDiffusion::load(copy.0.path(), &Device::Cpu, DType::F32) {
            Ok(model) => return Some(model),
            Err(
                DiffusionError::MissingTensor { file, key, expected }
                | DiffusionError::TensorShape { file, key, expected, .. },
            ) => (file, key, expected),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return None;
            }
        };
        if expected.iter().product::<usize>() > LARGEST_TENSOR {
            return None;
        }
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        tensors.insert(key, (Tensor::ones(expected, DType::F32, &Device::Cpu).unwrap() * 0.01).unwrap());
        candle_core::safetensors::save(&tensors, &file).unwrap();
    }
    None
}

#[test]
fn every_value_of_a_number_is_refused_or_drawn_with() {
    let far =
        [json!(0), json!(-1), json!(1_048_576), json!(u64::MAX), json!(1e300), json!(1e-300), json!([])];
    let near = [json!(1), json!(2), json!(3), json!(5), json!(16), json!(0.5), json!(vec![8; 9])];
    let (mut drawn, mut refused) = (0, 0);
    for (component, keys) in NUMBERS {
        let name = if component == "scheduler" { "scheduler_config" } else { "config" };
        for key in keys {
            for value in far.iter().chain(&near) {
                let copy = Copy::new();
                copy.set(&format!("{component}/{name}.json"), key, value.clone());
                let Some(model) = load_with_its_weights(&copy) else {
                    refused += 1;
                    continue;
                };
                let spec = ImageSpec {
                    steps: 2,
                    guidance_scale: 1.0,
                    seed: 1,
                    ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
                };
                let picture = || {
                    let mut job = model.begin(&spec)?;
                    while !job.is_done() {
                        model.advance(&mut [&mut job])?;
                    }
                    model.finish(&job)
                };
                // An error is one as well: what is not finite, or a request that this model does not take.
                drop(picture());
                drawn += 1;
            }
        }
    }
    println!("{refused} values were refused, {drawn} drawn with");
    assert!(drawn > 20 && refused > 200, "{drawn} {refused}");
}
