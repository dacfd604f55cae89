//! Golden tensors, the small checkpoints, and how numbers and pictures are compared.
#![allow(dead_code)]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use image::{GrayImage, RgbImage};
use sd_worker_rbee::diffusion::{StableDiffusion, TextEncoder};

/// A file under `tests/data/parity`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(name)
}

/// One of the two small checkpoints, computed in f32 on the CPU.
pub fn model(name: &str) -> StableDiffusion {
    StableDiffusion::load(&data(name), &Device::Cpu, DType::F32).unwrap()
}

/// One of the small checkpoints, as if diffusers' class in its `model_index.json` was another.
pub fn model_of_class(name: &str, class: &str) -> StableDiffusion {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&data(name), folder.path());
    let index = folder.path().join("model_index.json");
    let mut values: serde_json::Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    values["_class_name"] = class.into();
    std::fs::write(&index, values.to_string()).unwrap();
    StableDiffusion::load(folder.path(), &Device::Cpu, DType::F32).unwrap()
}

/// All files of a folder, to be damaged there.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The text encoder of a model that has one.
pub fn text_encoder(model: &StableDiffusion) -> &TextEncoder {
    model.prompts().encoders().next().unwrap()
}

/// The tensors of one file.
pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    pub fn read(name: &str) -> Self {
        Self(candle_core::safetensors::load(data(name), &Device::Cpu).unwrap())
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no golden tensor `{name}`"))
    }

    pub fn all(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.0.iter()
    }

    /// A picture kept as bytes `[height, width, 3]`.
    pub fn rgb(&self, name: &str) -> RgbImage {
        let (height, width, bytes) = self.bytes(name);
        RgbImage::from_raw(width, height, bytes).unwrap()
    }

    /// A mask kept as bytes `[height, width]`.
    pub fn grey(&self, name: &str) -> GrayImage {
        let (height, width, bytes) = self.bytes(name);
        GrayImage::from_raw(width, height, bytes).unwrap()
    }

    fn bytes(&self, name: &str) -> (u32, u32, Vec<u8>) {
        let tensor = self.get(name);
        let dims = tensor.dims();
        (dims[0] as u32, dims[1] as u32, tensor.flatten_all().unwrap().to_vec1().unwrap())
    }
}

/// `|ours - theirs| / |theirs|`, summed in f64.
pub fn relative_l2(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.dims(), theirs.dims());
    let flat = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (ours, theirs) = (flat(ours), flat(theirs));
    let difference: f64 = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).sum();
    let size: f64 = theirs.iter().map(|b| b.powi(2)).sum();
    (difference / size).sqrt()
}

pub mod picture {
    use image::RgbImage;

    /// Mean and largest difference of two pictures of one size, of 255.
    pub fn difference(ours: &RgbImage, theirs: &RgbImage) -> (f64, i32) {
        assert_eq!(ours.dimensions(), theirs.dimensions());
        let differences: Vec<i32> = ours
            .as_raw()
            .iter()
            .zip(theirs.as_raw())
            .map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs())
            .collect();
        let sum: f64 = differences.iter().map(|d| f64::from(*d)).sum();
        (sum / differences.len() as f64, differences.iter().copied().max().unwrap_or(0))
    }
}
