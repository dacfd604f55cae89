//! Damaged and foreign checkpoints: each is refused with an error that names the file and the key.

use std::fs;

use crate::checkpoint_copy::{Copy, UNET_WEIGHTS};
use crate::support::data;
use candle_core::{DType, Device};
use sd_worker_rbee::diffusion::{self, StableDiffusion};
use serde_json::{Value, json};

#[test]
fn the_copy_itself_is_loaded() {
    let copy = Copy::new();
    assert!(StableDiffusion::load(copy.0.path(), &Device::Cpu, DType::F32).is_ok());
}

#[test]
fn a_folder_without_a_model_index_is_refused() {
    let copy = Copy::new();
    fs::remove_file(copy.path("model_index.json")).unwrap();
    copy.is_refused_naming(&["no model_index.json", "found scheduler, text_encoder, tokenizer, unet, vae"]);
    for (folder, advice) in
        [(data("text/unet"), "name the folder of its pipeline"), (data("loras/text"), "by its file")]
    {
        let error = diffusion::open(&folder).err().expect("an error").to_string();
        assert!(error.contains(advice), "{error}");
    }
}

#[test]
fn a_missing_component_is_refused() {
    let copy = Copy::new();
    fs::remove_dir_all(copy.path("unet")).unwrap();
    copy.is_refused_naming(&["unet/config.json"]);
}

#[test]
fn a_damaged_tokenizer_is_refused() {
    let file = "tokenizer/tokenizer.json";
    let copy = Copy::new();
    let text = fs::read_to_string(copy.path(file)).unwrap();
    assert!(text.contains("\"add_prefix_space\": true"));
    fs::write(copy.path(file), text.replace("\"add_prefix_space\": true", "\"add_prefix_space\" true"))
        .unwrap();
    copy.is_refused_naming(&[file, "expected `:`"]);
    for (key, value, parts) in [
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "A"}),
            ["normalizer", "Precompiled"],
        ),
        ("post_processor", Value::Null, ["expected ids [526, 527]", "found []"]),
    ] {
        let copy = Copy::new();
        copy.set(file, key, value);
        copy.is_refused_naming(&[&[file], parts.as_slice()].concat());
    }
}

#[test]
fn files_that_a_clone_or_a_download_left_are_called_what_they_are() {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438354725\n";
    for (file, bytes, expected) in [
        (UNET_WEIGHTS, POINTER, "a Git LFS pointer, which stands for a file of 3438354725 bytes"),
        ("vae/diffusion_pytorch_model.safetensors", POINTER, "git lfs pull"),
        ("text_encoder/model.safetensors", b"<!DOCTYPE html><html>", "a web page"),
        (UNET_WEIGHTS, b"GGUF\x03\0\0\0\0\0\0\0", "a GGUF file"),
        (UNET_WEIGHTS, b"PK\x03\x04 archive/data.pkl", "pickled weights can run code"),
        (UNET_WEIGHTS, b"", "it is empty"),
        ("unet/config.json", POINTER, "a Git LFS pointer"),
        ("model_index.json", b"<html></html>", "a web page"),
        ("tokenizer/tokenizer.json", POINTER, "a Git LFS pointer"),
    ] {
        let copy = Copy::new();
        fs::write(copy.path(file), bytes).unwrap();
        copy.is_refused_naming(&[file, expected]);
    }
}

#[test]
fn a_missing_tensor_is_refused_with_the_shape_it_should_have() {
    let copy = Copy::new();
    copy.edit_header(UNET_WEIGHTS, |header| {
        let tensors = header.as_object_mut().unwrap();
        let tensor = tensors.remove("mid_block.resnets.0.conv1.weight").unwrap();
        tensors.insert("another".into(), tensor);
    });
    copy.is_refused_naming(&[
        UNET_WEIGHTS,
        "mid_block.resnets.0.conv1.weight",
        "[32, 32, 3, 3]",
        "found none",
    ]);
}

#[test]
fn a_tensor_of_another_shape_is_refused_with_both_shapes() {
    let copy = Copy::new();
    copy.set("unet/config.json", "in_channels", json!(9));
    copy.is_refused_naming(&[UNET_WEIGHTS, "conv_in.weight", "[16, 9, 3, 3]", "[16, 4, 3, 3]"]);
}

#[test]
fn a_tensor_of_integers_is_refused_with_its_type() {
    let copy = Copy::new();
    copy.edit_header(UNET_WEIGHTS, |header| header["conv_in.weight"]["dtype"] = json!("I16"));
    copy.is_refused_naming(&[
        UNET_WEIGHTS,
        "conv_in.weight",
        "F16, BF16, F32, F64, F8_E4M3 or F8_E5M2",
        "I16",
    ]);
}

