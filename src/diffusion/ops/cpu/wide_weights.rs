//! Weights in the type that they are kept in, read as f32.

use candle_core::{CpuStorage, Layout, Result, Storage, StorageRef, Tensor, bail};
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// A weight on the CPU, held for reading.
pub struct Weight<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Weight<'a> {
    /// Of a contiguous tensor.
    pub fn of(weight: &'a Tensor) -> Self {
        let (storage, layout) = weight.storage_and_layout();
        Self { storage, layout }
    }

    /// Its values, one after the other.
    ///
    /// # Errors
    /// When the tensor is not contiguous, on another device, or of a type that no weight is kept in.
    pub fn values(&self) -> Result<WideWeights<'_>> {
        let Some((start, end)) = self.layout.contiguous_offsets() else {
            bail!("a weight that is not contiguous")
        };
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => Ok(WideWeights::F32(&values[start..end])),
            Storage::Cpu(CpuStorage::F16(values)) => Ok(WideWeights::F16(&values[start..end])),
            Storage::Cpu(CpuStorage::BF16(values)) => Ok(WideWeights::Bf16(&values[start..end])),
            _ => bail!("a weight of another type, or on another device"),
        }
    }
}

/// The values of a weight.
#[derive(Clone, Copy)]
pub enum WideWeights<'a> {
    /// f32.
    F32(&'a [f32]),
    /// f16.
    F16(&'a [f16]),
    /// bf16.
    Bf16(&'a [bf16]),
}

impl WideWeights<'_> {
    /// Values from `start` on, as many as `out` holds.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self {
            Self::F32(values) => out.copy_from_slice(&values[range]),
            Self::F16(values) => values[range].convert_to_f32_slice(out),
            Self::Bf16(values) => values[range].convert_to_f32_slice(out),
        }
    }
}
