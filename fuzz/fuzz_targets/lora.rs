//! A hostile LoRA: it is refused with an error that is the sender's, or the picture is drawn. No panic, no memory taken by
//! what the file says, and the model as it was.
//!
//! The first byte of the input says what the file is: one of the sound ones with changed names, shapes, types and
//! values; the beginning of one, before its data; or the rest of the input itself.
#![no_main]

#[path = "shared/mod.rs"]
mod shared;

use std::{
    fs,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use libfuzzer_sys::fuzz_target;
use sd_worker_rbee::{
    contract::ErrorCode,
    diffusion::{DType, Device, DiffusionError, ImageSpec, LoraSpec, Source, StableDiffusion},
};
use shared::{Choices, TensorFile, data, data_of, folder};
use tempfile::TempDir;

/// In the order of `seeds`.
const FILES: [&str; 7] = [
    "loras/text/old",
    "loras/text/peft",
    "loras/text/kohya",
    "loras/text/locon",
    "loras/text/loha",
    "loras/text/lokr",
    "loras/text/dora",
];
/// Changes of one input.
const MOST_CHANGES: usize = 8;
/// What names are changed to begin, or to end, with.
const ENDS: [&str; 22] = [
    ".lora_down.weight",
    ".lora_up.weight",
    ".alpha",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_A.default.weight",
    ".lora_B.default.weight",
    "_lora.down.weight",
    ".lora_linear_layer.up.weight",
    ".hada_w1_a",
    ".hada_w2_b",
    ".hada_t1",
    ".lokr_w1",
    ".lokr_w1_a",
    ".lokr_w2_b",
    ".lokr_t2",
    ".lora_magnitude_vector",
    ".down.weight",
    ".dora_scale",
    ".lora_mid.weight",
    ".diff",
    "",
];
const BEGINNINGS: [&str; 9] = [
    "base_model.model.",
    "transformer.",
    "unet.",
    "text_encoder.",
    "lora_unet_",
    "lora_te_",
    "diffusion_model.",
    "transformer.base_model.model.",
    "",
];
const TYPES: [(&str, usize); 8] = [
    ("F32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("F64", 8),
    ("I64", 8),
    ("F8_E4M3", 1),
    ("U8", 1),
    ("BOOL", 1),
];

static MODEL: LazyLock<StableDiffusion> = LazyLock::new(|| {
    StableDiffusion::load(&data("text"), &Device::Cpu, DType::F32).expect("a sound checkpoint")
});
static ORIGINALS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    FILES.iter().map(|name| fs::read(data(&format!("{name}.safetensors"))).expect("a LoRA")).collect()
});
static FOLDER: LazyLock<TempDir> = LazyLock::new(folder);
/// The latents of a step without a LoRA.
static BEFORE: LazyLock<Vec<f32>> = LazyLock::new(|| step(vec![]).expect("a step"));
/// A name for each file: one that was read is known by name, size and time.
static NUMBER: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|input: &[u8]| {
    LazyLock::force(&BEFORE);
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let original = &ORIGINALS[usize::from(first & 0x0f) % ORIGINALS.len()];
    let bytes = match first >> 6 {
        0 => changed(original, rest),
        1 => [rest, data_of(original)].concat(),
        _ => rest.to_vec(),
    };
    let file = FOLDER.path().join(format!("{}.safetensors", NUMBER.fetch_add(1, Ordering::Relaxed)));
    fs::write(&file, bytes).expect("a file");
    // A damaged file that was written just now is waited for.
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(long_ago)).expect("a time");
    let lora = LoraSpec { name: "style".into(), file: file.clone(), strength: 1.0 };
    if let Err(error) = step(vec![lora]) {
        let text = error.to_string();
        let of_the_file = matches!(error.code(), ErrorCode::InvalidRequest | ErrorCode::NonFinite);
        assert!(of_the_file, "{text}");
        assert!(!text.contains(FOLDER.path().to_str().expect("a path")), "{text}");
    }
    fs::remove_file(&file).expect("a file");
    if NUMBER.load(Ordering::Relaxed) % 64 == 0 {
        assert_eq!(&step(vec![]).expect("a step"), &*BEFORE);
    }
});

fn step(loras: Vec<LoraSpec>) -> Result<Vec<f32>, DiffusionError> {
    let spec = ImageSpec {
        steps: 1,
        guidance_scale: 1.0,
        seed: 1,
        loras,
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    };
    let mut picture = MODEL.begin(&spec)?;
    MODEL.advance(&mut [&mut picture])?;
    MODEL.finish(&picture)?;
    Ok(picture.latents().to_vec())
}

fn changed(original: &[u8], input: &[u8]) -> Vec<u8> {
    let mut file = TensorFile::parse(original).expect("a sound file");
    let mut choices = Choices(input);
    for _ in 0..MOST_CHANGES {
        let (Some(which), Some(how), Some(what)) = (choices.next(), choices.next(), choices.next()) else {
            break;
        };
        let Some(name) = file.tensors.keys().nth(which % file.tensors.len().max(1)).cloned() else { break };
        match how % 8 {
            0 => drop(file.tensors.remove(&name)),
            1 => {
                let tensor = file.tensors.remove(&name).expect("a tensor");
                let stem = ENDS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
                file.tensors.insert(format!("{stem}{}", ENDS[what % ENDS.len()]), tensor);
            }
            2 => {
                // All names, as a trainer writes them.
                let begin = BEGINNINGS[what % BEGINNINGS.len()];
                let tensors = std::mem::take(&mut file.tensors);
                file.tensors = tensors.into_iter().map(|(key, x)| (format!("{begin}{key}"), x)).collect();
            }
            3 => {
                let shape = file.tensors[&name].shape.clone();
                let side = choices.next().unwrap_or(0);
                let mut sides = shape;
                match what % 4 {
                    0 => sides.push(side),
                    1 => drop(sides.pop()),
                    2 => sides.iter_mut().take(1).for_each(|first| *first = side),
                    _ => sides.iter_mut().skip(1).take(1).for_each(|second| *second = side),
                }
                if sides.iter().product::<usize>() < 1 << 16 {
                    file.put(&name, &sides);
                }
            }
            4 => {
                let (dtype, bytes) = TYPES[what % TYPES.len()];
                let tensor = file.tensors.get_mut(&name).expect("a tensor");
                tensor.dtype = dtype.into();
                tensor.bytes = vec![1; bytes * tensor.shape.iter().product::<usize>()];
            }
            5 => {
                let value = [f32::NAN, f32::INFINITY, 1e38, -1e38, 1e-40, 0.0][what % 6];
                let shape = file.tensors[&name].shape.clone();
                file.put(&name, &shape);
                let tensor = file.tensors.get_mut(&name).expect("a tensor");
                let at = choices.next().unwrap_or(0) * 4;
                if let Some(place) = tensor.bytes.get_mut(at..at + 4) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            6 => {
                let note = format!("{{\"unet.lora_alpha\": {what}e{}}}", choices.next().unwrap_or(0));
                file.notes = Some(serde_json::json!({ "lora_adapter_metadata": note }));
            }
            _ => {
                // One pair alone.
                let tensors = std::mem::take(&mut file.tensors);
                let stem = name.split(".lora").next().unwrap_or(&name).to_owned();
                file.tensors = tensors.into_iter().filter(|(key, _)| key.starts_with(&stem)).collect();
            }
        }
    }
    file.bytes()
}
