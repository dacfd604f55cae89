//! Weights that are kept in half precision: how much memory they take, and what becomes of the picture.

use std::fs;

use crate::support::data;
use candle_core::{DType, Device, safetensors};
use image::RgbImage;
use sd_worker_rbee::diffusion::{ImageSpec, Precision, Source, StableDiffusion};

fn draw(model: &StableDiffusion) -> RgbImage {
    let spec = ImageSpec {
        seed: 5,
        steps: 3,
        scheduler: Some("euler".into()),
        clip_skip: 1,
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    };
    let mut job = model.begin(&spec).unwrap();
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
    }
    model.finish(&job).unwrap()
}

fn load(precision: impl Into<Precision>) -> StableDiffusion {
    StableDiffusion::load(&data("text"), &Device::Cpu, precision).unwrap()
}

#[test]
fn a_file_of_half_precision_kept_so_gives_the_same_bits_in_half_the_memory() {
    let (wide, half) = (load(DType::F32), load(DType::F16));
    assert_eq!(draw(&half).as_raw(), draw(&wide).as_raw());
    let share = half.weight_bytes() as f64 / wide.weight_bytes() as f64;
    assert!((0.5..0.53).contains(&share), "{share}");
}

#[test]
fn each_component_is_kept_in_its_own_precision() {
    let bytes = |text_encoder, denoiser, vae| load(Precision { text_encoder, denoiser, vae }).weight_bytes();
    let (wide, half) = (DType::F32, DType::F16);
    let all = bytes(wide, wide, wide);
    let saved =
        [bytes(half, wide, wide), bytes(wide, half, wide), bytes(wide, wide, half)].map(|one| all - one);
    assert!(saved.iter().all(|saved| *saved > 0), "{saved:?}");
    assert_eq!(saved.iter().sum::<u64>(), all - bytes(half, half, half));
}

#[test]
fn weights_kept_as_bf16_are_those_of_a_file_in_bf16() {
    const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
    let copy = tempfile::tempdir().unwrap();
    for file in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ] {
        let target = copy.path().join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(data("text").join(file), target).unwrap();
    }
    // Norms and biases stay as they are: they are not kept in half precision.
    let tensors = safetensors::load(data("text").join(WEIGHTS), &Device::Cpu).unwrap();
    let tensors = tensors
        .into_iter()
        .map(|(name, x)| match x.rank() {
            1 => (name, x),
            _ => (name, x.to_dtype(DType::BF16).unwrap()),
        })
        .collect();
    safetensors::save(&tensors, copy.path().join(WEIGHTS)).unwrap();
    let from_file = StableDiffusion::load(copy.path(), &Device::Cpu, DType::F32).unwrap();
    let kept = load(Precision { text_encoder: DType::F32, denoiser: DType::BF16, vae: DType::F32 });
    assert_eq!(draw(&kept).as_raw(), draw(&from_file).as_raw());
    assert_ne!(draw(&kept).as_raw(), draw(&load(DType::F32)).as_raw());
}
