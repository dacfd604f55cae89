//! One safetensors file, mapped into memory.

use std::{
    fs::File,
    path::{Path, PathBuf},
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

/// A mapped file whose header was read and checked against its size.
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    metadata: Metadata,
}

impl MappedFile {
    /// Maps the file and reads its header.
    ///
    /// # Errors
    /// When it cannot be read, or is cut short, damaged or hostile.
    pub fn open(path: &Path) -> Result<Self, DiffusionError> {
        let read = |source| DiffusionError::Read { file: path.to_owned(), source };
        let opened = File::open(path).map_err(read)?;
        // SAFETY: the map is private to this value and only read. A checkpoint that another process cuts short
        // while it is being loaded would end this process, as with every reader that maps its files.
        let map = unsafe { Mmap::map(&opened) }.map_err(read)?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|source| DiffusionError::Safetensors { file: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), map, data_start: HEADER_LENGTH + header, metadata })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds a tensor of that name.
    pub fn has(&self, key: &str) -> bool {
        self.metadata.info(key).is_some()
    }

    /// A tensor's shape; none when there is no such tensor.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.metadata.info(key).map(|info| info.shape.as_slice())
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Numbers in all tensors whose name `of_interest` holds for.
    pub fn elements(&self, of_interest: &dyn Fn(&str) -> bool) -> u64 {
        let tensors = self.metadata.tensors();
        let wanted = tensors.iter().filter(|(key, _)| of_interest(key));
        wanted.map(|(_, info)| info.shape.iter().product::<usize>() as u64).sum()
    }

    /// A value of the header's `__metadata__`.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A tensor as it is in the file, copied to the device.
    ///
    /// # Errors
    /// When it is missing (`expected` is the shape to name then), or of a type that is no floating point number.
    pub fn tensor(&self, key: &str, expected: &[usize], device: &Device) -> Result<Tensor, DiffusionError> {
        let info = self.metadata.info(key).ok_or_else(|| DiffusionError::MissingTensor {
            file: self.path.clone(),
            key: key.to_owned(),
            expected: expected.to_vec(),
        })?;
        let dtype = self.dtype_of(key, info)?;
        let (start, end) = info.data_offsets;
        let data = &self.map[self.data_start + start..self.data_start + end];
        Ok(Tensor::from_raw_buffer(data, dtype, &info.shape, device)?)
    }

    /// The error that a tensor has another shape.
    pub fn wrong_shape(&self, key: &str, expected: &[usize]) -> DiffusionError {
        DiffusionError::TensorShape {
            file: self.path.clone(),
            key: key.to_owned(),
            expected: expected.to_vec(),
            found: self.shape(key).unwrap_or_default().to_vec(),
        }
    }

    fn dtype_of(&self, key: &str, info: &TensorInfo) -> Result<DType, DiffusionError> {
        match info.dtype {
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::F32 => Ok(DType::F32),
            Dtype::F64 => Ok(DType::F64),
            other => Err(DiffusionError::TensorType {
                file: self.path.clone(),
                key: key.to_owned(),
                found: format!("{other:?}"),
            }),
        }
    }
}
