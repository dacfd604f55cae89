//! Checkpoints in one file of the original layout, against what diffusers' `from_single_file` reads from the same
//! files (`tools/parity/single_file.py`), and files that are damaged or of another kind.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::support::{Golden, data, picture, relative_l2};
use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::diffusion::{self, ImageSpec, Opened, Source, StableDiffusion};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const FAMILIES: [&str; 5] = ["sd1", "sd1_inpainting", "sd2", "xl_base", "xl_refiner"];

/// Component to name to shape and digest.
type Manifest = BTreeMap<String, BTreeMap<String, (Vec<usize>, String)>>;

fn open(family: &str) -> Opened {
    diffusion::open(&data(&format!("single_file.{family}.safetensors"))).unwrap()
}

fn digest(tensor: &Tensor) -> String {
    let values = tensor.flatten_all().unwrap().to_dtype(DType::F16).unwrap().to_vec1::<half::f16>().unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_tensor_that_diffusers_reads_from_a_file_is_read_bit_for_bit() {
    for family in FAMILIES {
        let manifest = fs::read(data(&format!("single_file.{family}.json"))).unwrap();
        let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
        let opened = open(family);
        let mut checked = 0;
        for (component, tensors) in manifest {
            let weights = opened.checkpoint().weights(&component, &Device::Cpu, DType::F16).unwrap();
            for (name, (shape, theirs)) in tensors {
                let ours = weights.root().tensor(&name, &shape).unwrap();
                assert_eq!(digest(&ours), theirs, "{family} {component} {name}");
                assert!(weights.root().has(&name));
                assert!(!weights.root().has(&format!("{name}.more")));
                checked += 1;
            }
        }
        assert!(checked > 300, "{family}: {checked}");
    }
}

#[test]
fn the_configurations_are_those_of_the_pipelines_that_the_files_were_made_from() {
    let value = |family: &str, component: &str, key: &str| {
        open(family).checkpoint().config(component).unwrap().value(key).cloned().unwrap_or(Value::Null)
    };
    let cases = [
        ("sd1", "unet", "block_out_channels", json!([8, 16])),
        ("sd1", "unet", "down_block_types", json!(["CrossAttnDownBlock2D", "DownBlock2D"])),
        ("sd1", "unet", "up_block_types", json!(["UpBlock2D", "CrossAttnUpBlock2D"])),
        ("sd1", "unet", "attention_head_dim", json!(8)),
        ("sd1", "unet", "use_linear_projection", json!(false)),
        ("sd1", "unet", "layers_per_block", json!(1)),
        ("sd1", "vae", "block_out_channels", json!([4, 8])),
        ("sd1", "vae", "norm_num_groups", json!(4)),
        ("sd1", "vae", "scaling_factor", json!(0.18215)),
        ("sd1", "text_encoder", "hidden_act", json!("quick_gelu")),
        ("sd1", "scheduler", "prediction_type", json!("epsilon")),
        ("sd1_inpainting", "unet", "in_channels", json!(9)),
        ("sd1_inpainting", "unet", "cross_attention_dim", json!(8)),
        ("sd2", "unet", "use_linear_projection", json!(true)),
        ("sd2", "unet", "upcast_attention", json!(true)),
        ("sd2", "unet", "attention_head_dim", json!([1, 1])),
        ("sd2", "text_encoder", "hidden_act", json!("gelu")),
        ("sd2", "text_encoder", "num_hidden_layers", json!(2)),
        ("sd2", "scheduler", "prediction_type", json!("v_prediction")),
        ("xl_base", "unet", "transformer_layers_per_block", json!([1, 1, 2])),
        ("xl_base", "unet", "addition_time_embed_dim", json!(8)),
        ("xl_base", "unet", "projection_class_embeddings_input_dim", json!(60)),
        ("xl_base", "unet", "cross_attention_dim", json!(20)),
        ("xl_base", "vae", "force_upcast", json!(true)),
        ("xl_base", "text_encoder_2", "projection_dim", json!(12)),
        ("xl_base", "scheduler", "timestep_spacing", json!("leading")),
        ("xl_refiner", "unet", "transformer_layers_per_block", json!([1, 2, 2])),
        ("xl_refiner", "unet", "addition_time_embed_dim", json!(8)),
        ("xl_refiner", "text_encoder_2", "hidden_size", json!(12)),
    ];
    for (family, component, key, theirs) in cases {
        assert_eq!(value(family, component, key), theirs, "{family} {component} {key}");
    }
    let classes =
        FAMILIES.map(|family| open(family).checkpoint().index().text("_class_name").unwrap().to_owned());
    assert_eq!(
        classes,
        [
            "StableDiffusionPipeline",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionPipeline",
            "StableDiffusionXLPipeline",
            "StableDiffusionXLImg2ImgPipeline",
        ]
    );
    assert_eq!(open("xl_refiner").checkpoint().class_of("text_encoder"), None);
}

#[test]
fn a_run_from_a_single_file_is_that_of_diffusers() {
    let path = data("single_file.sd1.safetensors");
    let model = StableDiffusion::load(&path, &Device::Cpu, DType::F32).unwrap();
    let golden = Golden::read("single_file.run.safetensors");
    let ids = golden.get("ids").to_vec2::<u32>().unwrap();
    let (prompt, negative) = ("A photo of a red cat, \u{732b}!", "blurry");
    assert_eq!(model.tokenizer().encode(prompt).unwrap().ids, ids[0]);
    assert_eq!(model.tokenizer().encode(negative).unwrap().ids, ids[1]);
    let spec = ImageSpec {
        negative_prompt: Some(negative.into()),
        guidance_scale: 5.0,
        seed: 3,
        steps: 4,
        scheduler: Some("ddim".into()),
        ..ImageSpec::new(prompt, Source::Text { width: 32, height: 16 })
    };
    let mut job = model.begin(&spec).unwrap();
    while !job.is_done() {
        let step = job.step() as usize;
        model.advance(&mut [&mut job]).unwrap();
        let theirs = golden.get("latents").narrow(0, step, 1).unwrap();
        let ours = Tensor::from_slice(job.latents(), theirs.dims(), &Device::Cpu).unwrap();
        let error = relative_l2(&ours, &theirs);
        assert!(error <= 1e-4, "step {step}: {error:e}");
    }
    let (mean, largest) = picture::difference(&model.finish(&job).unwrap(), &golden.rgb("image"));
    println!("single file: mean {mean:.4}, largest {largest} of 255");
    assert!(mean <= 0.02 && largest <= 2, "mean {mean}, largest {largest}");
}

#[test]
fn a_file_that_says_what_it_predicts_is_believed() {
    let file = Edited::new("sd2", |header| {
        header["__metadata__"] = json!({ "modelspec.prediction_type": "epsilon" });
    });
    let opened = diffusion::open(&file.path()).unwrap();
    assert_eq!(opened.checkpoint().config("scheduler").unwrap().text("prediction_type").unwrap(), "epsilon");
}

/// A copy of a file with another header.
struct Edited(TempDir);

impl Edited {
    fn new(family: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        let bytes = fs::read(data(&format!("single_file.{family}.safetensors"))).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        edit(&mut header);
        let header = header.to_string();
        let new = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
        fs::write(copy.path(), new).unwrap();
        copy
    }

    /// The tensor of that name has another name.
    fn without(family: &str, name: &str) -> Self {
        Self::new(family, |header| {
            let tensors = header.as_object_mut().unwrap();
            let tensor = tensors.remove(name).unwrap_or_else(|| panic!("no `{name}`"));
            tensors.insert("another".into(), tensor);
        })
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.safetensors")
    }

    fn is_refused_naming(&self, parts: &[&str]) {
        is_refused(&self.path(), parts);
    }
}

fn is_refused(path: &std::path::Path, parts: &[&str]) {
    let error = match StableDiffusion::load(path, &Device::Cpu, DType::F32) {
        Ok(_) => panic!("the file was loaded; expected an error with {parts:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn a_missing_tensor_is_named_as_it_is_in_the_file() {
    let cases = [
        ("model.diffusion_model.middle_block.0.in_layers.2.weight", "[16, 16, 3, 3]"),
        ("first_stage_model.decoder.mid.attn_1.proj_out.weight", "[8, 8, 1, 1]"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "[4]"),
        ("model.diffusion_model.out.2.weight", "a tensor of 4 dimensions"),
        ("first_stage_model.decoder.conv_in.weight", "a tensor of 4 dimensions"),
    ];
    for (name, expected) in cases {
        Edited::without("sd1", name).is_refused_naming(&["model.safetensors", name, expected, "found none"]);
    }
}

#[test]
fn a_tensor_of_another_shape_or_type_is_named_as_it_is_in_the_file() {
    let name = "model.diffusion_model.middle_block.2.out_layers.3.weight";
    let turned = Edited::new("sd1", |header| header[name]["shape"] = json!([16, 3, 16, 3]));
    turned.is_refused_naming(&["model.safetensors", name, "[16, 16, 3, 3]", "[16, 3, 16, 3]"]);
    let integers = Edited::new("sd1", |header| header[name]["dtype"] = json!("I16"));
    integers.is_refused_naming(&[
        "model.safetensors",
        name,
        "F16, BF16, F32, F64, F8_E4M3 or F8_E5M2",
        "I16",
    ]);
}

#[test]
fn a_file_of_another_kind_is_refused_with_what_it_holds() {
    let text = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight";
    Edited::without("sd1", text).is_refused_naming(&["model.safetensors", "`text_encoder`", "none"]);
    let other_family = "joint_blocks.0.x_block.attn.qkv.weight";
    let other = Edited::new("sd1", |header| {
        let tensors = header.as_object_mut().unwrap();
        let tensor = tensors.remove("model.diffusion_model.input_blocks.0.0.weight").unwrap();
        tensors.insert(other_family.into(), tensor);
    });
    other.is_refused_naming(&["model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion 3"]);
    is_refused(
        &data("text/unet/diffusion_pytorch_model.safetensors"),
        &["input_blocks.0.0.weight", "diffusers layout"],
    );
    is_refused(&data("runs.json"), &["runs.json", "not a valid safetensors file"]);
}

#[test]
fn a_file_without_one_of_its_components_is_refused_with_what_to_do() {
    let without = |prefix: &str| {
        Edited::new("sd1", |header| {
            let tensors = std::mem::take(header.as_object_mut().unwrap());
            let kept = |name: String| if name.starts_with(prefix) { format!("other.{name}") } else { name };
            *header = tensors.into_iter().map(|(name, tensor)| (kept(name), tensor)).collect();
        })
    };
    without("first_stage_model.").is_refused_naming(&[
        "`vae`",
        "the model's VAE",
        "`vae=PATH`",
        "it was saved without",
    ]);
    without("cond_stage_model.").is_refused_naming(&[
        "`text_encoder`",
        "the model's text encoder",
        "`text_encoder=PATH`",
        "it was saved without",
    ]);
}

#[test]
fn a_lora_or_one_component_given_as_a_model_is_called_what_it_is() {
    for file in ["loras/text/kohya.safetensors", "loras/text/peft.safetensors", "loras/text/old.safetensors"]
    {
        is_refused(&data(file), &["a LoRA, which is no model", "--lora-dir"]);
    }
    is_refused(&data("text/vae/diffusion_pytorch_model.safetensors"), &["an autoencoder alone"]);
    is_refused(&data("text/text_encoder/model.safetensors"), &["a text encoder alone"]);
}

#[test]
fn files_that_are_no_safetensors_are_called_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (bytes, expected) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"[..], "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "a GGUF file"),
        (b"\x80\x02}q\0.", "pickled weights can run code"),
        (b"PK\x03\x04 archive/data.pkl", "pickled weights can run code"),
        (b"", "it is empty"),
    ] {
        fs::write(&path, bytes).unwrap();
        is_refused(&path, &["model.safetensors: not a valid safetensors file", expected]);
    }
}

#[test]
fn a_vocabulary_that_the_text_encoder_does_not_know_is_refused() {
    is_refused(&data("single_file.sd1_inpainting.safetensors"), &["single_file.sd1_inpainting", "below 90"]);
}

#[test]
fn pickled_single_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    fs::write(&path, b"PK").unwrap();
    is_refused(&path, &["model.ckpt", ".safetensors", "pickled weights can run code"]);
}

#[test]
fn a_single_file_that_was_cut_short_or_claims_a_huge_header_is_refused() {
    let bytes = fs::read(data("single_file.sd1.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for keep in [0, 7, 200, bytes.len() - 1] {
        fs::write(&path, &bytes[..keep]).unwrap();
        is_refused(&path, &["model.safetensors"]);
    }
    let huge = [&(1_u64 << 60).to_le_bytes(), &bytes[8..]].concat();
    fs::write(&path, huge).unwrap();
    is_refused(&path, &["model.safetensors", "not a valid safetensors file"]);
}
