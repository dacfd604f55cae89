//! The autoencoder in half precision, on one whose activations overflow it.

use std::{fs, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::diffusion::{
    autoencoders::{Vae, VaeConfig},
    checkpoint::Checkpoint,
    noise::TorchRng,
};

const WEIGHTS: &str = "vae/diffusion_pytorch_model.safetensors";
/// A norm follows this layer: in f32 its scale makes no difference.
const BEFORE_A_NORM: &str = "decoder.mid_block.resnets.0.conv1.weight";

/// The small checkpoint's autoencoder computed in f16, with one layer's weights `times` as large.
fn vae(times: f64, force_upcast: bool) -> Vae {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/text");
    let copy = TempDir::new().unwrap();
    fs::create_dir(copy.path().join("vae")).unwrap();
    fs::copy(from.join("model_index.json"), copy.path().join("model_index.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(from.join("vae/config.json")).unwrap()).unwrap();
    config["force_upcast"] = json!(force_upcast);
    fs::write(copy.path().join("vae/config.json"), config.to_string()).unwrap();
    let mut tensors = safetensors::load(from.join(WEIGHTS), &Device::Cpu).unwrap();
    let layer = tensors[BEFORE_A_NORM].to_dtype(DType::F32).unwrap();
    tensors.insert(BEFORE_A_NORM.into(), (layer * times).unwrap());
    safetensors::save(&tensors, copy.path().join(WEIGHTS)).unwrap();
    let checkpoint = Checkpoint::in_folder(copy.path()).unwrap();
    let config = VaeConfig::read(&checkpoint.config("vae").unwrap()).unwrap();
    let weights = checkpoint.weights("vae", &Device::Cpu, DType::F32).unwrap();
    Vae::load(config, &weights.root(), DType::F16).unwrap()
}

fn latents() -> Tensor {
    Tensor::from_vec(TorchRng::new(1).normal(4 * 4 * 4), (1, 4, 4, 4), &Device::Cpu).unwrap()
}

fn values(picture: &Tensor) -> Vec<f32> {
    picture.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn half_precision_is_used_where_it_does() {
    let vae = vae(1.0, false);
    let (picture, widened) = vae.decode_finite(&latents()).unwrap();
    assert!(!widened);
    let exact = values(&vae.decode(&latents()).unwrap());
    let largest = values(&picture).iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest > 0.0 && largest < 0.05, "{largest}");
}

#[test]
fn what_overflows_half_precision_is_decoded_in_f32_and_says_so() {
    let vae = vae(1e5, false);
    let half = vae.decode(&latents().to_dtype(DType::F16).unwrap()).unwrap();
    assert!(values(&half.to_dtype(DType::F32).unwrap()).iter().any(|value| !value.is_finite()));
    let (picture, widened) = vae.decode_finite(&latents()).unwrap();
    assert!(widened);
    assert!(values(&picture).iter().all(|value| value.is_finite()));
    assert_eq!(values(&picture), values(&vae.decode(&latents()).unwrap()));
}

#[test]
fn a_configuration_that_forces_f32_is_computed_in_f32_at_once() {
    let vae = vae(1e5, true);
    assert_eq!(vae.dtype(), DType::F32);
    let (picture, widened) = vae.decode_finite(&latents()).unwrap();
    assert!(!widened);
    assert!(values(&picture).iter().all(|value| value.is_finite()));
}
