//! The bytes of a LoRA's file. They are read and not mapped: the folder of LoRAs is meant to change under a running
//! worker, and a file that is cut while it is mapped ends the process.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::Metadata};

use super::stamp::Stamp;
use crate::diffusion::{
    DiffusionError,
    checkpoint::convert,
    error::{FileKind, LoraFileError, MAX_LORA_BYTES, why_no_safetensors},
};

/// Bytes of a header's length.
const HEADER_LENGTH: usize = 8;

/// A file that was read whole, with its header checked against its size.
pub struct Content {
    bytes: Vec<u8>,
    data_start: usize,
    metadata: Metadata,
    stamp: Stamp,
}

impl Content {
    /// Reads a file.
    ///
    /// # Errors
    /// [`LoraFileError`]: it cannot be read, changes meanwhile, or is no safetensors file.
    pub fn read(path: &Path) -> Result<Self, LoraFileError> {
        Self::read_of(&File::open(path).map_err(LoraFileError::Unreadable)?)
    }

    fn read_of(file: &File) -> Result<Self, LoraFileError> {
        let stamp = stamp_of(file)?;
        if stamp.bytes() > MAX_LORA_BYTES {
            return Err(LoraFileError::TooLarge { bytes: stamp.bytes() });
        }
        let bytes = read_whole(file, stamp.bytes())?;
        if bytes.len() as u64 != stamp.bytes() || stamp_of(file)? != stamp {
            return Err(LoraFileError::Changed);
        }
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|source| unusable(&bytes, source, stamp))?;
        Ok(Self { data_start: HEADER_LENGTH + header, bytes, metadata, stamp })
    }

    /// What the file was when it was read.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// A tensor's shape; none when there is no such tensor.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.metadata.info(key).map(|info| info.shape.as_slice())
    }

    /// A value of the header's `__metadata__`.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The values of a tensor; none when there is no such tensor.
    pub fn values(&self, key: &str) -> Option<Values<'_>> {
        let info = self.metadata.info(key)?;
        let (start, end) = info.data_offsets;
        let bytes = &self.bytes[self.data_start + start..self.data_start + end];
        Some(Values { bytes, dtype: info.dtype, shape: &info.shape })
    }
}

impl Content {
    /// A tensor that is of a floating point type and finite, in the type of the file. `wrong` makes the error of what is
    /// expected and what is found.
    ///
    /// # Errors
    /// When it is not, and what candle says.
    pub fn finite(
        &self,
        key: &str,
        device: &Device,
        wrong: &dyn Fn(&str, &str) -> DiffusionError,
    ) -> Result<Tensor, DiffusionError> {
        let values = self.values(key).ok_or_else(|| wrong("a tensor", "none"))?;
        let dtype = values.dtype().map_err(|found| wrong("F16, BF16, F32 or F64", &format!("{found:?}")))?;
        match values.not_finite() {
            Some(value) => Err(wrong("finite numbers", &format!("{value}"))),
            None => Ok(values.tensor(dtype, device)?),
        }
    }
}

/// A tensor as it is in the file.
pub struct Values<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    shape: &'a [usize],
}

impl Values<'_> {
    /// Their type; that of the file where it is no floating point type that is read.
    pub fn dtype(&self) -> Result<DType, Dtype> {
        match self.dtype {
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::F32 => Ok(DType::F32),
            Dtype::F64 => Ok(DType::F64),
            other => Err(other),
        }
    }

    /// The first value that is NaN or infinite.
    pub fn not_finite(&self) -> Option<f64> {
        // The exponent of what is not finite has every bit set.
        match self.dtype {
            Dtype::F16 => first(self.bytes, |bytes| {
                let value = half::f16::from_le_bytes(bytes);
                (!value.is_finite()).then(|| value.to_f64())
            }),
            Dtype::BF16 => first(self.bytes, |bytes| {
                let value = half::bf16::from_le_bytes(bytes);
                (!value.is_finite()).then(|| value.to_f64())
            }),
            Dtype::F32 => first(self.bytes, |bytes| {
                let value = f32::from_le_bytes(bytes);
                (!value.is_finite()).then_some(f64::from(value))
            }),
            Dtype::F64 => first(self.bytes, |bytes| {
                let value = f64::from_le_bytes(bytes);
                (!value.is_finite()).then_some(value)
            }),
            _ => None,
        }
    }

    /// A copy on the device, of the type that [`Self::dtype`] gave.
    ///
    /// # Errors
    /// What candle says.
    pub fn tensor(&self, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        convert::tensor(self.bytes, dtype, dtype, self.shape, device)
    }
}