#[test]
fn a_file_that_was_cut_short_is_refused_with_both_lengths() {
    let copy = Copy::new();
    let bytes = fs::read(copy.path(UNET_WEIGHTS)).unwrap();
    fs::write(copy.path(UNET_WEIGHTS), &bytes[..bytes.len() - 1]).unwrap();
    copy.is_refused_naming(&[&format!(
        "its header tells of {} bytes, and it has {}",
        bytes.len(),
        bytes.len() - 1
    )]);

    for keep in [0, 5, 100, 50_000, 600_000] {
        let copy = Copy::new();
        let bytes = fs::read(copy.path(UNET_WEIGHTS)).unwrap();
        assert!(keep < bytes.len());
        fs::write(copy.path(UNET_WEIGHTS), &bytes[..keep]).unwrap();
        copy.is_refused_naming(&[UNET_WEIGHTS]);
    }
}

#[test]
fn a_header_that_claims_to_be_huge_is_refused_before_anything_is_allocated() {
    for length in [u64::MAX, u64::MAX - 7, 1 << 60, 1 << 40, 1 << 26] {
        let copy = Copy::new();
        let mut bytes = fs::read(copy.path(UNET_WEIGHTS)).unwrap();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(copy.path(UNET_WEIGHTS), bytes).unwrap();
        copy.is_refused_naming(&[UNET_WEIGHTS, "not a valid safetensors file"]);
    }
}

#[test]
fn a_tensor_that_points_outside_of_its_file_is_refused() {
    let copy = Copy::new();
    copy.edit_header(UNET_WEIGHTS, |header| {
        header["conv_in.weight"]["data_offsets"] = json!([0, 1_u64 << 50]);
    });
    copy.is_refused_naming(&[UNET_WEIGHTS]);
}

#[test]
fn pickled_weights_are_refused_with_the_reason() {
    let copy = Copy::new();
    fs::rename(copy.path(UNET_WEIGHTS), copy.path("unet/diffusion_pytorch_model.bin")).unwrap();
    copy.is_refused_naming(&[
        "unet",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
        "code",
    ]);
}

#[test]
fn a_tokenizer_that_knows_more_tokens_than_the_text_encoder_is_refused() {
    let copy = Copy::new();
    copy.set("text_encoder/config.json", "vocab_size", json!(100));
    copy.is_refused_naming(&["tokenizer/tokenizer.json", "below 100"]);
}

#[test]
fn a_missing_tokenizer_is_refused() {
    let copy = Copy::new();
    fs::remove_file(copy.path("tokenizer/tokenizer.json")).unwrap();
    copy.is_refused_naming(&["tokenizer/vocab.json"]);
}

/// What replaces the UNet's one file: tensor names to files, and each file's tensors.
fn in_several_files(copy: &Copy, index: &str, shard: impl Fn(usize) -> String) -> Value {
    let path = copy.path(UNET_WEIGHTS);
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    let mut map = serde_json::Map::new();
    for (i, names) in names.chunks(names.len().div_ceil(3)).enumerate() {
        let part: std::collections::HashMap<_, _> =
            names.iter().map(|name| ((*name).clone(), tensors[*name].clone())).collect();
        candle_core::safetensors::save(&part, copy.path(&format!("unet/{}", shard(i)))).unwrap();
        map.extend(names.iter().map(|name| ((*name).clone(), json!(shard(i)))));
    }
    fs::remove_file(path).unwrap();
    let value = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(copy.path(&format!("unet/{index}")), value.to_string()).unwrap();
    value
}

const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";

fn shard(i: usize) -> String {
    format!("diffusion_pytorch_model-{:05}-of-00003.safetensors", i + 1)
}

