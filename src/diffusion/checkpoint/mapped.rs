//! One safetensors file, mapped into memory.

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use memmap2::{MmapMut, MmapOptions};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};
use sha2::{Digest, Sha256};

use super::{convert, fp8::Fp8, identity, scales::Scales};
use crate::{
    allocator::{self, Plain},
    diffusion::error::{DiffusionError, FileKind, why_no_safetensors},
};

/// Bytes before the header: its length.
const HEADER_LENGTH: usize = 8;
/// A multiple of the page size of every system that this runs on.
#[cfg(target_os = "linux")]
const PAGE: usize = 64 << 10;

/// A mapped file whose header was read and checked against its size.
pub struct MappedFile {
    path: PathBuf,
    map: Arc<MmapMut>,
    data_start: usize,
    metadata: Metadata,
    pub(super) scales: Scales,
}

/// A type of numbers that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Float(DType),
    Fp8(Fp8),
}

impl MappedFile {
    /// Maps the file and reads its header.
    ///
    /// # Errors
    /// When it cannot be read, or is cut short, damaged or hostile.
    pub fn open(path: &Path) -> Result<Self, DiffusionError> {
        let read = |source| DiffusionError::Read { file: path.to_owned(), source };
        let opened = File::open(path).map_err(read)?;
        if opened.metadata().map_err(read)?.len() == 0 {
            // Nothing can be mapped of it.
            return Err(DiffusionError::Foreign { file: path.to_owned(), kind: FileKind::Empty });
        }
        // Private, so that nothing here can change the file, and without swap set aside for pages that could be written.
        let mut options = MmapOptions::new();
        // SAFETY: what is mapped is only read here. A checkpoint that another process writes into or cuts short while
        // it is used would change weights or end this process, as with every reader that maps its files: files are
        // replaced by renaming.
        let map = Arc::new(unsafe { options.no_reserve_swap().map_copy(&opened) }.map_err(read)?);
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|source| {
            let file = path.to_owned();
            match why_no_safetensors(&map, map.len() as u64) {
                Some(kind) => DiffusionError::Foreign { file, kind },
                None => DiffusionError::Safetensors { file, source },
            }
        })?;
        let scales = Scales::read(&metadata);
        Ok(Self { path: path.to_owned(), map, data_start: HEADER_LENGTH + header, metadata, scales })
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

    /// Hashes its size, its header and a few [places](identity::places) of each tensor.
    pub fn sample(&self, hash: &mut Sha256) {
        hash.update((self.map.len() as u64).to_le_bytes());
        hash.update(&self.map[..self.data_start]);
        let tensors = self.metadata.tensors();
        let mut offsets: Vec<(usize, usize)> = tensors.values().map(|info| info.data_offsets).collect();
        offsets.sort_unstable();
        for (start, end) in offsets {
            let bytes = &self.map[self.data_start + start..self.data_start + end];
            for place in identity::places(bytes.len()) {
                hash.update(&bytes[place]);
            }
        }
    }

    /// A value of the header's `__metadata__`.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A tensor, or these `rows` of it, in the type `kept`, on the device: on the CPU the mapped memory itself where the file
    /// has that type. One in fp8 is multiplied by its scale.
    ///
    /// # Errors
    /// When it is missing or has fewer rows (`expected` is the shape to name then), or of a type that is no floating point
    /// number; when it has a scale that is not understood, or lacks one; when the file cannot be read.
    pub fn weight(
        &self,
        key: &str,
        expected: &[usize],
        rows: Option<Range<usize>>,
        kept: DType,
        device: &Device,
    ) -> Result<Tensor, DiffusionError> {
        let (info, stored, mut place) = self.find(key, expected)?;
        let mut shape = info.shape.clone();
        let mut scale = self.scale(key, &shape, matches!(stored, Stored::Fp8(_)))?;
        if let (Some(rows), Some(all)) = (rows, shape.first_mut()) {
            if rows.end > *all {
                return Err(self.wrong_shape(key, expected));
            }
            let row = place.len() / (*all).max(1);
            place = place.start + rows.start * row..place.start + rows.end * row;
            *all = rows.len();
            scale = scale.of_rows(rows);
        }
        self.bring_in(&place)?;
        let dtype = match stored {
            Stored::Float(dtype) => dtype,
            Stored::Fp8(fp8) => {
                let tensor = fp8.tensor(&self.map[place.clone()], &scale, kept, &shape, device)?;
                self.let_go(&place);
                return Ok(tensor);
            }
        };
        if device.is_cpu() && dtype == kept {
            let lent = match dtype {
                DType::F16 => self.lent::<f16>(&place, &shape),
                DType::BF16 => self.lent::<bf16>(&place, &shape),
                DType::F32 => self.lent::<f32>(&place, &shape),
                _ => None,
            };
            if let Some(tensor) = lent {
                return Ok(tensor?);
            }
        }
        let tensor = convert::tensor(&self.map[place.clone()], dtype, kept, &shape, device)?;
        self.let_go(&place);
        Ok(tensor)
    }

