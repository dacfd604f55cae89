//! A component's safetensors file, mapped into memory: every tensor is asked for by name and shape.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};

use crate::diffusion::DiffusionError;

/// Bytes before the header: its length.
const HEADER_LENGTH: usize = 8;

/// A mapped safetensors file. Tensors are copied out, widened or narrowed to the compute type.
pub struct Weights {
    file: PathBuf,
    map: Mmap,
    data_start: usize,
    metadata: Metadata,
    device: Device,
    dtype: DType,
    bytes: AtomicU64,
}

impl Weights {
    /// Opens the weights of one component: `stem.safetensors`, or else `stem.fp16.safetensors`.
    pub fn open(folder: &Path, stem: &str, device: &Device, dtype: DType) -> Result<Self, DiffusionError> {
        let names = [format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors")];
        let Some(path) = names.iter().map(|name| folder.join(name)).find(|path| path.is_file()) else {
            return Err(DiffusionError::NoWeights {
                folder: folder.to_owned(),
                expected: names.join(" or "),
                found: what_else_is_there(folder),
            });
        };
        let read = |source| DiffusionError::Read { file: path.clone(), source };
        let opened = File::open(&path).map_err(read)?;
        // SAFETY: the map is private to this value and only read. A checkpoint that another process cuts short
        // while it is being loaded would end this process, as with every reader that maps its files.
        let map = unsafe { Mmap::map(&opened) }.map_err(read)?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|source| DiffusionError::Safetensors { file: path.clone(), source })?;
        Ok(Self {
            file: path,
            map,
            data_start: HEADER_LENGTH + header,
            metadata,
            device: device.clone(),
            dtype,
            bytes: AtomicU64::new(0),
        })
    }

    /// The whole file, to ask for tensors by their full names.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, prefix: String::new() }
    }

    /// Bytes of the tensors taken so far, in the compute type.
    pub fn bytes_taken(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Numbers in all tensors of the file, taken or not.
    pub fn elements(&self) -> u64 {
        self.metadata.tensors().values().map(|info| info.shape.iter().product::<usize>() as u64).sum()
    }

    fn take(&self, key: &str, shape: &[usize]) -> Result<Tensor, DiffusionError> {
        let info = self.metadata.info(key).ok_or_else(|| DiffusionError::MissingTensor {
            file: self.file.clone(),
            key: key.to_owned(),
            expected: shape.to_vec(),
        })?;
        if info.shape != shape {
            return Err(DiffusionError::TensorShape {
                file: self.file.clone(),
                key: key.to_owned(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        let dtype = self.dtype_of(key, info)?;
        let (start, end) = info.data_offsets;
        let data = &self.map[self.data_start + start..self.data_start + end];
        let tensor = Tensor::from_raw_buffer(data, dtype, shape, &self.device)?.to_dtype(self.dtype)?;
        self.bytes.fetch_add((tensor.elem_count() * self.dtype.size_in_bytes()) as u64, Ordering::Relaxed);
        Ok(tensor)
    }

    fn dtype_of(&self, key: &str, info: &TensorInfo) -> Result<DType, DiffusionError> {
        match info.dtype {
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::F32 => Ok(DType::F32),
            Dtype::F64 => Ok(DType::F64),
            other => Err(DiffusionError::TensorType {
                file: self.file.clone(),
                key: key.to_owned(),
                found: format!("{other:?}"),
            }),
        }
    }
}

/// A place in the names of a file: `down_blocks.0.resnets.1`.
#[derive(Clone)]
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Scope<'_> {
    /// The place below.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { weights: self.weights, prefix: self.key(name) }
    }

    /// The tensor of that name here, checked against `shape`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, DiffusionError> {
        self.weights.take(&self.key(name), shape)
    }

    /// Whether the file holds a tensor of that name here.
    pub fn has(&self, name: &str) -> bool {
        self.weights.metadata.info(&self.key(name)).is_some()
    }

    fn key(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

/// Why a folder without safetensors is not used: it is missing, or holds pickled weights, which can run code.
fn what_else_is_there(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return "no such folder".into();
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let pickled: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.ends_with(".bin") || name.ends_with(".ckpt") || name.ends_with(".pt"))
        .collect();
    if !pickled.is_empty() {
        return format!("{} (pickled weights can run code when read; convert them)", pickled.join(", "));
    }
    if let Some(index) = names.iter().find(|name| name.ends_with(".safetensors.index.json")) {
        return format!("{index} (weights in several files; merge them)");
    }
    if names.is_empty() { "an empty folder".into() } else { names.join(", ") }
}