/// The value of one weight of the UNet as a precision reads it.
fn conv_in(copy: &Copy, dtype: DType) -> Vec<f32> {
    let opened = diffusion::open(copy.0.path()).unwrap();
    let weights = opened.checkpoint().weights("unet", &Device::Cpu, dtype).unwrap();
    let tensor = weights.root().tensor("conv_in.weight", &[16, 4, 3, 3]).unwrap();
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn weights_in_several_files_are_those_of_one() {
    let whole = conv_in(&Copy::new(), DType::F32);
    let copy = Copy::new();
    in_several_files(&copy, INDEX, shard);
    assert_eq!(conv_in(&copy, DType::F32), whole);
    assert!(StableDiffusion::load(copy.0.path(), &Device::Cpu, DType::F32).is_ok());
    let copy = Copy::new();
    let half = |i: usize| format!("diffusion_pytorch_model.fp16-{:05}-of-00003.safetensors", i + 1);
    in_several_files(&copy, "diffusion_pytorch_model.safetensors.index.fp16.json", half);
    assert!(StableDiffusion::load(copy.0.path(), &Device::Cpu, DType::F32).is_ok());
}

#[test]
fn of_two_precisions_the_one_that_is_kept_is_read() {
    let copy = Copy::new();
    let path = copy.path(UNET_WEIGHTS);
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let twice = tensors.iter().map(|(name, x)| (name.clone(), (x * 2.0).unwrap())).collect();
    let half = copy.path("unet/diffusion_pytorch_model.fp16.safetensors");
    candle_core::safetensors::save(&twice, half).unwrap();
    let doubled = |values: Vec<f32>| -> Vec<f32> { values.iter().map(|value| 2.0 * value).collect() };
    let plain = conv_in(&copy, DType::F32);
    assert_eq!(conv_in(&copy, DType::F16), doubled(plain));
    assert_eq!(conv_in(&copy, DType::BF16).len(), 16 * 4 * 9);
}

#[test]
fn a_shard_that_is_missing_or_lacks_its_tensor_is_refused_by_name() {
    let copy = Copy::new();
    in_several_files(&copy, INDEX, shard);
    fs::remove_file(copy.path(&format!("unet/{}", shard(1)))).unwrap();
    copy.is_refused_naming(&[&shard(1)]);

    let copy = Copy::new();
    let mut index = in_several_files(&copy, INDEX, shard);
    index["weight_map"]["conv_in.weight"] = json!(shard(2));
    fs::write(copy.path(&format!("unet/{INDEX}")), index.to_string()).unwrap();
    copy.is_refused_naming(&[INDEX, "weight_map.conv_in.weight", &shard(2), "none of that name"]);

    let copy = Copy::new();
    let mut index = in_several_files(&copy, INDEX, shard);
    index["weight_map"].as_object_mut().unwrap().remove("conv_in.weight");
    fs::write(copy.path(&format!("unet/{INDEX}")), index.to_string()).unwrap();
    let part = copy.path(&format!("unet/{}", shard(0)));
    let mut tensors = candle_core::safetensors::load(&part, &Device::Cpu).unwrap();
    tensors.remove("conv_in.weight").unwrap();
    candle_core::safetensors::save(&tensors, part).unwrap();
    copy.is_refused_naming(&["conv_in.weight", "[16, 4, 3, 3]", "found none"]);
}

#[test]
fn an_index_that_is_hostile_or_damaged_is_refused_by_its_key() {
    let outside = json!({ "weight_map": { "conv_in.weight": "../vae/diffusion_pytorch_model.safetensors" } });
    let cases = [
        (outside.to_string(), ["weight_map.conv_in.weight", "../vae/"]),
        (json!({ "weight_map": { "a": "/etc/passwd" } }).to_string(), ["weight_map.a", "/etc/passwd"]),
        (json!({ "weight_map": { "a": 5 } }).to_string(), ["weight_map.a", "5"]),
        (json!({ "weight_map": {} }).to_string(), ["weight_map", "an empty one"]),
        (json!({ "weight_map": [] }).to_string(), ["weight_map", "another value"]),
        (json!({ "metadata": {} }).to_string(), ["weight_map", "none"]),
        ("{".to_string(), ["not a JSON object", "EOF"]),
        ("[".repeat(100_000), ["not a JSON object", "line 1"]),
        (" ".repeat((16 << 20) + 1), ["not a JSON object", "longer than"]),
    ];
    for (text, parts) in cases {
        let copy = Copy::new();
        fs::remove_file(copy.path(UNET_WEIGHTS)).unwrap();
        fs::write(copy.path(&format!("unet/{INDEX}")), text).unwrap();
        copy.is_refused_naming(&[INDEX, parts[0], parts[1]]);
    }
}

#[test]
fn attention_names_of_2022_in_the_autoencoder_are_read() {
    let copy = Copy::new();
    copy.edit_header("vae/diffusion_pytorch_model.safetensors", |header| {
        let old = |name: &str| {
            [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]
                .iter()
                .fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
        };
        let tensors = std::mem::take(header.as_object_mut().unwrap());
        *header = tensors.into_iter().map(|(name, tensor)| (old(&name), tensor)).collect();
    });
    assert!(StableDiffusion::load(copy.0.path(), &Device::Cpu, DType::F32).is_ok());
}

#[test]
fn text_encoder_names_with_their_old_prefix_are_read() {
    let copy = Copy::new();
    copy.edit_header("text_encoder/model.safetensors", |header| {
        let tensors = std::mem::take(header.as_object_mut().unwrap());
        let prefix =
            |name: &str| if name.starts_with("__") { name.into() } else { format!("text_model.{name}") };
        *header = tensors.into_iter().map(|(name, tensor)| (prefix(&name), tensor)).collect();
    });
    assert!(StableDiffusion::load(copy.0.path(), &Device::Cpu, DType::F32).is_ok());
}
