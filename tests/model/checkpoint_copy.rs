//! A copy of a small checkpoint, to be damaged.

use std::{fs, path::PathBuf};

use crate::support::{copy_folder, data};
use candle_core::{DType, Device};
use sd_worker_rbee::diffusion::StableDiffusion;
use serde_json::Value;
use tempfile::TempDir;

/// The weights of its UNet.
pub const UNET_WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// A copy of the `text` checkpoint to damage.
pub struct Copy(pub TempDir);

impl Copy {
    pub fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        copy_folder(&data("text"), copy.0.path());
        copy
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn set(&self, file: &str, key: &str, value: Value) {
        let path = self.path(file);
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    /// Changes the header of a safetensors file, not its data.
    pub fn edit_header(&self, file: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.path(file);
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        edit(&mut header);
        let header = header.to_string();
        let new = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
        fs::write(path, new).unwrap();
    }

    /// Loading fails, and the text of the error holds every part.
    pub fn is_refused_naming(&self, parts: &[&str]) {
        let error = match StableDiffusion::load(self.0.path(), &Device::Cpu, DType::F32) {
            Ok(_) => panic!("the checkpoint was loaded; expected an error with {parts:?}"),
            Err(error) => error.to_string(),
        };
        for part in parts {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}
