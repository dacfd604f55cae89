//! The device that models are computed on, as far as its memory goes.

use candle_core::Device;

use super::memory;

/// Bytes that can still be taken on the device. Metal does not tell: there loading fails instead.
pub(super) fn free_memory(device: &Device) -> u64 {
    match device {
        Device::Cpu => memory::available(),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => match super::cuda::memory(device) {
            Ok(memory) => memory.free,
            Err(error) => {
                tracing::warn!(%error, "the GPU does not say what of its memory is free");
                u64::MAX
            }
        },
        _ => u64::MAX,
    }
}

/// Gives memory that is kept for later back to the device: the bytes.
pub(super) fn give_back(device: &Device) -> u64 {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => super::cuda::give_back(device).unwrap_or_else(|error| {
            tracing::warn!(%error, "the GPU does not take memory back");
            0
        }),
        _ => 0,
    }
}