fn first<const N: usize>(bytes: &[u8], find: impl Fn([u8; N]) -> Option<f64>) -> Option<f64> {
    bytes.as_chunks::<N>().0.iter().find_map(|bytes| find(*bytes))
}

/// What a file without a sound header is. One that was changed a moment ago, and looks as a file does of which a part is
/// written, may be whole at the next try.
fn unusable(bytes: &[u8], source: SafeTensorError, stamp: Stamp) -> LoraFileError {
    match why_no_safetensors(bytes, bytes.len() as u64) {
        None | Some(FileKind::Empty | FileKind::Cut { .. }) if !stamp.is_settled() => LoraFileError::Changed,
        None => LoraFileError::Damaged(source),
        Some(kind) => LoraFileError::Foreign(kind),
    }
}

fn stamp_of(file: &File) -> Result<Stamp, LoraFileError> {
    file.metadata().map(|metadata| Stamp::of(&metadata)).map_err(LoraFileError::Unreadable)
}

/// Up to one byte more than `length`, by which a file that grew shows.
fn read_whole(mut file: &File, length: u64) -> Result<Vec<u8>, LoraFileError> {
    let mut bytes = Vec::new();
    let room = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(1);
    bytes
        .try_reserve_exact(room)
        .map_err(|_| LoraFileError::Unreadable(io::ErrorKind::OutOfMemory.into()))?;
    (&mut file).take(length + 1).read_to_end(&mut bytes).map_err(LoraFileError::Unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::contract::ErrorCode;

    /// One tensor of 64 KiB of zeros.
    fn whole() -> Vec<u8> {
        let header = r#"{"a":{"dtype":"F32","shape":[16384],"data_offsets":[0,65536]}}"#;
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; 1 << 16]].concat()
    }

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn settle(file: &File) {
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn a_file_that_is_cut_after_it_was_read_keeps_its_values() {
        let file = file_of(&whole());
        let content = Content::read(file.path()).unwrap();
        file.as_file().set_len(0).unwrap();
        let tensor = content.values("a").unwrap().tensor(DType::F32, &Device::Cpu).unwrap();
        assert_eq!(tensor.sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }

    #[test]
    fn a_file_that_is_being_written_is_not_taken_for_a_damaged_one() {
        let bytes = whole();
        for written in [0, 5, 20, 1000, bytes.len() - 1] {
            let file = file_of(&bytes[..written]);
            let code = || Content::read(file.path()).err().map(|error| error.code());
            assert_eq!(code(), Some(ErrorCode::Storage), "{written}");
            settle(file.as_file());
            assert_eq!(code(), Some(ErrorCode::InvalidRequest), "{written}");
        }
        assert!(Content::read(file_of(&bytes).path()).is_ok());
    }

    #[test]
    fn a_file_is_called_what_it_is() {
        let bytes = whole();
        for (bytes, expected) in [
            (&b""[..], "it is empty"),
            (
                &bytes[..bytes.len() - 1],
                "it was cut short: its header tells of 65606 bytes, and it has 65605",
            ),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
            (b"<!DOCTYPE html>", "web page"),
            (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
            (b"PK\x03\x04 archive/data.pkl", "pickled"),
            (b"\x80\x02}q\0.", "pickled"),
            (b"Entry not found", "it is text"),
            (b"nonsense\x01\xff, but long enough", "header too large"),
        ] {
            let file = file_of(bytes);
            settle(file.as_file());
            let error = Content::read(file.path()).err().expect(expected);
            assert!(error.to_string().contains(expected), "{expected} is not in: {error}");
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
        }
    }

    #[test]
    fn a_file_larger_than_any_lora_is_not_read() {
        let file = file_of(b"");
        file.as_file().set_len(MAX_LORA_BYTES + 1).unwrap();
        let error = Content::read(file.path()).err().unwrap();
        assert!(matches!(error, LoraFileError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_gone_may_be_there_again() {
        let error = Content::read(Path::new("/no/such/file")).err().unwrap();
        assert_eq!(error.code(), ErrorCode::Storage);
        assert!(!error.to_string().contains("/no"), "{error}");
    }
}
