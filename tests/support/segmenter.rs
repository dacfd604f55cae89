//! Segment Anything with the weights that `tools/parity/segmenter.py` tells by a rule, and the picture that it is asked about.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};

/// Writes the weights of `vit` or `tiny` into a folder, as `sam.safetensors`.
pub fn write(kind: &str, folder: &Path) {
    let shapes = format!("tests/data/parity/segmenter/{kind}.shapes.json");
    let shapes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(shapes)).unwrap();
    let shapes: HashMap<String, Vec<usize>> = serde_json::from_slice(&shapes).unwrap();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let tensor = Tensor::from_vec(numbers(&name, &shape), shape, &Device::Cpu).unwrap();
        (name, tensor)
    };
    let tensors: HashMap<String, Tensor> = shapes.into_iter().map(tensor).collect();
    candle_core::safetensors::save(&tensors, folder.join("sam.safetensors")).unwrap();
}

/// One colour, which stays the same however it is resized.
pub fn flat(width: u32, height: u32) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb([200, 120, 40]))
}

/// A disc on a ground of two gradients.
pub fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = (x * 1000 / width, y * 1000 / height);
        match across.abs_diff(400).pow(2) + down.abs_diff(300).pow(2) < 200 * 200 {
            true => Rgb([230, 40, 90]),
            false => {
                Rgb([across * 255 / 1000, down * 255 / 1000, (across + down) * 255 / 2000].map(|v| v as u8))
            }
        }
    })
}

fn numbers(name: &str, shape: &[usize]) -> Vec<f32> {
    const SPREAD: [&str; 7] =
        ["embed.weight", "pos_embed", "token", "rel_pos", "gaussian", "embeddings", "attention_biases"];
    let fan_in: usize = shape[1..].iter().product();
    let as_told: Box<dyn Fn(f64) -> f64> = if name.ends_with("running_var") {
        Box::new(|number| 1.0 + 0.5 * number)
    } else if SPREAD.iter().any(|part| name.contains(part)) {
        Box::new(|number| 0.5 * number)
    } else if shape.len() == 1 {
        let middle = if name.ends_with(".weight") { 1.0 } else { 0.0 };
        Box::new(move |number| middle + 0.1 * number)
    } else {
        // Half of what would keep the variance: a network of random weights that does makes much of little differences.
        let scale = (0.75 / fan_in as f64).sqrt();
        Box::new(move |number| number * scale)
    };
    let count: usize = shape.iter().product();
    scrambled(name).take(count).map(|number| as_told(number) as f32).collect()
}

/// Numbers from -1 to 1: splitmix64, begun with the FNV-1a of the name.
fn scrambled(name: &str) -> impl Iterator<Item = f64> {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    (1u64..).map(move |at| {
        let z = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}