    /// The values where they are mapped; none where they cannot be lent from there.
    fn lent<T: WithDType + Plain>(
        &self,
        place: &Range<usize>,
        shape: &[usize],
    ) -> Option<candle_core::Result<Tensor>> {
        if cfg!(target_endian = "big") {
            return None;
        }
        // SAFETY: the map is private and can be written; weights are never written.
        let values: Vec<T> =
            unsafe { allocator::lend(&self.map, place.start, place.len() / size_of::<T>()) }?;
        Some(Tensor::from_vec(values, shape, &Device::Cpu))
    }

    /// Reads a part into memory at once: what cannot be read is an error, where it would end the process later.
    #[cfg(target_os = "linux")]
    fn bring_in(&self, place: &Range<usize>) -> Result<(), DiffusionError> {
        match self.map.advise_range(memmap2::Advice::PopulateRead, place.start, place.len()) {
            // Linux before 5.14 does not know how.
            Err(source) if source.kind() != std::io::ErrorKind::InvalidInput => {
                Err(DiffusionError::Read { file: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn bring_in(&self, _: &Range<usize>) -> Result<(), DiffusionError> {
        Ok(())
    }

    /// Pages of a part that was copied do not count as memory of the process any more.
    #[cfg(target_os = "linux")]
    fn let_go(&self, place: &Range<usize>) {
        let (start, end) = (place.start.next_multiple_of(PAGE), place.end / PAGE * PAGE);
        if start < end {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: nothing has written these pages, so that they come back from the file as they are.
            let done = unsafe { self.map.unchecked_advise_range(advice, start, end - start) };
            // Where the system refuses, the pages count until the whole map goes.
            done.unwrap_or_default();
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn let_go(&self, _: &Range<usize>) {}

    /// The bytes at a place of the map.
    pub(super) fn bytes(&self, place: Range<usize>) -> &[u8] {
        &self.map[place]
    }

    /// A tensor's bytes, whatever its type is; none when there is no such tensor.
    pub(super) fn bytes_of(&self, key: &str) -> Option<&[u8]> {
        let (start, end) = self.metadata.info(key)?.data_offsets;
        Some(self.bytes(self.data_start + start..self.data_start + end))
    }

    /// A tensor's description, type, and place in the map.
    pub(super) fn find(
        &self,
        key: &str,
        expected: &[usize],
    ) -> Result<(&TensorInfo, Stored, Range<usize>), DiffusionError> {
        let info = self.metadata.info(key).ok_or_else(|| DiffusionError::MissingTensor {
            file: self.path.clone(),
            key: key.to_owned(),
            expected: expected.to_vec(),
        })?;
        let (start, end) = info.data_offsets;
        Ok((info, self.stored(key, info)?, self.data_start + start..self.data_start + end))
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

    fn stored(&self, key: &str, info: &TensorInfo) -> Result<Stored, DiffusionError> {
        if let Some(layer) = key.strip_suffix(".weight") {
            self.check_format(layer, info.dtype)?;
        }
        match info.dtype {
            Dtype::F16 => Ok(Stored::Float(DType::F16)),
            Dtype::BF16 => Ok(Stored::Float(DType::BF16)),
            Dtype::F32 => Ok(Stored::Float(DType::F32)),
            Dtype::F64 => Ok(Stored::Float(DType::F64)),
            other => fp8_of(other).map(Stored::Fp8).ok_or_else(|| DiffusionError::TensorType {
                file: self.path.clone(),
                key: key.to_owned(),
                found: other.to_string(),
            }),
        }
    }
}

pub(super) fn fp8_of(dtype: Dtype) -> Option<Fp8> {
    match dtype {
        Dtype::F8_E4M3 => Some(Fp8::E4M3),
        Dtype::F8_E5M2 => Some(Fp8::E5M2),
        _ => None,
    }
}
