//! How models are loaded, and what memory their weights may take.

use candle_core::{DType, Device};

use super::{Limit, MemoryLimit, device};
use crate::diffusion::Precision;

/// How models are loaded.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// Where they are computed.
    pub device: Device,
    /// The types that weights are kept in.
    pub precision: Precision,
    /// Bytes of weights that are kept at most; none: all that is free.
    pub memory: Option<u64>,
    /// What weights and pictures take together at most; none: pictures take what they need.
    pub limit: Option<MemoryLimit>,
    /// The models that are loaded at the start, all of them; none: those that there is room for.
    pub preload: Vec<String>,
}

impl ModelOptions {
    /// In f32, in all the memory that is free.
    pub fn new(device: &Device) -> Self {
        let precision = Precision::all(DType::F32);
        Self { device: device.clone(), precision, memory: None, limit: None, preload: vec![] }
    }

    /// Bytes that weights may take, and what bounds them. `reserve` is what the memory limit keeps for pictures.
    pub(super) fn budget(&self, reserve: u64) -> (u64, Limit) {
        let flag = self.memory.map(|memory| (memory, Limit::Flag));
        let limit = self.limit.map(|limit| (limit.bytes.saturating_sub(reserve), Limit::Memory));
        let limits = if self.device.is_cpu() { Limit::Machine } else { Limit::Device };
        let free = (device::free_memory(&self.device), limits);
        // Of equals the first: what was said counts.
        [flag, limit, Some(free)].into_iter().flatten().min_by_key(|(bytes, _)| *bytes).unwrap_or(free)
    }
}
