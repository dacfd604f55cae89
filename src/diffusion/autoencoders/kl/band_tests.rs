//! The encoder and the decoder in bands of few rows beside the same in one band, which is what diffusers computes.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::coder::{Decoder, Encoder};
use crate::diffusion::{
    autoencoders::{Vae, VaeConfig},
    checkpoint::Checkpoint,
    noise::TorchRng,
    ops::Bands,
};

/// A tenth of the tolerance of this module against diffusers.
const SEAM: f32 = 1e-5;

fn vae(dtype: DType) -> Vae {
    let checkpoint =
        Checkpoint::in_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/text")).unwrap();
    let config = VaeConfig::read(&checkpoint.config("vae").unwrap()).unwrap();
    let weights = checkpoint.weights("vae", &Device::Cpu, DType::F32).unwrap();
    Vae::load(config, &weights.root(), dtype).unwrap()
}

fn noise(shape: [usize; 4]) -> Tensor {
    let values = TorchRng::new(3).normal(shape.iter().product());
    Tensor::from_vec(values, &shape[..], &Device::Cpu).unwrap()
}

/// The largest difference, by the largest value.
fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let values =
        |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (a, b) = (values(a), values(b));
    let largest = a.iter().map(|value| value.abs()).fold(0.0, f32::max);
    assert!(largest > 0.1);
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn decode(decoder: &Decoder, latents: &Tensor, pixels: usize) -> Tensor {
    decoder.forward(Bands::in_bands(latents.clone(), pixels).unwrap()).unwrap()
}

fn encode(encoder: &Encoder, pictures: &Tensor, pixels: usize) -> Tensor {
    encoder.forward(Bands::in_bands(pictures.clone(), pixels).unwrap()).unwrap()
}

#[test]
fn a_picture_decoded_in_bands_has_no_seams() {
    let vae = vae(DType::F32);
    // Sides that no band divides, and two samples.
    let latents = noise([2, 4, 11, 7]);
    let whole = decode(&vae.decoder, &latents, usize::MAX);
    for pixels in [1, 100, 1000] {
        let seams = difference(&decode(&vae.decoder, &latents, pixels), &whole);
        println!("bands of {pixels} pixels: {seams:e}");
        assert!(seams <= SEAM, "{pixels}: {seams}");
    }
}

#[test]
fn a_picture_encoded_in_bands_has_the_same_moments() {
    let vae = vae(DType::F32);
    for (height, width) in [(64, 48), (63, 41)] {
        let pictures = noise([1, 3, height, width]);
        let whole = encode(&vae.encoder, &pictures, usize::MAX);
        for pixels in [1, 100, 1000] {
            let seams = difference(&encode(&vae.encoder, &pictures, pixels), &whole);
            assert!(seams <= SEAM, "{height}x{width}, {pixels}: {seams}");
        }
    }
}

#[test]
fn without_kernels_bands_make_no_difference_either() {
    let vae = vae(DType::F64);
    let latents = noise([1, 4, 5, 6]).to_dtype(DType::F64).unwrap();
    let whole = decode(&vae.decoder, &latents, usize::MAX);
    let seams = difference(&decode(&vae.decoder, &latents, 50), &whole);
    assert!(seams <= SEAM, "{seams}");
    let with_kernels = vae.decoder.forward(Bands::of(noise([1, 4, 5, 6])).unwrap()).unwrap();
    let kernels = difference(&with_kernels, &whole);
    assert!(kernels <= SEAM, "{kernels}");
}
