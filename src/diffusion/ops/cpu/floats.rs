//! Tensors as slices of f32. No operation of a network lives here.

use candle_core::{Layout, Result, Storage, StorageRef, Tensor, bail};

/// The values of an f32 tensor on the CPU, held for reading.
pub struct Floats<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Floats<'a> {
    /// Of a contiguous tensor.
    pub fn of(x: &'a Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        Self { storage, layout }
    }

    /// Its values, one after the other.
    pub fn values(&self) -> Result<&[f32]> {
        match (&*self.storage, self.layout.contiguous_offsets()) {
            (Storage::Cpu(values), Some((start, end))) => Ok(&values.as_slice::<f32>()?[start..end]),
            _ => bail!("a tensor that is not contiguous, or on another device than the CPU"),
        }
    }
}
