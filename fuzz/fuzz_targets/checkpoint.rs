//! A checkpoint with hostile files: it is refused with an error, or loaded and drawn with, two steps and a picture. No
//! panic, and no memory taken by what a file says.
//!
//! The first byte of the input says what is hostile. With its second highest bit: values of configurations, and weights
//! that follow them, so that what no shape refuses is drawn with. Else one file, whose content is the rest of the input;
//! of a safetensors file its beginning, or (with the highest bit) all.
#![no_main]

#[path = "shared/mod.rs"]
mod shared;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sd_worker_rbee::diffusion::{DType, Device, DiffusionError, ImageSpec, Source, StableDiffusion};
use serde_json::{Value, json};
use shared::{Checkpoint, Choices, TensorFile, data_of};

/// In the order of `seeds`.
const FILES: [&str; 10] = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
];
/// Those of them whose values are changed one by one.
const CONFIGURATIONS: [usize; 6] = [1, 2, 3, 4, 6, 0];
/// Keys that the files do not all have, and that are read.
const MORE_KEYS: [&str; 22] = [
    "time_cond_proj_dim",
    "time_embedding_dim",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "transformer_layers_per_block",
    "upcast_attention",
    "use_linear_projection",
    "steps_offset",
    "clip_sample",
    "clip_sample_range",
    "timestep_spacing",
    "prediction_type",
    "rescale_betas_zero_snr",
    "skip_prk_steps",
    "trained_betas",
    "use_karras_sigmas",
    "algorithm_type",
    "solver_order",
    "original_inference_steps",
    "model_max_length",
    "_class_name",
];
/// Changed values of one input.
const MOST_CHANGES: usize = 5;
/// Tensors that are made for one input.
const MOST_TENSORS: usize = 64;
/// Numbers of a tensor that is made.
const LARGEST_TENSOR: usize = 1 << 20;

static CHECKPOINT: LazyLock<Checkpoint> = LazyLock::new(|| Checkpoint::copy("text", &FILES));

fn load() -> Result<StableDiffusion, DiffusionError> {
    StableDiffusion::load(CHECKPOINT.path(), &Device::Cpu, DType::F32)
}

fuzz_target!(|input: &[u8]| {
    LazyLock::force(&CHECKPOINT);
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    match first & 0x40 == 0 {
        true => one_file(*first, rest),
        false => values(rest),
    }
    CHECKPOINT.restore();
});

fn one_file(first: u8, content: &[u8]) {
    let which = usize::from(first & 0x3f) % FILES.len();
    let keeps_data = FILES[which].ends_with(".safetensors") && first & 0x80 == 0;
    let damaged = match keeps_data {
        true => [content, data_of(CHECKPOINT.original(which))].concat(),
        false => content.to_vec(),
    };
    CHECKPOINT.write(which, &damaged);
    match load() {
        Ok(model) => draw(&model),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn values(input: &[u8]) {
    let mut choices = Choices(input);
    for _ in 0..MOST_CHANGES {
        let Some(which) = choices.next() else { break };
        let which = CONFIGURATIONS[which % CONFIGURATIONS.len()];
        let mut config: Value = serde_json::from_slice(&CHECKPOINT.current(which)).expect("JSON");
        let object = config.as_object_mut().expect("an object");
        let keys: Vec<String> =
            object.keys().cloned().chain(MORE_KEYS.iter().map(|key| (*key).to_owned())).collect();
        let Some(key) = choices.next() else { break };
        let key = keys[key % keys.len()].clone();
        let old = object.get(&key).cloned().unwrap_or(Value::Null);
        object.insert(key, value(&mut choices, &old));
        CHECKPOINT.write(which, config.to_string().as_bytes());
    }
    if let Some(model) = load_with_its_weights() {
        draw(&model);
    }
}

/// A value near the old one, or far from every one.
fn value(choices: &mut Choices<'_>, old: &Value) -> Value {
    let Some(kind) = choices.next() else { return Value::Null };
    match kind % 8 {
        0 => json!(choices.next().unwrap_or(0)),
        1 => json!(1_u64 << (choices.next().unwrap_or(0) % 64)),
        2 => json!(-(choices.next().unwrap_or(0) as i64)),
        3 => [json!(1e-300), json!(1e300), json!(-1e30), json!(0.5), json!(u64::MAX), json!(1e-9), json!(0)]
            [choices.next().unwrap_or(0) % 7]
            .clone(),
        // As many of it, and as few, as one byte says.
        4 => json!(vec![old.get(0).unwrap_or(old).clone(); choices.next().unwrap_or(0) % 40]),
        5 => [json!(true), json!(false), json!("linear"), json!("leading"), json!("trailing"), json!("sample")]
            [choices.next().unwrap_or(0) % 6]
            .clone(),
        6 => {
            // One of a list.
            let mut list = old.as_array().cloned().unwrap_or_default();
            let at = choices.next().unwrap_or(0);
            let new = json!(choices.next().unwrap_or(0));
            if !list.is_empty() {
                let at = at % list.len();
                list[at] = new;
            }
            json!(list)
        }
        _ => Value::Null,
    }
}

/// The checkpoint with the tensors that its configurations ask for, where they are few and small.
fn load_with_its_weights() -> Option<StableDiffusion> {
    for _ in 0..MOST_TENSORS {
        let (file, key, expected) = match load() {
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
        let count = expected.iter().try_fold(1_usize, |count, side| count.checked_mul(*side))?;
        if count > LARGEST_TENSOR {
            return None;
        }
        let which = FILES.iter().position(|name| file.ends_with(name)).expect("a file of the checkpoint");
        let mut tensors = TensorFile::parse(&CHECKPOINT.current(which)).expect("a safetensors file");
        tensors.put(&key, &expected);
        CHECKPOINT.write(which, &tensors.bytes());
    }
    None
}

fn draw(model: &StableDiffusion) {
    let spec = ImageSpec {
        negative_prompt: Some("blue".into()),
        steps: 2,
        guidance_scale: 5.0,
        seed: 1,
        clip_skip: 1,
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    };
    let drawn = || -> Result<(), DiffusionError> {
        let mut picture = model.begin(&spec)?;
        while !picture.is_done() {
            model.advance(&mut [&mut picture])?;
        }
        model.preview(&picture)?;
        model.finish(&picture)?;
        Ok(())
    };
    if let Err(error) = drawn() {
        assert!(!error.to_string().is_empty());
    }
}
