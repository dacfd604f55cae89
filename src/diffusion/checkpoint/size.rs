//! How much memory a checkpoint's weights take, told from the files' headers before any of them is loaded.

use candle_core::{DType, Device};

use super::{Checkpoint, Component};
use crate::diffusion::{DiffusionError, precision::Precision};

impl Checkpoint {
    /// Bytes of all weights of `components` in the types that `precision` keeps them in.
    ///
    /// # Errors
    /// The component whose weights are missing or damaged: every file of weights is opened and its header read.
    pub fn weight_bytes(
        &self,
        components: &[Component],
        precision: Precision,
    ) -> Result<u64, DiffusionError> {
        let mut bytes = 0;
        for (component, dtype) in self.networks(components, precision) {
            let elements = self.weights(component.name, &Device::Cpu, dtype)?.elements();
            bytes += elements * dtype.size_in_bytes() as u64;
        }
        Ok(bytes)
    }

    /// The components with weights that it has, and the type that each is kept in.
    fn networks<'a>(
        &'a self,
        components: &'a [Component],
        precision: Precision,
    ) -> impl Iterator<Item = (&'a Component, DType)> {
        let there = components.iter().filter(|component| self.is_there(component));
        there.filter_map(move |component| Some((component, component.role.kept_as(precision)?)))
    }
}
